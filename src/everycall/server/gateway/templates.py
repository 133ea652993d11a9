"""Prompt templates: `{{name}}` in a message's text becomes the value of that name. Called by `gateway/asking.py`.

A template is data. Nothing in it or in a value is ever evaluated, and a value is not itself a template.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from everycall import limits
from everycall.server.problems import problem

__all__ = ["fill", "fill_messages", "pieces", "variables_of"]

_VARIABLE = re.compile(r"\{\{(\w+)\}\}")


def fill(template: str, variables: Mapping[str, Any], room: int = limits.PROMPT_CHARS_MAX) -> str:
    r"""Return the template with each `{{name}}` (letters, digits, `_`) replaced by `str()` of its value.

    A name without a value stays as it is, single braces are untouched, and other values are ignored (Parea's rules).
    Raises `ProblemError` 422 when the template has more than `limits.TEMPLATE_CHARS_MAX` characters and there is
    something to fill, or when the text would become longer than `room`.
    """
    if not variables or "{{" not in template:
        return template
    if len(template) > limits.TEMPLATE_CHARS_MAX:
        raise problem(
            "template_too_long",
            422,
            "The prompt template is too long",
            f"It has {len(template)} characters; at most {limits.TEMPLATE_CHARS_MAX} can be filled. "
            "Move long text out of the template into llm_inputs.",
        )
    values: dict[str, str] = {}
    pieces: list[str] = []
    length = at = 0
    for found in _VARIABLE.finditer(template):
        name = found[1]
        if name not in variables:
            continue
        if name not in values:
            values[name] = str(variables[name])
        before = template[at : found.start()]
        pieces += (before, values[name])
        at = found.end()
        length += len(before) + len(values[name])
        if length > room:
            raise _prompt_too_long()
    pieces.append(template[at:])
    if length + len(pieces[-1]) > room:
        raise _prompt_too_long()
    return "".join(pieces)


def fill_messages(messages: list[dict[str, Any]], variables: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the messages with their texts filled: a string content, or the text parts of a list of parts.

    Raises `ProblemError` 422 when they are together longer than `limits.PROMPT_CHARS_MAX`.
    """
    room = limits.PROMPT_CHARS_MAX
    filled: list[dict[str, Any]] = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            content = fill(content, variables, room)
            room -= len(content)
        elif isinstance(content, list):
            parts: list[Any] = []
            for part in content:
                if isinstance(part, dict) and isinstance(part.get("text"), str):
                    text = fill(part["text"], variables, room)
                    room -= len(text)
                    parts.append({**part, "text": text})
                else:
                    parts.append(part)
            content = parts
        filled.append({**message, "content": content})
        if room < 0:
            raise _prompt_too_long()
    return filled


def pieces(template: str) -> Iterator[tuple[str, bool]]:
    """Yield a template's parts in their order, each with whether it is a variable (`{{name}}`, braces included)."""
    at = 0
    for found in _VARIABLE.finditer(template):
        if found.start() > at:
            yield template[at : found.start()], False
        yield found[0], True
        at = found.end()
    if at < len(template):
        yield template[at:], False


def variables_of(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names that `fill_messages` looks for, each once, in the order in which they come."""
    found: dict[str, None] = {}
    for message in messages:
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"text": content}]
        for part in parts:
            text = part.get("text") if isinstance(part, dict) else None
            if isinstance(text, str):
                found.update(dict.fromkeys(match[1] for match in _VARIABLE.finditer(text)))
    return list(found)


def _prompt_too_long() -> Exception:
    return problem(
        "prompt_too_long",
        422,
        "The filled prompt is too long",
        f"All messages together may have {limits.PROMPT_CHARS_MAX} characters. Shorten llm_inputs or the template.",
    )
