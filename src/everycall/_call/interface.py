"""What user code sees of a call: the class `Call`, and the call that records nothing.

`current()` and `span()` return a `Call`. The class that records is `OwnedCall` in `_call/call.py`; only `@trace`,
`span()` and integrations use more of it than is declared here.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Final, Unpack

from opentelemetry import trace as otel_trace
from opentelemetry.trace import INVALID_SPAN_CONTEXT, SpanContext, Status, StatusCode

from everycall._call.context import current_call
from everycall._call.keywords import ATTRIBUTE_ADVICE, UPDATE_KEYWORDS, UpdateFields, refuse_keyword

__all__ = ["NOT_RECORDED", "Call", "current"]


class Call(otel_trace.Span):
    """A call in progress. Also an OpenTelemetry `Span`, with that API's methods.

    Its methods may be called from any thread, also after the call has ended. They raise for a misspelt keyword and for
    nothing else. Where nothing is recorded (outside a call, or with EVERYCALL_DISABLED=1) the ids are empty texts and
    the methods do nothing.
    """

    name: str
    """The name of the call; `update_name` changes it."""
    kind: str
    """`llm`, `chain`, `tool`, `retriever`, `embedding`, ..., as in the record."""
    trace_id: str
    """The id of the trace, as the user gave it; else 32 hex digits."""
    trace_name: str | None
    """The name of the trace, if it has one."""
    inference_id: str
    """The id of this call's record: what `Parea.record_feedback` takes."""
    parent_id: str | None
    """The `inference_id` of the call above; None for a root."""
    end_user_identifier: str | None
    """The end user for whom the call is made, if known."""
    session_id: str | None
    """The session (a conversation) that the call belongs to, if known."""

    @property
    @abstractmethod
    def url(self) -> str:
        """The URL of this call on the endpoint's page of the trace."""

    @abstractmethod
    def update(self, **fields: Unpack[UpdateFields]) -> None:
        """Set fields of the record. Values are captured when this is called; later changes to them do not show.

        `inputs, output, llm_inputs, llm_configuration, target` take any value; `content` takes a text. `metadata` is
        merged and `tags` are added. The rest replace: `name, model, provider, cost_source, price_version,
        deployment_id` (texts), `input_tokens, output_tokens, total_tokens` and the values of `usage` (whole numbers),
        `cost, saved_cost` (US dollars), `time_to_first_token` (seconds), `cache, cache_hit` (booleans). None leaves a
        field as it is. Does nothing once the call has ended. A value that its field cannot take is reported on the
        `everycall` logger and left out. For attributes of your own use `set_attribute`.

        Raises `TypeError` for an unknown keyword.
        """


class _NotRecorded(Call):
    """The call of code that is not recorded. All its methods do nothing, as those of OpenTelemetry's invalid span."""

    name = kind = trace_id = inference_id = ""
    trace_name = parent_id = end_user_identifier = session_id = None

    @property
    def url(self) -> str:
        return ""

    def update(self, **fields: Unpack[UpdateFields]) -> None:
        if not fields.keys() <= UPDATE_KEYWORDS:
            refuse_keyword("update", fields, UPDATE_KEYWORDS, ATTRIBUTE_ADVICE)

    def get_span_context(self) -> SpanContext:
        return INVALID_SPAN_CONTEXT

    def is_recording(self) -> bool:
        return False

    def end(self, end_time: int | None = None) -> None:
        pass

    def set_attribute(self, key: str, value: Any) -> None:
        pass

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        pass

    def add_event(self, name: str, attributes: Mapping[str, Any] | None = None, timestamp: int | None = None) -> None:
        pass

    def add_link(self, context: SpanContext, attributes: Mapping[str, Any] | None = None) -> None:
        pass

    def update_name(self, name: str) -> None:
        pass

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        pass

    def record_exception(
        self,
        exception: BaseException,
        attributes: Mapping[str, Any] | None = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        pass

    def __repr__(self) -> str:
        return "<everycall.Call: not recorded>"


NOT_RECORDED: Final[Call] = _NotRecorded()
"""What `everycall.current()` returns where no call is in progress."""


def current() -> Call:
    """Return the call in progress. Outside a call, and with EVERYCALL_DISABLED=1, return one that records nothing.

    So `current().update(...)` is safe anywhere; `current().is_recording()` tells whether it will have an effect.
    """
    return current_call() or NOT_RECORDED
