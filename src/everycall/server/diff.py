"""What differs between two versions of a deployment: as data, as lines, and as unified text.

Pure. `api/deployments.py` and the pages call it. The time is bounded: lines that both have at the start and the end are
skipped, and what is left is compared one by one up to `limits.DIFF_LINES_MAX` on each side; beyond that it is shown as
wholly removed and wholly added.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from everycall import limits
from everycall.server.store.values import Deployment

__all__ = ["Change", "Line", "changes", "lines", "unified"]

CONTEXT_LINES = 3


@dataclass(frozen=True, slots=True)
class Change:
    """A part that differs. `field` is its path, such as `messages[0].content`; `change` is added, removed or changed.

    `before` and `after` are its values; None on the side that does not have it.
    """

    field: str
    change: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the text of two versions: `sign` is "-", "+" or " "; a number is None on the side without it."""

    sign: str
    before: int | None
    after: int | None
    text: str


def changes(before: Deployment | None, after: Deployment) -> list[Change]:
    """Return the parts that differ, in the order in which a deployment is written. None: nothing was before."""
    old, new = dict(_parts(before)) if before else {}, dict(_parts(after))
    found = []
    for field in [*old, *(name for name in new if name not in old)]:
        if field not in new:
            found.append(Change(field, "removed", old[field], None))
        elif field not in old:
            found.append(Change(field, "added", None, new[field]))
        elif old[field] != new[field]:
            found.append(Change(field, "changed", old[field], new[field]))
    places: dict[str, int] = {}
    for field in (*new, *old):
        places.setdefault(field, len(places))
    return sorted(
        found, key=lambda one: (_GROUPS.index(re.split(r"[.\[]", one.field, maxsplit=1)[0]), places[one.field])
    )


def lines(before: Deployment | None, after: Deployment) -> list[Line]:
    """Return all lines of both texts, each once where they agree."""
    old, new = _text(before) if before else [], _text(after)
    head = 0
    while head < min(len(old), len(new)) and old[head] == new[head]:
        head += 1
    tail = 0
    while tail < min(len(old), len(new)) - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    found = [Line(" ", at + 1, at + 1, old[at]) for at in range(head)]
    found += _compared(old[head : len(old) - tail], new[head : len(new) - tail], head)
    for at in range(tail, 0, -1):
        found.append(Line(" ", len(old) - at + 1, len(new) - at + 1, old[-at]))
    return found


def unified(before: Deployment | None, after: Deployment, compared: list[Line] | None = None) -> str:
    """Return the differences as unified text; empty when there are none. `compared` is what `lines` returned."""
    compared = lines(before, after) if compared is None else compared
    name = after.deployment_id
    text = [f"--- {name} {_label(before)}", f"+++ {name} {_label(after)}"]
    for first, last in _hunks(compared):
        hunk = compared[first:last]
        old = [one.before for one in hunk if one.before is not None]
        new = [one.after for one in hunk if one.after is not None]
        text.append(f"@@ -{_range(old)} +{_range(new)} @@")
        text += [one.sign + one.text for one in hunk]
    return "\n".join(text) + "\n" if len(text) > 2 else ""


def _compared(old: list[str], new: list[str], offset: int) -> Iterator[Line]:
    if max(len(old), len(new)) > limits.DIFF_LINES_MAX:
        steps = [("replace", 0, len(old), 0, len(new))]
    else:
        steps = list(SequenceMatcher(None, old, new).get_opcodes())
    for step, old_start, old_end, new_start, new_end in steps:
        if step == "equal":
            for at in range(old_end - old_start):
                yield Line(" ", offset + old_start + at + 1, offset + new_start + at + 1, old[old_start + at])
            continue
        for at in range(old_start, old_end):
            yield Line("-", offset + at + 1, None, old[at])
        for at in range(new_start, new_end):
            yield Line("+", None, offset + at + 1, new[at])


def _hunks(compared: list[Line]) -> Iterator[tuple[int, int]]:
    """Yield the ranges of lines to show: what differs, with some lines around it."""
    start = end = -1
    for at, line in enumerate(compared):
        if line.sign == " ":
            continue
        if start >= 0 and at - CONTEXT_LINES > end:
            yield start, min(end, len(compared))
            start = -1
        if start < 0:
            start = max(0, at - CONTEXT_LINES)
        end = at + 1 + CONTEXT_LINES
    if start >= 0:
        yield start, min(end, len(compared))


def _range(numbers: list[int]) -> str:
    return f"{numbers[0]},{len(numbers)}" if numbers else "0,0"


def _label(version: Deployment | None) -> str:
    return "(nothing)" if version is None else f"version {version.version}" if version.version else "(new)"


_GROUPS = (
    "name", "description", "model", "provider", "fallbacks", "model_params", "messages", "functions", "function_call",
    "metadata",
)  # fmt: skip


def _parts(version: Deployment) -> Iterator[tuple[str, Any]]:
    """Yield a version's parts by their paths; what is empty is left out."""
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
    """Return a version as lines for people: one for each small part, and the messages as they are read."""
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
