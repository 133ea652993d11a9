"""A client's request to a model, and the call that records it. The base class of what client integrations build.

An integration (OpenAI, Anthropic, Google) says how its requests and responses are read. A request usually has a call of
its own. Where a framework's call (LangChain's model) already records this very request, the request only adds what the
client alone knows, such as tokens and the response's id, and the framework ends the call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final, TypedDict

from everycall._call.call import OwnedCall
from everycall._call.context import current_call
from everycall._call.start import start_call
from everycall._guard import report
from everycall._instrumentation.content import get_member
from everycall.settings import OMIT_ALL, OMIT_OUTPUTS

__all__ = ["Labels", "ModelRequest", "Options", "SharedLabels", "framework_call"]

Arguments = tuple[Any, ...]
Keywords = dict[str, Any]
Fields = dict[str, Any]
_CLIENT_FIELDS: Final = (
    *("input_tokens", "output_tokens", "total_tokens", "usage", "cost", "cost_source"),
    "gen_ai.response.id",
)
"""What a framework's call gets from the client's request."""
_PROVIDER: Final = "provider"


class SharedLabels(TypedDict, total=False):
    """The labels that every integration accepts for its records.

    `trace_name` names traces that start with a request. The flags add to those of the surrounding context.
    """

    trace_name: str | None
    end_user_identifier: str | None
    session_id: str | None
    tags: Iterable[str]
    metadata: Mapping[str, Any] | None
    log_omit: bool
    log_omit_inputs: bool
    log_omit_outputs: bool


class Labels(SharedLabels, total=False):
    """The labels that `wrap` and `instrument` of every client integration accept.

    `provider` names the provider where the client's class and host do not tell.
    """

    provider: str | None


class Options:
    """The keywords of `wrap` and `instrument`. Raises `TypeError` for an unknown one."""

    __slots__ = ("_labels", "_labels_in_trace", "provider")

    def __init__(self, labels: Labels) -> None:
        if unknown := sorted(labels.keys() - Labels.__annotations__.keys()):
            raise TypeError(f"unknown keyword {unknown[0]!r}; the keywords are {', '.join(Labels.__annotations__)}")
        values: dict[str, Any] = {name: value for name, value in labels.items() if value}
        self.provider: str | None = values.pop(_PROVIDER, None)
        tags, metadata = values.get("tags"), values.get("metadata")
        if tags:
            values["tags"] = (tags,) if isinstance(tags, str) else tuple(tags)
        if metadata:
            values["metadata"] = dict(metadata)
        self._labels = values
        self._labels_in_trace = {name: value for name, value in values.items() if name != "trace_name"}

    def call_labels(self) -> Mapping[str, Any]:
        """Return the keywords of `start_call` for a request made here: a trace that has begun keeps its name."""
        if not self._labels or current_call() is None:
            return self._labels
        return self._labels_in_trace


class ModelRequest:
    """One request to a model, from before it is sent until its response has been read. No method of it raises.

    `framework` is the framework's call that records this request, see `framework_call`. When the library returns or
    raises, `record_response` or `fail` is called once. The `StreamRecorder` of a streamed response calls `finish`,
    `abandon` or `fail`.

    An integration overrides `read_response` and, where it needs to, `call_arguments`, `should_resend`,
    `replace_response`, `should_hide`, `partial_response` and `error_attributes`.
    """

    __slots__ = ("call", "owns_call", "provider")

    framework_attributes: ClassVar[tuple[str, ...]] = ()
    """Attributes that a framework's call gets from the request, beside tokens and the response's id."""

    def __init__(
        self, scope: str, name: str, kind: str, options: Options, provider: str | None, framework: OwnedCall | None
    ) -> None:
        self.owns_call = framework is None
        self.provider = options.provider or provider
        self.call: OwnedCall = framework or start_call(name, kind=kind, scope=scope, **options.call_labels())

    @property
    def is_recorded(self) -> bool:
        """Whether anything of this request is recorded."""
        return not self.call.omit & OMIT_ALL

    @property
    def captures_output(self) -> bool:
        """Whether this request gives the call its output, and the output is not omitted."""
        return self.owns_call and not self.call.omit & OMIT_OUTPUTS

    def call_arguments(self, args: Arguments, kwargs: Keywords) -> tuple[Arguments, Keywords]:
        """Return the arguments that the library's method is called with: the caller's, or others that ask for more."""
        return args, kwargs

    def should_resend(self, error: BaseException) -> bool:  # noqa: ARG002
        """Return whether everycall's additions made the request fail, so that it is sent again without them."""
        return False

    def read_response(self, response: object) -> Fields | None:
        """Return the fields of the record that a response gives; None for a stream, which is recorded as it is read.

        `failure` among the fields is the text of an error that the response reports. May raise: then nothing is known.
        """
        raise NotImplementedError

    def replace_response(self, response: object) -> Any:
        """Return what the caller gets: the response itself, or what stands in its place."""
        return response

    def should_hide(self, chunk: object) -> bool:  # noqa: ARG002
        """Return whether a chunk of a stream is one that the caller did not ask for. May raise."""
        return False

    def partial_response(self, error: BaseException) -> Fields:  # noqa: ARG002
        """Return the fields of what the model answered although the library raised. May raise."""
        return {}

    def error_attributes(self, error: BaseException) -> Fields:
        """Return what an error says beside its text, as attributes."""
        return {"http.response.status_code": get_member(error, "status_code")}

    def record_response(self, response: object) -> None:
        """Record a response; a stream is recorded as it is read."""
        fields: Fields = {}
        if self.is_recorded:
            try:
                response_fields = self.read_response(response)
                if response_fields is None:
                    return
                fields = response_fields
            except Exception as error:  # noqa: BLE001 - the guard
                report("a client's response", error)
        self.finish(fields)

    def finish(self, fields: Fields) -> None:
        """End the call with the fields of a response; as an error if the response reports one."""
        failure = fields.pop("failure", None)
        self._update(fields)
        if self.owns_call:
            if failure is None:
                self.call.end()
            else:
                self.call.fail(failure)

    def abandon(self, fields: Fields) -> None:
        """End the call as abandoned by the reader of its response."""
        fields.pop("failure", None)
        self._update(fields)
        if self.owns_call:
            self.call.abandon()

    def fail(self, error: BaseException, fields: Fields | None = None) -> None:
        """End the call with the library's error, and with what the model had answered before it."""
        if self.is_recorded:
            try:
                fields = fields or self.partial_response(error)
                fields.pop("failure", None)
                self._update(fields)
                if self.owns_call:
                    self.call.set_fields(**self.error_attributes(error))
            except Exception as own:  # noqa: BLE001 - the guard
                report("a client's error", own)
        if self.owns_call:
            self.call.fail(error)

    def _update(self, fields: Mapping[str, Any]) -> None:
        if self.owns_call:
            self.call.set_fields(**fields)
        elif fields:
            client_fields = {name: fields.get(name) for name in (*_CLIENT_FIELDS, *self.framework_attributes)}
            self.call.set_fields(provider=self.provider, **client_fields)


def framework_call(scope: str, kind: str) -> OwnedCall | None:
    """Return the current call if a framework opened it for the request that is being made; None otherwise.

    `scope` and `kind` are those of the client integration. A framework's model call (LangChain's chat model) is the
    record of the request that its own code sends. The client's integration then opens no call, makes the framework's
    call current while the request runs, and adds what only the client knows. So one request is one record.

    A call of the user's, such as `@trace(kind="llm")`, is not such a record: it may hold several requests. Each of them
    has a call of its own below it, with its tokens.
    """
    call = current_call()
    if call is None or call.ended or call.kind != kind or call._scope_name in ("everycall", scope):
        return None
    return call
