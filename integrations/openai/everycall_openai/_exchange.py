"""One request and its answer: the call that records them, from before it is sent to its end. Called by the clients.

An exchange has a call of its own, or that of a framework (LangChain's model) that records this very request: then it
adds what only the client knows, tokens and the id of the answer, and leaves the end to the framework.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any, Final

import openai

from everycall.instrument import (
    OMIT_ALL,
    OMIT_INPUTS,
    OMIT_OUTPUTS,
    Call,
    guarded,
    recorded_by_framework,
    report,
    start_call,
)
from everycall_openai._frameworks import records_this_request
from everycall_openai._options import Options
from everycall_openai._providers import provider_of, tells_usage
from everycall_openai._requests import Endpoint, endpoint_of
from everycall_openai._streams import Reading, read_raw, read_stream
from everycall_openai._values import read

__all__ = ["SCOPE", "Exchange", "begin"]

SCOPE: Final = "everycall_openai"
_RAW_HEADER: Final = "x-stainless-raw-response"
_KNOWN_HERE: Final = (
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "usage",
    "gen_ai.response.id",
    "openai.response.service_tier",
)
Arguments = tuple[Any, ...]
Keywords = dict[str, Any]
_REFUSED: Final = (400, 422)


class Exchange:
    """One request under way. `request` is what is to be sent: the library's own options, or a copy that asks for more.

    `hides_usage` says that the answer will have a piece the caller has not asked for. One of `take` and `fail` is
    called once, when the library has answered or raised. Neither raises.
    """

    __slots__ = ("_client", "_options", "_original", "body", "call", "endpoint", "hides_usage", "is_own", "parsed",
                 "provider", "request")  # fmt: skip

    def __init__(self, client: Any, request: Any, endpoint: Endpoint, options: Options, framework: Call | None) -> None:
        self._client = client
        self._options = options
        self._original = self.request = request
        self.endpoint = endpoint
        self.hides_usage = False
        self.parsed: Any = None
        self.is_own = framework is None
        body, beside = request.json_data, request.extra_json
        if type(body) is not dict:
            body = {}
        self.body: Mapping[str, Any] = {**body, **beside} if isinstance(beside, Mapping) else body
        self.provider = options.provider or provider_of(client)
        if framework is not None:
            self.call: Call = framework
            return
        model = body.get("model")
        name = f"{endpoint.operation} {model}" if isinstance(model, str) else endpoint.operation
        self.call = start_call(name, kind=endpoint.kind, scope=SCOPE, **options.arguments())

    @property
    def keeps_outputs(self) -> bool:
        """Whether the call has its content from here, and takes it."""
        return self.is_own and not self.call.omit & OMIT_OUTPUTS

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
            self._original = self.request = request
        if self.endpoint.streams_usage and self.body.get("stream") is True and self._asks_for_usage():
            request = copy.copy(request)
            asked = self.body.get("stream_options") or {}
            request.json_data = {**request.json_data, "stream_options": {**asked, "include_usage": True}}
            self.request = request
            self.hides_usage = True

    def _heard_before(self, parser: Any) -> Any:
        """Wrap the parser of an answer, so that an answer which cannot be parsed is recorded all the same."""

        def parse(answer: Any) -> Any:
            self.parsed = answer
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
        self.hides_usage, self.request = False, self._original
        self._options.refused(str(self._client.base_url))
        return True

    def arguments(self, args: Arguments, kwargs: Keywords) -> tuple[Arguments, Keywords]:
        """Return the arguments of the library's `request`, with the request that is to be sent among them."""
        if len(args) > 1:
            return (args[0], self.request, *args[2:]), kwargs
        return args, {**kwargs, "options": self.request}

    def take(self, answer: Any) -> None:
        """Record an answer, or follow it where it is yet to be read."""
        fields: dict[str, Any] = {}
        if not self.call.omit & OMIT_ALL:
            try:
                if self._follows(answer):
                    return
                fields = self._fields(answer)
            except Exception as error:  # noqa: BLE001 - the guard
                report("openai answer", error)
        self.finish(fields)

    def _follows(self, answer: Any) -> bool:
        """Follow an answer that is yet to be read; tells whether it is one."""
        members = getattr(answer, "__dict__", ())
        if "_iterator" in members and self.endpoint.gathers is not None:
            read_stream(answer, Reading(self, self.endpoint.gathers(self.keeps_outputs)))
            return True
        if "http_response" not in members:
            return False
        if self.is_own:
            self.call.set_attribute("http.response.status_code", answer.http_response.status_code)
        if self.body.get("stream") is not True and answer.http_response.is_closed:
            return False
        read_raw(answer, Reading(self, None))
        return True

    def _fields(self, answer: Any) -> dict[str, Any]:
        """Read a whole answer; a raw one that is here already is looked at without a trace."""
        raw = read(answer, "http_response")
        return self.endpoint.answers(answer if raw is None else json.loads(raw.content))

    def finish(self, fields: dict[str, Any]) -> None:
        """End the call with what an answer said; as an error where the answer is the report of one."""
        failure = fields.pop("failure", None)
        self._tell(fields)
        if self.is_own:
            if failure is None:
                self.call.end()
            else:
                self.call.fail(failure)

    def leave(self, fields: dict[str, Any]) -> None:
        """End the call as abandoned by who read the answer."""
        fields.pop("failure", None)
        self._tell(fields)
        if self.is_own:
            self.call.abandon()

    def fail(self, error: BaseException, fields: dict[str, Any] | None = None) -> None:
        """End the call with the library's error, and with what was answered before it."""
        if not self.call.omit & OMIT_ALL:
            fields = fields or self._answered(error) or {}
            fields.pop("failure", None)
            self._tell(fields)
            if self.is_own:
                about = {"http.response.status_code": read(error, "status_code")}
                self.call.update(**about, **{"openai.request_id": read(error, "request_id")})
        if self.is_own:
            self.call.fail(error)

    @guarded
    def _answered(self, error: BaseException) -> dict[str, Any]:
        answer = self.parsed if self.parsed is not None else read(error, "completion")
        return {} if answer is None else self.endpoint.answers(answer)

    def _tell(self, fields: Mapping[str, Any]) -> None:
        if self.is_own:
            self.call.update(**fields)
        elif fields:
            self.call.update(provider=self.provider, **{name: fields.get(name) for name in _KNOWN_HERE})


def begin(client: Any, request: Any, options: Options) -> Exchange | None:
    """Begin the exchange of a request; None for one that is not to a model, or is recorded as a framework's.

    Never raises: a request that cannot be described goes out all the same.
    """
    exchange = None
    try:
        endpoint = endpoint_of(request)
        if endpoint is None:
            return None
        framework = recorded_by_framework(SCOPE, endpoint.kind)
        if framework is None and endpoint.kind == "llm" and records_this_request():
            return None
        exchange = Exchange(client, request, endpoint, options, framework)
        if not exchange.call.omit & OMIT_ALL:
            if framework is None:
                exchange.describe()
            exchange.prepare()
    except Exception as error:  # noqa: BLE001 - the guard
        report("openai request", error)
    return exchange


def _is_raw(request: Any) -> bool:
    headers = request.headers
    return isinstance(headers, Mapping) and any(str(name).lower() == _RAW_HEADER for name in headers)
