"""Random conversations, sent through the gateway to providers that refuse what the real ones refuse.

Each is accepted, or refused with 422 before the provider is asked; it is never the provider that refuses. What arrives
there is what was asked, and what a stream gives is what a plain completion gives.
"""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from everycall.record import to_json
from everycall.server.gateway import CompletionRequest, Gateway, ProviderSettings
from everycall.server.problems import ProblemError
from everycall.server.store.sqlite import SqliteStore
from everycall_testkit.provider import FakeProvider, Reply

MODELS = {"openai": ("gpt-4o", "o3-mini", "o4-mini", "gpt-5"), "azure": ("gpt-4o",), "anthropic": ("claude-haiku-4-5",)}
MODELS["compatible"] = ("m",)  # takes whatever it is sent
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"\0" * 9).decode()
PDF = base64.b64encode(b"%PDF-1.4").decode()

# --- what is asked ---

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
words = st.sampled_from(["weather", "look_up", "weather.get", "größe", "a" * 70, "list files"])
ids = st.sampled_from(["c1", "call_2", "toolu_3", "call:4|x", "", None, "i" * 60, "fc-5"])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
rarely = st.sampled_from([False] * 19 + [True])
"""What most conversations do not have, or one of them would hardly ever be accepted."""


def mostly(usual: st.SearchStrategy[Any], unusual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return rarely.flatmap(lambda rare: unusual if rare else usual)


cache_control = mostly(st.just({}), st.just({"cache_control": {"type": "ephemeral"}}))
images = mostly(
    st.sampled_from(
        [
            f"data:image/png;base64,{PNG}",
            f"data:image/jpg;base64,{PNG}",
            f"data:image/png;charset=utf-8;base64,{PNG}",
            "https://example.com/a.png",
        ]
    ),
    st.sampled_from(["http://example.com/a.png", f"data:image/tiff;base64,{PNG}", "data:image/png;base64,", "a.png"]),
)


def part(**fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.tuples(st.fixed_dictionaries(fields), cache_control).map(lambda pair: {**pair[0], **pair[1]})


text_parts = part(type=st.just("text"), text=texts)
details = mostly(st.sampled_from([None, "auto", "high", "low"]), st.just("huge"))
image_parts = part(type=st.just("image_url"), image_url=st.fixed_dictionaries({"url": images, "detail": details}))
native_parts = st.sampled_from(
    [
        {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/jpg", "data": PNG}},
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PDF}},
    ]
)
foreign_parts = st.sampled_from(
    [
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "input_audio", "input_audio": {"data": PNG, "format": "wav"}},
        {"type": "hologram"},
    ]
)
user_contents = texts | st.lists(mostly(text_parts | image_parts | native_parts, foreign_parts), max_size=3)
result_contents = texts | st.none() | st.lists(mostly(text_parts, image_parts), max_size=2)


ODD_MEMBERS: list[dict[str, Any]] = [
    {"tool_calls": [{"id": "c9", "type": "function", "function": {"name": "weather", "arguments": "{}"}}]},
    {"tool_call_id": "c1"},
    {"tool_calls": []},
    {"refusal": "no"},
    {"refusal": ""},
    {"audio": {"id": "audio-1"}},
    {"content": [{"type": "text", "text": "x", "annotations": [{"url": "https://example.com"}]}]},
    {"content": [{"type": "text", "text": "x", "annotations": []}]},
    {"content": [{"type": "text", "text": 5}]},
    {"content": [{"text": "x"}]},
]
"""Members that the message of a user cannot have, or has but empty."""


@st.composite
def rounds(draw: st.DrawFn) -> list[dict[str, Any]]:
    """A question, and the assistant's answer or its tool calls with their results; now and then something is wrong."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": draw(user_contents), **draw(cache_control)}]
    if draw(rarely):
        messages[0]["name"] = draw(st.sampled_from(["ann", "Ann Smith"]))
    if draw(rarely):
        messages[0] |= draw(st.sampled_from(ODD_MEMBERS))
    kind = draw(st.sampled_from(["text", "text", "calls", "calls", "legacy", "nothing"]))
    if kind == "text":
        refusals = part(type=st.just("refusal"), refusal=texts)
        messages.append({"role": "assistant", "content": draw(texts | st.lists(text_parts | refusals, max_size=2))})
    elif kind == "calls":
        messages += draw(tool_calls())
    elif kind == "legacy":
        name = draw(words)
        call = {"name": name, "arguments": "{}"}
        messages.append({"role": "assistant", "content": None, "function_call": call})
        messages.append({"role": "function", "name": name, "content": draw(texts)})
    return messages


@st.composite
def tool_calls(draw: st.DrawFn) -> list[dict[str, Any]]:
    call = st.tuples(ids, words, st.dictionaries(texts, values, max_size=2))
    calls = draw(st.lists(call, min_size=1, max_size=3))
    as_text = draw(st.booleans())
    made = []
    for number, (call_id, name, arguments) in enumerate(calls):
        if call_id and number and not draw(rarely):
            call_id = f"{call_id}{number}"
        function = {"name": name, "arguments": json.dumps(arguments) if as_text else arguments}
        extra = draw(mostly(st.just({}), st.sampled_from([{"index": number}, {"extra_content": {"a": 1}}])))
        made.append({"id": call_id, "type": "function", "function": function, **extra})
    messages: list[dict[str, Any]] = [{"role": "assistant", "content": draw(texts | st.none()), "tool_calls": made}]
    with_ids = all(call["id"] for call in made)
    for answered in made[:-1] if draw(rarely) else draw(st.permutations(made)) if with_ids else made:
        result = {"role": "tool", "tool_call_id": answered["id"] or None, "content": draw(result_contents)}
        messages.append(result)
        if draw(rarely):
            messages.append({"role": "user", "content": "meanwhile"})
    return messages


def without_cache_control(value: Any) -> Any:
    if isinstance(value, list):
        return [without_cache_control(item) for item in value]
    if isinstance(value, dict):
        return {name: without_cache_control(item) for name, item in value.items() if name != "cache_control"}
    return value


@st.composite
def configurations(draw: st.DrawFn, kind: str) -> dict[str, Any]:
    messages = [message for turn in draw(st.lists(rounds(), min_size=1, max_size=3)) for message in turn]
    if draw(st.booleans()):
        content = draw(texts | st.lists(text_parts, max_size=2))
        messages.insert(0, {"role": draw(st.sampled_from(["system", "developer"])), "content": content})
    if kind != "anthropic" and not draw(rarely):
        messages = without_cache_control(messages)
    schemas: st.SearchStrategy[Any] = st.sampled_from(
        [{}, {"type": "object", "properties": {}}, {"properties": {"a": {}}}, None] * 4
        + [{"anyOf": [{"type": "object"}]}, {"properties": {"größe": {}}}, {"type": "array"}]
    )
    function = st.fixed_dictionaries({"name": words, "parameters": schemas})
    unique_by = None if draw(rarely) else lambda one: one["name"]
    functions = draw(st.lists(function, max_size=2, unique_by=unique_by))
    choices: list[Any] = [None, "auto", "none", *([{"name": functions[0]["name"]}, "any"] if functions else [])]
    choice = mostly(st.sampled_from(choices), st.sampled_from(["required", "sometimes", {"name": "weather"}]))
    usual = {"temp": st.just(1), "top_p": st.just(1), "max_length": st.integers(1, 99), "stop": st.just("x")}
    unusual = {
        "temp": st.sampled_from([0, 0.5, 1.5]),
        "top_p": st.just(0.1),
        "frequency_penalty": st.sampled_from([0, 0.5]),
        "stop": st.sampled_from([["a", "b"], [" "], list("abcde"), []]),
        "seed": st.sampled_from([0, 7]),
        "logit_bias": st.sampled_from([{}, {"5": 9}, {"5": 900}]),
        "service_tier": st.sampled_from(["auto", "flex", "gold"]),
        "verbosity": st.sampled_from(["low", "loud"]),
        "parallel_tool_calls": st.booleans(),
        "reasoning_effort": st.sampled_from(["low", "minimal", "lowest"]),
        "response_format": st.sampled_from([{"type": "text"}, {"type": "json_object"}, {"type": "json_schema"}]),
    }
    params: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries({}, optional=usual)
    if draw(st.sampled_from([False, False, True])):
        params = st.fixed_dictionaries({}, optional=unusual)
    return {
        "provider": kind,
        "model": draw(st.sampled_from(MODELS[kind])),
        "messages": messages,
        "functions": functions,
        "function_call": draw(choice),
        "model_params": draw(params),
    }


replies = st.builds(
    lambda pieces, calls, thought: Reply(
        pieces=pieces, tool_calls=calls, message={"reasoning_content": thought} if thought else {}
    ),
    st.lists(texts.filter(bool), max_size=4),
    st.lists(
        st.tuples(st.sampled_from(["weather", "look_up"]), st.dictionaries(texts, values, max_size=2)), max_size=2
    ),
    texts,
)

# --- what the providers get ---


def asked_text(messages: list[dict[str, Any]]) -> list[str]:
    """Return the characters of all texts, sorted, since some are joined on the way, and results come first."""
    said = [text for message in messages for text in _texts(message.get("content"))]
    return sorted("".join("".join(said).split()))


def sent_text(body: dict[str, Any]) -> list[str]:
    return asked_text([{"content": body.get("system")}, *body["messages"]])


def _texts(content: Any) -> Iterator[str]:
    """Yield the texts of a content, also of the results in it."""
    for block in [{"text": content}] if isinstance(content, str) else content or ():
        yield str(block.get("text") or block.get("refusal") or "")
        yield from _texts(block.get("content"))


def asked_calls(messages: list[dict[str, Any]]) -> list[str]:
    calls = []
    for message in messages:
        functions = [call["function"] for call in message.get("tool_calls") or ()]
        functions += [message["function_call"]] if message.get("function_call") else []
        for function in functions:
            arguments = function["arguments"]
            calls.append(json.dumps(json.loads(arguments) if isinstance(arguments, str) else arguments))
    return calls


def sent_calls(body: dict[str, Any]) -> list[str]:
    calls = []
    for message in body["messages"]:
        for call in message.get("tool_calls") or ():
            calls.append(json.dumps(json.loads(call["function"]["arguments"])))
        if message.get("function_call"):
            calls.append(json.dumps(json.loads(message["function_call"]["arguments"])))
        content = message["content"]
        blocks = content if isinstance(content, list) else ()
        calls += [json.dumps(block["input"]) for block in blocks if block.get("type") == "tool_use"]
    return calls


def media(value: Any) -> int:
    """Return how many images and documents there are."""
    if isinstance(value, list):
        return sum(map(media, value))
    if not isinstance(value, dict):
        return 0
    return (value.get("type") in ("image", "image_url", "document", "file", "input_audio")) + media(
        value.get("content")
    )


# --- the test ---


class Bench:
    """A gateway on a loop of its own, with one strict provider for all kinds."""

    def __init__(self, folder: Path) -> None:
        self.provider = FakeProvider().start()
        self.provider.strict = True
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.store = SqliteStore(folder / "translation.db")
        root, base_url = self.provider.root, self.provider.base_url
        providers = {
            "openai": ProviderSettings("openai", "openai", base_url, "sk-x"),
            "azure": ProviderSettings("azure", "azure", root, "sk-x", "2024-10-21"),
            "anthropic": ProviderSettings("anthropic", "anthropic", root, "sk-x"),
            "compatible": ProviderSettings("compatible", "openai_compatible", base_url),
        }
        self.run(self.store.open())
        self.gateway = Gateway(self.store, providers)

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    async def plain(self, request: CompletionRequest) -> tuple[str, Any]:
        answer = await self.gateway.complete("default", request)
        assert answer.status == "success", answer.error
        return answer.content, await self.store.record("default", answer.inference_id)

    async def refusal(self, request: CompletionRequest) -> ProblemError | None:
        try:
            await self.gateway.complete("default", request)
        except ProblemError as error:
            return error
        return None

    async def streamed(self, request: CompletionRequest) -> tuple[str, Any]:
        follower = self.gateway.stream("default", request)
        async with aclosing(aiter(follower)) as arriving:  # type: ignore[type-var]
            chunks = [text async for text in arriving]
        follower.close()
        assert follower.result is not None
        assert follower.result.status == "success", follower.result.error
        record = await self.store.record("default", follower.result.inference_id)
        return "".join(chunks), record

    def close(self) -> None:
        self.run(self.gateway.close())
        self.run(self.store.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()
        self.provider.stop()


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("translation"))
    yield bench
    bench.close()


@pytest.mark.parametrize("kind", MODELS)
@given(data=st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_nothing_is_lost_and_nothing_is_refused_by_the_provider(strict: Bench, kind: str, data: st.DataObject) -> None:
    configuration = data.draw(configurations(kind))
    reply = data.draw(replies)
    request = msgspec.convert({"llm_configuration": configuration, "cache": False}, CompletionRequest)
    strict.provider.requests.clear()
    strict.provider.strict = kind != "compatible"
    strict.provider.default = reply
    refusal = strict.run(strict.refusal(request))
    if refusal is not None:
        event(f"422 {refusal.problem.title}")
        assert (refusal.problem.status, strict.provider.requests) == (422, [])
        with pytest.raises(ProblemError):
            strict.run(strict.streamed(request))
        return
    event("accepted")
    strict.provider.requests.clear()
    content, record = strict.run(strict.plain(request))
    body = strict.provider.requests[0].body
    messages = configuration["messages"]
    assert sent_text(body) == asked_text(messages)
    assert sent_calls(body) == asked_calls(messages)
    assert media(body["messages"]) == media(messages)
    streamed, streamed_record = strict.run(strict.streamed(request))
    sent = {name: value for name, value in strict.provider.requests[1].body.items() if "stream" not in name}
    assert sent == body
    if not reply.tool_calls:
        assert streamed == content == "".join(reply.pieces or ())
    assert (streamed_record.content, to_json(streamed_record.output)) == (record.content, to_json(record.output))
    for field in ("input_tokens", "output_tokens", "usage", "cost", "model"):
        assert getattr(streamed_record, field) == getattr(record, field), field
