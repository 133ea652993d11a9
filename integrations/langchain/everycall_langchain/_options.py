"""What a user says about runs: the handler's keywords, and the same names in a run's `config["metadata"]`.

Called by the handler at each start. What is read from a config here is not recorded again as metadata.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from everycall import limits

__all__ = ["STEP_TAG", "Options", "copied_tags", "own_keys"]

_TEXTS: Final = ("trace_id", "trace_name", "end_user_identifier", "deployment_id")
_SESSION_KEYS: Final = ("session_id", "thread_id", "conversation_id")
_FLAGS: Final = ("log_omit", "log_omit_inputs", "log_omit_outputs")
_READ: Final = frozenset({*_TEXTS, *_SESSION_KEYS, *_FLAGS, "target"})
_OF_THE_TRACE: Final = frozenset({"trace_id", "trace_name", "target"})
_INTERNAL_KEYS: Final = (
    "ls_",
    "lc_",
    "__",
    "langgraph_checkpoint_ns",
    "langgraph_path",
    "langgraph_triggers",
    "checkpoint_ns",
    "checkpoint_id",
)
STEP_TAG: Final = "seq:step:"
"""What each step of a chain is tagged with, and a number."""
_INTERNAL_TAGS: Final = (STEP_TAG, "map:key:", "graph:step:", "langsmith:", "condition:", "branch:")


_own_keys: dict[tuple[Any, ...], tuple[str, ...]] = {}
"""What `own_keys` found: the keys of a model's or a graph's metadata are the same each time."""


class Options:
    """The keywords of a handler, as the arguments of `start_call` that each kind of run gets of them.

    `outermost` is for a run without one above it, `model` for a model below another run, `step` for any other. The
    trace's labels and `target` are for the outermost, whose trace the others share; `deployment_id` is for it and for
    models; the rest is for every run. `reads` are the names that a run's config may give: then `joined` is asked.
    """

    __slots__ = ("model", "outermost", "step")

    reads: Final = _READ

    def __init__(self, keywords: Mapping[str, Any]) -> None:
        given = {name: value for name, value in keywords.items() if value or (name == "target" and value is not None)}
        self.outermost: Mapping[str, Any] = given
        self.model: Mapping[str, Any] = _without(given, _OF_THE_TRACE)
        self.step: Mapping[str, Any] = _without(given, _OF_THE_TRACE | {"deployment_id"})

    def joined(self, given: Mapping[str, Any], metadata: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return one of the three with what a run's config says, whose values win; flags add up."""
        left_out = frozenset() if given is self.outermost else _OF_THE_TRACE
        if given is self.step:
            left_out |= {"deployment_id"}
        return {**given, **_without(_read(metadata), left_out)}


def own_keys(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the keys a user put in a config's metadata: not LangChain's own, nor those read here."""
    keys = tuple(metadata)
    found = _own_keys.get(keys)
    if found is None:
        if len(_own_keys) >= limits.CAPTURE_SHAPES_MAX:
            _own_keys.clear()
        internal = {name for name in keys if isinstance(name, str) and name.startswith(_INTERNAL_KEYS)}
        found = _own_keys[keys] = tuple(name for name in keys if name not in internal and name not in _READ)
    return found


def copied_tags(tags: Sequence[str]) -> list[str]:
    """Return the tags a user gave a run: without those by which LangChain numbers its steps."""
    return [tag for tag in tags if not tag.startswith(_INTERNAL_TAGS)]


def _read(metadata: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {name: True for name in _FLAGS if metadata.get(name)}
    for name in _TEXTS:
        value = _text(metadata.get(name))
        if value is not None:
            found[name] = value
    for name in _SESSION_KEYS:
        value = _text(metadata.get(name))
        if value is not None:
            found["session_id"] = value
            break
    if metadata.get("target") is not None:
        found["target"] = metadata["target"]
    return found


def _text(value: Any) -> str | None:
    """Return an id or label as text; None for what cannot be one."""
    if isinstance(value, str):
        return value or None
    return str(value) if isinstance(value, (int, UUID)) and not isinstance(value, bool) else None


def _without(values: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}
