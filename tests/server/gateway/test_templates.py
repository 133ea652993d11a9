"""Prompt templates: Parea's rules, and bounds that a small request cannot break."""

from __future__ import annotations

from typing import Any

import pytest

from everycall import limits
from everycall.server.gateway.templates import fill, fill_messages
from everycall.server.problems import ProblemError


@pytest.mark.parametrize(
    ("template", "variables", "filled"),
    [
        ("Hello {{x}} and {{y}}", {"x": "Golang", "y": "Fiber"}, "Hello Golang and Fiber"),
        ("{{x}}{{x}}", {"x": 1}, "11"),
        ("{{missing}} {{x}}", {"x": "a"}, "{{missing}} a"),
        ("{x} {{ x }} {{x-y}}", {"x": "a"}, "{x} {{ x }} {{x-y}}"),
        ("{{x}}", {"x": None}, "null"),
        ("{{x}}", {"x": {"a": 1, "ü": ["O'Neil", None]}}, '{"a": 1, "ü": ["O\'Neil", null]}'),
        ("{{x}} {{y}}", {"x": True, "y": 1.5}, "true 1.5"),
        ("{{x}}", {"x": "{{y}}", "y": "never"}, "{{y}}"),
        ("{{{x}}}", {"x": "a"}, "{a}"),
        ("{{größe}}", {"größe": "12"}, "12"),
        ("{{x.__class__}} {{x[0]}}", {"x": "a"}, "{{x.__class__}} {{x[0]}}"),
        ("no variables", {"x": "a"}, "no variables"),
        ("{{x}}", {}, "{{x}}"),
    ],
)
def test_fill(template: str, variables: dict[str, Any], filled: str) -> None:
    assert fill(template, variables) == filled


@pytest.mark.parametrize(
    ("value", "written"), [(None, "None"), ({"a": 1}, "{'a': 1}"), (True, "True"), ("it's", "it's"), (1, "1")]
)
def test_values_may_be_written_as_pareas_service_wrote_them(value: Any, written: str) -> None:
    assert fill("{{x}}", {"x": value}, python=True) == written
    assert fill_messages([{"content": "{{x}}"}], {"x": value}, python=True) == [{"content": written}]


def test_a_template_has_a_bound() -> None:
    with pytest.raises(ProblemError) as raised:
        fill("{{x}}" + "a" * limits.TEMPLATE_CHARS_MAX, {"x": 1})
    assert (raised.value.problem.status, raised.value.problem.code) == (422, "template_too_long")


def test_a_variable_named_often_cannot_become_gigabytes() -> None:
    with pytest.raises(ProblemError) as raised:
        fill("{{x}}" * 50_000, {"x": "a" * 1_000_000})
    assert raised.value.problem.code == "prompt_too_long"


def test_the_bound_is_for_all_messages_together() -> None:
    message = {"role": "user", "content": "{{x}}"}
    half = "a" * (limits.PROMPT_CHARS_MAX // 2)
    assert len(fill_messages([message] * 2, {"x": half})) == 2
    with pytest.raises(ProblemError):
        fill_messages([message] * 3, {"x": half})


def test_text_parts_are_filled_and_others_left_alone() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://x/{{x}}"}}
    messages: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "see {{x}}"}, image]}]
    assert fill_messages(messages, {"x": "this"}) == [
        {"role": "user", "content": [{"type": "text", "text": "see this"}, image]}
    ]
    assert messages[0]["content"][0]["text"] == "see {{x}}"
