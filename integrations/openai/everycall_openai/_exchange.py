"""One request to OpenAI's API, or one like it, and its answer. Begun by the wrapped clients."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import openai

from everycall.instrument import (
    OMIT_INPUTS,
    Call,
    Exchange,
    read,
    recorded_by_framework,
    report,
)
from everycall_openai._frameworks import records_this_request
from everycall_openai._gathering import is_usage_alone
from everycall_openai._options import OpenAIOptions
from everycall_openai._providers import provider_of, tells_usage
from everycall_openai._requests import Endpoint, endpoint_of
from everycall_openai._streams import read_raw, read_stream

__all__ = ["SCOPE", "OpenAIExchange", "begin"]

SCOPE: Final = "everycall_openai"
_RAW_HEADER: Final = "x-stainless-raw-response"
_REFUSED: Final = (400, 422)


class OpenAIExchange(Exchange):
    """One request under way. What is sent is the library's own request, or a copy that asks for more.

    `hides_usage` says that the answer will have a piece the caller has not asked for.
    """

    __slots__ = ("_client", "_options", "_original", "_parsed", "_request", "body", "endpoint", "hides_usage")

    adds: ClassVar[tuple[str, ...]] = ("openai.response.service_tier",)

    def __init__(
        self, client: Any, request: Any, endpoint: Endpoint, options: OpenAIOptions, framework: Call | None
    ) -> None:
        self._client = client
        self._options = options
        self._original = self._request = request
        self._parsed: Any = None
        self.endpoint = endpoint
        self.hides_usage = False
        body, beside = request.json_data, request.extra_json
        if type(body) is not dict:
            body = {}
        self.body: Mapping[str, Any] = {**body, **beside} if isinstance(beside, Mapping) else body
        model = body.get("model")
        name = f"{endpoint.operation} {model}" if isinstance(model, str) else endpoint.operation
        super().__init__(SCOPE, name, endpoint.kind, options, options.provider or provider_of(client), framework)

    def describe(self) -> None:
        """Record the request as it is now."""
        call, model = self.call, self.body.get("model")
        fields = {} if call.omit & OMIT_INPUTS else self.endpoint.fields(self.body, self.provider)
        call.update(model=model if isinstance(model, str) else None, provider=self.provider, **fields)

    def prepare(self) -> None:
        """Make the copy of the request that is sent in its place, where one is needed."""
        request = self._original
        if callable(request.post_parser):
            request = copy.copy(request)
            request.post_parser = self._heard_before(request.post_parser)
            self._original = self._request = request
        if self.endpoint.streams_usage and self.body.get("stream") is True and self._asks_for_usage():
            request = copy.copy(request)
            asked = self.body.get("stream_options") or {}
            request.json_data = {**request.json_data, "stream_options": {**asked, "include_usage": True}}
            self._request = request
            self.hides_usage = True

    def _heard_before(self, parser: Any) -> Any:
        """Wrap the parser of an answer, so that an answer which cannot be parsed is recorded all the same."""

        def parse(answer: Any) -> Any:
            self._parsed = answer
            return parser(answer)

        return parse

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

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of the library's `request`, with the request that is to be sent among them."""
        if len(args) > 1:
            return (args[0], self._request, *args[2:]), kwargs
        return args, {**kwargs, "options": self._request}

    def answered(self, answer: Any) -> dict[str, Any] | None:
        """Read a whole answer, a raw one that is here already without a trace; follow what is yet to be read."""
        members = getattr(answer, "__dict__", ())
        if "_iterator" in members and self.endpoint.gathers is not None:
            read_stream(answer, self)
            return None
        if "http_response" not in members:
            return self.endpoint.answers(answer)
        raw = answer.http_response
        if self.is_own:
            self.call.set_attribute("http.response.status_code", raw.status_code)
        if self.body.get("stream") is not True and raw.is_closed:
            return self.endpoint.answers(json.loads(raw.content))
        read_raw(answer, self)
        return None

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
        answer = self._parsed if self._parsed is not None else read(error, "completion")
        return {} if answer is None else self.endpoint.answers(answer)

    def about(self, error: BaseException) -> dict[str, Any]:
        """Return the status and the request's id."""
        return {**super().about(error), "openai.request_id": read(error, "request_id")}


def begin(
    client: Any, _method: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: OpenAIOptions
) -> OpenAIExchange | None:
    """Begin the exchange of a request; None for one that is not to a model, or is recorded as a framework's.

    Never raises: a request that cannot be described goes out all the same.
    """
    exchange = None
    try:
        request = args[1] if len(args) > 1 else kwargs.get("options")
        endpoint = endpoint_of(request)
        if endpoint is None:
            return None
        framework = recorded_by_framework(SCOPE, endpoint.kind)
        if framework is None and endpoint.kind == "llm" and records_this_request():
            return None
        exchange = OpenAIExchange(client, request, endpoint, options, framework)
        if exchange.records:
            if framework is None:
                exchange.describe()
            exchange.prepare()
    except Exception as error:  # noqa: BLE001 - the guard
        report("openai request", error)
    return exchange


def _is_raw(request: Any) -> bool:
    headers = request.headers
    return isinstance(headers, Mapping) and any(str(name).lower() == _RAW_HEADER for name in headers)
