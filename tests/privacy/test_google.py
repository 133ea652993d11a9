"""Google's client under omit flags, to the last byte: entry x outcome x flag, on the wire, on disk and in logs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx2
import pytest
from google import genai
from google.genai import errors, types

import everycall
import everycall_google

OUTCOMES = ["ok", "error", "abandoned", "broken", "timeout", "cancelled"]
IN, OUT, WHY = "i-", "o-", "w-"
"""The places of the canary: in the request, in the answer, in the text of an error."""
EXPECTED = (errors.APIError, httpx2.HTTPError, aiohttp.ClientError, TimeoutError, asyncio.CancelledError)
"""With aiohttp installed, google-genai sends its async requests with it."""


def asked(canary: str) -> dict[str, Any]:
    """A request with a canary in all that a caller can say."""
    text = f"{IN}{canary}"
    inner = {text: types.Schema(type=types.Type.STRING, description=text)}
    schema = types.Schema(type=types.Type.OBJECT, properties=inner)
    declared = types.FunctionDeclaration(name="look_up", description=text, parameters=schema)
    config = types.GenerateContentConfig(
        system_instruction=text,
        stop_sequences=[text],
        tools=[types.Tool(function_declarations=[declared])],
        http_options=types.HttpOptions(headers={"x-secret": text}),
    )
    contents = [
        text,
        types.Part.from_bytes(data=text.encode(), mime_type="text/plain"),
        types.Part.from_uri(file_uri=f"gs://{text}", mime_type="image/png"),
        types.Part.from_function_response(name="look_up", response={text: text}),
    ]
    return {"model": "gemini-2.5-flash", "contents": contents, "config": config}


def answer(provider: Any, canary: str, outcome: str) -> None:
    """Let the provider answer with a canary in all that a model can say, or fail with one in its words."""
    text, why = f"{OUT}{canary}", f"{WHY}{canary}"
    grounding = {"webSearchQueries": [text], "groundingChunks": [{"web": {"uri": f"https://{text}", "title": text}}]}
    message = {
        "parts": [{"text": text, "thought": True}, {"executableCode": {"language": "PYTHON", "code": text}}],
        "candidate": {"groundingMetadata": grounding, "finishMessage": text},
    }
    fields: dict[str, Any] = {"pieces": [text, text], "tool_calls": [("look_up", {text: text})], "message": message}
    if outcome == "error":
        fields = {"status": 400, "error": why}
    elif outcome == "broken":
        fields |= {"break_after": 1, "cut": True}
    elif outcome != "ok":
        fields["pause_after"] = 1
    provider.default = type(provider.default)(**fields)


def whole(client: Any, canary: str, outcome: str) -> None:
    """A plain request, and embeddings."""
    client.models.embed_content(model="e", contents=f"{IN}{canary}")
    client.models.generate_content(**asked(canary))


def stream(client: Any, canary: str, outcome: str) -> None:
    """A stream, closed after the first text if the outcome says so; it is read outside the enclosing call."""
    for piece in client.models.generate_content_stream(**asked(canary)):
        if outcome == "abandoned" and piece.usage_metadata:
            break


def chat(client: Any, canary: str, outcome: str) -> None:
    """Two turns of a chat."""
    talk = client.chats.create(model="gemini-2.5-flash", config=asked(canary)["config"])
    talk.send_message(f"{IN}{canary}")
    for piece in talk.send_message_stream(f"{IN}{canary}"):
        if outcome == "abandoned" and piece.usage_metadata:
            break


def later(client: Any, canary: str, outcome: str) -> None:
    """A stream on an event loop, cancelled if the outcome says so."""

    async def read() -> None:
        async for piece in await client.aio.models.generate_content_stream(**asked(canary)):
            if outcome == "abandoned" and piece.usage_metadata:
                break

    async def main() -> None:
        task = asyncio.create_task(read())
        if outcome == "cancelled":
            await asyncio.sleep(0.15)
            task.cancel()
        try:
            await task
        finally:
            await client.aio.aclose()

    asyncio.run(main())


ENTRIES = [whole, stream, chat, later]
CASES = [
    (entry, outcome)
    for entry in ENTRIES
    for outcome in OUTCOMES
    if entry in (stream, later) or outcome not in ("timeout", "cancelled")  # the provider holds back streams alone
    if entry is later or outcome != "cancelled"
]
FLAGS = [{"log_omit_inputs": True, "log_omit_outputs": True}, {"log_omit": True}]
WAYS = ["wrap", "instrument", "context", "init", "environment"]


@pytest.fixture
def instrumented() -> Iterator[None]:
    yield
    everycall_google.uninstrument()


def run(way: str, entry: Callable[..., None], canary: str, outcome: str, sink: Any, provider: Any, flags: Any) -> None:
    """Run an entry with the flags given in one of the ways a user can give them."""
    everycall.init(endpoint=sink.address, **(flags if way == "init" else {}))
    answer(provider, canary, outcome)
    plain = {"verify": False}  # loading certificates takes most of a test's time
    client = genai.Client(
        api_key="k",
        http_options=types.HttpOptions(
            base_url=provider.root,
            timeout=100 if outcome == "timeout" else 30_000,
            client_args=plain,
            async_client_args=plain,
        ),
    )
    if way == "instrument":
        everycall_google.instrument(**flags)
    else:
        everycall_google.wrap(client, **(flags if way == "wrap" else {}))
    with everycall.context(**(flags if way == "context" else {})):
        try:
            entry(client, canary, outcome)
        except EXPECTED:
            assert outcome not in ("ok", "abandoned")
    client.close()
    everycall_google.uninstrument()
    assert everycall.flush(10).spooled == 0


@pytest.mark.parametrize(("entry", "outcome"), CASES, ids=lambda part: getattr(part, "__name__", part))
@pytest.mark.parametrize("flags", FLAGS, ids="+".join)
@pytest.mark.usefixtures("instrumented")
def test_omitted_content_is_nowhere(
    sink: Any, provider: Any, tmp_path: Path, canary: str, written_output: Callable[[], str],
    entry: Callable[..., None], outcome: str, flags: dict[str, bool], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Whichever way the flags are given, the canary is in no byte; with `log_omit` there is no record at all."""
    for way in WAYS:
        if way == "environment":
            monkeypatch.setenv("EVERYCALL_LOG_OMIT", "all" if "log_omit" in flags else "inputs,outputs")
        run(way, entry, f"{canary}-{way}", outcome, sink, provider, flags)
    files = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert canary.encode() not in b"\n".join(sink.bodies) + files
    assert canary not in written_output()
    if "log_omit" in flags:
        assert sink.records == []
    else:
        assert len(sink.records) >= len(WAYS)
        assert all(set(record["omitted"]) >= {"inputs", "outputs"} for record in sink.records)


@pytest.mark.parametrize("entry", [whole, stream, later], ids=lambda entry: entry.__name__)
@pytest.mark.parametrize(
    ("flag", "hidden", "visible"),
    [("log_omit_inputs", (IN, WHY), OUT), ("log_omit_outputs", (OUT, WHY), IN)],
    ids=["inputs", "outputs"],
)
def test_one_side_omitted(
    sink: Any, provider: Any, canary: str, entry: Callable[..., None], flag: str, hidden: tuple[str, ...], visible: str
) -> None:
    """The other side is kept; of an error neither side's flag lets its words pass.

    Not of a chat: what it was answered it asks again, and then it is an input.
    """
    for outcome in ("ok", "error", "broken", "abandoned"):
        run("wrap", entry, canary, outcome, sink, provider, {flag: True})
    bodies = b"\n".join(sink.bodies).decode()
    assert all(place + canary not in bodies for place in hidden)
    assert visible + canary in bodies


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.__name__)
def test_without_flags_each_place_is_recorded(
    sink: Any, provider: Any, canary: str, entry: Callable[..., None]
) -> None:
    """The search works: requests, answers and error texts reach the sink. Headers never do."""
    for outcome in OUTCOMES[:2]:
        run("none", entry, canary, outcome, sink, provider, {})
    bodies = b"\n".join(sink.bodies).decode()
    for place in (IN, OUT, WHY):
        assert place + canary in bodies
    assert "x-secret" not in bodies
