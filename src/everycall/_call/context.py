"""What a call inherits: one node in the OpenTelemetry context.

A node is either a call in progress or a `Scope` made by `everycall.context(...)`. It travels with the OpenTelemetry
context, so it crosses tasks, `asyncio.to_thread` and everything else that carries that context.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Unpack

from opentelemetry import context as otel_context
from opentelemetry import trace as otel_trace
from opentelemetry.context.context import Context
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext
from opentelemetry.trace import SpanContext

from everycall import _guard, limits
from everycall._call.keywords import CONTEXT_KEYWORDS, OMIT_KEYWORDS, OmitFlags, refuse_keyword
from everycall._capture.render import plain_text
from everycall.sampling import trace_id_hex
from everycall.settings import omit_flags

if TYPE_CHECKING:
    from everycall._call.call import OwnedCall

__all__ = [
    "NODE_KEY",
    "Scope",
    "context",
    "current_call",
    "current_context",
    "current_node",
    "new_ids",
]

NODE_KEY = otel_context.create_key("everycall-node")
REMOTE_KEY = otel_context.create_key("everycall-remote")
BEHIND_KEY = otel_context.create_key("everycall-behind")  # the program's own span, where a call stands before it
SPAN_KEY = otel_trace.propagation._SPAN_KEY
# The API's own functions look up the runtime context at each call, and log an error for a foreign token. The methods of
# the default runtime context only read a context variable, which takes a fifth of the time.
_runtime = otel_context._RUNTIME_CONTEXT
_variable = _runtime._current_context if type(_runtime) is ContextVarsRuntimeContext else None
_current: Callable[[], Context] = _runtime.get_current if _variable is None else _variable.get
_attach: Callable[[Context], object] = _runtime.attach if _variable is None else _variable.set
_detach: Callable[[Any], None] = _runtime.detach if _variable is None else _variable.reset
current_context = _current


_pool: Iterator[tuple[str, str]] = iter(())


def new_ids() -> tuple[str, str]:
    """Return a trace id of 32 and a span id of 16 random hex digits.

    Read from the system's generator, 128 at a time, so `random.seed` and forks do not repeat them.
    """
    for pair in _pool:
        return pair
    return _refill()


def _refill() -> tuple[str, str]:
    global _pool
    digits = os.urandom(24 * 128).hex()
    _pool = iter([(digits[i : i + 32], digits[i + 32 : i + 48]) for i in range(0, 24 * 2 * 128, 48)])
    return next(_pool)


def _forget_pool() -> None:
    global _pool
    _pool = iter(())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def clipped(text: Any, characters: int) -> str:
    """Return a label as a record takes it: text that can be encoded, within its bound."""
    plain = plain_text(text if isinstance(text, str) else str(text))
    return plain if len(plain) <= characters else plain[: characters - 1] + "…"


@_guard.guarded
def _label(text: object, characters: int) -> str | None:
    return clipped(text, characters) if text is not None else None


class Scope:
    """What `everycall.context(...)` sets for every call below. `call` is the nearest call in progress, if any."""

    __slots__ = (
        "call", "end_user_identifier", "inherited_metadata", "inherited_tags", "omit", "remote", "session_id",
        "trace_hex", "trace_id", "trace_name", "within",
    )  # fmt: skip

    def __init__(self, above: Scope | OwnedCall | None) -> None:
        self.call: OwnedCall | None = above.call if above is not None else None
        self.within = self.call  # the enclosing call, even if this scope starts a separate trace
        # the span of another process, parent of the calls below while none is in progress here
        self.remote: SpanContext | None = above.remote if isinstance(above, Scope) else None
        self.trace_id: str | None = above.trace_id if above is not None else None
        self.trace_hex: str | None = above.trace_hex if above is not None else None
        self.trace_name: str | None = above.trace_name if above is not None else None
        self.end_user_identifier: str | None = above.end_user_identifier if above is not None else None
        self.session_id: str | None = above.session_id if above is not None else None
        self.omit: int = above.omit if above is not None else 0
        self.inherited_metadata: dict[str, Any] | None = above.inherited_metadata if above is not None else None
        self.inherited_tags: tuple[str, ...] = above.inherited_tags if above is not None else ()


Node = "Scope | OwnedCall | None"

Lookup = Callable[["OwnedCall | None"], "OwnedCall | None"]
"""`lookup(held)` returns the call of a framework that is running here; `held` is the one that the context holds."""

_lookups: list[Lookup] = []


class _Lending(ContextVarsRuntimeContext):
    """OpenTelemetry's runtime context while lookups are registered.

    Code inside a framework's step finds the step's call as the current span, although nothing is attached. `attach` and
    `detach` work as before.
    """

    def __init__(self) -> None:
        """Take no variable: the one in use is used on."""

    attach = staticmethod(_attach)  # type: ignore[assignment]
    detach = staticmethod(_detach)  # type: ignore[assignment]

    def get_current(self) -> Context:
        context, node = _current(), current_node()
        if node is None or node is context.get(NODE_KEY) or isinstance(node, Scope):
            return context
        if node.begun_in is None or node.begun_in.get(SPAN_KEY) is not context.get(SPAN_KEY):
            return context  # the program has made another span current since
        token = attach(node, node)
        try:
            return _current()
        finally:
            detach(token)


def add_lookup(lookup: Lookup) -> Callable[[], None]:
    """Ask `lookup` for the current call too, before the context is believed; returns what undoes it."""
    _lookups.append(lookup)
    if _variable is not None and otel_context._RUNTIME_CONTEXT is _runtime:
        otel_context._RUNTIME_CONTEXT = _Lending()

    def remove() -> None:
        if lookup in _lookups:
            _lookups.remove(lookup)
        if not _lookups and isinstance(otel_context._RUNTIME_CONTEXT, _Lending):
            otel_context._RUNTIME_CONTEXT = _runtime

    return remove


def current_node() -> Scope | OwnedCall | None:
    """Return the innermost node: a call in progress or a scope; None outside of both.

    The call of an integration's lookup (LangChain's running step) takes precedence if it is below the context's call.
    """
    node: Scope | OwnedCall | None = _current().get(NODE_KEY)  # type: ignore[assignment]
    if _lookups:
        enclosing = node.within if node is not None else None
        for lookup in _lookups:
            try:
                running = lookup(enclosing)
            except Exception as error:  # noqa: BLE001 - an integration's; the context is still good
                _guard.report("parent lookup", error)
                continue
            if running is not None and (enclosing is None or _is_below(running, enclosing)):
                return running
    return node


def _is_below(call: OwnedCall, enclosing: OwnedCall) -> bool:
    """Return whether `call` was started inside the context's call, and so is the parent."""
    above = call.above or call.around
    steps = 0
    while above is not None and steps < 1_000:
        if above is enclosing:
            return True
        above = above.above or above.around
        steps += 1
    return False


def current_call() -> OwnedCall | None:
    """Return the call in progress, or None."""
    node = current_node()
    return node.call if node is not None else None


def attach(node: Scope | OwnedCall, span: otel_trace.Span | None) -> object:
    """Make a node current (and its span, for a call) in the OpenTelemetry context; returns the token for `detach`."""
    current = _current()
    if span is None:
        return _attach(Context({**current, NODE_KEY: node}))
    before = current.get(SPAN_KEY)
    if before is None or before is current.get(NODE_KEY) or _is_call(before):
        return _attach(Context({**current, NODE_KEY: node, SPAN_KEY: span}))
    return _attach(Context({**current, NODE_KEY: node, SPAN_KEY: span, BEHIND_KEY: before}))


def attach_unseen(node: Scope | OwnedCall | None) -> object:
    """Make a node current for everycall alone: all others see the program's own span, as if everycall were not there.

    For a library that traces itself and sends the current span's ids to its host. None keeps the node that is current.
    """
    node = node or current_node()
    values = dict(_current())
    span = values.get(SPAN_KEY)
    if _is_call(span) or _repeats_a_call(span):
        span = values.pop(BEHIND_KEY, None)
        if span is not None:
            values[SPAN_KEY] = span
        else:
            del values[SPAN_KEY]
    if node is not None:
        values[NODE_KEY] = node
    return _attach(Context(values))


def _is_call(span: object) -> bool:
    return hasattr(span, "inference_id")


def _repeats_a_call(span: object) -> bool:
    """Return whether a span only repeats the ids of an enclosing call, or of a call in the calling process.

    OpenTelemetry makes such a span where no SDK is set up.
    """
    if not isinstance(span, otel_trace.NonRecordingSpan):
        return False
    ids = span.get_span_context()
    if ids == remote_span():
        return True
    node = current_node()
    call, steps = (node.call if node is not None else None), 0
    while call is not None and steps < 1_000:
        if call.span_id == f"{ids.span_id:016x}":
            return True
        call, steps = call.above, steps + 1
    return False


def attach_scope(scope: Scope) -> object:
    """Make a scope current that came from another process; its span too, where no span is current already."""
    values = {**_current(), NODE_KEY: scope}
    if scope.remote is not None:
        values[REMOTE_KEY] = scope.remote
        if foreign_span() is None:
            values[SPAN_KEY] = otel_trace.NonRecordingSpan(scope.remote)
    return _attach(Context(values))


def attach_alone(scope: Scope) -> object:
    """Make a scope current with nothing else around it: no call, span or baggage of where this runs."""
    values: dict[str, object] = {NODE_KEY: scope}
    if scope.remote is not None:
        values |= {REMOTE_KEY: scope.remote, SPAN_KEY: otel_trace.NonRecordingSpan(scope.remote)}
    return _attach(Context(values))


def remote_span() -> SpanContext | None:
    """Return the span of another process under which this one works, as it came."""
    remote = _current().get(REMOTE_KEY)
    return remote if isinstance(remote, SpanContext) else None


def snapshot() -> Context | None:
    """Return the whole OpenTelemetry context for work done elsewhere; None when no call or scope is in it."""
    node = current_node()
    if node is None:
        return None
    context = _current()
    if node is context.get(NODE_KEY):
        return context
    return Context({**context, NODE_KEY: node, SPAN_KEY: node.call or context.get(SPAN_KEY)})


def attach_whole(context: Context) -> object:
    """Make a context from `snapshot`, taken in another thread, current. Return the token for `detach`."""
    return _attach(context)


def detach(token: object) -> None:
    """Restore the previous context. A token of another context, such as a closed event loop's, is ignored."""
    try:
        _detach(token)
    except ValueError:
        return


def foreign_span() -> SpanContext | None:
    """Return the ids of the span current here, when there is a valid one; for a root call to nest under it."""
    span = _current().get(SPAN_KEY)
    if span is None or not isinstance(span, otel_trace.Span):
        return None
    context = span.get_span_context()
    return context if context.is_valid else None


class context:  # noqa: N801 - used like a function: `with everycall.context(...)`
    """Set what every call below inherits: `with everycall.context(trace_id="order-42", log_omit_outputs=True): ...`.

    Works as `with` and `async with`; may be entered again and nested. Omit flags only ever add up: no inner scope can
    remove an outer one. A different `trace_id` starts a new trace for the calls below. Never raises by itself.
    """

    def __init__(
        self,
        *,
        trace_id: str | None = None,
        trace_name: str | None = None,
        end_user_identifier: str | None = None,
        session_id: str | None = None,
        tags: Iterable[str] = (),
        metadata: Mapping[str, Any] | None = None,
        **flags: Unpack[OmitFlags],
    ) -> None:
        if not flags.keys() <= OMIT_KEYWORDS:
            refuse_keyword("context", flags, CONTEXT_KEYWORDS)
        self._trace_id = _label(trace_id, limits.ID_CHARS_MAX)
        self._trace_hex = trace_id_hex(trace_id if isinstance(trace_id, str) else self._trace_id or "")
        self._trace_name = _label(trace_name, limits.NAME_CHARS_MAX)
        self._end_user_identifier = _label(end_user_identifier, limits.ID_CHARS_MAX)
        self._session_id = _label(session_id, limits.ID_CHARS_MAX)
        self._tags = tuple(tags)
        self._metadata = dict(metadata) if metadata else None
        self._omit = omit_flags(**flags)
        self._tokens: list[object] = []

    def __enter__(self) -> None:
        try:
            self._tokens.append(attach(self._scope(), None))
        except Exception as error:  # noqa: BLE001 - the guard for a `with` statement
            _guard.report("context", error)

    def __exit__(self, *exc_info: object) -> None:
        if self._tokens:
            detach(self._tokens.pop())

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, *exc_info: object) -> None:
        self.__exit__()

    def _scope(self) -> Scope:
        scope = Scope(current_node())
        if self._trace_id and self._trace_id != scope.trace_id:
            scope.trace_id = self._trace_id
            scope.trace_hex = self._trace_hex
            scope.call = scope.remote = None
        scope.trace_name = self._trace_name or scope.trace_name
        scope.end_user_identifier = self._end_user_identifier or scope.end_user_identifier
        scope.session_id = self._session_id or scope.session_id
        scope.omit |= self._omit
        scope.inherited_tags = (*scope.inherited_tags, *self._tags)
        if self._metadata:
            scope.inherited_metadata = {**(scope.inherited_metadata or {}), **self._metadata}
        return scope
