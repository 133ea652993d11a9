"""One request to OpenAI's API, or to one that speaks its protocol. Started by the wrapped clients."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import openai

from everycall.integration import (
    Arguments,
    Fields,
    Keywords,
    OwnedCall,
    StainlessRequest,
    StreamRecorder,
    get_member,
    start_request,
)
from everycall_openai import _responses
from everycall_openai._accumulators import is_usage_chunk
from everycall_openai._endpoints import Endpoint, endpoint_of
from everycall_openai._error_chunks import ErrorChunkDecoder
from everycall_openai._options import OpenAIOptions
from everycall_openai._providers import provider_of, reports_stream_usage

__all__ = ["SCOPE", "OpenAIRequest", "start"]

SCOPE: Final = "everycall_openai"
_RAW_RESPONSE_HEADER: Final = "x-stainless-raw-response"
_REJECTED: Final = (400, 422)

Client = openai.OpenAI | openai.AsyncOpenAI


class OpenAIRequest(StainlessRequest):
    """One request. `asks_for_usage` says that everycall asked for a chunk with usage, which the caller must not see."""

    __slots__ = ("_client", "_options", "_usage_needs_option", "asks_for_usage")

    framework_attributes: ClassVar[tuple[str, ...]] = ("openai.response.service_tier",)

    def __init__(
        self, client: Client, request: Any, endpoint: Endpoint, options: OpenAIOptions, framework: OwnedCall | None
    ) -> None:
        self._client = client
        self._options = options
        self._usage_needs_option = endpoint.usage_needs_option
        self.asks_for_usage = False
        super().__init__(SCOPE, request, endpoint, options, options.provider or provider_of(client), framework)

    def prepare(self) -> None:
        """Copy the request where something is added to what is sent."""
        super().prepare()
        if self._usage_needs_option and self.body.get("stream") is True and self._may_ask_for_usage():
            request = copy.copy(self._original)
            stream_options = self.body.get("stream_options") or {}
            request.json_data = {**request.json_data, "stream_options": {**stream_options, "include_usage": True}}
            self._request = request
            self.asks_for_usage = True

    def _may_ask_for_usage(self) -> bool:
        stream_options, extra = self.body.get("stream_options"), self._original.extra_json
        if _is_raw(self._original) or (isinstance(extra, Mapping) and "stream_options" in extra):
            return False
        if stream_options is not None and not isinstance(stream_options, Mapping):
            return False
        if "include_usage" in (stream_options or ()):
            return False
        is_enabled = self._options.stream_usage
        if is_enabled is None:
            is_enabled = reports_stream_usage(self.provider, self._client, self.body)
        return is_enabled and str(self._client.base_url) not in self._options.urls_without_usage

    def should_resend(self, error: BaseException) -> bool:
        """Whether the server rejected the request because it asked for usage; it is then sent as the caller made it.

        The server rejected it unread, so nothing is paid for twice. Later requests to this URL do not ask.
        """
        if not self.asks_for_usage or not isinstance(error, openai.APIStatusError):
            return False
        if error.status_code not in _REJECTED:
            return False
        if "stream_options" not in str(error) and "include_usage" not in str(error):
            return False
        self.asks_for_usage, self._request = False, self._original
        self._options.add_url_without_usage(str(self._client.base_url))
        return True

    def should_hide(self, chunk: Any) -> bool:
        """Whether a chunk only has the usage that everycall asked for."""
        if self.asks_for_usage:
            if is_usage_chunk(chunk):
                return True
            if get_member(chunk, "usage") is None:  # asked for usage, the server adds `"usage": null` to all others
                chunk.model_fields_set.discard("usage")
        return False

    def partial_response(self, error: BaseException) -> Fields:
        """Return the fields of a response that could not be parsed, or that was cut off at its maximal length."""
        if self._unparsed is None and (completion := get_member(error, "completion")) is not None:
            return self.endpoint.read_response(completion)
        return super().partial_response(error)

    def error_attributes(self, error: BaseException) -> Fields:
        """Return the status, the request's id, and what the error says beside its text, such as its code."""
        return {
            **_responses.error_attributes(get_member(error, "body")),
            **super().error_attributes(error),
            "openai.request_id": get_member(error, "request_id"),
        }

    def record_stream(self, stream: object, recorder: StreamRecorder) -> None:
        """Record a stream, and the chunk with an error that the library raises without returning it."""
        super().record_stream(stream, recorder)
        if hasattr(stream, "_decoder"):
            stream._decoder = ErrorChunkDecoder(stream._decoder, recorder)


def start(
    client: Client, _method: str, args: Arguments, kwargs: Keywords, options: OpenAIOptions
) -> OpenAIRequest | None:
    """Start the recording of a request; returns None for one that is not recorded here. Never raises."""

    def make(request: object, endpoint: Endpoint, framework: OwnedCall | None) -> OpenAIRequest:
        return OpenAIRequest(client, request, endpoint, options, framework)

    return start_request(SCOPE, args, kwargs, endpoint_of, make)


def _is_raw(request: Any) -> bool:
    headers = request.headers
    return isinstance(headers, Mapping) and any(str(name).lower() == _RAW_RESPONSE_HEADER for name in headers)
