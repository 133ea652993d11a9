"""One request to Anthropic's API, or one like it, and its answer. Begun by the wrapped clients."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Final

from everycall.integration import Call, Options, Reading, StainlessExchange, begin_request, read
from everycall.semconv import ERROR_TYPE, SERVICE_TIER
from everycall_anthropic._batches import BatchExchange
from everycall_anthropic._endpoints import SCOPE, BatchEndpoint, MessageEndpoint, endpoint_of
from everycall_anthropic._legacy_streams import follow_remade
from everycall_anthropic._providers import provider_of
from everycall_anthropic._responses import SERVICE_TIER_TOLD

__all__ = ["AnthropicExchange", "begin"]

_ITERABLES: Final = ("messages", "system", "tools", "stop_sequences")


class AnthropicExchange(StainlessExchange):
    """One request under way."""

    __slots__ = ()

    adds: ClassVar[tuple[str, ...]] = (SERVICE_TIER, SERVICE_TIER_TOLD)

    def follow(self, stream: Any, reading: Reading) -> None:
        """Follow a stream of the library's, and one that its helpers make of it."""
        super().follow(stream, reading)
        follow_remade(stream, reading)

    def about(self, error: BaseException) -> dict[str, Any]:
        """Return the status, the request's id, and Anthropic's type of the error, such as `overloaded_error`."""
        kind = read(read(read(error, "body"), "error"), "type")
        return {
            **super().about(error),
            "anthropic.request.id": read(error, "request_id"),
            ERROR_TYPE: kind if isinstance(kind, str) else None,
        }


def begin(
    client: Any, _method: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: Options
) -> StainlessExchange | None:
    """Begin the exchange of a request; None for one that is not recorded here. Never raises."""

    def make(request: Any, endpoint: MessageEndpoint | BatchEndpoint, framework: Call | None) -> StainlessExchange:
        provider = options.provider or provider_of(client)
        if isinstance(endpoint, BatchEndpoint):
            return BatchExchange(request, endpoint, options, provider)
        return AnthropicExchange(SCOPE, _repeatable(request), endpoint, options, provider, framework)

    return begin_request(SCOPE, args, kwargs, endpoint_of, make)


def _repeatable(request: Any) -> Any:
    """Return the request, or a copy whose messages can be read twice where they are given as something to read once."""
    body = request.json_data
    if type(body) is not dict:
        return request
    kept = {
        name: _kept(value)
        for name in _ITERABLES
        if isinstance(value := body.get(name), Iterable) and not isinstance(value, str | list | Mapping)
    }
    if kept:
        request = copy.copy(request)
        request.json_data = {**body, **kept}
    return request


def _kept(values: Iterable[Any]) -> Iterable[Any]:
    kept: list[Any] = []
    try:
        kept.extend(values)
    except Exception as error:  # noqa: BLE001 - the program's own: it is raised again where the library reads them
        return _again(kept, error)
    return kept


def _again(kept: list[Any], error: Exception) -> Iterator[Any]:
    yield from kept
    raise error
