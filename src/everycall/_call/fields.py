"""How a program's values become the fields of a record.

`SETTERS` has one function for each field, `(draft, omit, name, value)`. It checks the value and captures it within its
bounds, unless an omit flag covers it. A value that the field cannot hold raises `TypeError` or `ValueError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from msgspec import Raw

from everycall import limits
from everycall._call.context import clipped
from everycall._capture.processors import Draft
from everycall._capture.serialize import capture, capture_by_hand, capture_plain, cut_text, plain_text
from everycall.record import INPUT_FIELDS, Cut, to_json
from everycall.settings import OMIT_INPUTS, OMIT_OUTPUTS

__all__ = ["JSON_FIELDS", "SETTERS", "encodable", "note_cut", "set_json", "tags_of"]

JSON_FIELDS: Final = {**dict.fromkeys(INPUT_FIELDS, OMIT_INPUTS), "output": OMIT_OUTPUTS}
"""The fields that hold any JSON, and the flag that covers each."""
_TEXT_MAX: Final = limits.CAPTURE_TEXT_MAX


def set_json(draft: Draft, name: str, value: Any, render: Callable[[Any], Any] | None = None) -> None:
    """Capture a value into a JSON field; `render` makes what is not plain JSON plainer first.

    A text never changes: it is encoded with the record, in one go.
    """
    if issubclass(type(value), str):
        text = str.__str__(value)
        if len(text) <= _TEXT_MAX:
            draft[name] = text
            return
    raw = capture_plain(value)
    if raw is None:
        raw, cut = capture_by_hand(value) if render is None else capture(render(value))
        if cut is not None:
            note_cut(draft, name, cut)
    draft[name] = raw


def encodable(fields: Draft) -> Draft:
    """Return fields that the codec declined, each by itself as it can be taken: lone surrogates are what it may be."""
    return {name: _encodable(name, value) for name, value in fields.items()}


def _encodable(name: str, value: Any) -> Any:
    if type(value) is str:
        return plain_text(value)
    return capture(value)[0] if name in JSON_FIELDS and type(value) is not Raw else value


def note_cut(draft: Draft, name: str, cut: Cut) -> None:
    """Say in the record that a field is not whole."""
    draft["truncated"] = {**draft.get("truncated", {}), name: cut}


def tags_of(tags: Iterable[Any]) -> list[str]:
    """Return tags as a record takes them: each once, within their bounds."""
    return list(dict.fromkeys(clipped(tag, limits.NAME_CHARS_MAX) for tag in tags))[: limits.TAGS_MAX]


def _json(draft: Draft, omit: int, name: str, value: Any) -> None:
    if not omit & JSON_FIELDS[name]:
        set_json(draft, name, value)


def _content(draft: Draft, omit: int, _name: str, value: Any) -> None:
    if omit & OMIT_OUTPUTS:
        return
    if not issubclass(type(value), str):
        set_json(draft, "output", value)
        return
    text = str.__str__(value)
    if len(text) <= _TEXT_MAX:
        draft["content"] = text
        return
    shortened, cut = cut_text(text, limits.FIELD_BYTES_MAX)
    draft["content"] = shortened
    if cut is not None:
        note_cut(draft, "content", cut)


def _count(draft: Draft, _omit: int, name: str, value: Any) -> None:
    draft[name] = _whole(name, value)


def _whole(name: str, value: Any) -> int:
    """Return a token count. Raise `ValueError`, which the guard counts, if it is not a whole number of 0 or more."""
    number = int(value)
    if number != value or not 0 <= number <= 2**53:
        raise ValueError(f"{name} must be a whole number, 0 or more")
    return number


def _amount(draft: Draft, _omit: int, name: str, value: Any) -> None:
    number = float(value)
    if not 0 <= number < float("inf"):
        raise ValueError(f"{name} must be a number, 0 or more")
    draft[name] = number


def _flag(draft: Draft, _omit: int, name: str, value: Any) -> None:
    draft[name] = bool(value)


def _label(draft: Draft, _omit: int, name: str, value: Any) -> None:
    draft[name] = clipped(value, limits.NAME_CHARS_MAX)


def _id(draft: Draft, _omit: int, name: str, value: Any) -> None:
    draft[name] = clipped(value, limits.ID_CHARS_MAX)


def _usage(draft: Draft, _omit: int, name: str, value: Mapping[str, Any]) -> None:
    draft[name] = {str(part): _whole(part, count) for part, count in value.items() if count is not None}


def _metadata(draft: Draft, _omit: int, name: str, value: Mapping[str, Any]) -> None:
    before = to_json(draft[name]) if name in draft else {}
    set_json(draft, name, {**before, **value})


def _tags(draft: Draft, _omit: int, name: str, value: Iterable[str]) -> None:
    draft[name] = tags_of([*draft.get(name, []), *value])


SETTERS: Final[Mapping[str, Callable[[Draft, int, str, Any], None]]] = {
    **dict.fromkeys(JSON_FIELDS, _json),
    **dict.fromkeys(("input_tokens", "output_tokens", "total_tokens"), _count),
    **dict.fromkeys(("cost", "saved_cost", "time_to_first_token"), _amount),
    **dict.fromkeys(("cache", "cache_hit"), _flag),
    **dict.fromkeys(("model", "provider", "cost_source", "price_version"), _label),
    "deployment_id": _id,
    "content": _content,
    "metadata": _metadata,
    "tags": _tags,
    "usage": _usage,
}
