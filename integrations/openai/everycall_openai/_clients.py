"""Where the recording is put in: one client, or all of them. Called by the face.

All of the library's methods end in the client's own `request`: `create`, `parse`, `stream()`, raw responses, and
`client.post(...)` by hand. That one method is wrapped; the resources and their methods stay the library's.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

import openai
import wrapt

from everycall.instrument import Patches, active
from everycall_openai._exchange import begin
from everycall_openai._options import Options

__all__ = ["instrument", "uninstrument", "wrap"]

Client = TypeVar("Client", bound="openai.OpenAI | openai.AsyncOpenAI")

_CLIENTS: Final = (openai.OpenAI, openai.AsyncOpenAI)
_COPIES: Final = ("copy", "with_options")
_patches = Patches()
_everywhere: Options = Options({}, None, None)


class _Wrapped(wrapt.FunctionWrapper):  # type: ignore[misc, type-arg, unused-ignore]
    """A bound method of one client, wrapped. To be told from what others put there."""


def wrap(
    client: Client,
    *,
    trace_name: str | None = None,
    end_user_identifier: str | None = None,
    session_id: str | None = None,
    tags: Iterable[str] = (),
    metadata: Mapping[str, Any] | None = None,
    log_omit: bool = False,
    log_omit_inputs: bool = False,
    log_omit_outputs: bool = False,
    provider: str | None = None,
    stream_usage: bool | None = None,
) -> Client:
    """Record the requests to models that a client makes, and return that client: the same object, of the same class.

    `client` is an `OpenAI`, `AsyncOpenAI`, `AzureOpenAI` or `AsyncAzureOpenAI`; what its `with_options()` returns is
    recorded too. The labels go to each record; `trace_name` names traces that begin with a request. Omit flags add up
    with those around the call. `provider` names who answers, for hosts that are not known; `stream_usage` says whether
    tokens are asked for in streams that do not ask themselves (None: of providers that are known to tell them).

    Wrapping again replaces the options. Raises `TypeError` for what is no client of the library's.
    """
    _check(client)
    labels = _labels(
        trace_name=trace_name,
        end_user_identifier=end_user_identifier,
        session_id=session_id,
        tags=tags,
        metadata=metadata,
        log_omit=log_omit,
        log_omit_inputs=log_omit_inputs,
        log_omit_outputs=log_omit_outputs,
    )
    _wrap(client, Options(labels, provider, stream_usage))
    return client


def instrument(
    *,
    trace_name: str | None = None,
    end_user_identifier: str | None = None,
    session_id: str | None = None,
    tags: Iterable[str] = (),
    metadata: Mapping[str, Any] | None = None,
    log_omit: bool = False,
    log_omit_inputs: bool = False,
    log_omit_outputs: bool = False,
    provider: str | None = None,
    stream_usage: bool | None = None,
) -> None:
    """Record the requests of every client of the library in this process. The options are those of `wrap`.

    Clients that exist already are recorded too. A wrapped client has its own options alone. A second call replaces the
    options.
    """
    global _everywhere
    labels = _labels(
        trace_name=trace_name,
        end_user_identifier=end_user_identifier,
        session_id=session_id,
        tags=tags,
        metadata=metadata,
        log_omit=log_omit,
        log_omit_inputs=log_omit_inputs,
        log_omit_outputs=log_omit_outputs,
    )
    _everywhere = Options(labels, provider, stream_usage)
    for client in _CLIENTS:
        _patches.replace(next(kind for kind in client.__mro__ if "request" in vars(kind)), "request", _of_all)


def uninstrument() -> None:
    """Undo `instrument`: the library's classes are as they were. Wrapped clients stay wrapped; open streams go on."""
    _patches.undo()


def _check(client: object) -> None:
    if not isinstance(client, _CLIENTS):
        given = type(client).__name__
        raise TypeError(f"wrap() takes a client such as openai.OpenAI() or openai.AsyncAzureOpenAI(...), not {given}")


def _labels(*, tags: Iterable[str], metadata: Mapping[str, Any] | None, **labels: Any) -> dict[str, Any]:
    return {**labels, "tags": tuple(tags), "metadata": dict(metadata) if metadata else None}


def _wrap(client: Any, options: Options) -> None:
    traced = _traced_async if inspect.iscoroutinefunction(client.request) else _traced
    client.request = _Wrapped(_inner(client, "request"), functools.partial(traced, options, client))
    for name in _COPIES:
        setattr(client, name, _Wrapped(_inner(client, name), functools.partial(_copied, options)))


def _inner(client: Any, name: str) -> Any:
    """Return a client's method without our wrapper, should it have one."""
    found = getattr(client, name)
    return found.__wrapped__ if isinstance(found, _Wrapped) else found


def _copied(options: Options, copy: Any, _client: Any, args: Any, kwargs: Any) -> Any:
    copied = copy(*args, **kwargs)
    _wrap(copied, options)
    return copied


def _of_all(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make the function that stands in the class: it leaves wrapped clients to their own."""
    if inspect.iscoroutinefunction(original):

        async def request_async(self: Any, *args: Any, **kwargs: Any) -> Any:
            if not _patches.on or isinstance(vars(self).get("request"), _Wrapped):
                return await original(self, *args, **kwargs)
            send = functools.partial(original, self)
            return await _traced_async(_everywhere, self, send, None, args, kwargs)

        return request_async

    def request(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not _patches.on or isinstance(vars(self).get("request"), _Wrapped):
            return original(self, *args, **kwargs)
        return _traced(_everywhere, self, functools.partial(original, self), None, args, kwargs)

    return request


def _traced(of: Options, client: Any, send: Any, _bound: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Send a request as the library would, `send(cast_to, options, ...)`, and record it."""
    exchange = begin(client, args[1] if len(args) > 1 else kwargs.get("options"), of)
    if exchange is None:
        return send(*args, **kwargs)
    while True:
        args, kwargs = exchange.arguments(args, kwargs)
        try:
            with active(exchange.call):
                answer = send(*args, **kwargs)
            break
        except BaseException as error:
            if not exchange.takes_back(error):
                exchange.fail(error)
                raise
    exchange.take(answer)
    return answer


async def _traced_async(
    of: Options, client: Any, send: Any, _bound: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:  # as `_traced`, step for step
    exchange = begin(client, args[1] if len(args) > 1 else kwargs.get("options"), of)
    if exchange is None:
        return await send(*args, **kwargs)
    while True:
        args, kwargs = exchange.arguments(args, kwargs)
        try:
            with active(exchange.call):
                answer = await send(*args, **kwargs)
            break
        except BaseException as error:
            if not exchange.takes_back(error):
                exchange.fail(error)
                raise
    exchange.take(answer)
    return answer
