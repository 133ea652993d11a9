"""Recorded answers of OpenAI and of hosts of its protocol: the record has what the caller gets from a bare client."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk

import everycall_openai
from everycall.record import Record
from everycall_testkit.recordings import Recording, Replay, lost_leaves, parametrize_recordings

responses = pytest.importorskip("openai.types.responses", reason="this version has no Responses API")

PATHS = {
    "chat": ("/chat/completions", ChatCompletion, ChatCompletionChunk),
    "completions": ("/completions", Completion, Completion),
    "embeddings": ("/embeddings", CreateEmbeddingResponse, None),
    "responses": ("/responses", responses.Response, responses.ResponseStreamEvent),
}
LEFT_OUT = (
    # Names of types, and times of the server: a record has times of its own.
    r"(response\.)?object", r"type", r"(response\.)?(created|created_at|completed_at)", r"data\[\d+\]\.object",
    # Counts become those of one convention, which `tests/usage` tests.
    r"(.*\.)?usage\.(.*_tokens|.*_tokens_details\..*)", r"(.*\.)?tool_usage\..*", r"total_tokens",
    # What a response repeats of its request.
    r"(response\.)?(instructions|tools|tool_choice|text|reasoning|prompt|metadata|prompt_cache\w*)(\W.*)?",
    r"(response\.)?(temperature|top_p|top_logprobs|presence_penalty|frequency_penalty|max_output_tokens)",
    r"(response\.)?(truncation|previous_response_id)",
    # The status, which is the reason for the end; what an item has beside its text if it is one text only.
    r"(response\.)?status", r"(output\[\d+\]|item|response\.output\[\d+\])\.(id|type|role|status)",
    r"(output\[\d+\]|item|response\.output\[\d+\])\.content\[\d+\]\.type", r"part\.type",
    r"choices\[\d+\]\.(message|delta)\.role",
    # Indexes, which a list has itself, and ids that only tie events together.
    r"(.*\.)?(index|output_index|content_index|summary_index|annotation_index|sequence_number)", r"item_id",
    # Random padding; a text that is there twice; an embedding's numbers; Together's id of the last token.
    r"obfuscation", r"p", r"choices\[\d+\]\.text|(response\.)?output_text", r"data\[\d+\]\.embedding.*",
    r"choices\[\d+\]\.delta\.token_id",
    # OpenRouter's name of the account, beside an error, which the library drops.
    r"user_id",
)  # fmt: skip
REPLACED = (r"id", r"response\.service_tier", r"item\.encrypted_content")
"""Groq gives each chunk an id of its own; a tier is `auto` until the response is complete."""


def send(client: openai.OpenAI, api: str, recording: Recording) -> Any:
    """Send the recorded request and return the whole answer as plain values, or the error."""
    path, whole, piece = PATHS[api]
    kind: Any = openai.Stream[piece] if piece is not None else None  # type: ignore[valid-type]
    try:
        answer = client.post(path, body=recording.request, cast_to=whole, stream=recording.is_stream, stream_cls=kind)
        if recording.is_stream:
            return [chunk.to_dict(warnings=False) for chunk in answer]
        return answer.to_dict(warnings=False)
    except openai.OpenAIError as error:
        return type(error), str(error)


@parametrize_recordings(*PATHS)
def test_a_recorded_answer(recording: Recording, records: list[Record], request: pytest.FixtureRequest) -> None:
    api = request.node.callspec.id.partition("/")[0]
    with Replay(recording) as server:
        results = []
        for is_wrapped in (False, True):
            with openai.OpenAI(base_url=f"{server.url}/v1", api_key="k", max_retries=0) as client:
                if is_wrapped:
                    everycall_openai.wrap(client, provider=recording.provider, stream_usage=False)
                results.append(send(client, api, recording))
    assert results[0] == results[1]
    (record,) = records
    assert record.status == ("error" if isinstance(results[0], tuple) else record.status)
    missing = lost_leaves(recording, record, LEFT_OUT, REPLACED)
    assert missing == [], "\n".join(str(x)[:160] for x in missing[:8])
