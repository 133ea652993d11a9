"""One request to Anthropic's API, or to one that speaks its protocol. Started by the wrapped clients."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Final

from everycall.integration import (
    Arguments,
    Fields,
    Keywords,
    Options,
    OwnedCall,
    StainlessRequest,
    StreamRecorder,
    get_member,
    start_request,
)
from everycall.semconv import ERROR_TYPE, SERVICE_TIER
from everycall_anthropic._batches import BatchRequest
from everycall_anthropic._endpoints import SCOPE, BatchEndpoint, MessageEndpoint, endpoint_of
from everycall_anthropic._legacy_streams import record_legacy_stream
from everycall_anthropic._providers import provider_of
from everycall_anthropic._responses import REPORTED_SERVICE_TIER

__all__ = ["AnthropicRequest", "start"]

_ITERABLE_PARAMETERS: Final = ("messages", "system", "tools", "stop_sequences")


class AnthropicRequest(StainlessRequest):
    """One request."""

    __slots__ = ()

    framework_attributes: ClassVar[tuple[str, ...]] = (SERVICE_TIER, REPORTED_SERVICE_TIER)

    def record_stream(self, stream: object, recorder: StreamRecorder) -> None:
        """Record a stream of the library's, and one that its helpers make of it."""
        super().record_stream(stream, recorder)
        record_legacy_stream(stream, recorder)

    def error_attributes(self, error: BaseException) -> Fields:
        """Return the status, the request's id, and Anthropic's type of the error, such as `overloaded_error`."""
        kind = get_member(get_member(get_member(error, "body"), "error"), "type")
        return {
            **super().error_attributes(error),
            "anthropic.request.id": get_member(error, "request_id"),
            ERROR_TYPE: kind if isinstance(kind, str) else None,
        }


def start(client: object, _method: str, args: Arguments, kwargs: Keywords, options: Options) -> StainlessRequest | None:
    """Start the recording of a request; returns None for one that is not recorded here. Never raises."""

    def make(
        request: object, endpoint: MessageEndpoint | BatchEndpoint, framework: OwnedCall | None
    ) -> StainlessRequest:
        provider = options.provider or provider_of(client)
        if isinstance(endpoint, BatchEndpoint):
            return BatchRequest(request, endpoint, options, provider)
        return AnthropicRequest(SCOPE, _repeatable(request), endpoint, options, provider, framework)

    return start_request(SCOPE, args, kwargs, endpoint_of, make)


def _repeatable(request: Any) -> Any:
    """Return the request, or a copy of it with lists in place of iterators, which could be read only once."""
    body = request.json_data
    if type(body) is not dict:
        return request
    lists = {
        name: _read_all(value)
        for name in _ITERABLE_PARAMETERS
        if isinstance(value := body.get(name), Iterable) and not isinstance(value, str | list | Mapping)
    }
    if lists:
        request = copy.copy(request)
        request.json_data = {**body, **lists}
    return request


def _read_all(values: Iterable[Any]) -> Iterable[Any]:
    items: list[Any] = []
    try:
        items.extend(values)
    except Exception as error:  # noqa: BLE001 - the program's own: it is raised again where the library reads the items
        return _replay(items, error)
    return items


def _replay(items: list[Any], error: Exception) -> Iterator[Any]:
    yield from items
    raise error
