"""The public interface for integrations: calls, context, clients, requests and streams.

An integration imports this module, `everycall.errors`, `everycall.limits`, `everycall.semconv` and its own library, and
nothing else of everycall's. It starts a call with `start_call`, makes it current only while the instrumented code runs
(`active`), and ends it exactly once. What an integration does inside the user's program goes through `guarded`.

Users switch installed integrations on with `everycall.instrument("openai", "langchain")`.
"""

from __future__ import annotations

from collections.abc import Callable

from everycall._call.call import OwnedCall
from everycall._call.context import add_lookup, attach, current_call, current_context, detach
from everycall._call.generators import Chunks, drive, drive_async
from everycall._call.keywords import UNSET, Unset
from everycall._call.start import INHERIT, Inherit, start_below, start_call
from everycall._guard import guarded, report
from everycall._instrumentation.content import (
    get_member,
    media_reference,
    members,
    nonempty_text,
    to_plain,
    to_plain_messages,
)
from everycall._instrumentation.deltas import MergedObject
from everycall._instrumentation.generators import keep_context
from everycall._instrumentation.providers import provider_at
from everycall._instrumentation.request import (
    Arguments,
    Fields,
    Keywords,
    Labels,
    ModelRequest,
    Options,
    SharedLabels,
    framework_call,
)
from everycall._instrumentation.stainless import StainlessRequest, start_request
from everycall._instrumentation.stream import (
    StreamAccumulator,
    StreamRecorder,
    TextBuffer,
    watch_close,
    wrap_iterator,
    wrap_parse,
)
from everycall._instrumentation.wrapper import ClientWrapper
from everycall._patches import Patches
from everycall.settings import OMIT_ALL, OMIT_INPUTS, OMIT_NOTHING, OMIT_OUTPUTS, omit_flags
from everycall.usage import usage_fields

__all__ = [
    "INHERIT",
    "OMIT_ALL",
    "OMIT_INPUTS",
    "OMIT_NOTHING",
    "OMIT_OUTPUTS",
    "UNSET",
    "Arguments",
    "Chunks",
    "ClientWrapper",
    "Fields",
    "Inherit",
    "Keywords",
    "Labels",
    "MergedObject",
    "ModelRequest",
    "Options",
    "OwnedCall",
    "Patches",
    "SharedLabels",
    "StainlessRequest",
    "StreamAccumulator",
    "StreamRecorder",
    "TextBuffer",
    "Unset",
    "active",
    "current",
    "current_context",
    "drive",
    "drive_async",
    "framework_call",
    "get_member",
    "guarded",
    "keep_context",
    "media_reference",
    "members",
    "nonempty_text",
    "omit_flags",
    "provider_at",
    "register_parent_lookup",
    "report",
    "start_below",
    "start_call",
    "start_request",
    "to_plain",
    "to_plain_messages",
    "usage_fields",
    "watch_close",
    "wrap_iterator",
    "wrap_parse",
]


def current() -> OwnedCall | None:
    """Return the current call, or None."""
    return current_call()


class active:  # noqa: N801 - used like a function: `with active(call): ...`
    """Make a call current while a block runs, without ending it. An object of this class is used once."""

    __slots__ = ("_call", "_token")

    def __init__(self, call: OwnedCall) -> None:
        self._call = call

    def __enter__(self) -> OwnedCall:
        self._token = attach(self._call, self._call)
        return self._call

    def __exit__(self, *exc_info: object) -> None:
        detach(self._token)


def register_parent_lookup(lookup: Callable[[OwnedCall | None], OwnedCall | None]) -> Callable[[], None]:
    """Let an integration say which of its calls is running; returns a function that undoes it.

    `lookup(current)` is called whenever a call looks for its parent; `current` is the call in the context, or None. Its
    result is used if it lies below `current`. So a framework that carries its own context (LangChain's run tree) needs
    nothing attached and nothing patched. OpenTelemetry's current span is that call there, too.
    """
    return add_lookup(lookup)
