"""Requests of clients that Stainless generated, such as OpenAI's and Anthropic's: they are built alike. Layer 3.

All their methods end in the client's `request(cast_to, options, ...)`: `create`, `parse`, `stream()`, raw responses,
and `client.post(...)` by hand. An integration says which endpoints there are, how their bodies and answers are read,
and what is its library's own.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from everycall._call.call import Call
from everycall._guard import report
from everycall._instrumentation.request import Exchange, Options, recorded_by_framework
from everycall._instrumentation.stream import Gathering, Reading, follow, follow_parse, watch_closing
from everycall.settings import OMIT_INPUTS

__all__ = ["Endpoint", "StainlessExchange", "begin_request"]


class Endpoint(Protocol):
    """One kind of request: what it is called, and who reads its body, its answer, and the pieces of a streamed one.

    `operation` is OpenTelemetry's name of it, `kind` everycall's; `gathers` is None where nothing is streamed.
    """

    @property
    def operation(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def answers(self) -> Callable[[Any], dict[str, Any]]: ...
    @property
    def gathers(self) -> Callable[[bool], Gathering] | None: ...

    def fields(self, body: Mapping[str, Any], provider: str | None) -> dict[str, Any]:
        """Return `llm_configuration` and what else a record says of a request, as `Call.update` takes it."""


class StainlessExchange(Exchange):
    """One request under way. What is sent is the library's own request, or a copy with more in it.

    `body` is what the request has in its body, that of `extra_body` too.
    """

    __slots__ = ("_original", "_parsed", "_request", "body", "endpoint")

    def __init__(
        self,
        scope: str,
        request: Any,
        endpoint: Endpoint,
        options: Options,
        provider: str | None,
        framework: Call | None,
    ) -> None:
        self._original = self._request = request
        self._parsed: Any = None
        self.endpoint = endpoint
        body, beside = request.json_data, request.extra_json
        if type(body) is not dict:
            body = {}
        self.body: Mapping[str, Any] = {**body, **beside} if isinstance(beside, Mapping) else body
        model = self.body.get("model")
        name = f"{endpoint.operation} {model}" if isinstance(model, str) else endpoint.operation
        super().__init__(scope, name, endpoint.kind, options, provider, framework)

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

    def _heard_before(self, parser: Any) -> Any:
        """Wrap the parser of an answer, so that an answer which cannot be parsed is recorded all the same."""

        def parse(answer: Any) -> Any:
            self._parsed = answer
            return parser(answer)

        return parse

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of the library's `request`, with the request that is to be sent among them."""
        if len(args) > 1:
            return (args[0], self._request, *args[2:]), kwargs
        return args, {**kwargs, "options": self._request}

    def gathering(self) -> Gathering | None:
        """Return what gathers the pieces of a streamed answer."""
        gathers = self.endpoint.gathers
        return None if gathers is None else gathers(self.keeps_outputs)

    def answered(self, answer: Any) -> dict[str, Any] | None:
        """Read a whole answer, a raw one that is here already without a trace; follow what is yet to be read."""
        if _is_stream(answer) and (gathering := self.gathering()) is not None:
            self.follow(answer, Reading(self, gathering))
            return None
        members = getattr(answer, "__dict__", ())
        if "http_response" not in members:
            return self.endpoint.answers(answer)
        raw = answer.http_response
        if self.is_own:
            self.call.set_attribute("http.response.status_code", raw.status_code)
        if self.body.get("stream") is not True and raw.is_closed:
            return self.endpoint.answers(json.loads(raw.content))
        self._follow_raw(answer)
        return None

    def follow(self, stream: Any, reading: Reading) -> None:
        """Follow a stream of the library's."""
        stream._iterator = follow(stream._iterator, reading)
        response = getattr(stream, "response", None) or stream.http_response
        watch_closing(response.stream, reading)

    def _follow_raw(self, answer: Any) -> None:
        """Follow a raw response whose body is not read yet: what its `parse()` returns is recorded, or followed.

        Read otherwise, as bytes or lines, it has a latency and a status, and nothing is known of what it said.
        """
        reading = Reading(self, None)

        def found(parsed: Any) -> None:
            if not _is_stream(parsed):
                reading.complete(self.endpoint.answers(parsed))
            elif reading.gathering is None and (gathering := self.gathering()) is not None:
                reading.gathering = gathering
                parsed._iterator = follow(parsed._iterator, reading)

        follow_parse(answer, reading, found)
        watch_closing(answer.http_response.stream, reading)

    def partial(self, error: BaseException) -> dict[str, Any]:  # noqa: ARG002
        """Return what was answered where the library could not parse it."""
        return {} if self._parsed is None else self.endpoint.answers(self._parsed)


def _is_stream(answer: Any) -> bool:
    """Tell whether an answer is read piece by piece; its iterator may be made when it is first asked for."""
    return "_iterator" in getattr(answer, "__dict__", ()) or hasattr(type(answer), "_iterator")


Made = TypeVar("Made", bound=StainlessExchange)


def begin_request(
    scope: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    endpoint_of: Callable[[Any], Endpoint | None],
    make: Callable[[Any, Any, Call | None], Made],
) -> Made | None:
    """Begin the exchange of a request; None for one that is not to a model, or is recorded as a framework's.

    `args` and `kwargs` are those of the library's `request`; `make(request, endpoint, framework)` makes the exchange.
    Never raises: a request that cannot be described goes out all the same.
    """
    exchange = None
    try:
        request = args[1] if len(args) > 1 else kwargs.get("options")
        endpoint = endpoint_of(request)
        if endpoint is None:
            return None
        framework = recorded_by_framework(scope, endpoint.kind)
        exchange = make(request, endpoint, framework)
        if exchange.records:
            if framework is None:
                exchange.describe()
            exchange.prepare()
    except Exception as error:  # noqa: BLE001 - the guard
        report("a client's request", error)
    return exchange
