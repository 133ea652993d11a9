"""`POST /api/parea/v1/completion/stream`: a completion text by text, as server-sent events that Parea's clients read.

Their parser takes each HTTP chunk for one event, so each event is one write, small enough to arrive in one piece, and
there is no last event. It takes a comment for an event, so while a model thinks they get an empty text instead. It also
deletes `data: ` from what it reads, so that is escaped inside a text.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
from litestar import post
from litestar.di import NamedDependency
from litestar.types import ASGIApp, Receive, Scope, Send
from msgspec import Meta

from everycall import limits
from everycall.semconv import ERROR, STREAM_HEADER
from everycall.server.api.completion import is_parea, read_completion
from everycall.server.api.http import ApiRequest
from everycall.server.api.openapi import operation
from everycall.server.api.parea.projects import project_of_body
from everycall.server.auth import require
from everycall.server.gateway.request import CompletionRequest, CompletionResponse
from everycall.server.gateway.streaming import Follower
from everycall.server.problems import problem
from everycall.server.security import header
from everycall.server.services import Services

__all__ = ["encode_event", "events_of", "handlers"]

TEXT_CHARS = 1_000
"""Of one event: with HTTP's own framing it fits into one network packet, and arrives as one."""
WIDE_TEXT_CHARS = 250
"""The same for text that is not ASCII: up to four bytes each."""
BURST_BYTES = 8 * 1024
PAUSE_S = 0.02
"""After each burst, for Parea's clients. They read at most 64 KiB at once and cut an event there. A client that is
at most 160 ms late loses nothing of an answer that is complete at once."""
COMMENT = b": waiting\r\n\r\n"
"""What is sent while no text arrives, so that proxies keep the connection."""

_encoder = msgspec.json.Encoder()


def encode_event(text: str) -> bytes:
    """Return one event. An escape of JSON's hides a `data: ` in the text from Parea's parser, which would delete it."""
    return b"data: " + _encoder.encode({"chunk": text}).replace(b"data: ", b"data\\u003a ") + b"\r\n\r\n"


@post(
    "/api/parea/v1/completion/stream",
    status_code=200,
    operation_class=operation(
        body=CompletionRequest,
        response=Annotated[str, Meta(description='Events, one write each: data: {"chunk": "..."}.')],
        response_type="text/event-stream",
        problems={
            403: "The key may not use models without a known price.",
            404: "No such deployment in this project.",
            409: "The inference_id is taken, or its answer was not kept.",
            413: "Too many bytes.",
            422: "A field is wrong (`field` names it), or there is nothing to ask.",
            429: "The key's budget is spent, or its rate limit reached.",
            502: "The provider failed before the first text; the record says so too.",
        },
    ),
)
async def post_stream(request: ApiRequest, services: NamedDependency[Services]) -> ASGIApp:
    """Run a completion and send its texts as they arrive. Its record has the rest, and the time to the first text.

    A caller that goes away before the end cancels the provider's request, and the record says `abandoned`. A provider
    that fails after the first text ends the stream; the record has the error and the text so far. With the header
    `x-everycall-stream: end` the last event is `end`: the response of a plain completion, without its content. If no
    text arrives for 12 s, a comment is sent (to Parea's clients, an empty text).
    """
    require(request.user, "write")
    services.gateway.rates.enter(request.user.key)
    body = await read_completion(request.scope, request.receive, services.bodies)
    project = await project_of_body(request.user, services.projects, body.project_name, body.project_uuid)
    follower = services.gateway.stream(project, body, request.user.key)
    with_end = header(request.scope, STREAM_HEADER.encode()) == "end"
    return await events_of(follower, request.receive, with_end=with_end, is_parea=is_parea(request.scope))


async def events_of(
    follower: Follower[CompletionResponse], receive: Receive, *, with_end: bool = False, is_parea: bool = True
) -> ASGIApp:
    """Return the response that sends a stream, once its first text is there or has been waited for a while.

    Raise what the run raised before that, and `ProblemError` 502 if the provider failed. `with_end` and `is_parea` are
    what the client takes: see `post_stream`.
    """
    caller = _Caller(receive)
    try:
        with contextlib.suppress(TimeoutError):
            async with caller.present(limits.STREAM_SILENCE_S):
                await follower.first_text()
        if not follower.has_text and follower.result is not None:
            _check(follower.result)
    except BaseException:
        follower.close()
        await caller.close()
        raise
    return _Events(follower, caller, with_end=with_end, silence=encode_event("") if is_parea else COMMENT)


def _check(response: CompletionResponse) -> None:
    """Raise a provider's failure as a problem."""
    if response.status == ERROR:
        raise problem(
            "provider_failed",
            502,
            "The provider failed",
            f"{response.error}. The record of this completion has it too; use a new inference_id to ask again.",
            inference_id=response.inference_id,
        )


class _Caller:
    """The client at the other end of the connection. `close` it in any case."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False
        self._scope: asyncio.Timeout | None = None
        self._watching = asyncio.create_task(self._watch())

    @contextlib.asynccontextmanager
    async def present(self, seconds: float | None = None) -> AsyncIterator[None]:
        """End the block with `TimeoutError` when the caller goes away, or after so many seconds."""
        async with asyncio.timeout(0 if self._gone else seconds) as self._scope:
            yield

    async def close(self) -> None:
        """Stop watching."""
        self._watching.cancel()
        await asyncio.gather(self._watching, return_exceptions=True)

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        if self._scope is not None:
            with contextlib.suppress(RuntimeError):  # the block has ended
                self._scope.reschedule(asyncio.get_running_loop().time())


class _Events:
    """The response: sends events until the end, or until the caller goes away."""

    def __init__(
        self, follower: Follower[CompletionResponse], caller: _Caller, *, with_end: bool, silence: bytes
    ) -> None:
        self._follower = follower
        self._caller = caller
        self._with_end = with_end
        self._silence = silence

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream. Raise what the run raised after its first text, which breaks the connection off."""
        del scope, receive
        try:
            with contextlib.suppress(TimeoutError):
                async with self._caller.present():
                    await self._send(send)
        finally:
            self._follower.close()
            await self._caller.close()

    async def _send(self, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream"), (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        burst = 0
        async for event in self._events():
            await send({"type": "http.response.body", "body": event, "more_body": True})
            burst += len(event)
            if burst > BURST_BYTES and not self._with_end:
                burst = 0
                await asyncio.sleep(PAUSE_S)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _events(self) -> AsyncIterator[bytes]:
        if not self._follower.has_text and self._follower.result is None:
            yield self._silence  # a text has been waited for already
        async for text in self._follower.texts(limits.STREAM_SILENCE_S):
            if text is None:
                yield self._silence
                continue
            size = TEXT_CHARS if text.isascii() else WIDE_TEXT_CHARS
            for start in range(0, len(text), size):
                yield encode_event(text[start : start + size])
        response = self._follower.result
        if response is None:
            return
        if self._with_end:
            yield b"event: end\r\ndata: " + _encoder.encode(msgspec.structs.replace(response, content="")) + b"\r\n\r\n"
        elif not self._follower.has_text:
            _check(response)  # too late for a status: the connection breaks off


handlers = [post_stream]
