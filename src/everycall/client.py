"""`Parea`, a client for completions through the endpoint, which calls the provider and keeps the record.

The server makes the one record of each completion; the client makes none. Inside a traced call, the completion is below
that call in its trace. httpx is imported at the first request, not with this module.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypedDict
from urllib.parse import urlsplit

import msgspec

from everycall import limits
from everycall._client.models import (
    Completion,
    CompletionResponse,
    FeedbackRequest,
    LLMInputs,
    Message,
    ModelParams,
    Prompt,
    UseDeployedPrompt,
    UseDeployedPromptResponse,
    completion_body,
    feedback_body,
    prompt_body,
)
from everycall._client.retry import Attempts, decoded
from everycall._client.stream import AsyncCompletionStream, CompletionStream, Events
from everycall._local_server import PROOF_PATH, UNPROVEN, is_proof, nonce
from everycall._version import __version__
from everycall.errors import ConfigurationError, UnreachableError
from everycall.semconv import API_KEY_HEADER, DEFAULT_PROJECT, STREAM_HEADER
from everycall.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

__all__ = [
    "AsyncCompletionStream",
    "Completion",
    "CompletionResponse",
    "CompletionStream",
    "FeedbackRequest",
    "LLMInputs",
    "Message",
    "ModelParams",
    "Parea",
    "Prompt",
    "UseDeployedPrompt",
    "UseDeployedPromptResponse",
]

API_PATH = "/api/parea/v1"
STREAM_PATH = "/completion/stream"

_completion_decoder = msgspec.json.Decoder(CompletionResponse)
_prompt_decoder = msgspec.json.Decoder(UseDeployedPromptResponse)


class _ClientOptions(TypedDict):
    """The keywords with which both of httpx's clients are made."""

    trust_env: bool
    verify: ssl.SSLContext | bool
    auth: httpx.Auth | None


class _RequestOptions(TypedDict):
    """The keywords of `build_request` for a stream."""

    content: bytes
    headers: dict[str, str]
    timeout: httpx.Timeout


class Parea:
    """A client for the endpoint's completions, for threads and for event loops. Creating one opens no connection.

    - `api_key`: by default EVERYCALL_API_KEY, or this user's local key if the endpoint is on this machine.
    - `project_name`: the project of completions that name none.
    - `base_url`: the endpoint, by default EVERYCALL_ENDPOINT or `semconv.DEFAULT_ENDPOINT`. The path `/api/parea/v1`
      may be part of it.
    - `cache`: False asks for no cached answers, unless a `Completion` says otherwise.
    - `timeout_s`: for a whole completion including retries; for a stream, until the first text and between two texts.

    Raise `ConfigurationError` if the URL or the time-out is invalid.

    Synchronous calls share connections, and so do asynchronous ones inside `async with Parea(...) as p:`. Outside of
    it, each asynchronous call opens its own connection, so that nothing is bound to an event loop that may be closed.
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
        self._base = f"{self._settings.endpoint}{API_PATH}"
        self._cache = cache
        self._timeout_s = timeout_s
        self._lock, self._lock_pid = threading.Lock(), os.getpid()
        self._client: httpx.Client | None = None
        self._client_pid = 0
        self._pool: tuple[asyncio.AbstractEventLoop, httpx.AsyncClient] | None = None
        self._tls_context: ssl.SSLContext | None = None

    def completion(self, completion: Completion) -> CompletionResponse:
        """Run a completion and return the response. Its `status` is "error" if the provider failed.

        A request without a response, or with 408, 429 or 5xx, is sent again: at most `limits.COMPLETION_TRIES_MAX`
        times in all, within `timeout_s`, and under the same `inference_id`, so that the endpoint calls the provider
        once.

        Raise `AuthenticationError`; `NotFoundError` for an unknown deployment; `RequestError` for any other refusal,
        including a key's limits (`budget_exceeded`, and `rate_limited` if waiting did not help); `UnreachableError` if
        no attempt got a response; `TypeError` for a value that is not JSON.
        """
        body = completion_body(completion, self._settings, self._cache)
        return decoded(self._post("/completion", body), _completion_decoder, "a completion")

    async def acompletion(self, completion: Completion) -> CompletionResponse:
        """Do the same as `completion`, on the running event loop."""
        body = completion_body(completion, self._settings, self._cache)
        return decoded(await self._apost("/completion", body), _completion_decoder, "a completion")

    def stream(self, completion: Completion) -> CompletionStream:
        """Return an iterator of a completion's texts as they arrive. The request is sent with the first `next`.

        Until the first text, retries and errors are those of `completion`; in addition `RequestError` with the code
        `provider_failed` is raised if the provider fails. After the first text nothing is sent again: `RequestError`
        means that the provider failed, `UnreachableError` that the connection broke.
        """
        body = completion_body(completion, self._settings, self._cache)
        events = Events()
        return CompletionStream(self._texts(body, events), events)

    def astream(self, completion: Completion) -> AsyncCompletionStream:
        """Do the same as `stream`, on the running event loop."""
        body = completion_body(completion, self._settings, self._cache)
        events = Events()
        return AsyncCompletionStream(self._atexts(body, events), events)

    def get_prompt(self, prompt: UseDeployedPrompt) -> UseDeployedPromptResponse:
        """Return the active version of a deployed prompt, filled with `llm_inputs`. Raise as `completion` does."""
        return decoded(self._post("/deployed-prompt", prompt_body(prompt)), _prompt_decoder, "a deployed prompt")

    async def aget_prompt(self, prompt: UseDeployedPrompt) -> UseDeployedPromptResponse:
        """Do the same as `get_prompt`, on the running event loop."""
        response = await self._apost("/deployed-prompt", prompt_body(prompt))
        return decoded(response, _prompt_decoder, "a deployed prompt")

    def record_feedback(self, feedback: FeedbackRequest) -> None:
        """Store feedback on a completion or call, whose record may arrive later. Raise as `completion` does.

        The endpoint stores the same feedback once, however often it is sent.
        """
        self._post("/feedback", feedback_body(feedback))

    async def arecord_feedback(self, feedback: FeedbackRequest) -> None:
        """Do the same as `record_feedback`, on the running event loop."""
        await self._apost("/feedback", feedback_body(feedback))

    def close(self) -> None:
        """Close the connections of synchronous calls. The client can still be used, and then opens new ones."""
        with self._process_lock():
            client, self._client = self._client, None
            is_own = self._client_pid == os.getpid()
        if client is not None and is_own:
            client.close()

    async def aclose(self) -> None:
        """Close the connections of asynchronous calls inside `async with`, and those of synchronous calls."""
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

    def _post(self, path: str, body: bytes) -> httpx.Response:
        attempts = Attempts(self._timeout_s)
        client = self._sync_client()
        while True:
            if attempts.wait_s:
                time.sleep(attempts.wait_s)
            try:
                response = client.post(
                    self._base + path, content=body, headers=self._headers(), timeout=_timeout(attempts)
                )
            except _transport_errors() as error:
                attempts.failed(error)
            else:
                if attempts.answered(response):
                    return response

    async def _apost(self, path: str, body: bytes) -> httpx.Response:
        attempts = Attempts(self._timeout_s)
        async with self._in_loop() as client:
            while True:
                if attempts.wait_s:
                    await asyncio.sleep(attempts.wait_s)
                try:
                    response = await client.post(
                        self._base + path, content=body, headers=self._headers(), timeout=_timeout(attempts)
                    )
                except _transport_errors() as error:
                    attempts.failed(error)
                else:
                    if attempts.answered(response):
                        return response

    def _texts(self, body: bytes, events: Events) -> Generator[str]:
        attempts = Attempts(self._timeout_s)
        client = self._sync_client()
        while True:
            if attempts.wait_s:
                time.sleep(attempts.wait_s)
            request = client.build_request("POST", self._base + STREAM_PATH, **self._stream_options(body, attempts))
            try:
                response = client.send(request, stream=True)
            except _transport_errors() as error:
                attempts.failed(error)
                continue
            try:
                if not response.is_success:
                    response.read()
                if attempts.answered(response):
                    for data in response.iter_raw():
                        yield from events.feed(data)
                    events.end()
                    return
            except _transport_errors() as error:
                raise _broken(error) from error
            finally:
                response.close()

    async def _atexts(self, body: bytes, events: Events) -> AsyncGenerator[str]:
        attempts = Attempts(self._timeout_s)
        async with self._in_loop() as client:
            while True:
                if attempts.wait_s:
                    await asyncio.sleep(attempts.wait_s)
                request = client.build_request("POST", self._base + STREAM_PATH, **self._stream_options(body, attempts))
                try:
                    response = await client.send(request, stream=True)
                except _transport_errors() as error:
                    attempts.failed(error)
                    continue
                try:
                    if not response.is_success:
                        await response.aread()
                    if attempts.answered(response):
                        async for data in response.aiter_raw():
                            for text in events.feed(data):
                                yield text
                        events.end()
                        return
                except _transport_errors() as error:
                    raise _broken(error) from error
                finally:
                    await response.aclose()

    def _stream_options(self, body: bytes, attempts: Attempts) -> _RequestOptions:
        headers = {
            **self._headers(),
            "accept": "text/event-stream",
            "accept-encoding": "identity",
            STREAM_HEADER: "end",
        }
        return {"content": body, "headers": headers, "timeout": _timeout(attempts, self._timeout_s)}

    def _process_lock(self) -> threading.Lock:
        if self._lock_pid != os.getpid():  # in a forked child: a thread that is not here may hold the parent's
            self._lock, self._lock_pid = threading.Lock(), os.getpid()
        return self._lock

    def _sync_client(self) -> httpx.Client:
        import httpx

        with self._process_lock():
            if self._client is None or self._client_pid != os.getpid():  # a forked child must not share sockets
                self._client = httpx.Client(**self._options())
                self._client_pid = os.getpid()
            return self._client

    @asynccontextmanager
    async def _in_loop(self) -> AsyncIterator[httpx.AsyncClient]:
        """Yield the client of the running event loop: that of `async with`, or one for this request alone."""
        pool = self._pool
        if pool is not None and pool[0] is asyncio.get_running_loop():
            yield pool[1]
            return
        async with self._async_client() as client:
            yield client

    def _async_client(self) -> httpx.AsyncClient:
        import httpx

        return httpx.AsyncClient(**self._options())

    def _options(self) -> _ClientOptions:
        """Return options of httpx: no proxy for loopback, and certificates read once, which takes 30 ms."""
        settings = self._settings
        proof = _proof_first(settings) if settings.requires_proof else None
        return {"trust_env": not settings.on_loopback, "verify": self._certificates(), "auth": proof}

    def _certificates(self) -> ssl.SSLContext | bool:
        if urlsplit(self._base).scheme == "http":
            return False  # nothing to verify
        if self._tls_context is None:
            import httpx

            self._tls_context = httpx.create_ssl_context()
        return self._tls_context

    def _headers(self) -> dict[str, str]:
        headers = {"content-type": "application/json", "user-agent": f"everycall/{__version__}"}
        key = self._settings.key()
        if key:
            headers[API_KEY_HEADER] = key
        return headers


def _proof_first(settings: Settings) -> httpx.Auth:
    """Return what has a server on loopback prove that it is this user's, before it is sent a key or a prompt.

    The proof holds for `limits.PROOF_AGE_S`. Requests raise `UnreachableError` if the server does not prove it.
    """
    import httpx

    class ProofFirst(httpx.Auth):
        _proven_at = -limits.PROOF_AGE_S

        def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
            if self._is_due():
                response = yield self._question(request)
                response.read()
                self._check(response)
            yield request

        async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
            if self._is_due():
                response = yield self._question(request)
                await response.aread()
                self._check(response)
            yield request

        def _is_due(self) -> bool:
            return time.monotonic() - self._proven_at >= limits.PROOF_AGE_S

        def _question(self, request: httpx.Request) -> httpx.Request:
            url = f"{settings.endpoint}{PROOF_PATH}?nonce={nonce()}"
            return httpx.Request("GET", url, extensions=request.extensions)  # with its time-outs

        def _check(self, response: httpx.Response) -> None:
            url, key = response.request.url, settings.key()
            answer, challenge = response.content, url.params["nonce"]
            if key is None or not response.is_success or not is_proof(answer, key, challenge, url.port or 80):
                raise UnreachableError(f"{settings.endpoint}: {UNPROVEN}")
            self._proven_at = time.monotonic()

    return ProofFirst()


def _timeout(attempts: Attempts, read_s: float | None = None) -> httpx.Timeout:
    """Return the time left for an attempt. Opening the connection gets less: `limits.CONNECT_TIMEOUT_S`."""
    import httpx

    left_s = attempts.left_s
    return httpx.Timeout(left_s, connect=min(left_s, limits.CONNECT_TIMEOUT_S), read=read_s or left_s)


def _transport_errors() -> tuple[type[Exception], ...]:
    import httpx

    return (httpx.TransportError,)


def _broken(error: Exception) -> UnreachableError:
    return UnreachableError(f"the stream broke off before its end: {type(error).__name__}: {error}")
