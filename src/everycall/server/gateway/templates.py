"""Prompt templates: `{{name}}` in a message's text becomes the value of that name. Called by `preparation.py`.

A template is data. Nothing in it or in a value is ever evaluated, and a value is not itself a template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from everycall import limits
from everycall.server.problems import problem
from everycall.server.store.values import Deployment

__all__ = ["fill", "fill_messages", "pieces", "uses_python_values", "variables_of"]

_VARIABLE = re.compile(r"\{\{(\w+)\}\}")
VALUES = "template_values"
"""The key of a deployment's metadata whose value "python" chooses the notation of Parea's service for values."""


def uses_python_values(deployment: Deployment | None) -> bool:
    """Return whether a deployment wants values in Python's notation, for prompts that Parea's clients have used."""
    return deployment is not None and deployment.metadata.get(VALUES) == "python"


def fill(
    template: str, variables: Mapping[str, Any], chars_max: int = limits.PROMPT_CHARS_MAX, *, python: bool = False
) -> str:
    r"""Return the template with each `{{name}}` (letters, digits, `_`) replaced by its value.

    A string is put in as it is, any other value as JSON, or with `python` as `str()` writes it. A name without a value
    stays as it is, single braces are untouched, and other values are ignored (Parea's rules). Raise `ProblemError` 422
    if the template has more than `limits.TEMPLATE_CHARS_MAX` characters and there are variables, or if the text would
    become longer than `chars_max`.
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
    filled: list[str] = []
    length = position = 0
    for match in _VARIABLE.finditer(template):
        name = match[1]
        if name not in variables:
            continue
        if name not in values:
            values[name] = _written(variables[name], python=python)
        before = template[position : match.start()]
        filled += (before, values[name])
        position = match.end()
        length += len(before) + len(values[name])
        if length > chars_max:
            raise _prompt_too_long()
    filled.append(template[position:])
    if length + len(filled[-1]) > chars_max:
        raise _prompt_too_long()
    return "".join(filled)


def fill_messages(
    messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], *, python: bool = False
) -> list[dict[str, Any]]:
    """Return the messages with their texts filled: a string content, or the text parts of a list of parts.

    Raise `ProblemError` 422 if they are together longer than `limits.PROMPT_CHARS_MAX`.
    """
    chars_left = limits.PROMPT_CHARS_MAX
    filled: list[dict[str, Any]] = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            content = fill(content, variables, chars_left, python=python)
            chars_left -= len(content)
        elif isinstance(content, list):
            parts: list[Any] = []
            for part in content:
                if isinstance(part, dict) and isinstance(part.get("text"), str):
                    text = fill(part["text"], variables, chars_left, python=python)
                    chars_left -= len(text)
                    parts.append({**part, "text": text})
                else:
                    parts.append(part)
            content = parts
        filled.append({**message, "content": content})
        if chars_left < 0:
            raise _prompt_too_long()
    return filled


def pieces(template: str) -> Iterator[tuple[str, bool]]:
    """Yield the pieces of a template in order, each with whether it is a variable (`{{name}}`, braces included)."""
    position = 0
    for match in _VARIABLE.finditer(template):
        if match.start() > position:
            yield template[position : match.start()], False
        yield match[0], True
        position = match.end()
    if position < len(template):
        yield template[position:], False


def variables_of(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the variables that `fill_messages` fills, each once, in order of appearance."""
    names: dict[str, None] = {}
    for message in messages:
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"text": content}]
        for part in parts:
            text = part.get("text") if isinstance(part, dict) else None
            if isinstance(text, str):
                names.update(dict.fromkeys(match[1] for match in _VARIABLE.finditer(text)))
    return list(names)


def _written(value: Any, *, python: bool) -> str:
    if isinstance(value, str) or python:
        return str(value)
    return json.dumps(value, ensure_ascii=False)


def _prompt_too_long() -> Exception:
    return problem(
        "prompt_too_long",
        422,
        "The filled prompt is too long",
        f"All messages together may have {limits.PROMPT_CHARS_MAX} characters. Shorten llm_inputs or the template.",
    )
