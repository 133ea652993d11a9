"""A streamed message, cut anywhere, gives the record that the same message gives as a whole.

One that is left early keeps what had come.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from everycall_anthropic import _accumulators, _responses

texts = st.text(alphabet='ab {}"\\é', min_size=1, max_size=12)
USAGE = {"input_tokens": 7, "cache_read_input_tokens": 10, "output_tokens": 9, "service_tier": "standard"}

Block = tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]
"""A block as it is in a whole message, as it starts in a stream, and its deltas."""


@st.composite
def cut(draw: st.DrawFn, text: str) -> list[str]:
    """Return the pieces of a text that is cut anywhere."""
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=3)))
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


@st.composite
def text_block(draw: st.DrawFn) -> Block:
    text = draw(texts)
    citations: Any = draw(st.sampled_from([None, [{"type": "web_search_result_location", "url": "http://a.example"}]]))
    deltas = [{"type": "text_delta", "text": piece} for piece in draw(cut(text))]
    deltas += [{"type": "citations_delta", "citation": citation} for citation in citations or ()]
    whole = {"type": "text", "text": text, "citations": citations}
    return whole, {"type": "text", "text": "", "citations": None}, deltas


@st.composite
def thinking_block(draw: st.DrawFn) -> Block:
    thinking, signature = draw(texts), base64.b64encode(draw(st.binary(max_size=300))).decode()
    deltas = [{"type": "thinking_delta", "thinking": piece} for piece in draw(cut(thinking))]
    deltas += [{"type": "signature_delta", "signature": signature}]
    start = {"type": "thinking", "thinking": "", "signature": ""}
    return {"type": "thinking", "thinking": thinking, "signature": signature}, start, deltas


@st.composite
def tool_block(draw: st.DrawFn) -> Block:
    arguments = draw(st.dictionaries(st.sampled_from(["city", "tz"]), st.one_of(st.integers(), texts), max_size=2))
    kind = draw(st.sampled_from(["tool_use", "server_tool_use", "mcp_tool_use"]))
    start = {"type": kind, "id": "toolu_1", "name": "get_weather", "input": {}, "caller": {"type": "direct"}}
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in draw(cut(json.dumps(arguments)))]
    return {**start, "input": arguments}, start, deltas if arguments else []


@st.composite
def whole_block(draw: st.DrawFn) -> Block:
    """A result of a tool, or a block of an unknown type, that comes whole with its start."""
    result = {"type": "text", "text": draw(texts)}
    block: dict[str, Any] = draw(
        st.sampled_from(
            [
                {"type": "mcp_tool_result", "tool_use_id": "t", "is_error": False, "content": [result, result]},
                {"type": "redacted_thinking", "data": base64.b64encode(b"c" * 300).decode()},
                {"type": "x_unknown", "deep": {"er": [1, "a"]}},
            ]
        )
    )
    return block, block, []


@st.composite
def unknown_delta(draw: st.DrawFn) -> Block:
    """A delta of an unknown type adds to the member it names."""
    text = draw(texts)
    deltas = [{"type": "content_delta", "content": piece} for piece in draw(cut(text))]
    return {"type": "compaction", "content": text}, {"type": "compaction", "content": None}, deltas


@st.composite
def messages(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a whole message, and the events of the same message."""
    block = st.one_of(text_block(), thinking_block(), tool_block(), whole_block(), unknown_delta())
    blocks = draw(st.lists(block, max_size=4))
    about = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-test"}
    ended = {"stop_reason": "end_turn", "stop_sequence": None, "container": {"id": "c-1"}}
    whole = {**about, **ended, "content": [content for content, _, _ in blocks], "usage": USAGE}
    started: dict[str, Any] = {**about, "content": [], "stop_reason": None, "usage": {**USAGE, "output_tokens": 1}}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": started}, {"type": "ping"}]
    for index, (_, start, deltas) in enumerate(blocks):
        events.append({"type": "content_block_start", "index": index, "content_block": start})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    events += [{"type": "message_delta", "delta": ended, "usage": {"output_tokens": 9}}, {"type": "message_stop"}]
    return whole, events


@settings(deadline=None)
@given(messages())
def test_a_stream_gives_the_record_of_the_whole_message(message: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    whole, events = message
    accumulator = _accumulators.Message(captures_output=True)
    for event in events:
        accumulator.add(event)
    assert accumulator.is_complete
    assert accumulator.fields() == _responses.message(whole)


@settings(deadline=None)
@given(messages(), st.data())
def test_a_stream_that_is_closed_early_keeps_what_arrived(
    message: tuple[dict[str, Any], list[dict[str, Any]]], data: st.DataObject
) -> None:
    """Every text, thought and argument that came is in the record, and no count that is not final."""
    _, events = message
    accumulator = _accumulators.Message(captures_output=True)
    came = {"text": "", "thinking": "", "content": ""}
    for event in events[: data.draw(st.integers(1, len(events)))]:
        accumulator.add(event)
        for name in came:
            came[name] += event.get("delta", {}).get(name, "")
    fields = accumulator.fields()
    blocks = fields.get("output", {"content": []})["content"]
    assert (fields.get("content") or "") == came["text"]
    for name in ("thinking", "content"):
        text = "".join(block[name] for block in blocks if isinstance(block.get(name), str))
        assert text == came[name]
    assert ("output_tokens" in fields) == (event["type"] in ("message_delta", "message_stop"))


@settings(deadline=None)
@given(messages())
def test_without_output_none_of_it_is_kept(message: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    _, events = message
    accumulator = _accumulators.Message(captures_output=False)
    for event in events:
        accumulator.add(event)
    fields = accumulator.fields()
    assert fields.get("content") is None
    assert "output" not in fields
    assert (fields["input_tokens"], fields["output_tokens"]) == (17, 9)
