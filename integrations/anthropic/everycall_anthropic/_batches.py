"""Results of a batch: each that is read becomes a completion of its own. Called by exchanges.

A batch is a trace, named by its id; a result has its place in it by its `custom_id`. So what is read again, in this
process or another one, is the same record. What was asked is in the request that made the batch, and not here.
"""

from __future__ import annotations

from typing import Any, Final

from everycall.integration import Gathering, Options, StainlessExchange, read, start_call
from everycall.semconv import ERROR_TYPE, SERVICE_TIER
from everycall_anthropic import _responses
from everycall_anthropic._endpoints import SCOPE, BatchEndpoint

__all__ = ["BatchExchange"]

_BATCH: Final = "anthropic.message.batch.id"
_CUSTOM_ID: Final = "anthropic.message.batch.custom_id"
_KINDS: Final = ("succeeded", "errored", "canceled", "expired")


class BatchExchange(StainlessExchange):
    """The reading of one batch's results."""

    __slots__ = ("_batch", "_options")

    def __init__(self, request: Any, endpoint: BatchEndpoint, options: Options, provider: str | None) -> None:
        self._batch = endpoint.batch
        self._options = options
        arguments = {**options.arguments(), "trace_id": endpoint.batch}
        call = start_call(f"{endpoint.operation} {endpoint.batch}", kind=endpoint.kind, scope=SCOPE, **arguments)
        call.happened_before(endpoint.batch)
        super().__init__(SCOPE, request, endpoint, options, provider, call)
        self.is_own = True

    def gathering(self) -> Gathering:
        """Return what records each result."""
        return _Results(self)

    def record(self, result: Any) -> str:
        """Record one result, as far as a model was asked; returns how it went."""
        outcome = read(result, "result")
        how = str(read(outcome, "type"))
        if how not in ("succeeded", "errored"):
            return how
        fields = _responses.message(read(outcome, "message")) if how == "succeeded" else {}
        model = fields.get("model")
        call = start_call(
            f"chat {model}" if model else "chat",
            kind="llm",
            scope=SCOPE,
            parent=self.call,
            **{name: value for name, value in self._options.arguments().items() if name != "trace_name"},
        )
        custom_id = read(result, "custom_id")
        call.happened_before(f"{self._batch} {custom_id}")
        call.update(provider=self.provider, **{_BATCH: self._batch, _CUSTOM_ID: custom_id})
        if how == "succeeded":
            call.update(**{SERVICE_TIER: "batch", **fields})
            call.end()
        else:
            error = read(read(outcome, "error"), "error")
            call.update(**{ERROR_TYPE: read(error, "type")})
            call.fail(_responses.failure(error))
        return how


class _Results(Gathering):
    """The results of a batch as they are read; what they say is in records of their own."""

    __slots__ = ("_counts", "_exchange")

    def __init__(self, exchange: BatchExchange) -> None:
        super().__init__(keeps=False)
        self._exchange = exchange
        self._counts = dict.fromkeys(_KINDS, 0)

    def take(self, piece: Any) -> None:
        how = self._exchange.record(piece)
        self._counts[how] = self._counts.get(how, 0) + 1

    def fields(self) -> dict[str, Any]:
        return {"output": dict(self._counts)}
