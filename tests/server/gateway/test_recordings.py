"""Recorded answers of real providers, replayed: nothing that a message says is lost, and a stream is read as a whole.

The recordings are not part of the project. The environment variable EVERYCALL_RECORDINGS names their folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from everycall.server.gateway.formats.anthropic_response import MessageStreamParser
from everycall.server.gateway.formats.anthropic_response import read_response as read_message
from everycall.server.gateway.formats.openai_response import ChatStreamParser
from everycall.server.gateway.formats.openai_response import read_response as read_chat
from everycall.server.gateway.provider_request import ProviderRequest
from everycall.server.gateway.provider_response import ProviderError, ProviderResponse
from everycall.usage import usage_fields

BESIDE = Path(__file__).parents[4] / "shared" / "recordings"
FOLDER = Path(os.environ.get("EVERYCALL_RECORDINGS") or BESIDE)
RECORDINGS = sorted(path for api in ("chat", "messages") for path in (FOLDER / api).glob("*.json"))
NOT_SAID = {"role", "type", "index", "id", "signature", "logprobs", "object", "channel", "token", "bytes"}
"""Members that say nothing themselves, or are in the record elsewhere."""

pytestmark = pytest.mark.skipif(not RECORDINGS, reason="no folder of recordings; EVERYCALL_RECORDINGS may name one")


def request(recording: dict[str, Any]) -> ProviderRequest:
    body = recording["request"]
    return ProviderRequest("recorded", str(body.get("model") or "m"), {}, [], [], None)


def events(recording: dict[str, Any]) -> Iterator[bytes]:
    for event in recording["events"]:
        data = "\n".join(line[5:].lstrip() for line in event.split("\n") if line.startswith("data:"))
        if data and data != "[DONE]":
            yield data.encode()


def read(recording: dict[str, Any]) -> ProviderResponse:
    is_chat = recording["api"] == "chat"
    if not recording["stream"]:
        reader = read_chat if is_chat else read_message
        return reader(recording["response"], request(recording), "recorded")
    parser = (ChatStreamParser if is_chat else MessageStreamParser)(request(recording), "recorded")
    for event in events(recording):
        parser.feed(event)
    parser.end()
    return parser.response()


def leaves(value: Any) -> Iterator[str]:
    """Yield every string and number of a value."""
    if isinstance(value, dict):
        for member, inner in value.items():
            yield member
            yield from leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner)
    elif value is not None:
        yield str(value)


def said(value: Any, name: str = "") -> Iterator[str]:
    """Yield every text of a message or a delta."""
    if isinstance(value, dict):
        for member, inner in value.items():
            yield from said(inner, member)
    elif isinstance(value, list):
        for inner in value:
            yield from said(inner, name)
    elif isinstance(value, str) and name not in NOT_SAID:
        yield value


def chunks(recording: dict[str, Any]) -> Iterator[Any]:
    """Yield what a recording says: its message, or the deltas of its stream."""
    if recording["stream"]:
        for event in map(json.loads, events(recording)):
            yield [choice.get("delta") for choice in event.get("choices") or ()]
            yield [event.get("delta") if event.get("type") == "content_block_delta" else event.get("content_block")]
    else:
        body = recording["response"]
        yield [choice.get("message") for choice in body.get("choices") or ()]
        yield body.get("content") if recording["api"] == "messages" else None


def squeezed(text: str) -> str:
    """Return a text without what JSON escapes and spaces differ in."""
    return "".join(character for character in text if character.isalnum())


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: f"{path.parent.name}-{path.stem}"[:60])
def test_nothing_that_was_said_is_lost(path: Path) -> None:
    recording = json.loads(path.read_text(encoding="utf-8"))
    if recording["status"] >= 400:
        pytest.skip("an error, read by its status")
    bodies = [recording["response"]] if not recording["stream"] else map(json.loads, events(recording))
    if any(body.get("error") for body in bodies):
        with pytest.raises(ProviderError):
            read(recording)
        return
    response = read(recording)
    kept = squeezed("".join([response.content, *leaves(response.output)]) + json.dumps(response.output))
    lost = [text for chunk in chunks(recording) for text in said(chunk) if squeezed(text) not in kept]
    assert lost == []
    if not recording["stream"]:
        fields = usage_fields(recording["response"].get("usage"), response=recording["response"])
        assert response.tokens.total == fields.get("total_tokens")
