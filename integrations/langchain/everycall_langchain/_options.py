"""What users say about runs: the handler's keywords, and the same names in a run's `config["metadata"]`.

The handler reads both at each start of a run. Names that are read from a config are not recorded as metadata as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypedDict
from uuid import UUID

from everycall import limits

__all__ = ["STEP_TAG", "Keywords", "Options", "own_keys", "own_tags"]


class Keywords(TypedDict, total=False):
    """The keywords of `CallbackHandler` and `instrument`. `CallbackHandler` says what they mean."""

    trace_id: str | None
    trace_name: str | None
    end_user_identifier: str | None
    session_id: str | None
    deployment_id: str | None
    tags: Iterable[str]
    metadata: Mapping[str, Any] | None
    target: Any
    log_omit: bool
    log_omit_inputs: bool
    log_omit_outputs: bool


_TEXTS: Final = ("trace_id", "trace_name", "end_user_identifier", "deployment_id")
_SESSION_KEYS: Final = ("session_id", "thread_id", "conversation_id")
_FLAGS: Final = ("log_omit", "log_omit_inputs", "log_omit_outputs")
_CONFIG_NAMES: Final = frozenset({*_TEXTS, *_SESSION_KEYS, *_FLAGS, "target"})
_TRACE_ONLY: Final = frozenset({"trace_id", "trace_name", "target"})
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
"""Prefixes of the keys that LangChain and LangGraph put into a config's metadata."""
STEP_TAG: Final = "seq:step:"
"""Prefix of the tag with which LangChain numbers the steps of a chain."""
_INTERNAL_TAGS: Final = (STEP_TAG, "map:key:", "graph:step:", "langsmith:", "condition:", "branch:")

_own_keys: dict[tuple[Any, ...], tuple[str, ...]] = {}
"""Results of `own_keys`, by all keys. The metadata of a model or a graph has the same keys each time."""


class Options:
    """The keywords of a handler, as the arguments of `start_call` for each kind of run.

    `outermost` is for a run without another above it, `model` for a model below another run, `step` for any other run.
    The trace's labels and `target` are for the outermost run, whose trace the others share; `deployment_id` is for it
    and for models; the rest is for every run. `config_names` are the names that a run's config may set: if it has one
    of them, ask `with_config`.
    """

    __slots__ = ("model", "outermost", "step")

    config_names: Final = _CONFIG_NAMES

    def __init__(self, keywords: Mapping[str, Any]) -> None:
        values = {name: value for name, value in keywords.items() if value or (name == "target" and value is not None)}
        self.outermost: Mapping[str, Any] = values
        self.model: Mapping[str, Any] = _without(values, _TRACE_ONLY)
        self.step: Mapping[str, Any] = _without(values, _TRACE_ONLY | {"deployment_id"})

    def with_config(self, arguments: Mapping[str, Any], metadata: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return one of the three with the values of a run's config, which win. Flags add up."""
        excluded = frozenset() if arguments is self.outermost else _TRACE_ONLY
        if arguments is self.step:
            excluded |= {"deployment_id"}
        return {**arguments, **_without(_read(metadata), excluded)}


def own_keys(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the user's keys in a config's metadata: neither LangChain's own, nor those that `Options` reads."""
    keys = tuple(metadata)
    result = _own_keys.get(keys)
    if result is None:
        if len(_own_keys) >= limits.CAPTURE_SHAPES_MAX:
            _own_keys.clear()
        internal = {name for name in keys if isinstance(name, str) and name.startswith(_INTERNAL_KEYS)}
        result = tuple(name for name in keys if name not in internal and name not in _CONFIG_NAMES)
        _own_keys[keys] = result
    return result


def own_tags(tags: Sequence[str]) -> list[str]:
    """Return the user's tags of a run, without those that LangChain adds."""
    return [tag for tag in tags if not tag.startswith(_INTERNAL_TAGS)]


def _read(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options in a run's config."""
    values: dict[str, Any] = {name: True for name in _FLAGS if metadata.get(name)}
    for name in _TEXTS:
        text = _text(metadata.get(name))
        if text is not None:
            values[name] = text
    for name in _SESSION_KEYS:
        text = _text(metadata.get(name))
        if text is not None:
            values["session_id"] = text
            break
    if metadata.get("target") is not None:
        values["target"] = metadata["target"]
    return values


def _text(value: Any) -> str | None:
    """Return an id or a label as text; None if it cannot be one."""
    if isinstance(value, str):
        return value or None
    return str(value) if isinstance(value, (int, UUID)) and not isinstance(value, bool) else None


def _without(values: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}
