"""`Parea`: completions through the endpoint, which asks the provider, keeps the record and answers. Layer 4.

The record of a completion is the server's, one each; the SDK makes none beside it. Inside a traced call the completion
joins that call's trace, below that call. httpx is imported at the first request, not with this module.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
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
from everycall._client.retry import Tries, decoded
from everycall._client.stream import AsyncCompletionStream, CompletionStream, Events
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

_answer_decoder = msgspec.json.Decoder(CompletionResponse)
_prompt_decoder = msgspec.json.Decoder(UseDeployedPromptResponse)


class Parea:
    """A client of the endpoint's completions, for threads and for event loops. Making one connects to nothing.

    `api_key`: EVERYCALL_API_KEY, else this user's local key when the endpoint is on this machine. `base_url`: the
    endpoint, EVERYCALL_ENDPOINT or `semconv.DEFAULT_ENDPOINT` when left out; `/api/parea/v1` is added where it is
    missing. `cache` False asks for no cached answers, unless a `Completion` says otherwise. `timeout_s` is for a whole
    completion, tries included; of a stream, for the first text and between two. Raises `ConfigurationError` for an
    address that is none.

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
        self._base = f"{self._settings.endpoint}{API_PATH}"
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
        Raises `AuthenticationError`, `NotFoundError` (an unknown deployment), `RequestError` for another refusal (a
        key's limit among them: `budget_exceeded` and `rate_limited`, when waiting did not help), and
        `UnreachableError` when no try got an answer; `TypeError` for a value that is not JSON.
        """
        body = completion_body(completion, self._settings, self._cache)
        return decoded(self._post("/completion", body), _answer_decoder, "a completion")

    async def acompletion(self, completion: Completion) -> CompletionResponse:
        """Do as `completion` does, on the running event loop."""
        body = completion_body(completion, self._settings, self._cache)
        return decoded(await self._apost("/completion", body), _answer_decoder, "a completion")

    def stream(self, completion: Completion) -> CompletionStream:
        """Return the texts of a completion as they come; nothing is asked before the first one is wanted.

        Until the first text it is sent again and raises as `completion` does, and raises `RequestError` with the code
        `provider_failed` when the provider does not answer. After it nothing is sent again: `RequestError` says that
        the provider failed, `UnreachableError` that the connection broke.
        """
        body = completion_body(completion, self._settings, self._cache)
        events = Events()
        return CompletionStream(self._texts(body, events), events)

    def astream(self, completion: Completion) -> AsyncCompletionStream:
        """Do as `stream` does, on the running event loop."""
        body = completion_body(completion, self._settings, self._cache)
        events = Events()
        return AsyncCompletionStream(self._atexts(body, events), events)

    def get_prompt(self, asked: UseDeployedPrompt) -> UseDeployedPromptResponse:
        """Return the active version of a deployed prompt, filled with `llm_inputs`. Raises as `completion` does."""
        return decoded(self._post("/deployed-prompt", prompt_body(asked)), _prompt_decoder, "a deployed prompt")

    async def aget_prompt(self, asked: UseDeployedPrompt) -> UseDeployedPromptResponse:
        """Do as `get_prompt` does, on the running event loop."""
        answer = await self._apost("/deployed-prompt", prompt_body(asked))
        return decoded(answer, _prompt_decoder, "a deployed prompt")

    def record_feedback(self, feedback: FeedbackRequest) -> None:
        """Keep a feedback, also on a completion or call whose record has not come yet. Raises as `completion` does.

        Sent again, it is kept once.
        """
        self._post("/feedback", feedback_body(feedback))

    async def arecord_feedback(self, feedback: FeedbackRequest) -> None:
        """Do as `record_feedback` does, on the running event loop."""
        await self._apost("/feedback", feedback_body(feedback))

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

    def _post(self, path: str, body: bytes) -> httpx.Response:
        tries = Tries(self._timeout_s)
        client = self._sync_client()
        while True:
            if tries.wait_s:
                time.sleep(tries.wait_s)
            try:
                answer = client.post(self._base + path, content=body, headers=self._headers(), timeout=_timeout(tries))
            except _transport_errors() as error:
                tries.failed(error)
            else:
                if tries.answered(answer):
                    return answer

    async def _apost(self, path: str, body: bytes) -> httpx.Response:
        tries = Tries(self._timeout_s)
        async with self._in_loop() as client:
            while True:
                if tries.wait_s:
                    await asyncio.sleep(tries.wait_s)
                try:
                    answer = await client.post(
                        self._base + path, content=body, headers=self._headers(), timeout=_timeout(tries)
                    )
                except _transport_errors() as error:
                    tries.failed(error)
                else:
                    if tries.answered(answer):
                        return answer

    def _texts(self, body: bytes, events: Events) -> Generator[str]:
        tries = Tries(self._timeout_s)
        client = self._sync_client()
        while True:
            if tries.wait_s:
                time.sleep(tries.wait_s)
            request = client.build_request("POST", self._base + "/completion/stream", **self._streaming(body, tries))
            try:
                answer = client.send(request, stream=True)
            except _transport_errors() as error:
                tries.failed(error)
                continue
            try:
                if not answer.is_success:
                    answer.read()
                if tries.answered(answer):
                    for data in answer.iter_raw():
                        yield from events.feed(data)
                    events.end()
                    return
            except _transport_errors() as error:
                raise _broken(error) from error
            finally:
                answer.close()

    async def _atexts(self, body: bytes, events: Events) -> AsyncGenerator[str]:
        tries = Tries(self._timeout_s)
        async with self._in_loop() as client:
            while True:
                if tries.wait_s:
                    await asyncio.sleep(tries.wait_s)
                url = self._base + "/completion/stream"
                request = client.build_request("POST", url, **self._streaming(body, tries))
                try:
                    answer = await client.send(request, stream=True)
                except _transport_errors() as error:
                    tries.failed(error)
                    continue
                try:
                    if not answer.is_success:
                        await answer.aread()
                    if tries.answered(answer):
                        async for data in answer.aiter_raw():
                            for text in events.feed(data):
                                yield text
                        events.end()
                        return
                except _transport_errors() as error:
                    raise _broken(error) from error
                finally:
                    await answer.aclose()

    def _streaming(self, body: bytes, tries: Tries) -> dict[str, Any]:
        headers = {
            **self._headers(),
            "accept": "text/event-stream",
            "accept-encoding": "identity",
            STREAM_HEADER: "end",
        }
        return {"content": body, "headers": headers, "timeout": _timeout(tries, self._timeout_s)}

    def _sync_client(self) -> httpx.Client:
        import httpx

        with self._lock:
            if self._client is None or self._client_pid != os.getpid():  # a forked child must not share sockets
                self._client = httpx.Client(**self._options())
                self._client_pid = os.getpid()
            return self._client

    @asynccontextmanager
    async def _in_loop(self) -> AsyncIterator[httpx.AsyncClient]:
        """Give the client of the running event loop: the one of `async with`, else one for this request alone."""
        pool = self._pool
        if pool is not None and pool[0] is asyncio.get_running_loop():
            yield pool[1]
            return
        async with self._async_client() as client:
            yield client

    def _async_client(self) -> httpx.AsyncClient:
        import httpx

        return httpx.AsyncClient(**self._options())

    def _options(self) -> dict[str, Any]:
        """Return httpx options: no proxy to this machine, and certificates read once (it takes 30 ms)."""
        if self._settings.on_loopback:
            return {"trust_env": False, "verify": self._certificates()}
        return {"verify": self._certificates()}

    def _certificates(self) -> ssl.SSLContext | bool:
        if urlsplit(self._base).scheme == "http":
            return False  # nothing to verify
        if self._tls is None:
            import httpx

            self._tls = httpx.create_ssl_context()
        return self._tls

    def _headers(self) -> dict[str, str]:
        headers = {"content-type": "application/json", "user-agent": f"everycall/{__version__}"}
        key = self._settings.key()
        if key:
            headers[API_KEY_HEADER] = key
        return headers


def _timeout(tries: Tries, read_s: float | None = None) -> httpx.Timeout:
    """Return the time that is left for a try; a connection that does not open is given up early."""
    import httpx

    left_s = tries.left_s
    return httpx.Timeout(left_s, connect=min(left_s, limits.CONNECT_TIMEOUT_S), read=read_s or left_s)


def _transport_errors() -> tuple[type[Exception], ...]:
    import httpx

    return (httpx.TransportError,)


def _broken(error: Exception) -> UnreachableError:
    return UnreachableError(f"the stream broke off before its end: {type(error).__name__}: {error}")
