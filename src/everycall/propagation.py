"""Context between processes: over HTTP, through a queue, and into a process pool.

The headers are the W3C `traceparent`, `tracestate` (passed on unchanged), and `baggage` with `everycall.trace_name`,
`everycall.end_user_identifier`, `everycall.session_id`, `everycall.omit`, and `everycall.trace_id` if the user's
trace id is not the 32 hex digits of `traceparent`. Incoming headers are untrusted: only ids, names and flags are read,
each within its bound (`limits.BAGGAGE_READ_CHARS`, `ID_CHARS_MAX`, `NAME_CHARS_MAX`), and never a URL. Incoming omit
flags can only add to those that apply here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeVar

from everycall import _guard
from everycall._call.context import Scope, attach_alone, attach_scope, current_node, detach
from everycall._capture.serialize import capture
from everycall._propagation import headers as _carrier
from everycall._propagation.middleware import ASGIMiddleware, WSGIMiddleware
from everycall.record import to_json

__all__ = [
    "ASGIMiddleware",
    "Carried",
    "WSGIMiddleware",
    "carry",
    "extract",
    "inject",
    "instrument_httpx",
    "instrument_requests",
    "uninstrument",
    "use_context",
]

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


def inject(headers: MutableMapping[str, str], url: str | None = None) -> None:
    """Write the call in progress (or the scope of `everycall.context`) to the headers of a request or a task.

    With `url`, this is done only if `init(propagate_to=...)` or EVERYCALL_PROPAGATE_TO lists its host. Without `url` it
    is always done: use that for tasks and messages of your own. An existing `traceparent` and other members of
    `baggage` are kept. Nothing is written if no call or scope is in progress. Never raises.
    """
    _carrier.inject(headers, url)


@_guard.guarded
def extract(headers: Mapping[str, str]) -> Scope | None:
    """Return the scope in headers that `inject` or another sender wrote, or None if they have no trace headers.

    `headers` maps names, in any case, to text. Malformed headers are ignored. Never raises.
    """
    return _carrier.scope_of(_carrier.read(headers), current_node())


class use_context:  # noqa: N801 - used like a function: `with use_context(headers)`
    """Continue the trace in `headers`: `with use_context(task.headers): ...`, also `async with`.

    The sender's call is the parent of the calls inside, and its names, ids and omit flags apply to them. Without trace
    headers nothing changes. Can be nested and entered again. Never raises by itself.
    """

    def __init__(self, headers: Mapping[str, str] | None) -> None:
        self._headers = headers
        self._tokens: list[object] = []

    def __enter__(self) -> None:
        scope = extract(self._headers) if self._headers else None
        self._tokens.append(attach_scope(scope) if scope is not None else None)

    def __exit__(self, *exc_info: object) -> None:
        token = self._tokens.pop() if self._tokens else None
        if token is not None:
            detach(token)

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, *exc_info: object) -> None:
        self.__exit__()


@dataclass(frozen=True, slots=True)
class Carried(Generic[P, R_co]):
    """A function and the context to run it in, from `carry`. It is picklable if the function is."""

    function: Callable[P, R_co]
    headers: dict[str, str]
    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call the function in the carried context instead of the current one. Omit flags of both apply."""
        token = attach_alone(self._scope())
        try:
            return self.function(*args, **kwargs)
        finally:
            detach(token)

    def _scope(self) -> Scope:
        scope = _carrier.scope_of(_carrier.read(self.headers), None) or Scope(None)
        here = current_node()
        scope.omit |= here.omit if here is not None else 0
        scope.inherited_tags = self.tags
        scope.inherited_metadata = self.metadata
        return scope


def carry(function: Callable[P, R_co]) -> Carried[P, R_co]:
    """Return a function that runs `function` in this context, in another process: `pool.map(carry(work), items)`.

    For `multiprocessing` and `ProcessPoolExecutor`, forked or spawned; `function` must be picklable. Tags and metadata
    of `everycall.context` are included, as plain JSON values.
    """
    headers: dict[str, str] = {}
    inject(headers)
    node = current_node()
    if node is None:
        return Carried(function, headers)
    return Carried(function, headers, tuple(map(str, node.inherited_tags)), _plain(node.inherited_metadata))


@_guard.guarded
def _plain(metadata: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return metadata as plain JSON values, which can be pickled."""
    plain = to_json(capture(metadata)[0]) if metadata else None
    return plain if isinstance(plain, dict) else None


def instrument_httpx() -> None:
    """Make `httpx` (and `httpx2`) clients `inject` into each request to a host that `propagate_to` lists.

    It takes effect now, or when the library is imported, and includes existing clients. `init(propagate_to=...)` calls
    it too. Each redirect is checked separately: a request to a host that is not listed has no trace headers.
    """
    from everycall._propagation import http_clients

    http_clients.install(*http_clients.HTTPX)


def instrument_requests() -> None:
    """Make `requests` sessions `inject` into each request to a listed host, as `instrument_httpx` does for httpx."""
    from everycall._propagation import http_clients

    http_clients.install(*http_clients.REQUESTS)


def uninstrument() -> None:
    """Undo `instrument_httpx` and `instrument_requests`, also if `init(propagate_to=...)` called them."""
    from everycall._propagation import http_clients

    http_clients.uninstall()
