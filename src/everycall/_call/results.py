"""What a traced function returned: a value that ends its call, or something that is still to run.

A generator, async generator or coroutine that a plain function returns runs after the function, and so does the body of
a streaming response. The call lasts until they are through, and what they do is below it. Used by `wrappers.py`.
"""

from __future__ import annotations

import sys
import types
from collections.abc import AsyncGenerator, AsyncIterable, Coroutine, Generator, Iterable
from typing import Any

from everycall import _guard
from everycall._call.call import OwnedCall
from everycall._call.context import attach, detach
from everycall._call.generators import drive, drive_async

__all__ = ["finish"]

_PLAIN = frozenset({type(None), bool, int, float, str, bytes, list, dict, tuple, set})


def finish(call: OwnedCall, result: Any) -> Any:
    """End a call with what its function returned, and return that.

    For something that is still to run, return an object of the same type that runs it, and end the call when it is
    through. Of a streaming response only the body is replaced. A generator that somebody else holds too is left alone:
    it may go on without this call.
    """
    kind = type(result)
    if kind not in _PLAIN:
        follow = _FOLLOWERS.get(kind)
        if follow is not None:
            if sys.getrefcount(result) <= _OWN_REFERENCES:
                return follow(result, call)
        elif _follow_response(result, kind, call):
            return result
    call.returned(result)
    return result


def _references(result: Any) -> int:
    return sys.getrefcount(result)


def _own_references() -> int:
    """Return how many references `finish` counts of an object that nobody else holds, in this version of Python."""
    result = iter(())
    return _references(result)


_OWN_REFERENCES = _own_references()


class _Pending:
    """Ends its call as abandoned if the coroutine that holds it is never awaited."""

    __slots__ = ("call",)

    def __init__(self, call: OwnedCall) -> None:
        self.call: OwnedCall | None = call

    def take(self) -> OwnedCall:
        """Return the call, which is the caller's to end from now on."""
        call, self.call = self.call, None
        assert call is not None
        return call

    def __del__(self) -> None:
        if self.call is not None:
            self.call.abandon()


def _drive_coroutine(coroutine: Coroutine[Any, Any, Any], call: OwnedCall) -> Coroutine[Any, Any, Any]:
    awaited = _await(coroutine, _Pending(call))
    for name in ("__name__", "__qualname__"):
        setattr(awaited, name, getattr(coroutine, name, "coroutine"))
    return awaited


async def _await(coroutine: Coroutine[Any, Any, Any], pending: _Pending) -> Any:
    call = pending.take()
    token = attach(call, call)
    try:
        result = await coroutine
    except BaseException as error:
        detach(token)
        call.fail(error)
        raise
    detach(token)
    try:
        return finish(call, result)
    except Exception as error:  # noqa: BLE001 - the guard: the caller gets the result
        _guard.report("trace", error)
    return result


_FOLLOWERS: dict[type, Any] = {
    types.GeneratorType: drive,
    types.AsyncGeneratorType: drive_async,
    types.CoroutineType: _drive_coroutine,
}

# The streaming responses of web frameworks: module, class, and the attribute that has the body.
_RESPONSES = (
    ("starlette.responses", "StreamingResponse", "body_iterator"),
    ("sse_starlette.sse", "EventSourceResponse", "body_iterator"),
    ("litestar.response", "Stream", "iterator"),
    ("django.http", "StreamingHttpResponse", "streaming_content"),
    ("werkzeug.wrappers", "Response", "response"),
)
_BODIES = (str, bytes, bytearray, list, tuple)
"""Bodies that are there already."""


def _follow_response(response: Any, kind: type, call: OwnedCall) -> bool:
    """Put a body that is followed into a streaming response; False for anything else."""
    for module, name, attribute in _RESPONSES:
        loaded = sys.modules.get(module)
        if loaded is None or not issubclass(kind, vars(loaded).get(name, ())):
            continue
        body = getattr(response, attribute)
        if isinstance(body, _BODIES):
            return False
        if isinstance(body, AsyncIterable):
            setattr(response, attribute, drive_async(_each_async(body), call, decodes=True))
        elif isinstance(body, Iterable):
            close = getattr(body, "close", None)
            if close is not None and hasattr(response, "call_on_close"):
                response.call_on_close(close)  # werkzeug would close the body itself
            setattr(response, attribute, drive(_each(body), call, decodes=True))
        else:
            return False
        return True
    return False


def _each(body: Iterable[Any]) -> Generator[Any]:
    # Not `yield from`: the body is not closed with this generator, since somebody else may hold it.
    for item in body:  # noqa: UP028
        yield item


async def _each_async(body: AsyncIterable[Any]) -> AsyncGenerator[Any]:
    async for item in body:
        yield item
