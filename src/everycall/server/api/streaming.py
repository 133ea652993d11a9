"""`POST /api/parea/v1/completion/stream`: a completion text by text, as server-sent events that Parea's clients read.

Their parser takes each HTTP chunk for one event, so each event is one write, small enough to arrive in one piece; there
are no keep-alives and no last event. It also deletes `data: ` from what it reads, so that is escaped inside a text.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
from litestar import post
from litestar.di import NamedDependency
from litestar.types import ASGIApp, Receive, Scope, Send
from msgspec import Meta

from everycall.semconv import ERROR, STREAM_HEADER
from everycall.server.api.completion import read_completion
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
"""After each burst, for Parea's clients. They read at most 64 KiB at once, and cut an event where that ends: one that
falls no further behind than 160 ms loses nothing of an answer that is there already."""

_encoder = msgspec.json.Encoder()


def encode_event(text: str) -> bytes:
    """Return one event. JSON's own escape keeps `data: ` in a text from Parea's parser, which would delete it."""
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
    """Run a completion and give its texts as they come; its record has the rest, and the time to the first text.

    A caller that goes away before the end cancels the provider's request, and the record says `abandoned`. A provider
    that fails after the first text ends the stream; the record has the error and what had come. With the header
    `x-everycall-stream: end` the last event is `end`: the answer of a plain completion, without its content.
    """
    require(request.user, "write")
    services.gateway.rates.enter(request.user.key)
    body = await read_completion(request, services.bodies)
    project = await project_of_body(request.user, services.projects, body.project_name, body.project_uuid)
    follower = services.gateway.stream(project, body, request.user.key)
    return await events_of(follower, request.receive, with_end=header(request.scope, STREAM_HEADER.encode()) == "end")


async def events_of(follower: Follower[CompletionResponse], receive: Receive, *, with_end: bool) -> ASGIApp:
    """Return the answer that sends a stream, once its first text is there. Raises what it raised before that."""
    try:
        await _begun(follower, receive)
        _check(follower)
    except BaseException:
        follower.close()
        raise
    return _Events(follower, with_end=with_end)


def _check(follower: Follower[CompletionResponse]) -> None:
    """Raise the provider's failure as a problem where no text went before it."""
    response = follower.result
    if not follower.has_text and response is not None and response.status == ERROR:
        raise problem(
            "provider_failed",
            502,
            "The provider failed",
            f"{response.error}. The record of this completion has it too; use a new inference_id to ask again.",
            inference_id=response.inference_id,
        )


async def _begun(follower: Follower[CompletionResponse], receive: Receive) -> None:
    """Wait for the first text, or until the caller has gone."""
    begun = asyncio.create_task(follower.first_text())
    gone = asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait({begun, gone}, return_when=asyncio.FIRST_COMPLETED)
        if begun.done():
            begun.result()
    finally:
        begun.cancel()
        gone.cancel()
        await asyncio.gather(begun, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _Events:
    """The answer: sends events until the end, or until the caller goes away."""

    def __init__(self, follower: Follower[CompletionResponse], *, with_end: bool) -> None:
        self._follower = follower
        self._with_end = with_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream. Raises what a run raised after its first text, which breaks the connection off."""
        del scope
        sending = asyncio.create_task(self._send(send))
        gone = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            self._follower.close()
            sending.cancel()
            gone.cancel()
            await asyncio.gather(sending, gone, return_exceptions=True)

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
        async for text in self._follower:
            size = TEXT_CHARS if text.isascii() else WIDE_TEXT_CHARS
            for start in range(0, len(text), size):
                yield encode_event(text[start : start + size])
        if self._with_end and (response := self._follower.result) is not None:
            yield b"event: end\r\ndata: " + _encoder.encode(_without_content(response)) + b"\r\n\r\n"


def _without_content(response: CompletionResponse) -> CompletionResponse:
    return msgspec.structs.replace(response, content="")


handlers = [post_stream]
