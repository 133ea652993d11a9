"""How calls begin: `start_call` for integrations; faster functions for `@trace` and for frameworks' small steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from everycall import _guard, limits
from everycall._call import recorder as _recorder
from everycall._call.call import OwnedCall
from everycall._call.context import clipped as _clipped
from everycall._call.context import current_node
from everycall._call.recorder import active
from everycall.sampling import is_sampled, trace_id_hex
from everycall.settings import OMIT_ALL, omit_flags

__all__ = ["INHERIT", "Inherit", "begin", "start_below", "start_call"]


class Inherit:
    """The type of `INHERIT`: take the parent from the context."""

    def __repr__(self) -> str:
        return "INHERIT"


INHERIT: Final = Inherit()


def begin(name: str, kind: str, fields: Mapping[str, Any], omit: int) -> OwnedCall:
    """Begin a call of a decorated function: like `start_call`, but faster when it has no keywords."""
    if fields:
        call = start_call(name, kind=kind, **fields)
        call._sampled_out = call._sampled_out and not omit
    else:
        recorder = active()
        call = OwnedCall(name, kind, current_node(), recorder, "everycall")
        if call.inherited_metadata is not None or call.inherited_tags:
            call.declare(None, ())
        if recorder is not None and recorder.sample_rate < 1.0 and not is_sampled(call.trace_hex, recorder.sample_rate):
            call._sampled_out = not call.omit | omit
            call.omit |= OMIT_ALL
    call.omit |= omit
    return call


def start_below(name: str, kind: str, scope: str, above: OwnedCall) -> OwnedCall:
    """Begin a call below another: `start_call(name, kind=kind, scope=scope, parent=above)` at two thirds of its cost.

    For frameworks that run many small steps. `name` and `kind` are texts; the name is cut to its bound.
    """
    recorder = _recorder._active or active()
    call = OwnedCall(name, kind, above, recorder, scope)
    if call.labelled and (call.inherited_metadata or call.inherited_tags):
        call.declare(None, ())
    if len(name) > limits.NAME_CHARS_MAX or not name.isascii():
        call.name = _clipped(name, limits.NAME_CHARS_MAX)
    if recorder is not None and recorder.sample_rate < 1.0 and not is_sampled(call.trace_hex, recorder.sample_rate):
        call._sampled_out = not call.omit
        call.omit |= OMIT_ALL
    return call


def start_call(
    name: str,
    *,
    kind: str = "chain",
    parent: OwnedCall | Inherit | None = INHERIT,
    scope: str = "everycall",
    trace_id: str | None = None,
    trace_name: str | None = None,
    end_user_identifier: str | None = None,
    session_id: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    tags: Iterable[str] | None = (),
    log_omit: bool = False,
    log_omit_inputs: bool = False,
    log_omit_outputs: bool = False,
    **fields: Any,
) -> OwnedCall:
    """Begin a call. Never raises, never attaches context (that is `everycall.integration.active`).

    `parent=INHERIT` takes the call or scope of the context, None begins a new root. Trace, end user, session and omit
    flags come from the parent unless given here; omit flags add up. `fields` are as in `OwnedCall.set_fields`. `scope`
    names the instrumentation. Exactly one of its owners must end the call; ending it again does nothing.
    """
    node = current_node() if isinstance(parent, Inherit) else parent
    call = OwnedCall(name, kind, node, active(), scope)
    try:
        if type(name) is not str or len(name) > limits.NAME_CHARS_MAX or not name.isascii():
            call.name = _clipped(name, limits.NAME_CHARS_MAX)
        if log_omit or log_omit_inputs or log_omit_outputs:
            call.omit |= omit_flags(log_omit, log_omit_inputs, log_omit_outputs)
        if trace_id and trace_id != call.trace_id:
            text = trace_id if isinstance(trace_id, str) else str(trace_id)
            call.trace_id, call.trace_hex = _clipped(text, limits.ID_CHARS_MAX), trace_id_hex(text)
            call.inference_id = f"{call.trace_hex}-{call.span_id}"
            call.around, call.parent_id, call.above = call.above or call.around, None, None
        if trace_name or end_user_identifier or session_id:
            call.labelled = True
            if trace_name:
                call.trace_name = _clipped(trace_name, limits.NAME_CHARS_MAX)
            if end_user_identifier:
                call.end_user_identifier = _clipped(end_user_identifier, limits.ID_CHARS_MAX)
            if session_id:
                call.session_id = _clipped(session_id, limits.ID_CHARS_MAX)
        if metadata or tags or call.inherited_metadata or call.inherited_tags:
            call.declare(metadata, tags or ())
        if fields:
            call.set_fields(**fields)
        recorder = call._recorder
        if recorder is not None and recorder.sample_rate < 1.0 and not is_sampled(call.trace_hex, recorder.sample_rate):
            call._sampled_out = not call.omit
            call.omit |= OMIT_ALL
    except Exception as error:  # noqa: BLE001 - the guard: a call is always returned
        _guard.report("start_call", error)
    return call
