"""Recorded answers of Gemini and Vertex AI: the record has what the caller gets from a bare client."""

from __future__ import annotations

import re
from typing import Any

from google import genai
from google.genai import errors, types

import everycall_google
from everycall.record import Record
from everycall_google._responses import body_of
from everycall_testkit.recordings import Recording, Replay, lost_leaves, parametrize_recordings

LEFT_OUT = (
    # Times of the server, and an embedding's numbers.
    r"createTime", r"embeddings?(\[\d+\])?\.values.*",
    # Counts become those of one convention, which `tests/usage` tests.
    r"usageMetadata\..*(Count|\.modality)", r"embeddings\[\d+\]\.statistics\..*", r"metadata\..*",
    # Signatures of thoughts, which only Google can read.
    r".*\.thoughtSignature",
    # The role, and what repeats the answer's text: the HTML of a search widget, and the text that a source supports.
    r"candidates\[\d+\]\.content\.role", r"candidates\[\d+\]\.groundingMetadata\.searchEntryPoint\..*",
    r"candidates\[\d+\]\.groundingMetadata\.groundingSupports\[\d+\]\.segment\.text",
    # Indexes, which a list has itself.
    r"candidates\[\d+\]\.index",
)  # fmt: skip


def send(client: genai.Client, path: str, recording: Recording) -> Any:
    """Send the recorded request by what all of the library's methods use; return the bodies, or the error."""
    api_client: Any = client._api_client
    try:
        if recording.is_stream:
            return [body_of(chunk) for chunk in api_client.request_streamed("post", path, recording.request)]
        return body_of(api_client.request("post", path, recording.request))
    except errors.APIError as error:
        return type(error), str(error)


@parametrize_recordings("generateContent", "embedContent")
def test_a_recorded_answer(recording: Recording, records: list[Record]) -> None:
    path = re.sub(r"^https://[^/]+/(v1beta1|v1beta|v1)/", "", recording.url).partition("?")[0]
    path += "?alt=sse" if recording.is_stream else ""
    with Replay(recording) as server:
        results = []
        for is_wrapped in (False, True):
            client = genai.Client(api_key="k", http_options=types.HttpOptions(base_url=server.url))
            if is_wrapped:
                everycall_google.wrap(client)
            results.append(send(client, path, recording))
            client._api_client._httpx_client.close()  # older versions have no `close`
    assert results[0] == results[1]
    (record,) = records
    assert record.status == ("error" if isinstance(results[0], tuple) else "success")
    missing = lost_leaves(recording, record, LEFT_OUT)
    assert missing == [], "\n".join(str(leaf)[:160] for leaf in missing[:8])
