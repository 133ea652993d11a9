"""A streamed answer, cut anywhere, gives the record that the same answer gives as a whole.

One that is left early keeps what had come.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from everycall_openai import _accumulators, _responses

texts = st.text(alphabet='ab {}"\\é', min_size=1, max_size=12)
names = st.sampled_from(["get_weather", "get_time", "look_up"])
json_objects = st.dictionaries(st.sampled_from(["city", "tz"]), st.one_of(st.integers(), texts), max_size=2)


@st.composite
def cut(draw: st.DrawFn, text: str) -> list[str]:
    """Return the pieces of a text that is cut anywhere."""
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=3)))
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


# Each function draws a member of a message: its value in a whole answer, and its pieces in the deltas of a stream.


@st.composite
def text_member(draw: st.DrawFn) -> tuple[Any, list[Any]]:
    text = draw(texts)
    return text, draw(cut(text))


@st.composite
def content_parts(draw: st.DrawFn) -> tuple[Any, list[Any]]:
    """Mistral's: thinking, then text, each cut into parts of its own."""
    thought, text = draw(texts), draw(texts)
    pieces: list[Any] = [[{"type": "thinking", "thinking": [{"type": "text", "text": p}]}] for p in draw(cut(thought))]
    if draw(st.booleans()):
        pieces += [p for p in draw(cut(text)) if p]  # bare text after parts
    else:
        pieces += [[{"type": "text", "text": p}] for p in draw(cut(text))]
    whole = [
        {"type": "thinking", "thinking": [{"type": "text", "text": thought}]},
        {"type": "text", "text": text},
    ]
    return whole, pieces


@st.composite
def tool_calls(draw: st.DrawFn) -> tuple[Any, list[Any]]:
    """Calls with an index each, all with index 0 and ids of their own (Gemini), or with no index at all."""
    numbering = draw(st.sampled_from(["counted", "all zero", "none"]))
    whole, pieces = [], []
    for number in range(draw(st.integers(1, 3))):
        arguments = json.dumps(draw(json_objects))
        call: dict[str, Any] = {
            "id": f"call_{number}",
            "type": "function",
            "function": {"name": draw(names), "arguments": arguments},
        }
        extra = draw(st.sampled_from([{}, {"extra_content": {"google": {"thought_signature": "abc"}}}]))
        whole.append({**call, **extra})
        index = {"counted": {"index": number}, "all zero": {"index": 0}, "none": {}}[numbering]
        first, *rest = draw(cut(arguments))
        function = {"name": call["function"]["name"], "arguments": first}
        pieces.append([{**index, **call, **extra, "function": function}])
        pieces += [[{**index, "function": {"arguments": piece}}] for piece in rest]
    return whole, pieces


@st.composite
def calls_without_ids(draw: st.DrawFn) -> tuple[Any, list[Any]]:
    whole = [
        {"id": None, "type": "function", "function": {"name": draw(names), "arguments": json.dumps(draw(json_objects))}}
        for _ in range(draw(st.integers(1, 3)))
    ]
    return whole, [[{**call, "index": 0}] for call in whole]


@st.composite
def custom_call(draw: st.DrawFn) -> tuple[Any, list[Any]]:
    text = draw(texts)
    call: dict[str, Any] = {"id": "call_1", "type": "custom", "custom": {"name": "sql", "input": text}}
    first, *rest = draw(cut(text))
    pieces: list[Any] = [[{**call, "index": 0, "custom": {"name": "sql", "input": first}}]]
    return [call], pieces + [[{"index": 0, "custom": {"input": piece}}] for piece in rest]


@st.composite
def function_call(draw: st.DrawFn) -> tuple[Any, list[Any]]:
    arguments = json.dumps(draw(json_objects))
    first, *rest = draw(cut(arguments))
    pieces = [{"name": "get_time", "arguments": first}, *({"arguments": piece} for piece in rest)]
    return {"name": "get_time", "arguments": arguments}, pieces


@st.composite
def audio(draw: st.DrawFn) -> tuple[Any, list[Any]]:
    data, transcript = base64.b64encode(draw(st.binary(min_size=1, max_size=400))).decode(), draw(texts)
    pieces: list[Any] = [{"id": "audio_1"}]
    pieces += [{"data": piece} for piece in draw(cut(data))]
    pieces += [{"transcript": piece} for piece in draw(cut(transcript))]
    whole = {"id": "audio_1", "data": data, "transcript": transcript, "expires_at": 1_700_000_000}
    return whole, [*pieces, {"expires_at": 1_700_000_000}]


@st.composite
def citations(draw: st.DrawFn) -> tuple[Any, list[Any]]:
    """Entries of a list that are whole: one by one, all at once, or all so far each time."""
    whole = [
        {"type": "url_citation", "url_citation": {"url": f"http://{number}.example", "title": draw(texts)}}
        for number in range(draw(st.integers(1, 3)))
    ]
    one_by_one = [[entry] for entry in whole]
    all_so_far = [whole[: number + 1] for number in range(len(whole))]
    return whole, draw(st.sampled_from([one_by_one, [whole], all_so_far]))


@st.composite
def indexed_details(draw: st.DrawFn) -> tuple[Any, list[Any]]:
    """OpenRouter's `reasoning_details`: texts in pieces, with a signature, beside an encrypted one with its index."""
    text = draw(texts)
    about = {"type": "reasoning.text", "format": "anthropic-claude-v1", "index": 0}
    encrypted = {"type": "reasoning.encrypted", "data": "AAAA", "index": 0}
    pieces: list[Any] = [[{**about, "text": piece}] for piece in draw(cut(text))]
    pieces += [[{**about, "signature": "sig"}], [encrypted]]
    return [{**about, "text": text, "signature": "sig"}, encrypted], pieces


@st.composite
def executed_tools(draw: st.DrawFn) -> tuple[Any, list[Any]]:
    """Groq's: the call first, then the same entry with its result."""
    first_part = {"index": 0, "type": "search", "arguments": "{}x" + draw(texts)}
    result = {"output": draw(texts), "search_results": {"results": [{"url": "http://a.example", "score": 0.5}]}}
    return [{**first_part, **result}], [[first_part], [{"index": 0, "type": "search", **result}]]


MEMBERS = {
    "content": st.one_of(text_member(), content_parts()),
    "refusal": text_member(),
    "reasoning_content": text_member(),
    "reasoning": text_member(),
    "tool_calls": st.one_of(tool_calls(), calls_without_ids(), custom_call()),
    "function_call": function_call(),
    "audio": audio(),
    "annotations": citations(),
    "images": st.just(
        ([{"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}],
         [[{"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}]])
    ),
    "reasoning_details": indexed_details(),
    "executed_tools": executed_tools(),
    "x_unknown": st.just(({"deep": {"er": ["a", 1, True]}}, [{"deep": {"er": ["a", 1, True]}}])),
}  # fmt: skip


@st.composite
def answers(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a whole answer, and the chunks of the same answer in any order that keeps the order of each member."""
    names = draw(st.lists(st.sampled_from(sorted(MEMBERS)), unique=True, min_size=1, max_size=4))
    message: dict[str, Any] = {"role": "assistant", "content": None}
    queues: list[list[dict[str, Any]]] = []
    for name in names:
        message[name], pieces = draw(MEMBERS[name])
        queues.append([{name: piece} for piece in pieces])
    deltas: list[dict[str, Any]] = [{"role": "assistant"}]
    while queues := [queue for queue in queues if queue]:
        deltas.append(draw(st.sampled_from(queues)).pop(0))
    about: dict[str, Any] = {"id": "c-1", "model": "m-1", "service_tier": "priority"}
    usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
    logprobs: dict[str, Any] = {
        "content": [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}] * 2,
        "refusal": None,
    }
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": logprobs}
    whole = {**about, "choices": [choice], "usage": usage, "x_host": {"queue_time": 0.1}}
    one = {**logprobs, "content": logprobs["content"][:1]}
    chunks = [{**about, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    for choices in ([{"index": 0, "delta": {}, "logprobs": one}], [{"index": 0, "delta": {}, "logprobs": one}]):
        chunks.insert(draw(st.integers(1, len(chunks))), {**about, "choices": choices})
    chunks.append({**about, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    chunks.append({**about, "choices": [], "usage": usage, "x_host": {"queue_time": 0.1}})
    return whole, chunks


@settings(deadline=None)
@given(answers())
def test_a_stream_gives_the_record_of_the_whole_answer(answer: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    whole, chunks = answer
    accumulator = _accumulators.Chat(captures_output=True)
    for chunk in chunks:
        accumulator.add(chunk)
    assert accumulator.is_complete
    assert accumulator.has_output
    assert accumulator.fields() == _responses.chat(whole)


TEXT_MEMBERS = ("content", "refusal", "reasoning", "reasoning_content")


@settings(deadline=None)
@given(answers(), st.data())
def test_a_stream_that_is_closed_early_keeps_what_arrived(
    answer: tuple[dict[str, Any], list[dict[str, Any]]], data: st.DataObject
) -> None:
    """Every text that came is in the record, which can be read at any time."""
    _, chunks = answer
    accumulator = _accumulators.Chat(captures_output=True)
    texts_so_far = dict.fromkeys(TEXT_MEMBERS, "")
    for chunk in chunks[: data.draw(st.integers(1, len(chunks)))]:
        accumulator.add(chunk)
        for choice in chunk["choices"]:
            for name in TEXT_MEMBERS:
                piece = choice["delta"].get(name)
                texts_so_far[name] += piece if isinstance(piece, str) else ""
        fields = accumulator.fields()
    output = fields.get("output", {"content": fields.get("content")})
    for name, text in texts_so_far.items():
        if name != "content" or not isinstance(output.get("content"), list):
            assert (output.get(name) or "") == text
    assert accumulator.fields() == fields


@settings(deadline=None)
@given(answers())
def test_without_output_none_of_it_is_kept(answer: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    _, chunks = answer
    accumulator = _accumulators.Chat(captures_output=False)
    for chunk in chunks:
        accumulator.add(chunk)
    fields = accumulator.fields()
    assert fields.get("content") is None
    assert "output" not in fields
    assert fields["input_tokens"] == 3
    assert accumulator.is_complete
