"""The content of a record as bounded blocks: messages, text, JSON, and notes on missing content."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Raw

from everycall import limits
from everycall.record import Cut, Record, to_raw
from everycall.server.pages.content import Section, error_text_of, sections_of, traceback_of
from everycall.server.pages.copies import Copies
from everycall.server.pages.messages import Message, as_chats, as_message
from everycall.server.pages.rendering import render
from everycall.server.pages.values import Node, Text, node_of, text_of


def record(**fields: Any) -> Record:
    return Record(inference_id="i", trace_id="t", **fields)


def sections(**fields: Any) -> dict[str, Section]:
    return {section.key: section for section in sections_of(record(**fields))}


@pytest.mark.parametrize(
    ("value", "role", "text"),
    [
        ({"role": "user", "content": "hi"}, "user", "hi"),
        ({"role": "assistant", "content": [{"type": "text", "text": "hi"}]}, "assistant", "hi"),
        ({"type": "human", "content": "hi"}, "user", "hi"),
        ({"type": "ai", "content": "hi", "tool_calls": []}, "assistant", "hi"),
        ({"role": "user", "parts": [{"type": "text", "content": "hi"}]}, "user", "hi"),
        (
            {"lc": 1, "type": "constructor", "id": ["langchain", "HumanMessage"], "kwargs": {"content": "hi"}},
            "user",
            "hi",
        ),
        (
            {"lc": 1, "type": "constructor", "id": ["x", "AIMessageChunk"], "kwargs": {"content": "hi"}},
            "assistant",
            "hi",
        ),
    ],
)
def test_each_format_of_messages_is_recognised(value: dict[str, Any], role: str, text: str) -> None:
    message = as_message(value)
    assert message is not None
    assert (message.role, [part.text for part in message.parts]) == (role, [Text(text)])


@pytest.mark.parametrize(
    "value",
    [
        None,
        "user",
        {"role": "admin", "content": "x"},
        {"role": "user"},
        {"role": 1, "content": "x"},
        {"type": "text", "content": "x"},
        {"content": "x"},
        ["user", "x"],
    ],
)
def test_other_values_are_not_messages(value: Any) -> None:
    assert as_message(value) is None


@pytest.mark.parametrize(
    "call",
    [
        {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"q": 1}'}},
        {"id": "c1", "name": "find", "args": {"q": 1}},
    ],
)
def test_tool_calls_show_name_and_arguments(call: dict[str, Any]) -> None:
    message = as_message({"role": "assistant", "content": None, "tool_calls": [call]})
    assert message is not None
    (part,) = message.parts
    assert (part.tool, part.tool_id, part.node) == ("find", "c1", node_of({"q": 1}))


def test_arguments_that_are_not_json_are_shown_as_text() -> None:
    message = as_message({"role": "assistant", "tool_calls": [{"function": {"name": "find", "arguments": "{oops"}}]})
    assert message is not None
    assert message.parts[0].text == Text("{oops")


def test_anthropic_tool_use_and_result() -> None:
    used = as_message({"role": "assistant", "content": [{"type": "tool_use", "id": "u1", "name": "f", "input": {}}]})
    result = as_message({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "u1", "content": "done"}]})
    assert used is not None
    assert result is not None
    assert (used.parts[0].tool, used.parts[0].tool_id) == ("f", "u1")
    assert (result.parts[0].label, result.parts[0].text) == ("result of u1", Text("done"))


def test_batches_of_conversations_are_separate() -> None:
    chats = as_chats([[{"role": "user", "content": "a"}], [{"type": "human", "content": "b"}]])
    assert chats is not None
    assert [chat[0].parts[0].text for chat in chats] == [Text("a"), Text("b")]


@pytest.mark.parametrize("value", [[], [[]], [{"role": "user", "content": "a"}, 1], [[{"role": "user"}]], {}, "x"])
def test_a_list_with_anything_else_in_it_is_json(value: Any) -> None:
    assert as_chats(value) is None


def test_messages_of_the_configuration_are_shown_as_inputs_and_once() -> None:
    messages = [{"role": "user", "content": "hi"}]
    shown = sections(
        llm_configuration=to_raw({"model": "m", "messages": messages}), inputs=to_raw({"messages": messages})
    )
    assert [block.chat for block in shown["inputs"].blocks] == [
        (Message("user", None, shown["inputs"].blocks[0].chat[0].parts),)  # type: ignore[index]
    ]
    assert shown["configuration"].blocks[0].node == node_of({"model": "m"})


def test_the_answer_and_its_structured_form_are_both_shown() -> None:
    assert len(sections(content="a", output=to_raw({"b": 1}))["output"].blocks) == 2
    assert len(sections(content="a", output=to_raw("a"))["output"].blocks) == 1


def test_omitted_and_truncated_fields_are_named() -> None:
    shown = sections(omitted=["inputs", "outputs"], truncated={"metadata": Cut(kept=10, bytes=2000, sha256="ab")})
    assert shown["inputs"].notes == ("inputs omitted by log_omit_inputs: never sent, never stored",)
    assert shown["output"].notes == ("outputs omitted by log_omit_outputs: never sent, never stored",)
    assert shown["metadata"].notes == ("metadata truncated: 10 of 2,000 bytes kept, SHA-256 of the whole ab",)
    unmeasured = sections(truncated={"content": Cut(kept=10)})["output"]
    assert unmeasured.notes == ("content truncated: 10 of an unknown number of bytes kept",)


def test_an_empty_record_has_no_sections() -> None:
    assert sections_of(record()) == ()


def test_the_exception_of_the_attributes_is_shown_once() -> None:
    attributes = to_raw({"exception.stacktrace": "Traceback", "exception.type": "E", "http.status": 3})
    assert traceback_of(record(attributes=attributes)) == Text("Traceback")
    assert sections(attributes=attributes)["attributes"].blocks[0].node == node_of({"http.status": 3})
    assert traceback_of(record(attributes=to_raw(["exception.stacktrace"]))) is None


def test_json_beyond_the_bound_is_counted_not_drawn() -> None:
    def drawn(node: Node) -> int:
        return 1 + sum(drawn(child) for child in node.children)

    node = node_of([[index] for index in range(limits.VIEW_VALUES_MAX)])
    assert drawn(node) <= limits.VIEW_VALUES_MAX * 1.01
    assert node.children[-1].kind == "more"
    assert node.text == Text(f"{limits.VIEW_VALUES_MAX:,} items")


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_deep_json_is_shown(opening: bytes) -> None:
    for depth in (50, 400, 20_000):
        closing = b"]" if opening == b"[" else b"}"
        raw = Raw(opening * depth + b'"bottom"' + closing * depth)
        shown = record(inputs=raw)
        html = render(
            "record.html",
            record=shown,
            sections=sections_of(shown),
            traceback=None,
            state="success",
            origin=None,
            step=False,
            finish_reasons=None,
            copies=Copies(None, None, None),
            base={"path": "/traces/t", "project_in_url": None, "cursor": None, "steps": None},
        )
        assert "bottom" in html


def test_long_text_is_folded_at_the_end_of_a_line() -> None:
    text = "\n".join(f"line {index}" for index in range(1000))
    folded = text_of(text)
    assert folded.whole == text
    assert folded.head is not None
    assert text.startswith(folded.head + "\n")
    assert len(folded.head) <= limits.VIEW_TEXT_CHARS


def test_short_text_is_not_folded() -> None:
    assert text_of("a b\nc") == Text("a b\nc")
    assert text_of("x" * (limits.VIEW_TEXT_CHARS + 3)) == Text("x" * (limits.VIEW_TEXT_CHARS + 3))


def test_one_endless_word_is_folded_too() -> None:
    assert text_of("x" * 10_000).head == "x" * limits.VIEW_TEXT_CHARS


@pytest.mark.parametrize(
    ("error_type", "error", "shown"),
    [
        ("ValueError", "ValueError: no", "no"),
        ("openai.APIError", "APIError: no: none", "no: none"),
        ("openai.APIError", "openai.APIError: no", "no"),
        ("ValueError", "ValueError", None),
        ("ValueError", "ValueError at app.py:7", "ValueError at app.py:7"),
        ("ValueError", "KeyError: no", "KeyError: no"),
        (None, "ValueError: no", "ValueError: no"),
        ("ValueError", None, None),
        ("RateLimitError", "openai.RateLimitError: slow down", "slow down"),
        ("openai.RateLimitError", "openai._exceptions.RateLimitError: slow down", "slow down"),
        ("APIError", "APIError: APIError: reset", "reset"),
        ("Error", "RateLimitError: slow down", "RateLimitError: slow down"),
        (None, "error", None),
        ("ValueError", "openai.ValueError", None),
    ],
)
def test_the_type_of_an_error_is_not_repeated(error_type: str | None, error: str | None, shown: str | None) -> None:
    record = Record(inference_id="a", trace_id="t", status="error", error=error, error_type=error_type)
    assert error_text_of(record) == shown
