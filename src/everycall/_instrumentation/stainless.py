"""Requests of clients that Stainless generated, such as OpenAI's and Anthropic's.

All public methods of these clients end in `request(cast_to, options, ...)`: `create`, `parse`, `stream()`, raw
responses, and `client.post(...)` by hand. An integration supplies the endpoints, and what is special to its library.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from everycall._call.call import OwnedCall
from everycall._guard import report
from everycall._instrumentation.error_bodies import ErrorBodyDecoder, is_json
from everycall._instrumentation.request import Arguments, Fields, Keywords, ModelRequest, Options, framework_call
from everycall._instrumentation.stream import (
    StreamAccumulator,
    StreamRecorder,
    watch_close,
    wrap_iterator,
    wrap_parse,
)
from everycall.settings import OMIT_INPUTS

__all__ = ["Endpoint", "StainlessRequest", "start_request"]


class Endpoint(Protocol):
    """One kind of request: its names, and functions that read its body, its response and the chunks of a stream.

    `operation` is OpenTelemetry's name, `kind` everycall's. `accumulator` takes whether output is captured, and is None
    for an endpoint without streams.
    """

    @property
    def operation(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def read_response(self) -> Callable[[Any], Fields]: ...
    @property
    def accumulator(self) -> Callable[[bool], StreamAccumulator] | None: ...

    def request_fields(self, body: Mapping[str, Any], provider: str | None) -> Fields:
        """Return `llm_configuration` and the other fields that a request gives its record."""


class RequestOptions(Protocol):
    """The library's own request (`FinalRequestOptions`), as far as it is used here."""

    method: str
    url: str
    headers: Any
    json_data: Any
    extra_json: Mapping[str, object] | None
    post_parser: Any


class StainlessRequest(ModelRequest):
    """One request of such a client.

    `body` is the JSON of the request, with `extra_body`. What is sent is the library's request, or a copy of it with
    everycall's additions.
    """

    __slots__ = ("_original", "_request", "_unparsed", "body", "endpoint")

    def __init__(
        self,
        scope: str,
        request: RequestOptions,
        endpoint: Endpoint,
        options: Options,
        provider: str | None,
        framework: OwnedCall | None,
    ) -> None:
        self._original = self._request = request
        self._unparsed: Any = None
        self.endpoint = endpoint
        body, extra = request.json_data, request.extra_json
        if type(body) is not dict:
            body = {}
        self.body: Mapping[str, Any] = {**body, **extra} if isinstance(extra, Mapping) else body
        model = self.body.get("model")
        name = f"{endpoint.operation} {model}" if isinstance(model, str) else endpoint.operation
        super().__init__(scope, name, endpoint.kind, options, provider, framework)

    def describe(self) -> None:
        """Record the request as it is now."""
        call, model = self.call, self.body.get("model")
        fields = {} if call.omit & OMIT_INPUTS else self.endpoint.request_fields(self.body, self.provider)
        call.set_fields(model=model if isinstance(model, str) else None, provider=self.provider, **fields)

    def prepare(self) -> None:
        """Copy the request where something is added to what is sent."""
        request = self._original
        if callable(request.post_parser):
            request = copy.copy(request)
            request.post_parser = self._keep_unparsed(request.post_parser)
            self._original = self._request = request

    def _keep_unparsed(self, parser: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Wrap the parser of the response, so that a response which it cannot parse is recorded."""

        def parse(response: object) -> Any:
            self._unparsed = response
            return parser(response)

        return parse

    def call_arguments(self, args: Arguments, kwargs: Keywords) -> tuple[Arguments, Keywords]:
        """Return the arguments of the library's `request`, with the request that is sent in place of the caller's."""
        if len(args) > 1:
            return (args[0], self._request, *args[2:]), kwargs
        return args, {**kwargs, "options": self._request}

    def new_accumulator(self) -> StreamAccumulator | None:
        """Return the accumulator of a streamed response; None if the endpoint has no streams."""
        accumulator = self.endpoint.accumulator
        return None if accumulator is None else accumulator(self.captures_output)

    def read_response(self, response: Any) -> Fields | None:
        """Return the fields of a complete response; record a stream, or a raw response, as it is read.

        A raw response whose body has been read is decoded here; the caller's object is not touched.
        """
        if _is_stream(response) and (accumulator := self.new_accumulator()) is not None:
            self.record_stream(response, StreamRecorder(self, accumulator))
            return None
        if "http_response" not in getattr(response, "__dict__", ()):
            return self.endpoint.read_response(response if self._unparsed is None else self._unparsed)
        http_response = response.http_response
        if self.owns_call:
            self.call.set_attribute("http.response.status_code", http_response.status_code)
        if self.body.get("stream") is not True and http_response.is_closed:
            return self.endpoint.read_response(json.loads(http_response.content))
        self._record_raw_response(response)
        return None

    def record_stream(self, stream: Any, recorder: StreamRecorder) -> None:
        """Record a stream of the library's as it is read."""
        http_response = getattr(stream, "response", None) or stream.http_response
        if hasattr(stream, "_decoder") and is_json(http_response):  # before the iterator, which may keep the decoder
            stream._decoder = ErrorBodyDecoder(stream._decoder, recorder, self.endpoint.read_response)
        stream._iterator = wrap_iterator(stream._iterator, recorder)
        watch_close(http_response.stream, recorder)

    def _record_raw_response(self, response: Any) -> None:
        """Record what the `parse()` of a raw response returns, when the caller calls it.

        If the caller reads bytes or lines, the record has a latency and a status, and no content.
        """
        recorder = StreamRecorder(self, None)

        def record(parsed: Any) -> None:
            if not _is_stream(parsed):
                recorder.complete(self.endpoint.read_response(parsed))
            elif recorder.accumulator is None and (accumulator := self.new_accumulator()) is not None:
                recorder.accumulator = accumulator
                parsed._iterator = wrap_iterator(parsed._iterator, recorder)

        wrap_parse(response, recorder, record)
        watch_close(response.http_response.stream, recorder)

    def partial_response(self, error: BaseException) -> Fields:  # noqa: ARG002
        """Return the fields of a response that the library could not parse."""
        return {} if self._unparsed is None else self.endpoint.read_response(self._unparsed)


def _is_stream(response: object) -> bool:
    """Return whether a response is read chunk by chunk. In some versions its iterator is made when it is first used."""
    return "_iterator" in getattr(response, "__dict__", ()) or hasattr(type(response), "_iterator")


Request = TypeVar("Request", bound=StainlessRequest)


def start_request(
    scope: str,
    args: Arguments,
    kwargs: Keywords,
    endpoint_of: Callable[[Any], Endpoint | None],
    make: Callable[[Any, Any, OwnedCall | None], Request],
) -> Request | None:
    """Start the recording of a request; returns None for one that is not recorded here.

    `args` and `kwargs` are those of the library's `request`. `make(request, endpoint, framework)` makes the object.
    Never raises: a request that cannot be described is sent all the same.
    """
    model_request = None
    try:
        request = args[1] if len(args) > 1 else kwargs.get("options")
        endpoint = endpoint_of(request)
        if endpoint is None:
            return None
        framework = framework_call(scope, endpoint.kind)
        model_request = make(request, endpoint, framework)
        if model_request.is_recorded:
            if framework is None:
                model_request.describe()
            model_request.prepare()
    except Exception as error:  # noqa: BLE001 - the guard
        report("a client's request", error)
    return model_request
