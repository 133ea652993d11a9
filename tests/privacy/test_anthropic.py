"""Anthropic's client under omit flags, to the last byte: entry x outcome x flag, on the wire, on disk, in logs."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic
import pytest

import everycall
import everycall_anthropic

OUTCOMES = ["ok", "error", "error in the middle", "abandoned"]
FLAGS = [{"log_omit_inputs": True, "log_omit_outputs": True}, {"log_omit": True}]
WAYS = ["wrap", "context", "init", "environment"]


def asked(canary: str) -> dict[str, Any]:
    """A request that has the canary wherever text may be."""
    tool = {"name": f"i-{canary}", "description": f"i-{canary}", "input_schema": {"type": "object"}}
    return {
        "model": "claude-test",
        "max_tokens": 9,
        "system": f"i-{canary}",
        "messages": [{"role": "user", "content": [{"type": "text", "text": f"i-{canary}"}]}],
        "tools": [tool],
        "stop_sequences": [f"i-{canary}"],
        "metadata": {"user_id": f"i-{canary}"},
    }


def reply(provider: Any, canary: str, outcome: str) -> None:
    """Script the outcome of the next request. Its answer and its error text contain the canary."""
    if outcome == "error":
        provider.reply(status=400, error=f"w-{canary}")
        return
    blocks = [
        {"type": "thinking", "thinking": f"o-{canary}", "signature": f"o-{canary}"},
        {"type": "tool_use", "id": f"o-{canary}", "name": f"o-{canary}", "input": {f"o-{canary}": f"o-{canary}"}},
        {"type": "text", "text": f"o-{canary}"},
    ]
    details = {"type": "refusal", "category": None, "explanation": f"o-{canary}"}
    provider.reply(
        message={"content": blocks, "stop_details": details, "stop_sequence": f"o-{canary}"},
        finish="refusal",
        error_after=3 if outcome == "error in the middle" else None,
    )


def whole(client: Any, canary: str, outcome: str) -> None:
    """One answer; streamed if it should be closed early or break off, which only streams can."""
    if outcome in ("ok", "error"):
        client.messages.create(**asked(canary))
    else:
        streamed(client, canary, outcome)


def streamed(client: Any, canary: str, outcome: str) -> None:
    """The events of a stream."""
    with client.messages.create(**asked(canary), stream=True) as stream:
        for event in stream:
            if outcome == "abandoned" and event.type == "content_block_delta" and event.index == 2:
                break


def helper(client: Any, canary: str, outcome: str) -> None:
    """The library's helper for streams."""
    with client.messages.stream(**asked(canary)) as stream:
        for _ in stream.text_stream:
            if outcome == "abandoned":
                break


def by_bytes(client: Any, canary: str, outcome: str) -> None:
    """A raw response, parsed."""
    with client.messages.with_streaming_response.create(**asked(canary), stream=True) as raw:
        for event in raw.parse():
            if outcome == "abandoned" and event.type == "content_block_delta":
                break


def batch(client: Any, canary: str, outcome: str) -> None:
    """Results of a batch, a failed one among them."""
    for _ in client.messages.batches.results("msgbatch_1"):
        if outcome == "abandoned":
            break


def asynchronous(client: Any, canary: str, outcome: str) -> None:
    """On an event loop."""

    async def main() -> None:
        http = anthropic.DefaultAsyncHttpxClient(verify=False)
        async with anthropic.AsyncAnthropic(
            base_url=str(client.base_url), api_key="k", max_retries=0, http_client=http
        ) as made:
            wrapped = everycall_anthropic.wrap(made, **client.everycall_flags)
            stream = await wrapped.messages.create(**asked(canary), stream=True)
            async for event in stream:
                if outcome == "abandoned" and event.type == "content_block_delta":
                    break
            await stream.close()

    asyncio.run(main())


ENTRIES = [whole, streamed, helper, by_bytes, batch, asynchronous]


def run(way: str, entry: Callable[..., None], canary: str, outcome: str, sink: Any, provider: Any,
        flags: dict[str, Any]) -> None:  # fmt: skip
    """Run an entry with the flags given in one of the ways a user can give them."""
    everycall.init(endpoint=sink.address, **(flags if way == "init" else {}))
    if entry is batch and outcome != "error":
        error = {"type": "error", "error": {"type": "invalid_request_error", "message": f"w-{canary}"}}
        text = {"id": "msg_1", "model": "m", "content": [{"type": "text", "text": f"o-{canary}"}]}
        results = [{"type": "succeeded", "message": text}, {"type": "errored", "error": error}]
        lines = [{"custom_id": str(number), "result": result} for number, result in enumerate(results)]
        provider.reply(body=b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    else:
        reply(provider, canary, outcome)
    http = anthropic.DefaultHttpxClient(verify=False)  # loading certificates takes longer than all the rest
    with anthropic.Anthropic(base_url=provider.root, api_key="k", max_retries=0, http_client=http) as client:
        everycall_anthropic.wrap(client, **(flags if way == "wrap" else {}))
        client.everycall_flags = flags if way == "wrap" else {}  # type: ignore[attr-defined]
        with everycall.context(**(flags if way == "context" else {})):
            try:
                entry(client, canary, outcome)
            except anthropic.APIStatusError:
                assert outcome.startswith("error")
    assert everycall.flush(10).spooled == 0


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.__name__)
@pytest.mark.parametrize("flags", FLAGS, ids="+".join)
def test_omitted_content_is_nowhere(
    sink: Any, provider: Any, tmp_path: Path, canary: str, caplog: pytest.LogCaptureFixture,
    entry: Callable[..., None], outcome: str, flags: dict[str, Any], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Whichever way the flags are given, the canary is in no byte; with `log_omit` there is no record at all."""
    caplog.set_level(logging.DEBUG, "everycall")
    for way in WAYS:
        if way == "environment":
            monkeypatch.setenv("EVERYCALL_LOG_OMIT", "all" if "log_omit" in flags else "inputs,outputs")
        run(way, entry, f"{canary}-{way}", outcome, sink, provider, flags)
    files = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert canary.encode() not in b"\n".join(sink.bodies) + files
    assert not [record for record in caplog.records if record.name.startswith("everycall")]
    if "log_omit" in flags:
        assert sink.records == []
    else:
        assert len(sink.records) >= len(WAYS)
        assert all(set(record["omitted"]) >= {"inputs", "outputs"} for record in sink.records)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.__name__)
def test_without_flags_each_place_is_recorded(
    sink: Any, provider: Any, canary: str, entry: Callable[..., None]
) -> None:
    """The search works: what was asked and answered, and what errors say, do reach the sink."""
    for outcome in OUTCOMES[:2]:
        run("none", entry, canary, outcome, sink, provider, {})
    bodies = b"\n".join(sink.bodies).decode()
    assert f"o-{canary}" in bodies
    assert f"w-{canary}" in bodies
    assert f"i-{canary}" in bodies or entry is batch
