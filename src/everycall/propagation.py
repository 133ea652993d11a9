"""Context between processes: over HTTP, through a queue, and into a process pool.

What travels is the W3C `traceparent` (and a `tracestate` as it came) and, in `baggage`, `everycall.trace_name`,
`everycall.end_user_identifier`, `everycall.session_id`, `everycall.omit`, and `everycall.trace_id` where the user's
trace id is not the 32 hex digits. Incoming headers are untrusted: only ids, names and flags are read,
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
    """Write the call in progress (or the scope of `everycall.context`) into the headers of a request or a task.

    With `url`, only if its host is one that `init(propagate_to=...)` or EVERYCALL_PROPAGATE_TO names. Without, always:
    for the headers of a task or message of your own. A `traceparent` that is there already stays, and so do the other
    members of `baggage`. Writes nothing when no call or scope is in progress. Never raises.
    """
    _carrier.inject(headers, url)


@_guard.guarded
def extract(headers: Mapping[str, str]) -> Scope | None:
    """Read what `inject` wrote, or any other sender's `traceparent`; None when there is nothing of it.

    `headers` is any mapping of names, in any case, to text. Malformed headers are ignored. Never raises.
    """
    return _carrier.scope_of(_carrier.read(headers), current_node())


class use_context:  # noqa: N801 - used like a function: `with use_context(headers)`
    """Continue the trace in `headers`: `with use_context(task.headers): ...`, also `async with`.

    The sender's call is the parent of the calls inside, and its names, ids and omit flags apply to them. Without trace
    headers nothing changes. May be entered again and nested. Never raises by itself.
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
    """A function and the context it was given; made by `carry`. Can be pickled when the function can."""

    function: Callable[P, R_co]
    headers: dict[str, str]
    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call the function in the context it was given, and in no other; omit flags that hold here hold on."""
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
    """Give a function the context that holds now, to be called in another process: `pool.map(carry(work), items)`.

    For `multiprocessing` and `ProcessPoolExecutor`, forked or spawned; `function` must be one that they can pickle.
    Tags and metadata of `everycall.context` go along too, as plain JSON values.
    """
    headers: dict[str, str] = {}
    inject(headers)
    node = current_node()
    if node is None:
        return Carried(function, headers)
    return Carried(function, headers, tuple(map(str, node.inherited_tags)), _plain(node.inherited_metadata))


@_guard.guarded
def _plain(metadata: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Metadata as values that can be pickled, whatever it holds."""
    found = to_json(capture(metadata)[0]) if metadata else None
    return found if isinstance(found, dict) else None


def instrument_httpx() -> None:
    """Have `httpx` (and `httpx2`) clients `inject` into each request to a host that `propagate_to` names.

    Takes effect now, or when the library is imported; also on clients that exist. `init(propagate_to=...)` does it too.
    A redirect is a request of its own: to a host that is not named, it carries nothing.
    """
    from everycall._propagation import http_clients

    http_clients.install(*http_clients.HTTPX)


def instrument_requests() -> None:
    """Have `requests` sessions `inject` into each request to a named host, as `instrument_httpx` does for httpx."""
    from everycall._propagation import http_clients

    http_clients.install(*http_clients.REQUESTS)


def uninstrument() -> None:
    """Undo `instrument_httpx`, `instrument_requests`, and what `init(propagate_to=...)` did of them."""
    from everycall._propagation import http_clients

    http_clients.uninstall()
