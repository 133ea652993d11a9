"""What a record keeps of requests and answers: contents of every shape, tools, media, thoughts, filters, tokens."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pydantic
import pytest
from google.genai import types

from everycall.record import Record
from everycall_testkit.client_bench import Clients, content_of, decode
from everycall_testkit.provider import FakeProvider

MODEL = "gemini-2.5-flash"
PNG = b"\x89PNG\r\n" + bytes(range(255, 60, -1)) * 2  # with what differs in the two alphabets of base64
PNG_SHOWN = f"<image/png, {len(PNG)} bytes, sha256 {hashlib.sha256(PNG).hexdigest()}>"
PNG_SENT = {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(PNG).decode()}}
stream_or_not = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


class City(pydantic.BaseModel):
    name: str


def get_weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"sunny in {city}"


async def ask(clients: Clients, client: Any, stream: bool = False, contents: Any = "hi", **config: Any) -> Any:
    request = {"model": MODEL, "contents": contents, "config": config or None}
    if stream:
        return await clients.all(await clients.wait(client.models.generate_content_stream(**request)))
    return await clients.wait(client.models.generate_content(**request))


@pytest.fixture
def configuration(records: list[Record]) -> Any:
    """Return a reader of the last record's configuration."""
    return lambda: decode(records[-1].llm_configuration)


get_weather.__annotations__ = {"city": str, "return": str}  # older versions cannot read those of this file


# --- what is request ---


def text(value: str) -> dict[str, Any]:
    return {"role": "user", "content": value}


SHAPES: dict[str, tuple[Any, list[dict[str, Any]]]] = {
    "text": ("hi", [text("hi")]),
    "part": (types.Part.from_text(text="hi"), [text("hi")]),
    "content": (types.Content(role="user", parts=[types.Part(text="hi")]), [text("hi")]),
    "dict": ({"role": "user", "parts": [{"text": "hi"}]}, [text("hi")]),
    "turns": (
        [
            types.Content(role="user", parts=[types.Part(text="hi")]),
            {"role": "model", "parts": [{"text": "hello"}]},
            types.UserContent("and?"),
        ],
        [text("hi"), {"role": "assistant", "content": "hello"}, text("and?")],
    ),
    "texts": (
        ["a", "b"],
        [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
    ),
    "bytes": (
        ["what?", types.Part.from_bytes(data=PNG, mime_type="image/png")],
        [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "what?"},
                    {"inline_data": {"mime_type": "image/png", "data": PNG_SHOWN}},
                ],
            }
        ],
    ),
    "address": (
        types.Part.from_uri(file_uri="gs://bucket/a.png", mime_type="image/png"),
        [{"role": "user", "content": [{"file_data": {"file_uri": "gs://bucket/a.png", "mime_type": "image/png"}}]}],
    ),
    "file": (
        types.File(uri="https://files/a", mime_type="image/png"),
        [{"role": "user", "content": [{"file_data": {"file_uri": "https://files/a", "mime_type": "image/png"}}]}],
    ),
    "functions": (
        [
            types.Content(
                role="model",
                parts=[types.Part(function_call=types.FunctionCall(name="f", args={"someCity": "Rome"}))],
            ),
            types.Content(
                role="user",
                parts=[types.Part.from_function_response(name="f", response={"theWeather": "fine"})],
            ),
        ],
        [
            {
                "role": "assistant",
                "content": [{"type": "tool_call", "name": "f", "arguments": {"someCity": "Rome"}}],
            },
            {
                "role": "user",
                "content": [{"type": "tool_call_response", "name": "f", "response": {"theWeather": "fine"}}],
            },
        ],
    ),
}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
async def test_contents_of_every_shape(shape: str, clients: Clients, records: list[Record], configuration: Any) -> None:
    contents, messages = SHAPES[shape]
    await ask(clients, clients.wrapped(), contents=contents)
    assert configuration()["messages"] == messages


@pytest.mark.parametrize("size", [1, 2, 3, 100, 300])
async def test_media_of_any_size(size: int, clients: Clients, records: list[Record], configuration: Any) -> None:
    """By reference, however few bytes."""
    data = bytes(range(255, 255 - size % 200, -1)) or b"x"
    await ask(clients, clients.wrapped(), contents=types.Part.from_bytes(data=data, mime_type="image/png"))
    digest = hashlib.sha256(data).hexdigest()
    assert configuration()["messages"][0]["content"] == [
        {"inline_data": {"mime_type": "image/png", "data": f"<image/png, {len(data)} bytes, sha256 {digest}>"}}
    ]


async def test_an_image_of_pillow(clients: Clients, records: list[Record], configuration: Any) -> None:
    """By reference: what the library makes of it, and its hash."""
    image = pytest.importorskip("PIL.Image").new("RGB", (40, 30), "red")
    await ask(clients, clients.wrapped(), contents=["what?", image])
    reference = configuration()["messages"][0]["content"][1]["inline_data"]["data"]
    assert reference.startswith("<image/")
    assert "sha256" in reference


@pytest.mark.parametrize(
    "instruction", ["be kind", types.Content(parts=[types.Part(text="be kind")]), {"parts": [{"text": "be kind"}]}],
    ids=["text", "content", "dict"],
)  # fmt: skip
async def test_the_system_instruction(
    instruction: Any, clients: Clients, records: list[Record], configuration: Any
) -> None:
    await ask(clients, clients.wrapped(), system_instruction=instruction)
    assert configuration()["messages"] == [{"role": "system", "content": "be kind"}, text("hi")]


async def test_parameters(clients: Clients, records: list[Record], configuration: Any) -> None:
    """With their Python names, however they were passed. Nothing of `http_options` is kept."""
    config = types.GenerateContentConfig(
        temperature=0.5,
        top_p=0.9,
        max_output_tokens=5,
        stop_sequences=["x"],
        candidate_count=1,
        seed=7,
        thinking_config=types.ThinkingConfig(include_thoughts=True),
        safety_settings=[
            types.SafetySetting(
                category=types.HarmCategory.HARM_CATEGORY_HARASSMENT, threshold=types.HarmBlockThreshold.BLOCK_NONE
            )
        ],
        cached_content="cachedContents/c-1",
        http_options=types.HttpOptions(headers={"x-secret": "canary"}),
    )
    client = clients.wrapped()
    await clients.wait(client.models.generate_content(model=MODEL, contents="hi", config=config))
    assert configuration()["model_params"] == {
        "temperature": 0.5,
        "top_p": 0.9,
        "max_output_tokens": 5,
        "stop_sequences": ["x"],
        "candidate_count": 1,
        "seed": 7,
        "thinking_config": {"include_thoughts": True},
        "safety_settings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
        "cached_content": "cachedContents/c-1",
    }
    assert "canary" not in repr(records[0])


@pytest.mark.parametrize("schema", [City, City.model_json_schema(), list[City]], ids=["class", "dict", "list"])
async def test_a_schema(
    schema: Any, clients: Clients, provider: FakeProvider, records: list[Record], configuration: Any
) -> None:
    provider.reply(content='[{"name": "Rome"}]' if schema == list[City] else '{"name": "Rome"}')
    answer = await ask(clients, clients.wrapped(), response_schema=schema, response_mime_type="application/json")
    assert answer.parsed
    params = configuration()["model_params"]
    assert params["response_mime_type"] == "application/json"
    assert '"name"' in json.dumps(params["response_schema"])
    assert provider.requests[0].body["generationConfig"]["responseSchema"] == params["response_schema"]


async def test_tools(clients: Clients, provider: FakeProvider, records: list[Record], configuration: Any) -> None:
    """A Python function is kept as it is declared to the model; a tool that Google runs by its name."""
    schema = types.Schema.model_validate({"type": "OBJECT", "properties": {"someKey": {"type": "STRING"}}})
    declared = types.FunctionDeclaration(name="look_up", description="Looks up.", parameters=schema)
    tools = [
        get_weather,
        types.Tool(function_declarations=[declared]),
        types.Tool(google_search=types.GoogleSearch()),
    ]
    choice = {"function_calling_config": {"mode": "ANY"}}
    await ask(clients, clients.wrapped(), tools=tools, tool_config=choice, automatic_function_calling={"disable": True})
    settings = configuration()
    functions = {one.get("name"): one for one in settings["functions"]}
    assert functions["get_weather"]["description"] == "Tell the weather of a city."
    assert functions["look_up"]["parameters"]["properties"]["someKey"]
    assert functions[None] == {"type": "google_search"}
    assert len(settings["functions"]) == 3
    assert settings["function_call"] == {"function_calling_config": {"mode": "ANY"}}


@pytest.mark.parametrize(
    ("model", "name"),
    [("models/gemini-2.5-flash", "gemini-2.5-flash"), ("tunedModels/mine", "tunedModels/mine")],
)
async def test_names_of_models(
    model: str, name: str, clients: Clients, records: list[Record], configuration: Any
) -> None:
    await clients.wait(clients.wrapped().models.generate_content(model=model, contents="hi"))
    assert (records[0].name, configuration()["model"]) == (f"generate_content {name}", name)


# --- what is answered ---


@stream_or_not
async def test_function_calls(stream: bool, clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    provider.reply(content=None, tool_calls=[("get_weather", {"city": "Rome"}), ("look_up", {"theKey": 1})])
    await ask(clients, clients.wrapped(), stream)
    assert records[0].content is None
    assert decode(records[0].output) == {
        "role": "assistant",
        "content": [
            {"type": "tool_call", "name": "get_weather", "arguments": {"city": "Rome"}},
            {"type": "tool_call", "name": "look_up", "arguments": {"theKey": 1}},
        ],
    }


@stream_or_not
async def test_thoughts(stream: bool, clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    """They are apart from the answer. Their signatures, which nobody can read, are left out."""
    parts = [{"text": "Let me ", "thought": True}, {"text": "see.", "thought": True, "thoughtSignature": "c2ln"}]
    provider.reply(pieces=["storks", " fly"], message={"parts": parts})
    await ask(clients, clients.wrapped(), stream)
    assert records[0].content == "storks fly"
    assert decode(records[0].output) == {
        "role": "assistant",
        "content": [{"type": "reasoning", "text": "Let me see."}, {"type": "text", "text": "storks fly"}],
    }
    assert records[0].usage["reasoning"] == 64


@stream_or_not
async def test_code_and_media(stream: bool, clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    code = {"executableCode": {"language": "PYTHON", "code": "print(1)"}}
    result = {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1"}}
    provider.reply(message={"parts": [code, result], "more": [PNG_SENT]})
    await ask(clients, clients.wrapped(), stream)
    assert records[0].content == "hello"
    assert decode(records[0].output)["content"] == [
        {"executable_code": {"language": "PYTHON", "code": "print(1)"}},
        {"code_execution_result": {"outcome": "OUTCOME_OK", "output": "1"}},
        {"type": "text", "text": "hello"},
        {"inline_data": {"mime_type": "image/png", "data": PNG_SHOWN}},
    ]


@stream_or_not
async def test_several_candidates(
    stream: bool, clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    provider.reply(pieces=["sto", "rks"], message={"candidates": 2})
    await ask(clients, clients.wrapped(), stream, candidate_count=2)
    assert records[0].content == "storks"
    assert decode(records[0].output) == [{"role": "assistant", "content": "storks"}] * 2
    assert decode(records[0].attributes)["gen_ai.response.finish_reasons"] == ["STOP", "STOP"]


RATINGS = [{"category": "HARM_CATEGORY_HARASSMENT", "probability": "HIGH", "blocked": True}]


@stream_or_not
async def test_a_response_that_a_filter_stopped(
    stream: bool, clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    """A filter's stop is not an error, and the record shows it."""
    candidate = {"safetyRatings": RATINGS, "finishMessage": "stopped"}
    provider.reply(content=None, finish="SAFETY", message={"candidate": candidate})
    await ask(clients, clients.wrapped(), stream)
    (record,) = records
    assert (record.status, record.error_type, record.content) == ("success", None, None)
    assert decode(record.attributes)["gen_ai.response.finish_reasons"] == ["SAFETY"]
    assert decode(record.output) == {
        "role": "assistant",
        "content": "",
        "finish_message": "stopped",
        "safety_ratings": RATINGS,
    }


@stream_or_not
async def test_a_prompt_that_a_filter_refused(
    stream: bool, clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    usage = {"promptTokenCount": 5, "totalTokenCount": 5}
    feedback = {"promptFeedback": {"blockReason": "SAFETY", "safetyRatings": RATINGS}}
    provider.reply(content=None, usage=usage, message={"candidates": 0, "answer": feedback})
    await ask(clients, clients.wrapped(), stream)
    (record,) = records
    assert (record.status, record.error_type, record.content) == ("success", None, None)
    assert decode(record.attributes) == {"gen_ai.response.id": "resp-1", "google.response.block_reason": "SAFETY"}
    assert decode(record.output) == {"prompt_feedback": {"block_reason": "SAFETY", "safety_ratings": RATINGS}}
    assert (record.input_tokens, record.output_tokens, record.total_tokens) == (5, 0, 5)


@stream_or_not
async def test_grounding(stream: bool, clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    """Sources, and the places they support, are kept; the supported text and the HTML of a widget are not."""
    metadata = {
        "webSearchQueries": ["storks"],
        "searchEntryPoint": {"renderedContent": "<div>canary</div>"},
        "groundingChunks": [
            {"web": {"uri": "https://example.com/storks", "title": "Storks"}},
            {"retrievedContext": {"text": "Storks fly.", "title": "storks.txt"}},
        ],
        "groundingSupports": [
            {"segment": {"startIndex": 2, "endIndex": 5, "text": "canary"}, "groundingChunkIndices": [0, 1]}
        ],
    }
    provider.reply(message={"candidate": {"groundingMetadata": metadata}})
    await ask(clients, clients.wrapped(), stream)
    assert decode(records[0].output) == {
        "role": "assistant",
        "content": "hello",
        "grounding": {
            "web_search_queries": ["storks"],
            "sources": [
                {"title": "Storks", "uri": "https://example.com/storks"},
                {"text": "Storks fly.", "title": "storks.txt"},
            ],
            "supports": [{"start_index": 2, "end_index": 5, "grounding_chunk_indices": [0, 1]}],
        },
    }


@stream_or_not
async def test_sources_keep_their_positions(
    stream: bool, clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    """A place in the text names its sources by position, so a source that says nothing has a place too."""
    chunks = [{"retrievedContext": {"title": "a.txt"}}, {"retrievedContext": {}}, {"web": {"title": "A"}}]
    supports = [{"segment": {"endIndex": 5}, "groundingChunkIndices": [2]}]
    metadata = {"groundingChunks": chunks, "groundingSupports": supports}
    provider.reply(message={"candidate": {"groundingMetadata": metadata}})
    await ask(clients, clients.wrapped(), stream)
    assert decode(records[0].output)["grounding"] == {
        "sources": [{"title": "a.txt"}, {}, {"title": "A"}],
        "supports": [{"end_index": 5, "grounding_chunk_indices": [2]}],
    }


async def test_sources_in_files_and_on_maps(clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    """Not as a stream, whose chunks older versions of the library give without these members."""
    chunks = [{"retrievedContext": {"title": "a.txt", "fileSearchStore": "stores/1"}}, {"maps": {"placeId": "p-1"}}]
    provider.reply(message={"candidate": {"groundingMetadata": {"groundingChunks": chunks}}})
    await ask(clients, clients.wrapped())
    assert decode(records[0].output)["grounding"] == {
        "sources": [{"title": "a.txt", "file_search_store": "stores/1"}, {"place_id": "p-1"}]
    }


async def test_an_error_with_status_200(clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    """The library raises nothing. The record is an error, because the model gave no answer."""
    error = {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}
    provider.reply(body=json.dumps({"error": error}).encode())
    await ask(clients, clients.wrapped())
    assert [(record.status, record.error) for record in records] == [("error", "503 UNAVAILABLE. overloaded")]


@pytest.mark.parametrize("reason", ["STOP", "MAX_TOKENS"])
async def test_a_response_without_text(
    reason: str, clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    provider.reply(content=None, finish=reason)
    await ask(clients, clients.wrapped())
    content = content_of(records[0])
    assert ("content" in content, "output" in content) == (False, False)
    assert content["attributes"]["gen_ai.response.finish_reasons"] == [reason]


# --- tokens ---


def details(**counts: int) -> list[dict[str, Any]]:
    return [{"modality": name.upper(), "tokenCount": count} for name, count in counts.items()]


USAGES: dict[str, tuple[dict[str, Any], tuple[int | None, int | None, int | None, dict[str, int]]]] = {
    "plain": (
        {"promptTokenCount": 5, "candidatesTokenCount": 7, "totalTokenCount": 12},
        (5, 7, 12, {}),
    ),
    "thoughts beside the candidates": (
        {"promptTokenCount": 5, "candidatesTokenCount": 7, "thoughtsTokenCount": 30, "totalTokenCount": 42},
        (5, 37, 42, {"reasoning": 30}),
    ),
    "cached within the prompt": (
        {
            "promptTokenCount": 2000,
            "cachedContentTokenCount": 1500,
            "candidatesTokenCount": 7,
            "totalTokenCount": 2007,
            "cacheTokensDetails": details(text=1500),
        },
        (2000, 7, 2007, {"cached": 1500}),
    ),
    "results of Google's tools beside the prompt": (
        {
            "promptTokenCount": 5,
            "toolUsePromptTokenCount": 100,
            "candidatesTokenCount": 7,
            "thoughtsTokenCount": 3,
            "totalTokenCount": 115,
        },
        (105, 10, 115, {"tool_use_prompt": 100, "reasoning": 3}),
    ),
    "sound and images": (
        {
            "promptTokenCount": 300,
            "candidatesTokenCount": 90,
            "totalTokenCount": 390,
            "promptTokensDetails": details(text=10, audio=32, image=258),
            "candidatesTokensDetails": details(audio=90),
        },
        (300, 90, 390, {"input_audio": 32, "input_image": 258, "output_audio": 90}),
    ),
    "all spent on thoughts": (
        {"promptTokenCount": 5, "thoughtsTokenCount": 64, "totalTokenCount": 69},
        (5, 64, 69, {"reasoning": 64}),
    ),
    "candidates and thoughts alone": (
        {"candidatesTokenCount": 7, "thoughtsTokenCount": 30},
        (None, 37, None, {"reasoning": 30}),
    ),
    "candidates, thoughts and a total": (
        {"candidatesTokenCount": 7, "thoughtsTokenCount": 30, "totalTokenCount": 42},
        (None, 37, 42, {"reasoning": 30}),
    ),
    "the prompt alone": ({"promptTokenCount": 5}, (5, None, None, {})),
}


@stream_or_not
@pytest.mark.parametrize("usage", USAGES, ids=str)
async def test_tokens(
    usage: str, stream: bool, clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    report, (tokens_in, tokens_out, total, parts) = USAGES[usage]
    provider.reply(usage=report)
    await ask(clients, clients.wrapped(), stream)
    (record,) = records
    assert (record.input_tokens, record.output_tokens, record.total_tokens) == (tokens_in, tokens_out, total)
    assert record.usage == parts


@stream_or_not
async def test_tokens_that_are_not_reported_are_unknown(
    stream: bool, clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    provider.reply(usage=None)
    await ask(clients, clients.wrapped(), stream)
    assert (records[0].input_tokens, records[0].output_tokens, records[0].usage) == (None, None, {})


async def test_the_last_report_of_a_stream_counts(
    clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    """Each report is of the stream so far, so they are not added up."""
    provider.reply(pieces=["a", "b", "c"])
    await ask(clients, clients.wrapped(), stream=True)
    assert (records[0].input_tokens, records[0].output_tokens, records[0].total_tokens) == (22, 189, 211)


async def test_the_tier_a_request_was_billed_by(
    clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    provider.reply(usage={"promptTokenCount": 5, "candidatesTokenCount": 7, "trafficType": "PROVISIONED_THROUGHPUT"})
    await ask(clients, clients.wrapped())
    assert decode(records[0].attributes)["everycall.service_tier"] == "provisioned_throughput"
