"""JSON values and long texts in the bounded form that a template draws. Pure functions; called by `content`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from everycall import limits

__all__ = ["Node", "Text", "node_of", "text_of"]

_DEPTH_MAX: Final = 16
_KEY_CHARS_MAX: Final = 200
_LINES_MAX: Final = 16


@dataclass(frozen=True, slots=True)
class Text:
    """A text, and its head when it is long enough to be folded."""

    whole: str
    head: str | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """One JSON value. `kind` is object, array, string, number, literal (true, false, null) or more (not drawn).

    `key` is its name in an object. `text` is its JSON form for a scalar, its summary such as `3 items` otherwise.
    """

    kind: str
    key: str | None
    text: Text
    children: tuple[Node, ...] = ()


def text_of(text: str) -> Text:
    """Return a text, folded after `limits.VIEW_TEXT_CHARS` or 16 lines, at the end of a line or word."""
    head = text[: limits.VIEW_TEXT_CHARS]
    lines = head.split("\n", _LINES_MAX)
    if len(lines) > _LINES_MAX:
        head = "\n".join(lines[:_LINES_MAX])
    if len(text) - len(head) < limits.VIEW_TEXT_CHARS // 5 and text.count("\n", len(head)) < _LINES_MAX // 4:
        return Text(text)
    for end in ("\n", " "):
        cut = head.rfind(end, len(head) * 4 // 5)
        if cut > 0:
            return Text(text, head[:cut])
    return Text(text, head)


def node_of(value: Any) -> Node:
    """Return a JSON value to draw: at most `limits.VIEW_VALUES_MAX` values, nested at most 16 levels deep."""
    return _node(None, value, 0, [limits.VIEW_VALUES_MAX])


def _node(key: str | None, value: Any, depth: int, budget: list[int]) -> Node:
    budget[0] -= 1
    if key is not None and len(key) > _KEY_CHARS_MAX:
        key = key[:_KEY_CHARS_MAX] + "…"
    if isinstance(value, str):
        return Node("string", key, text_of(value))
    if isinstance(value, Mapping | list | tuple) and value:
        if depth >= _DEPTH_MAX:
            return Node("more", key, text_of(msgspec.json.encode(value).decode()))
        return _container(key, value, depth, budget)
    kind = "literal" if value is None or isinstance(value, bool) else "number"
    if isinstance(value, Mapping | list | tuple):
        kind = "literal"
    return Node(kind, key, Text(msgspec.json.encode(value).decode()))


def _container(key: str | None, value: Mapping[str, Any] | Sequence[Any], depth: int, budget: list[int]) -> Node:
    children: list[Node] = []
    for name, item in _items(value):
        if budget[0] <= 0:
            undrawn = len(value) - len(children)
            children.append(Node("more", None, Text(f"… {undrawn:,} more here; the JSON of this page has them")))
            break
        children.append(_node(name, item, depth + 1, budget))
    kind, word = ("object", "key") if isinstance(value, Mapping) else ("array", "item")
    plural = "" if len(value) == 1 else "s"
    return Node(kind, key, Text(f"{len(value):,} {word}{plural}"), tuple(children))


def _items(value: Mapping[str, Any] | Sequence[Any]) -> Iterator[tuple[str | None, Any]]:
    if isinstance(value, Mapping):
        yield from value.items()
    else:
        yield from ((None, item) for item in value)
