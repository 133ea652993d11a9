"""What one dialect reads from a span (`Reading`), and the span's attributes, which note what was read (`Source`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from everycall.dialects.spans import Span
from everycall.dialects.values import count, is_empty, number, text, unwrap

__all__ = ["Reader", "Reading", "Source"]

Value = TypeVar("Value")


@dataclass(slots=True)
class Reading:
    """What a span says in one vocabulary. None means unknown; an earlier reading fills its gaps from a later one.

    `messages`, `tools` and `answer` are in the form of OpenAI's chat API (see `messages`). Token counts are inclusive:
    `input_tokens` holds the cached tokens, `output_tokens` the reasoning tokens.
    """

    dialect: str = ""
    kind: str | None = None
    name: str | None = None
    name_is_content: bool | None = None
    """Whether the name was rendered from arguments."""
    trace_name: str | None = None
    request_model: str | None = None
    response_model: str | None = None
    provider: str | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    params: dict[str, Any] | None = None
    variables: Any = None
    inputs: Any = None
    answer: list[dict[str, Any]] | None = None
    output: Any = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    usage: dict[str, int] | None = None
    cost: float | None = None
    response_id: str | None = None
    finish_reasons: list[str] | None = None
    service_tier: str | None = None
    time_to_first_token: float | None = None
    session_id: str | None = None
    user_id: str | None = None
    tags: list[str] | None = None
    metadata: dict[str, Any] | None = None
    deployment: str | None = None
    target: Any = None
    failed: bool | None = None
    error_type: str | None = None
    error: str | None = None
    unknown: frozenset[str] = field(default_factory=frozenset)
    """Fields for which this dialect makes up values: no other reading may fill them."""
    half: str | None = None
    """What identifies the other half of a call that its sender splits into two spans."""
    half_is_answer: bool = False

    def fill(self, other: Reading) -> None:
        """Fill the fields that are None from another reading; objects are joined member by member."""
        for name in _FILLED:
            more = getattr(other, name)
            if more is None or name in self.unknown:
                continue
            value = getattr(self, name)
            if value is None:
                setattr(self, name, more)
            elif isinstance(value, dict) and isinstance(more, dict):
                setattr(self, name, {**more, **value})


_FILLED = tuple(one.name for one in fields(Reading) if one.name not in ("dialect", "unknown"))


class Source:
    """The attributes of a span, read by name. The record keeps as attributes only those that were not read."""

    __slots__ = ("_roots", "attributes", "gen_ai_is_read", "read", "span")

    def __init__(self, span: Span) -> None:
        self.span = span
        self.attributes = span.attributes
        self.read: set[str] = set()
        self.gen_ai_is_read = False
        self._roots = {name.partition(".")[0] + "." for name in span.attributes if "." in name}

    def peek(self, name: str) -> Any:
        """Return an attribute, without marking it as read."""
        return self.attributes.get(name)

    def value(self, *names: str) -> Any:
        """Return the first of these attributes that is not empty; JSON in a string is decoded."""
        for name in names:
            value = self.attributes.get(name)
            if not is_empty(value):
                self.read.add(name)
                return unwrap(value)
        return None

    def text(self, *names: str) -> str | None:
        """Return the first of these attributes that is a text."""
        return self._first(text, names)

    def count(self, *names: str) -> int | None:
        """Return the first of these attributes that is a count."""
        return self._first(count, names)

    def number(self, *names: str) -> float | None:
        """Return the first of these attributes that is a number."""
        return self._first(number, names)

    def _first(self, reads: Callable[[Any], Value | None], names: tuple[str, ...]) -> Value | None:
        for name in names:
            value = self.attributes.get(name)
            if value is not None and (result := reads(value)) is not None:
                self.read.add(name)
                return result
        return None

    def below(self, prefix: str) -> dict[str, Any]:
        """Return the attributes whose names begin with `prefix`, with the prefix removed from their names."""
        return dict(self._below(prefix))

    def _below(self, prefix: str) -> Iterator[tuple[str, Any]]:
        for name, value in self.attributes.items():
            if name.startswith(prefix):
                self.read.add(name)
                yield name[len(prefix) :], value

    def has(self, prefix: str) -> bool:
        """Return whether any attribute begins with `prefix`, which has a dot."""
        root, dot, rest = prefix.partition(".")
        if root + dot not in self._roots:
            return False
        return not rest or any(name.startswith(prefix) for name in self.attributes)

    def tree(self, prefix: str) -> Any:
        """Return flattened attributes as the lists and objects they stand for: `p.0.a`, `p.1.a` -> `[{a}, {a}]`."""
        root: dict[str, Any] = {}
        for path, value in self._below(prefix):
            node = root
            parts = path.split(".")
            for part in parts[:-1]:
                below = node.setdefault(part, {})
                if not isinstance(below, dict):
                    below = node[part] = {}
                node = below
            node[parts[-1]] = value
        return _with_lists(root)


def _with_lists(node: Any) -> Any:
    """Return objects whose member names are all numbers as lists, in the order of the numbers."""
    if not isinstance(node, dict):
        return node
    if node and all(name.isdigit() and len(name) < 7 for name in node):
        return [_with_lists(node[name]) for name in sorted(node, key=int)]
    return {name: _with_lists(value) for name, value in node.items()}


Reader = Callable[[Source], Reading | None]
"""Reads a span in one vocabulary. Returns None if the span does not use it."""
