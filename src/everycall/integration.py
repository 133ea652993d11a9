"""The public seam that integrations build on: calls, context, streams, wrapping. Layer 3, public.

An integration imports this module, `everycall.errors`, `everycall.limits` and its own library, nothing else of
everycall's. A call is begun with `start_call`, made current only while the instrumented code runs (`active`), and ended
exactly once. What an integration does inside the user's program goes through `guarded`.

Users switch installed integrations on with `everycall.instrument("openai", "langchain")`.
"""

from __future__ import annotations

from collections.abc import Callable

from everycall._call.call import INHERIT, UNSET, Call, Inherit, Unset, start_below, start_call
from everycall._call.context import add_lookup, attach, current_call, current_context, detach
from everycall._call.generators import Chunks, drive, drive_async
from everycall._guard import guarded, report
from everycall._instrumentation.content import members, plain, plain_messages, read, reference, text
from everycall._instrumentation.providers import provider_at
from everycall._instrumentation.request import Exchange, Labels, Options, SharedLabels, recorded_by_framework
from everycall._instrumentation.stainless import StainlessExchange, begin_request
from everycall._instrumentation.stream import Gathering, Reading, Text, carried, follow, follow_parse, watch_closing
from everycall._instrumentation.wrapper import Wrapping
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
    "Call",
    "Chunks",
    "Exchange",
    "Gathering",
    "Inherit",
    "Labels",
    "Options",
    "Patches",
    "Reading",
    "SharedLabels",
    "StainlessExchange",
    "Text",
    "Unset",
    "Wrapping",
    "active",
    "begin_request",
    "carried",
    "current",
    "current_context",
    "drive",
    "drive_async",
    "follow",
    "follow_parse",
    "guarded",
    "members",
    "omit_flags",
    "plain",
    "plain_messages",
    "provider_at",
    "read",
    "recorded_by_framework",
    "reference",
    "register_parent_lookup",
    "report",
    "start_below",
    "start_call",
    "text",
    "usage_fields",
    "watch_closing",
]


def current() -> Call | None:
    """Return the call in progress here, or None."""
    return current_call()


class active:  # noqa: N801 - used like a function: `with active(call): ...`
    """Make a call current while a block runs; does not end it. Used once."""

    __slots__ = ("_call", "_token")

    def __init__(self, call: Call) -> None:
        self._call = call

    def __enter__(self) -> Call:
        self._token = attach(self._call, self._call)
        return self._call

    def __exit__(self, *exc_info: object) -> None:
        detach(self._token)


def register_parent_lookup(lookup: Callable[[Call | None], Call | None]) -> Callable[[], None]:
    """Let an integration say which of its calls is running here; returns a function that undoes it.

    `lookup(held)` is asked whenever a call looks for its parent; `held` is the call that the context holds, or None.
    Its answer is taken when that call lies below it, so a framework that carries its own context (LangChain's run tree)
    needs nothing attached and nothing patched. Who asks OpenTelemetry for the current span there is given that call.
    """
    return add_lookup(lookup)
