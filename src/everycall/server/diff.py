"""The differences between two versions of a deployment: as data, as lines, and as unified text.

Pure functions, called by `api/deployment_versions.py` and the pages. The time is bounded: equal lines at the start and
at the end are skipped, and the rest is compared line by line if each side has at most `limits.DIFF_LINES_MAX`. A longer
rest is shown as removed and added as a whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Literal, TypeAlias

from everycall import limits
from everycall.server.store.values import Deployment

__all__ = ["Change", "Line", "changes", "lines", "unified"]

CONTEXT_LINES = 3
"""Equal lines shown around a difference in unified text."""

Opcode: TypeAlias = tuple[Literal["replace", "delete", "insert", "equal"], int, int, int, int]
"""A step of `difflib.SequenceMatcher.get_opcodes`: what to do, and a range of lines on either side."""


@dataclass(frozen=True, slots=True)
class Change:
    """A part that differs. `field` is its path, such as `messages[0].content`.

    `change` is "added", "removed" or "changed"; `before` and `after` are the values, None on a side without the part.
    """

    field: str
    change: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the text of two versions. `sign` is "-", "+" or " " (in both).

    `before` and `after` are its line numbers, from 1; None on a side without the line.
    """

    sign: str
    before: int | None
    after: int | None
    text: str


def changes(before: Deployment | None, after: Deployment) -> list[Change]:
    """Return the parts that differ, in the order in which a deployment is written. `before` None: all are added."""
    old, new = dict(_parts(before)) if before else {}, dict(_parts(after))
    differences = []
    for field in [*old, *(name for name in new if name not in old)]:
        if field not in new:
            differences.append(Change(field, "removed", old[field], None))
        elif field not in old:
            differences.append(Change(field, "added", None, new[field]))
        elif old[field] != new[field]:
            differences.append(Change(field, "changed", old[field], new[field]))
    places = {field: place for place, field in enumerate(dict.fromkeys((*new, *old)))}

    def order(change: Change) -> tuple[int, int]:
        group = re.split(r"[.\[]", change.field, maxsplit=1)[0]
        return _GROUPS.index(group), places[change.field]

    return sorted(differences, key=order)


def lines(before: Deployment | None, after: Deployment) -> list[Line]:
    """Return all lines of both texts; a line that both have is returned once."""
    matcher = _Matcher(_text(before) if before else [], _text(after))
    return list(matcher.lines(matcher.get_opcodes()))


def unified(before: Deployment | None, after: Deployment) -> str:
    """Return the differences in the unified format of `diff -u`; empty when there are none."""
    matcher = _Matcher(_text(before) if before else [], _text(after))
    text: list[str] = []
    for hunk in matcher.get_grouped_opcodes(CONTEXT_LINES):
        _, old_start, _, new_start, _ = hunk[0]
        _, _, old_end, _, new_end = hunk[-1]
        text.append(f"@@ -{_range(old_start, old_end)} +{_range(new_start, new_end)} @@")
        text += [line.sign + line.text for line in matcher.lines(hunk)]
    if not text:
        return ""
    name = after.deployment_id
    return "\n".join([f"--- {name} {_label(before)}", f"+++ {name} {_label(after)}", *text]) + "\n"


class _Matcher(SequenceMatcher[str]):
    """`difflib`'s matcher of lines, with a bounded running time."""

    def __init__(self, old: list[str], new: list[str]) -> None:
        super().__init__(None, (), ())  # it would index all of `new`; `get_opcodes` compares only what is left of it
        self._old = old
        self._new = new

    def get_opcodes(self) -> list[Opcode]:
        """Return the steps from the old lines to the new ones, as `difflib` writes them."""
        old, new = self._old, self._new
        shorter = min(len(old), len(new))
        head = 0
        while head < shorter and old[head] == new[head]:
            head += 1
        tail = 0
        while tail < shorter - head and old[-1 - tail] == new[-1 - tail]:
            tail += 1
        old_end, new_end = len(old) - tail, len(new) - tail
        steps: list[Opcode] = [("equal", 0, head, 0, head)] if head else []
        steps += [
            (step, head + i1, head + i2, head + j1, head + j2)
            for step, i1, i2, j1, j2 in _bounded_opcodes(old[head:old_end], new[head:new_end])
        ]
        if tail:
            steps.append(("equal", old_end, len(old), new_end, len(new)))
        return steps

    def lines(self, steps: Iterable[tuple[str, int, int, int, int]]) -> Iterator[Line]:
        """Yield the lines of these steps."""
        for step, old_start, old_end, new_start, new_end in steps:
            if step == "equal":
                for at in range(old_end - old_start):
                    yield Line(" ", old_start + at + 1, new_start + at + 1, self._old[old_start + at])
                continue
            for at in range(old_start, old_end):
                yield Line("-", at + 1, None, self._old[at])
            for at in range(new_start, new_end):
                yield Line("+", None, at + 1, self._new[at])


def _bounded_opcodes(old: list[str], new: list[str]) -> Sequence[Opcode]:
    if not old and not new:
        return []
    if max(len(old), len(new)) > limits.DIFF_LINES_MAX:
        return [("replace", 0, len(old), 0, len(new))]
    return SequenceMatcher(None, old, new).get_opcodes()


def _range(start: int, end: int) -> str:
    return f"{start + 1},{end - start}" if end > start else "0,0"


def _label(version: Deployment | None) -> str:
    if version is None:
        return "(nothing)"
    return f"version {version.version}" if version.version else "(new)"


_GROUPS = (
    "name", "description", "model", "provider", "fallbacks", "model_params", "messages", "functions", "function_call",
    "metadata",
)  # fmt: skip


def _parts(version: Deployment) -> Iterator[tuple[str, Any]]:
    """Yield the parts of a version with their paths, without empty ones."""
    for field in ("name", "description", "model", "provider"):
        if value := getattr(version, field):
            yield field, value
    for at, fallback in enumerate(version.fallbacks):
        yield f"fallbacks[{at}]", dict(fallback)
    for name, value in version.model_params.items():
        yield f"model_params.{name}", value
    for at, message in enumerate(version.messages):
        for name, value in message.items():
            yield f"messages[{at}].{name}", value
    for at, function in enumerate(version.functions):
        yield f"functions[{at}]", dict(function)
    if version.function_call is not None:
        yield "function_call", version.function_call
    for name, value in version.metadata.items():
        yield f"metadata.{name}", value


def _text(version: Deployment) -> list[str]:
    """Return a version as lines of text to read: one for each small part, then the messages in full."""
    text = []
    for field, value in _parts(version):
        if field.startswith("messages[") and not field.endswith((".role", ".content")):
            text += _block(field, value)
        elif not field.startswith("messages["):
            text += _block(field, value) if isinstance(value, Mapping | list) else [f"{field}: {_plain(value)}"]
    for at, message in enumerate(version.messages):
        text += ["", f"messages[{at}] {message.get('role')}:"]
        content = message.get("content")
        body = content if isinstance(content, str) else _json(content)
        text += [f"  {line}" for line in body.split("\n")]
    return text


def _block(field: str, value: Any) -> list[str]:
    return [f"{field}:", *(f"  {line}" for line in _json(value).split("\n"))]


def _plain(value: Any) -> str:
    return value.replace("\n", "\\n") if isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
