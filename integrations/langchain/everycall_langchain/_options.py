"""What a user says about runs: the handler's keywords, and the same names in a run's `config["metadata"]`.

Called by the handler at each start. What is read from a config here is not recorded again as metadata.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final
from uuid import UUID

__all__ = ["MODEL", "OUTERMOST", "STEP", "Options", "copied_metadata", "copied_tags"]

OUTERMOST, MODEL, STEP = "outermost", "model", "step"
"""What a run is to these options: one without a run above it, a model below another run, any other."""

_TEXTS: Final = ("trace_id", "trace_name", "end_user_identifier", "deployment_id")
_SESSION_KEYS: Final = ("session_id", "thread_id", "conversation_id")
_FLAGS: Final = ("log_omit", "log_omit_inputs", "log_omit_outputs")
_READ: Final = frozenset({*_TEXTS, *_SESSION_KEYS, *_FLAGS, "target"})
_NOT_FOR: Final[Mapping[str, frozenset[str]]] = {
    OUTERMOST: frozenset(),
    MODEL: frozenset({"trace_id", "trace_name", "target"}),
    STEP: frozenset({"trace_id", "trace_name", "target", "deployment_id"}),
}
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
_INTERNAL_TAGS: Final = ("seq:step:", "map:key:", "graph:step:", "langsmith:", "condition:", "branch:")


class Options:
    """The keywords of a handler, as the arguments of `start_call` that each kind of run gets of them.

    The trace's labels and `target` are for the outermost run, whose trace the others share; `deployment_id` is for it
    and for models; the rest is for every run.
    """

    __slots__ = ("_of",)

    def __init__(self, keywords: Mapping[str, Any]) -> None:
        given = {name: value for name, value in keywords.items() if value or (name == "target" and value is not None)}
        self._of = {role: _without(given, left_out) for role, left_out in _NOT_FOR.items()}

    def arguments(self, metadata: Mapping[str, Any], role: str) -> Mapping[str, Any]:
        """Return the arguments for a run with this config metadata, whose values win; flags add up."""
        given = self._of[role]
        if _READ.isdisjoint(metadata):
            return given
        return {**given, **_without(_read(metadata), _NOT_FOR[role])}


def copied_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a user put in a config's metadata: without LangChain's own keys and without those read here."""
    return {
        key: value
        for key, value in metadata.items()
        if key not in _READ and not (isinstance(key, str) and key.startswith(_INTERNAL_KEYS))
    }


def copied_tags(tags: Iterable[str]) -> list[str]:
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
