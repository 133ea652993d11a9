"""A streamed answer, cut anywhere, gives the record that the same answer gives as a whole.

One that is left early keeps what had come.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from everycall_google import _accumulators, _responses

texts = st.text(alphabet='ab {}"\\é', min_size=1, max_size=12)
names = st.sampled_from(["city", "tz", "a b"])
values = st.recursive(
    st.one_of(st.booleans(), st.none(), st.integers(-5, 5), texts),
    lambda below: st.one_of(
        st.lists(below, min_size=1, max_size=2), st.dictionaries(names, below, min_size=1, max_size=2)
    ),
    max_leaves=4,
)
USAGE = {"promptTokenCount": 3, "candidatesTokenCount": 5, "totalTokenCount": 8, "trafficType": "ON_DEMAND"}

Parts = tuple[list[dict[str, Any]], list[dict[str, Any]]]
"""Parts as they are in a whole answer, and as they come in the chunks of a stream."""


@st.composite
def cut(draw: st.DrawFn, text: str) -> list[str]:
    """Return the pieces of a text that is cut anywhere."""
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=3)))
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


@st.composite
def text_part(draw: st.DrawFn) -> Parts:
    text = draw(texts)
    about = draw(st.sampled_from([{}, {"thought": True}]))
    return [{"text": text, **about}], [{"text": piece, **about} for piece in draw(cut(text))]


def pieces_of(value: Any, path: str, cut_text: Any) -> list[dict[str, Any]]:
    """Return a value as Gemini's partial arguments: each leaf with its path, texts in pieces."""
    if isinstance(value, dict):
        return [piece for key, item in value.items() for piece in pieces_of(item, f"{path}{step(key)}", cut_text)]
    if isinstance(value, list):
        return [piece for i, item in enumerate(value) for piece in pieces_of(item, f"{path}[{i}]", cut_text)]
    if isinstance(value, str):
        return [{"jsonPath": path, "stringValue": piece, "willContinue": True} for piece in cut_text(value)]
    kind = {bool: "boolValue", int: "numberValue", type(None): "nullValue"}[type(value)]
    return [{"jsonPath": path, kind: value}]


def step(key: str) -> str:
    return f"['{key}']" if " " in key else f".{key}"


@st.composite
def call_part(draw: st.DrawFn) -> Parts:
    """A function call, whole, or with its arguments in pieces."""
    arguments = draw(st.dictionaries(names, values, max_size=2))
    call = {"id": "call-1", "name": "get_weather", "args": arguments}
    if draw(st.booleans()):
        return [{"functionCall": call}], [{"functionCall": call}]
    pieces = pieces_of(arguments, "$", lambda text: draw(cut(text)))
    chunks: list[dict[str, Any]] = [{"id": "call-1", "name": "get_weather", "willContinue": True}]
    chunks += [{"partialArgs": [piece], "willContinue": True} for piece in pieces]
    return [{"functionCall": call}], [{"functionCall": chunk} for chunk in [*chunks, {}]]


OTHER_PARTS: list[dict[str, Any]] = [
    {"executableCode": {"language": "PYTHON", "code": "1 + 1"}},
    {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "2"}},
    {"inlineData": {"mimeType": "image/png", "data": "QUJD"}},
    {"text": "a film", "videoMetadata": {"fps": 2}},
    {"xUnknown": {"deepEr": [1, "a"]}},
]
other_part: st.SearchStrategy[Parts] = st.sampled_from(OTHER_PARTS).map(lambda part: ([part], [part]))


@st.composite
def answers(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a whole answer, and the chunks of the same answer, with one part each."""
    drawn_parts = draw(st.lists(st.one_of(text_part(), call_part(), other_part), min_size=1, max_size=4))
    about = {"modelVersion": "gemini-test", "responseId": "r-1"}
    beside = {
        "finishReason": "STOP",
        "avgLogprobs": -0.5,
        "citationMetadata": {"citations": [{"uri": "http://a.example"}, {"uri": "http://b.example"}]},
        "groundingMetadata": {
            "webSearchQueries": ["storks"],
            "groundingChunks": [{"web": {"uri": "http://a.example"}}],
        },
    }
    whole_parts = [part for whole, _ in drawn_parts for part in whole]
    content = {"role": "model", "parts": whole_parts}
    whole = {**about, "candidates": [{**beside, "content": content, "index": 0}], "usageMetadata": USAGE}
    chunks = [
        {**about, "candidates": [{"content": {"role": "model", "parts": [part]}, "index": 0}], "usageMetadata": {}}
        for _, streamed in drawn_parts
        for part in streamed
    ]
    first_citation = {"citations": beside["citationMetadata"]["citations"][:1]}  # type: ignore[index]
    chunks.append({**about, "candidates": [{"index": 0, "citationMetadata": first_citation}]})
    chunks.append({**about, "candidates": [{**beside, "index": 0}], "usageMetadata": USAGE})
    return whole, chunks


@settings(deadline=None)
@given(answers())
def test_a_stream_gives_the_record_of_the_whole_answer(answer: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    whole, chunks = answer
    accumulator = _accumulators.Generation(captures_output=True)
    for chunk in chunks:
        accumulator.add(chunk)
    assert accumulator.is_complete
    assert accumulator.fields() == _responses.generation(whole)


@settings(deadline=None)
@given(answers(), st.data())
def test_a_stream_that_is_closed_early_keeps_what_arrived(
    answer: tuple[dict[str, Any], list[dict[str, Any]]], data: st.DataObject
) -> None:
    """Every text and thought that came is in the record, which can be read at any time."""
    _, chunks = answer
    accumulator = _accumulators.Generation(captures_output=True)
    came = {"text": "", "reasoning": ""}
    for chunk in chunks[: data.draw(st.integers(1, len(chunks)))]:
        accumulator.add(chunk)
        for part in chunk["candidates"][0].get("content", {}).get("parts", []):
            came["reasoning" if part.get("thought") else "text"] += part.get("text", "")
        fields = accumulator.fields()
    assert (fields.get("content") or "") == came["text"]
    content = fields.get("output", {"content": []})["content"]
    parts = content if isinstance(content, list) else []
    assert "".join(part["text"] for part in parts if part.get("type") == "reasoning") == came["reasoning"]
    assert accumulator.fields() == fields


@settings(deadline=None)
@given(answers())
def test_without_output_none_of_it_is_kept(answer: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    _, chunks = answer
    accumulator = _accumulators.Generation(captures_output=False)
    for chunk in chunks:
        accumulator.add(chunk)
    fields = accumulator.fields()
    assert fields.get("content") is None
    assert "output" not in fields
    assert fields["input_tokens"] == 3
    assert accumulator.is_complete
