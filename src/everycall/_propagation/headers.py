"""The headers that carry a trace to another process: W3C `traceparent`, `tracestate` and `baggage`.

`everycall.propagation`, the middlewares and the HTTP clients' hooks use it. Incoming headers are untrusted: only
ids, names and flags are read, each within its bound. Outgoing headers are sent only to hosts that the user named.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any
from urllib.parse import quote, unquote_plus, urlsplit

from opentelemetry.trace import SpanContext, TraceFlags, TraceState

from everycall import _guard, limits
from everycall._call.call import OwnedCall
from everycall._call.context import Scope, clipped, current_node, remote_span
from everycall._call.recorder import active
from everycall.sampling import trace_id_hex
from everycall.semconv import (
    BAGGAGE_END_USER,
    BAGGAGE_OMIT,
    BAGGAGE_SESSION_ID,
    BAGGAGE_TRACE_ID,
    BAGGAGE_TRACE_NAME,
)
from everycall.settings import OMIT_ALL, OMIT_INPUTS, OMIT_NOTHING, OMIT_OUTPUTS

__all__ = ["BAGGAGE", "HEADERS", "TRACEPARENT", "TRACESTATE", "additions", "inject", "is_allowed", "read", "scope_of"]

TRACEPARENT, TRACESTATE, BAGGAGE = "traceparent", "tracestate", "baggage"
HEADERS = frozenset({TRACEPARENT, TRACESTATE, BAGGAGE})
_PARENT = re.compile(r"[ \t]*([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[^ \t]*)?[ \t]*")
_PARENT_CHARS = 512
_OURS = re.compile(
    r"(?:^|,)[ \t]*(everycall\.(?:trace_id|trace_name|end_user_identifier|session_id|omit))[ \t]*=[ \t]*([^,;\s]*)[^,]*"
)
_BOUNDS = {
    BAGGAGE_TRACE_ID: limits.ID_CHARS_MAX,
    BAGGAGE_TRACE_NAME: limits.NAME_CHARS_MAX,
    BAGGAGE_END_USER: limits.ID_CHARS_MAX,
    BAGGAGE_SESSION_ID: limits.ID_CHARS_MAX,
}
_OMIT_WORDS = {"inputs": OMIT_INPUTS, "outputs": OMIT_OUTPUTS, "all": OMIT_ALL}
_PATTERN = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<name>[^:\[\]]+))(?::(?P<port>\d+))?")
_STATE_MEMBER = r"[a-z0-9][a-z0-9_*/@-]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{1,256}"
_STATE = re.compile(rf"{_STATE_MEMBER}(?:[ \t]*,[ \t]*{_STATE_MEMBER}){{0,31}}")
_NOT_IN_A_URL = re.compile(r"[\s\\]")


# --- outgoing ---


def is_allowed(url: str) -> bool:
    """Return whether `propagate_to` lists the host of a URL, so that trace headers may be sent to it."""
    recorder = active()
    if recorder is None or not recorder.settings.propagate_to or _NOT_IN_A_URL.search(url):
        return False
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return False
    if not host or parts.scheme.lower() not in ("http", "https", "ws", "wss"):
        return False
    port = port or (443 if parts.scheme.lower() in ("https", "wss") else 80)
    return any(_matches(pattern, host.lower().rstrip("."), port) for pattern in recorder.settings.propagate_to)


def _matches(pattern: str, host: str, port: int) -> bool:
    """Match a host against a pattern of `propagate_to`: `[*.]name[:port]` or `[v6 address][:port]`."""
    match = _PATTERN.fullmatch(pattern)
    if match is None or (match["port"] and int(match["port"]) != port):
        return False
    name = match["v6"] or match["name"]
    return host.endswith(name[1:]) and len(host) >= len(name) if name.startswith("*.") else host == name


def additions(headers: Mapping[Any, Any], url: str | None) -> dict[str, str]:
    """Return the headers to set so that the receiver's calls continue this trace; none if the host is not listed.

    A `traceparent` and a `tracestate` in `headers` are kept; in `baggage`, other members are kept after ours.
    """
    recorder = active()
    if recorder is None or (url is not None and not is_allowed(url)):
        return {}
    node = current_node()
    if node is None:
        return {}
    added, present = {}, read(headers)
    parent = present.get(TRACEPARENT)
    if parent is None:
        span, state = _own_parent(node)
        if span is not None:
            added[TRACEPARENT] = parent = span
            if state and TRACESTATE not in present:
                added[TRACESTATE] = state
    before = present.get(BAGGAGE, "")
    ours = _fitting(_members(node, node.omit | recorder.omit, parent), len(_OURS.sub("", before)))
    baggage = ",".join(filter(None, [*ours, _OURS.sub("", before).strip(", \t")]))
    if baggage and baggage != before:
        added[BAGGAGE] = baggage
    return added


def _own_parent(node: Scope | OwnedCall) -> tuple[str | None, str | None]:
    """Return traceparent and tracestate of the call in progress, or else of the remote span that is passed on."""
    remote, call = remote_span(), node.call
    if remote is not None and node.trace_hex != f"{remote.trace_id:032x}":
        remote = None
    state = remote.trace_state.to_header() if remote is not None and remote.trace_state else None
    if call is not None:
        return f"00-{call.trace_hex}-{call.span_id}-01", state
    if remote is not None:
        return f"00-{remote.trace_id:032x}-{remote.span_id:016x}-{remote.trace_flags:02x}", state
    return None, None


def _members(node: Scope | OwnedCall, omit: int, parent: str | None) -> Iterator[str]:
    """Yield the baggage members, the most important first: omit flags, trace id, labels."""
    if omit:
        yield f"{BAGGAGE_OMIT}={'.'.join(word for word, flag in _OMIT_WORDS.items() if omit & flag)}"
    if node.trace_id and (parent is None or (parent[3:35] == node.trace_hex and node.trace_id != node.trace_hex)):
        yield _member(BAGGAGE_TRACE_ID, node.trace_id)
    for key, value in (
        (BAGGAGE_TRACE_NAME, node.trace_name),
        (BAGGAGE_END_USER, node.end_user_identifier),
        (BAGGAGE_SESSION_ID, node.session_id),
    ):
        if value:
            yield _member(key, value)


def _member(key: str, value: str) -> str:
    return f"{key}={quote(str(value)[: _BOUNDS[key]], safe='', errors='replace')}"


def _fitting(members: Iterator[str], there: int) -> Iterator[str]:
    """Yield the members that fit beside `there` existing characters; always the first, which may be the omit flags."""
    size = there
    for index, member in enumerate(members):
        if index == 0 or size + len(member) + 1 <= limits.BAGGAGE_SENT_BYTES:
            size += len(member) + 1
            yield member


@_guard.guarded
def inject(headers: MutableMapping[str, str], url: str | None = None) -> None:
    """Write the current call or scope into `headers`; see `everycall.propagation.inject`."""
    names = {_text(name).lower(): name for name in headers}
    for name, value in additions(headers, url).items():
        headers[names.get(name, name)] = value


# --- incoming ---


def read(headers: Mapping[Any, Any]) -> dict[str, str]:
    """Return the three trace headers by lower-case name. Values that are not text are left out."""
    trace_headers = {}
    for name in headers:
        lowered = _text(name).lower() if len(name) < 16 else ""
        if lowered in HEADERS:
            value = headers[name]
            if isinstance(value, str | bytes) and value:
                trace_headers[lowered] = _text(value)
    return trace_headers


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")


def scope_of(headers: Mapping[str, str], above: Scope | OwnedCall | None) -> Scope | None:
    """Return a scope below `above` from the three headers, or None if they have nothing for us.

    An invalid `traceparent` is ignored (W3C Trace Context, 4.3); only everycall's members of `baggage` are read. A raw
    trace id is used if it matches `traceparent`, or if there is no `traceparent`. Omit flags are added to those of
    `above`.
    """
    remote = _remote(headers.get(TRACEPARENT, ""), headers.get(TRACESTATE, ""))
    labels, omit = _labels(headers.get(BAGGAGE, ""))
    if remote is None and not labels and not omit:
        return None
    scope = Scope(above)
    raw = labels.get(BAGGAGE_TRACE_ID)
    if remote is not None:
        digits = f"{remote.trace_id:032x}"
        scope.trace_id = raw if raw is not None and trace_id_hex(raw) == digits else digits
        scope.trace_hex, scope.call, scope.remote = digits, None, remote
    elif raw is not None:
        scope.trace_id, scope.trace_hex, scope.call, scope.remote = raw, trace_id_hex(raw), None, None
    scope.trace_name = labels.get(BAGGAGE_TRACE_NAME, scope.trace_name)
    scope.end_user_identifier = labels.get(BAGGAGE_END_USER, scope.end_user_identifier)
    scope.session_id = labels.get(BAGGAGE_SESSION_ID, scope.session_id)
    scope.omit |= omit
    return scope


def _remote(parent: str, state: str) -> SpanContext | None:
    match = _PARENT.fullmatch(parent) if len(parent) <= _PARENT_CHARS else None
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more):
        return None
    fits = len(state) <= limits.TRACESTATE_CHARS and _STATE.fullmatch(state)
    trace_state = TraceState.from_header([state]) if fits else None
    context = SpanContext(int(trace_id, 16), int(span_id, 16), True, TraceFlags(int(flags, 16)), trace_state)
    return context if context.is_valid else None


def _labels(baggage: str) -> tuple[dict[str, str], int]:
    """Return everycall's members of a baggage header (the first of each name, within its bound), and all omit flags."""
    labels: dict[str, str] = {}
    omit = OMIT_NOTHING
    end = limits.BAGGAGE_READ_CHARS
    for match in _OURS.finditer(baggage[:end]):
        key, value = match.groups()
        if match.end() == end < len(baggage):
            break  # half a member
        if key == BAGGAGE_OMIT:
            for word in value.split("."):
                omit |= _OMIT_WORDS.get(word, OMIT_NOTHING)
        elif key not in labels:
            text = unquote_plus(value, errors="replace") if len(value) <= 12 * _BOUNDS[key] else ""
            if 0 < len(text) <= _BOUNDS[key]:
                labels[key] = clipped(text, _BOUNDS[key])
    return labels, omit
