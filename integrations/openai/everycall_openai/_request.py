"""One request to OpenAI's API, or one like it, and its answer. Begun by the wrapped clients."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import openai

from everycall.integration import Call, StainlessExchange, begin_request, read
from everycall_openai._accumulators import is_usage_alone
from everycall_openai._endpoints import Endpoint, endpoint_of
from everycall_openai._options import OpenAIOptions
from everycall_openai._providers import provider_of, tells_usage

__all__ = ["SCOPE", "OpenAIExchange", "begin"]

SCOPE: Final = "everycall_openai"
_RAW_HEADER: Final = "x-stainless-raw-response"
_REFUSED: Final = (400, 422)


class OpenAIExchange(StainlessExchange):
    """One request under way. `hides_usage` says that its answer will have a piece the caller has not asked for."""

    __slots__ = ("_client", "_options", "_streams_usage", "hides_usage")

    adds: ClassVar[tuple[str, ...]] = ("openai.response.service_tier",)

    def __init__(
        self, client: Any, request: Any, endpoint: Endpoint, options: OpenAIOptions, framework: Call | None
    ) -> None:
        self._client = client
        self._options = options
        self._streams_usage = endpoint.streams_usage
        self.hides_usage = False
        super().__init__(SCOPE, request, endpoint, options, options.provider or provider_of(client), framework)

    def prepare(self) -> None:
        """Make the copy of the request that is sent in its place, where one is needed."""
        super().prepare()
        if self._streams_usage and self.body.get("stream") is True and self._asks_for_usage():
            request = copy.copy(self._original)
            asked = self.body.get("stream_options") or {}
            request.json_data = {**request.json_data, "stream_options": {**asked, "include_usage": True}}
            self._request = request
            self.hides_usage = True

    def _asks_for_usage(self) -> bool:
        asked, beside = self.body.get("stream_options"), self._original.extra_json
        if _is_raw(self._original) or (isinstance(beside, Mapping) and "stream_options" in beside):
            return False
        if asked is not None and (not isinstance(asked, Mapping) or "include_usage" in asked):
            return False
        wanted = self._options.stream_usage
        if wanted is None:
            wanted = tells_usage(self.provider, self._client, self.body)
        return wanted and str(self._client.base_url) not in self._options.refusing

    def takes_back(self, error: BaseException) -> bool:
        """Tell whether a request failed because it asked for usage: then it is to be sent as the caller made it.

        The server refused it unread, so nothing is spent twice. Requests to this address no longer ask.
        """
        if not self.hides_usage or not isinstance(error, openai.APIStatusError) or error.status_code not in _REFUSED:
            return False
        if "stream_options" not in str(error) and "include_usage" not in str(error):
            return False
        self.hides_usage, self._request = False, self._original
        self._options.refused(str(self._client.base_url))
        return True

    def hides(self, piece: Any) -> bool:
        """Tell whether a chunk is there for its report of tokens only, which everycall asked for."""
        if self.hides_usage:
            if is_usage_alone(piece):
                return True
            if read(piece, "usage") is None:  # asked for usage, a server says null in all other pieces
                piece.model_fields_set.discard("usage")
        return False

    def partial(self, error: BaseException) -> dict[str, Any]:
        """Return what was answered where it could not be parsed, or was cut off for its length."""
        if self._parsed is None and (cut := read(error, "completion")) is not None:
            return self.endpoint.answers(cut)
        return super().partial(error)

    def about(self, error: BaseException) -> dict[str, Any]:
        """Return the status and the request's id."""
        return {**super().about(error), "openai.request_id": read(error, "request_id")}


def begin(
    client: Any, _method: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: OpenAIOptions
) -> OpenAIExchange | None:
    """Begin the exchange of a request; None for one that is not recorded here. Never raises."""

    def make(request: Any, endpoint: Endpoint, framework: Call | None) -> OpenAIExchange:
        return OpenAIExchange(client, request, endpoint, options, framework)

    return begin_request(SCOPE, args, kwargs, endpoint_of, make)


def _is_raw(request: Any) -> bool:
    headers = request.headers
    return isinstance(headers, Mapping) and any(str(name).lower() == _RAW_HEADER for name in headers)
