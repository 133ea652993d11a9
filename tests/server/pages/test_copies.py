"""A record as text to copy: what is copied runs, and says what the record says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import httpx
import pytest

from everycall import limits
from everycall.record import Record, encode, to_raw
from everycall.server.pages.copies import copies_of, request_of

HOSTILE = "it's $(touch hacked) `id` \"q\" \\ \n \x1b[31m \u202e é {} '''"


def record(**fields: Any) -> Record:
    configuration = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": HOSTILE}]}
    values = {"kind": "llm", "llm_configuration": to_raw(configuration), **fields}
    return Record(inference_id="i", trace_id="t", **values)


def test_json_is_the_record() -> None:
    text = copies_of(record(), "http://h").json
    assert text is not None
    assert json.loads(text) == json.loads(encode(record()))


@pytest.mark.parametrize(
    "other",
    [
        record(kind="tool"),
        record(omitted=["inputs"]),
        record(llm_configuration=to_raw({"model": "m"})),
        record(llm_configuration=to_raw([1])),
    ],
)
def test_only_a_model_call_with_messages_can_be_run_again(other: Record) -> None:
    assert request_of(other) is None
    copies = copies_of(other, "http://h")
    assert copies.json is not None
    assert (copies.curl, copies.python) == (None, None)


def test_a_large_record_is_not_copied() -> None:
    copies = copies_of(record(content="x" * limits.COPY_BYTES_MAX), "http://h")
    assert (copies.json, copies.curl, copies.python) == (None, None, None)


def test_the_command_and_the_program_control_no_terminal() -> None:
    copies = copies_of(record(), "http://h")
    for text in (copies.curl, copies.python):
        assert text is not None
        assert "\x1b" not in text
        assert "\u202e" not in text


@pytest.mark.parametrize("language", ["curl", "python"])
def test_what_is_copied_runs_the_call_again(gateway_server: Any, language: str) -> None:
    key = {"x-api-key": gateway_server.key}
    with httpx.Client(base_url=gateway_server.address, headers=key) as client:
        sent = client.post("/v1/records", content=encode(record(llm_inputs=to_raw({"unused": "'"}))))
        assert sent.json()["refused"] == []
        text = getattr(copies_of(record(), gateway_server.address), language)
        if language == "curl" and not (shutil.which("curl") and shutil.which("sh")):
            pytest.skip("curl is not installed")
        command = ["sh", "-c", text] if language == "curl" else [sys.executable, "-c", text]
        environment = {**os.environ, "EVERYCALL_API_KEY": gateway_server.key}
        finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert finished.returncode == 0, finished.stderr
        runs = client.get("/api/records", params={"limit": 10}).json()["records"]
    again = next(one for one in runs if one["inference_id"] != "i")
    assert again["llm_configuration"]["messages"] == [{"role": "user", "content": HOSTILE}]
    assert again["content"] in finished.stdout or json.loads(finished.stdout)["content"] == again["content"]
