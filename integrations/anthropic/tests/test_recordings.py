"""Recorded answers of Anthropic: the record has what the caller gets from a bare client."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest
from anthropic.types import Message, RawMessageStreamEvent

import everycall_anthropic
from everycall.record import Record
from everycall_testkit.recordings import Recording, Replay, lost_leaves, parametrize_recordings

LEFT_OUT = (
    # Names of types and roles, where the text is all there is, and of events.
    r"(message\.)?(type|role)", r"(content\[\d+\]|content_block|delta)\.type", r"error\.type",
    # Counts become those of one convention, which `tests/usage` tests.
    r"(message\.)?usage\.(.*_tokens|.*_tokens_details\..*|cache_creation\..*|server_tool_use\..*|iterations.*)",
    # Indexes, which a list has itself.
    r"index",
)  # fmt: skip
REPLACED = (r"usage\..*",)
has_recordings = pytest.mark.skipif(
    not hasattr(anthropic.resources.messages.Messages, "parse"), reason="the recordings have members of later versions"
)


def send(client: anthropic.Anthropic, recording: Recording) -> Any:
    """Send the recorded request and return the whole answer as plain values, or the error."""
    kind: Any = anthropic.Stream[RawMessageStreamEvent]
    try:
        answer: Any = client.post(
            "/v1/messages", body=recording.request, cast_to=Message, stream=recording.is_stream, stream_cls=kind
        )
        if recording.is_stream:
            return [event.to_dict(warnings=False) for event in answer]
        return answer.to_dict(warnings=False)
    except anthropic.AnthropicError as error:
        return type(error), str(error)


@has_recordings
@parametrize_recordings("messages")
def test_a_recorded_answer(recording: Recording, records: list[Record]) -> None:
    with Replay(recording) as server:
        results = []
        for is_wrapped in (False, True):
            with anthropic.Anthropic(base_url=server.url, api_key="k", max_retries=0) as client:
                if is_wrapped:
                    everycall_anthropic.wrap(client, provider=recording.provider)
                results.append(send(client, recording))
    assert results[0] == results[1]
    (record,) = records
    assert record.status == ("error" if isinstance(results[0], tuple) else "success")
    missing = lost_leaves(recording, record, LEFT_OUT, REPLACED)
    assert missing == [], "\n".join(str(leaf)[:160] for leaf in missing[:8])
