"""`Parea`: completions through the endpoint, which asks the provider, keeps the record and answers. Layer 4.

The record of a completion is the server's, one each; the SDK makes none beside it. Inside a traced call the completion
joins that call's trace, below that call. httpx is imported at the first request, not with this module.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from everycall import _recorder, limits
from everycall._context import current_node
from everycall.errors import (
    AuthenticationError,
    ConfigurationError,
    NotFoundError,
    Problem,
    RequestError,
    UnreachableError,
)
from everycall.semconv import API_KEY_HEADER, DEFAULT_PROJECT
from everycall.settings import OMIT_ALL, OMIT_INPUTS, OMIT_OUTPUTS, Settings

if TYPE_CHECKING:
    import httpx

__all__ = ["Completion", "CompletionResponse", "LLMInputs", "Message", "ModelParams", "Parea"]

API_PATH = "/api/parea/v1"
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a prompt. `content` is text, or a list of OpenAI content parts; the rest belongs to tool use."""

    content: str | Sequence[Mapping[str, Any]] | None = ""
    role: str = "user"
    name: str | None = None
    tool_calls: Sequence[Mapping[str, Any]] | None = None
    tool_call_id: str | None = None


@dataclass(frozen=True, slots=True)
class ModelParams:
    """Parameters of the generation. None leaves it to the deployment, else to the provider."""

    temp: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    max_length: int | None = None
    response_format: Mapping[str, Any] | None = None
    safe_prompt: bool | None = None


@dataclass(frozen=True, slots=True)
class LLMInputs:
    """The seed's `llm_configuration`: what is given here is used instead of the deployment's."""

    model: str | None = None
    provider: str | None = None
    model_params: ModelParams | Mapping[str, Any] | None = None
    messages: Sequence[Message | Mapping[str, Any]] | None = None
    history: Sequence[Message | Mapping[str, Any]] | None = None
    functions: Sequence[Any] | None = None
    function_call: str | Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What to complete: the seed's request fields. A `deployment_id`, or a configuration with model and messages.

    None leaves a field to the call in progress (`trace_id`, `trace_name`, `end_user_identifier`, `session_id`,
    `parent_trace_id`), to the client (`cache`, `project_name`) or out. `inference_id` is made when it is not given.
    """

    trace_id: str | None = None
    trace_name: str | None = None
    end_user_identifier: str | None = None
    deployment_id: str | None = None
    name: str | None = None
    project_name: str | None = None
    llm_inputs: Mapping[str, Any] | None = None
    llm_configuration: LLMInputs | Mapping[str, Any] | None = None
    metadata: Mapping[str, Any] | None = None
    target: str | None = None
    tags: Sequence[str] | None = None
    cache: bool | None = None
    log_omit_inputs: bool = False
    log_omit_outputs: bool = False
    log_omit: bool = False
    inference_id: str | None = None
    parent_trace_id: str | None = None
    session_id: str | None = None
    log_sample_rate: float | None = None
    provider_api_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionResponse:
    """The seed's answer. `status` is "success" or "error" (a provider's failure, with `error`, is an answer too).

    `latency` is seconds, `cost` US dollars; a number that is not known is 0 here and null in the record. Times are
    `YYYY-MM-DD HH:MM:SS`, UTC.
    """

    inference_id: str
    content: str
    latency: float
    input_tokens: int
    output_tokens: int
    total_tokens: int
    cost: float
    model: str
    provider: str
    cache_hit: bool
    status: str
    start_timestamp: str
    end_timestamp: str
    error: str | None = None


_answer_decoder = msgspec.json.Decoder(CompletionResponse)


class Parea:
    """A client of the endpoint's completions, for threads and for event loops. Making one connects to nothing.

    `api_key`: EVERYCALL_API_KEY, else this user's local key when the endpoint is on this machine. `base_url`: the
    endpoint, EVERYCALL_ENDPOINT or `semconv.DEFAULT_ENDPOINT` when left out; `/api/parea/v1` is added where it is
    missing. `cache` False asks for no cached answers, unless a `Completion` says otherwise. `timeout_s` is for a whole
    completion, tries included. Raises `ConfigurationError` for an address that is none.

    Synchronous calls share connections; so do asynchronous ones inside `async with Parea(...) as p:`. Outside of it
    each makes its own connection, so that nothing is bound to an event loop that may be gone.
    """

    def __init__(
        self,
        api_key: str | None = None,
        project_name: str = DEFAULT_PROJECT,
        base_url: str | None = None,
        cache: bool = True,
        timeout_s: float = limits.PROVIDER_TIMEOUT_S,
    ) -> None:
        if timeout_s <= 0:
            raise ConfigurationError(f"timeout_s must be more than 0, not {timeout_s!r}")
        self._settings = Settings.build(
            endpoint=(base_url or "").rstrip("/").removesuffix(API_PATH), api_key=api_key, project_name=project_name
        )
        self._url = f"{self._settings.endpoint}{API_PATH}/completion"
        self._cache = cache
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._client: httpx.Client | None = None
        self._client_pid = 0
        self._pool: tuple[asyncio.AbstractEventLoop, httpx.AsyncClient] | None = None
        self._tls: ssl.SSLContext | None = None

    def completion(self, completion: Completion) -> CompletionResponse:
        """Run a completion and return its answer, which may have the status "error".

        A request that got no answer, or 408, 429 or 5xx, is sent again (at most `limits.COMPLETION_TRIES_MAX` times in
        all, within `timeout_s`) under the same `inference_id`: the endpoint does not ask the provider twice for it.
        Raises `AuthenticationError`, `NotFoundError` (an unknown deployment), `RequestError` for another refusal, and
        `UnreachableError` when no try got an answer; `TypeError` for a value that is not JSON.
        """
        attempts = _Attempts(_body(completion, self._settings, self._cache), self._timeout_s)
        client = self._sync_client()
        while True:
            wait_s = attempts.wait_s
            if wait_s:
                time.sleep(wait_s)
            try:
                answer = client.post(
                    self._url, content=attempts.body, headers=self._headers(), timeout=attempts.timeout
                )
            except _transport_errors() as error:
                attempts.failed(error)
            else:
                if attempts.answered(answer):
                    return _response(answer)

    async def acompletion(self, completion: Completion) -> CompletionResponse:
        """Do as `completion` does, on the running event loop."""
        attempts = _Attempts(_body(completion, self._settings, self._cache), self._timeout_s)
        pool = self._pool
        if pool is not None and pool[0] is asyncio.get_running_loop():
            return await self._aattempt(pool[1], attempts)
        async with self._async_client() as client:
            return await self._aattempt(client, attempts)

    async def _aattempt(self, client: httpx.AsyncClient, attempts: _Attempts) -> CompletionResponse:
        while True:
            wait_s = attempts.wait_s
            if wait_s:
                await asyncio.sleep(wait_s)
            try:
                answer = await client.post(
                    self._url, content=attempts.body, headers=self._headers(), timeout=attempts.timeout
                )
            except _transport_errors() as error:
                attempts.failed(error)
            else:
                if attempts.answered(answer):
                    return _response(answer)

    def close(self) -> None:
        """Close the connections of synchronous calls. The client can be used again, with new ones."""
        with self._lock:
            client, self._client = self._client, None
            ours = self._client_pid == os.getpid()
        if client is not None and ours:
            client.close()

    async def aclose(self) -> None:
        """Close the connections of asynchronous calls made inside `async with`, and those of synchronous ones."""
        pool, self._pool = self._pool, None
        if pool is not None and pool[0] is asyncio.get_running_loop():
            await pool[1].aclose()
        self.close()

    def __enter__(self) -> Parea:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    async def __aenter__(self) -> Parea:
        self._pool = (asyncio.get_running_loop(), self._async_client())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def _sync_client(self) -> httpx.Client:
        import httpx

        with self._lock:
            if self._client is None or self._client_pid != os.getpid():  # a forked child must not share sockets
                self._client = httpx.Client(**self._options())
                self._client_pid = os.getpid()
            return self._client

    def _async_client(self) -> httpx.AsyncClient:
        import httpx

        return httpx.AsyncClient(**self._options())

    def _options(self) -> dict[str, Any]:
        """Return httpx options: no proxy to this machine, and certificates read once (it takes 30 ms)."""
        if self._settings.on_loopback:
            return {"trust_env": False, "verify": self._certificates()}
        return {"verify": self._certificates()}

    def _certificates(self) -> ssl.SSLContext | bool:
        if urlsplit(self._url).scheme == "http":
            return False  # nothing to verify
        if self._tls is None:
            import httpx

            self._tls = httpx.create_ssl_context()
        return self._tls

    def _headers(self) -> dict[str, str]:
        headers = {"content-type": "application/json"}
        key = self._settings.key()
        if key:
            headers[API_KEY_HEADER] = key
        return headers


class _Attempts:
    """The tries of one completion: how long to wait, how much time is left, and what to raise at the end."""

    def __init__(self, body: bytes, timeout_s: float) -> None:
        self.body = body
        self.wait_s = 0.0
        self._until = time.monotonic() + timeout_s
        self._tries = 0

    @property
    def timeout(self) -> httpx.Timeout:
        """The time that is left for a try; a connection that does not open is given up early."""
        import httpx

        left_s = max(self._until - time.monotonic(), 0.001)
        return httpx.Timeout(left_s, connect=min(left_s, limits.CONNECT_TIMEOUT_S))

    def failed(self, error: Exception) -> None:
        """Note a try without an answer. Raises `UnreachableError` when it was the last."""
        self._next(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__, None, error)

    def answered(self, answer: httpx.Response) -> bool:
        """Return True for an answer that counts. Raises for a refusal, and `UnreachableError` after the last try."""
        if answer.is_success:
            return True
        problem = _problem(answer)
        if answer.status_code not in _PASSING:
            kind = {401: AuthenticationError, 403: AuthenticationError, 404: NotFoundError}.get(problem.status)
            raise (kind or RequestError)(problem)
        self._next(f"{problem.status} {problem.title}: {problem.detail}", answer.headers.get("retry-after"), None)
        return False

    def _next(self, reason: str, retry_after: str | None, cause: Exception | None) -> None:
        self._tries += 1
        backoff_s = limits.BACKOFF_FIRST_S * 2 ** (self._tries - 1) * (0.5 + secrets.randbelow(1000) / 1000)
        asked_s = float(retry_after) if retry_after and retry_after.isdigit() else 0.0
        self.wait_s = max(backoff_s, min(asked_s, limits.RETRY_AFTER_MAX_S))
        if self._tries >= limits.COMPLETION_TRIES_MAX or time.monotonic() + self.wait_s >= self._until:
            raise UnreachableError(
                f"no answer to the completion after {self._tries} tries; the last: {reason}"
            ) from cause


def _transport_errors() -> tuple[type[Exception], ...]:
    import httpx

    return (httpx.TransportError,)


def _response(answer: httpx.Response) -> CompletionResponse:
    try:
        return _answer_decoder.decode(answer.content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnreachableError(f"{answer.request.url} answered something that is not a completion: {error}") from error


def _problem(answer: httpx.Response) -> Problem:
    """Return the problem in an answer; for another server's error, one made of its status and the start of its text."""
    try:
        body = msgspec.json.decode(answer.content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        body = None
    if not isinstance(body, dict) or not isinstance(body.get("title"), str):
        return Problem("unknown", answer.status_code, answer.reason_phrase or "Error", answer.text[:500])
    further = {name: value for name, value in body.items() if name not in ("type", "title", "status", "detail")}
    code = str(body.get("type", "unknown")).rpartition(":")[2]
    return Problem(code, answer.status_code, body["title"], str(body.get("detail", "")), further or None)


def _body(completion: Completion, settings: Settings, cache: bool) -> bytes:
    """Return the request: what was given, and from the call in progress what was not. Raises `TypeError`."""
    if not isinstance(completion, Completion):
        raise TypeError(f"completion() takes a Completion, not {type(completion).__name__}")
    given = {one.name: getattr(completion, one.name) for one in fields(completion)}
    body = {name: value for name, value in given.items() if value is not None}
    body.setdefault("project_name", settings.project_name)
    body.setdefault("cache", cache)
    body.setdefault("inference_id", f"{secrets.token_hex(16)}-{secrets.token_hex(8)}")
    _inherit(body, settings)
    try:
        return _encoder.encode(body)
    except RecursionError:
        raise TypeError("the completion holds a value that contains itself, or is nested too deep for JSON") from None


def _inherit(body: dict[str, Any], settings: Settings) -> None:
    node = current_node()
    recorder = _recorder._active  # not active(): a completion alone is no reason to open a spool
    omit = settings.omit | (recorder.omit if recorder is not None else 0)
    if node is not None:
        omit |= node.omit
        same_trace = "trace_id" not in body or body["trace_id"] == node.trace_id
        if node.call is not None and same_trace:
            body.setdefault("parent_trace_id", node.call.inference_id)
        for name in ("trace_id", "trace_name", "end_user_identifier", "session_id"):
            if (value := getattr(node, name)) is not None:
                body.setdefault(name, value)
    for name, flag in (("log_omit", OMIT_ALL), ("log_omit_inputs", OMIT_INPUTS), ("log_omit_outputs", OMIT_OUTPUTS)):
        body[name] = bool(body[name] or omit & flag)
