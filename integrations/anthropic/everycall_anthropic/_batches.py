"""Results of a batch. Each result that is read becomes a completion of its own. Used by requests.

A batch is a trace that is identified by its id, and a result is identified in it by its `custom_id`. So a result that
is read again, in this process or another, is the same record. Its input was in the request that made the batch, and is
not recorded here.
"""

from __future__ import annotations

from typing import Any, Final

from everycall.integration import Fields, Options, StainlessRequest, StreamAccumulator, get_member, start_call
from everycall.semconv import ERROR_TYPE, SERVICE_TIER
from everycall_anthropic import _responses
from everycall_anthropic._endpoints import SCOPE, BatchEndpoint

__all__ = ["BatchRequest"]

_BATCH_ID: Final = "anthropic.message.batch.id"
_CUSTOM_ID: Final = "anthropic.message.batch.custom_id"
_OUTCOMES: Final = ("succeeded", "errored", "canceled", "expired")


class BatchRequest(StainlessRequest):
    """The reading of one batch's results."""

    __slots__ = ("_batch_id", "_options")

    def __init__(self, request: Any, endpoint: BatchEndpoint, options: Options, provider: str | None) -> None:
        self._batch_id = endpoint.batch_id
        self._options = options
        labels = {**options.call_labels(), "trace_id": endpoint.batch_id}
        call = start_call(f"{endpoint.operation} {endpoint.batch_id}", kind=endpoint.kind, scope=SCOPE, **labels)
        call.backdate(endpoint.batch_id)
        super().__init__(SCOPE, request, endpoint, options, provider, call)
        self.owns_call = True

    def new_accumulator(self) -> StreamAccumulator:
        """Return an accumulator that records each result."""
        return _Results(self)

    def record_result(self, result: object) -> str:
        """Record one result if a model was asked for it; returns its outcome."""
        response = get_member(result, "result")
        outcome = str(get_member(response, "type"))
        if outcome not in ("succeeded", "errored"):
            return outcome
        succeeded = outcome == "succeeded"
        fields = _responses.message(get_member(response, "message")) if succeeded else {}
        model = fields.get("model")
        call = start_call(
            f"chat {model}" if model else "chat",
            kind="llm",
            scope=SCOPE,
            parent=self.call,
            **{name: value for name, value in self._options.call_labels().items() if name != "trace_name"},
        )
        custom_id = get_member(result, "custom_id")
        call.backdate(f"{self._batch_id} {custom_id}")
        call.set_fields(provider=self.provider, **{_BATCH_ID: self._batch_id, _CUSTOM_ID: custom_id})
        if succeeded:
            call.set_fields(**{SERVICE_TIER: "batch", **fields})
            call.end()
        else:
            error = get_member(get_member(response, "error"), "error")
            call.set_fields(**{ERROR_TYPE: get_member(error, "type")})
            call.fail(_responses.failure(error))
        return outcome


class _Results(StreamAccumulator):
    """Counts the outcomes of a batch's results as they are read; their content is in records of their own."""

    __slots__ = ("_counts", "_request")

    def __init__(self, request: BatchRequest) -> None:
        super().__init__(captures_output=False)
        self._request = request
        self._counts = dict.fromkeys(_OUTCOMES, 0)

    def add(self, chunk: object) -> None:
        outcome = self._request.record_result(chunk)
        self._counts[outcome] = self._counts.get(outcome, 0) + 1

    def fields(self) -> Fields:
        return {"output": dict(self._counts)}
