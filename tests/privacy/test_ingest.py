"""What comes to the server from other clients: nothing that a record says was left out is stored, refused or repeated.

And no error answer of any route repeats what a body holds: it may be content, and answers end in logs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

TRACE_LOG = "/api/parea/v1/trace_log"
START = "2026-09-21T14:13:20+00:00"


def line(inference_id: str, canary: str, **fields: Any) -> dict[str, Any]:
    """A record with a canary in each place where content can be."""
    cut = {"kept": 3, "bytes": 9_000_000, "sha256": "ab"}
    return {
        "inference_id": inference_id,
        "trace_id": "t",
        "llm_inputs": {"x": f"i-{canary}"},
        "llm_configuration": {"messages": [{"content": f"i-{canary}"}]},
        "inputs": {"q": f"i-{canary}"},
        "target": f"i-{canary}",
        "content": f"o-{canary}",
        "output": [f"o-{canary}"],
        "status": "error",
        "error": f"ValueError: w-{canary}",
        "error_type": "ValueError",
        "truncated": {"inputs": cut, "content": cut, "metadata": cut},
        "metadata": {"team": "a"},
        "attributes": {
            "code.location": "app:7",
            "exception.type": "ValueError",
            "exception.message": f"w-{canary}",
            "exception.stacktrace": f"w-{canary}",
            "events": [{"name": f"w-{canary}"}],
            "gen_ai.input.messages": f"w-{canary}",
            "gen_ai.response.id": "r-1",
            f"w-{canary}": 1,
        },
        **fields,
    }


def post(endpoint: Any, *records: dict[str, Any]) -> dict[str, Any]:
    answer = endpoint.client.post("/v1/records", content="\n".join(map(json.dumps, records)).encode())
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


@pytest.mark.parametrize(
    "sides", [(), ("inputs",), ("outputs",), ("inputs", "outputs")], ids=lambda s: "+".join(s) or "none"
)
def test_fields_that_a_record_omits_are_not_stored(
    endpoint: Any, canary: str, written_output: Callable[[], str], sides: tuple[str, ...]
) -> None:
    """By side; with either the error's message and the attributes go, and the sizes and hashes of what is gone."""
    post(endpoint, line(f"id-{canary}", canary, omitted=list(sides)))
    stored = endpoint.every_byte().decode("utf-8", "replace").replace(f"id-{canary}", "")
    assert (f"i-{canary}" in stored) == ("inputs" not in sides)
    assert (f"o-{canary}" in stored) == ("outputs" not in sides)
    assert (f"w-{canary}" in stored) == (not sides)
    assert canary not in written_output().replace(f"id-{canary}", "")
    record = endpoint.record(f"id-{canary}")
    assert record is not None
    assert (record["error_type"], record["metadata"], record["status"]) == ("ValueError", {"team": "a"}, "error")
    if sides:
        assert record["error"] == "ValueError at app:7"
        assert record["attributes"].keys() == {"code.location", "exception.type", "gen_ai.response.id"}
        fields = {"inputs": "inputs", "outputs": "content"}
        assert record["truncated"].keys() == {"inputs", "content", "metadata"} - {fields[side] for side in sides}


def test_a_refused_record_is_not_repeated(endpoint: Any, canary: str, written_output: Callable[[], str]) -> None:
    """The reason names the field and what was expected there; answer, log and store have no word of the record."""
    bad: list[dict[str, Any]] = [
        {"input_tokens": f"o-{canary}"},
        {"status": f"w-{canary}"},
        {"usage": {f"w-{canary}": "many"}},
        {"tags": [f"w-{canary}" * 200]},
        {"name": f"w-{canary}" * 200},
        {"truncated": {"x": f"w-{canary}"}},
        {"omitted": f"w-{canary}"},
        {"cost": f"w-{canary}"},
        {"kind": f"w-{canary}" * 20},
        {"project_name": ""},
        {"inputs": json.loads("[" * 400 + f'"w-{canary}"' + "]" * 400)},
    ]
    lines = [line(f"bad-{n}", canary, **{"omitted": ["inputs", "outputs"], **fields}) for n, fields in enumerate(bad)]
    answer = post(endpoint, *lines)
    assert answer["refused_count"] == len(bad)
    assert canary not in json.dumps(answer)
    torn = json.dumps(line("torn", canary, omitted=["inputs"])).encode()
    for cut in (torn[:-1], torn.replace(b"i-", b"\xff", 1), b'"' + torn, torn + b"}", torn.replace(b":", b" ", 5)):
        answer = endpoint.client.post("/v1/records", content=cut)
        assert answer.json()["refused_count"] == 1, answer.text
        assert canary not in answer.text
    assert canary.encode() not in endpoint.every_byte()
    assert canary not in written_output()


# --- Parea's trace logs ---


def log(trace_id: str, canary: str, **fields: Any) -> dict[str, Any]:
    return {
        "trace_id": trace_id,
        "start_timestamp": START,
        "trace_name": "answer",
        "inputs": {"q": f"i-{canary}"},
        "output": f"o-{canary}",
        "target": f"i-{canary}",
        "configuration": {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": f"i-{canary}"}]},
        "error": f"Traceback: w-{canary}",
        "output_for_eval_metrics": f"o-{canary} for evals",
        "images": [f"w-{canary}"],
        "metadata": {"team": "a"},
        **fields,
    }


FLAGS: list[dict[str, bool]] = [
    {},
    {"log_omit_inputs": True},
    {"log_omit_outputs": True},
    {"log_omit_inputs": True, "log_omit_outputs": True},
    {"log_omit": True},
]


@pytest.mark.parametrize("flags", FLAGS, ids=lambda flags: "+".join(flags) or "none")
def test_a_trace_log_with_flags(endpoint: Any, canary: str, flags: dict[str, bool]) -> None:
    """They are flags of completions, which Parea's clients do not send here. They apply, also to later logs."""
    own = f"id-{canary}"
    assert endpoint.client.post(TRACE_LOG, json=log(own, canary, **flags)).json() == {"trace_id": own}
    if not flags.get("log_omit"):
        again = {"inputs": {"q": f"i-{canary}"}, "output": f"o-{canary}", "error": f"w-{canary}", "feedback_score": 0.5}
        update = {"trace_id": own, "field_name_to_value_map": again}
        assert endpoint.client.put(TRACE_LOG, json=update).status_code == 200
        assert endpoint.client.post(TRACE_LOG, json=log(own, canary)).status_code == 200
    stored = endpoint.every_byte().decode("utf-8", "replace").replace(own, "")
    inputs = flags.get("log_omit") or flags.get("log_omit_inputs")
    outputs = flags.get("log_omit") or flags.get("log_omit_outputs")
    assert (f"i-{canary}" in stored) == (not inputs)
    assert (f"o-{canary}" in stored) == (not outputs)
    assert (f"w-{canary}" in stored) == (not flags)
    record = endpoint.record(own)
    if flags.get("log_omit"):
        assert record is None
    else:
        assert record is not None
        assert record["attributes"]["parea.feedback_score"] == 0.5
        assert record.get("omitted", []) == [s for s, on in (("inputs", inputs), ("outputs", outputs)) if on]


def test_flags_in_an_update_apply(endpoint: Any, canary: str) -> None:
    """An update that comes before its log, with a flag: what it brings beside is left out, and so is the log's."""
    own = f"id-{canary}"
    update = {"log_omit_inputs": True, "inputs": {"q": f"i-{canary}"}}
    assert endpoint.client.put(TRACE_LOG, json={"trace_id": own, "field_name_to_value_map": update}).status_code == 200
    assert f"i-{canary}".encode() not in endpoint.every_byte()


# --- error answers ---

BODIES: list[tuple[str, str, dict[str, Any]]] = [
    (
        "POST",
        "/api/parea/v1/completion",
        {
            "llm_configuration": {
                "model": "gpt-4o-mini",
                "provider": "openai",
                "model_params": {"temp": 1.0, "max_length": 3, "response_format": {"type": "text"}},
                "messages": [{"role": "user", "content": "x"}],
                "history": [{"role": "user", "content": "x"}],
                "functions": [{"name": "f", "parameters": {}}],
                "function_call": "auto",
            },
            "llm_inputs": {"x": "y"},
            "metadata": {"a": "b"},
            "tags": ["t"],
            "target": "t",
            "cache": True,
            "log_omit": True,
            "log_sample_rate": 1.0,
            "trace_id": "t",
            "inference_id": "i",
            "deployment_id": "p-none",
            "project_name": "default",
        },
    ),
    ("POST", TRACE_LOG, {**log("log", "x"), "tags": ["t"], "cost": 0.5, "latency": 1.0, "status": "success"}),
    (
        "PUT",
        TRACE_LOG,
        {
            "trace_id": "log",
            "root_trace_id": "log",
            "field_name_to_value_map": {"output": "x", "start_timestamp": START, "tags": ["t"], "cost": 0.5},
        },
    ),
    ("POST", "/api/parea/v1/project", {"name": "default"}),
    ("POST", "/api/keys", {"name": "k", "project": "default", "role": "write"}),
    (
        "POST",
        "/api/deployments",
        {"name": "d", "messages": [{"role": "user", "content": "x"}], "model": "m", "model_params": {"temp": 1.0}},
    ),
]
LABELS = {"/api/parea/v1/completion": {"model", "provider"}, "/api/keys": {"role"}}
"""Echoed on purpose, no content: an answer that no provider is known for a model names it."""


def broken(value: Any, canary: str, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every variant of a body in which one place holds the canary, in one of several wrong shapes."""
    for wrong in (f"w-{canary}", f"w-{canary}" * 400, [f"w-{canary}"], {f"w-{canary}": f"w-{canary}"}):
        yield path, wrong
    if isinstance(value, dict):
        yield (*path, "+"), {**value, f"w-{canary}": f"w-{canary}"}
        for name, item in value.items():
            for where, changed in broken(item, canary, (*path, name)):
                yield where, {**value, name: changed}
    elif isinstance(value, list) and value:
        for where, changed in broken(value[0], canary, (*path, 0)):
            yield where, [changed, *value[1:]]


@pytest.mark.parametrize(("method", "path", "body"), BODIES, ids=[f"{m} {p}" for m, p, _ in BODIES])
def test_error_responses_do_not_repeat_the_body(
    endpoint: Any, canary: str, written_output: Callable[[], str], method: str, path: str, body: dict[str, Any]
) -> None:
    """For each kind of error, the response and the log name the place and the valid values, not the content."""
    refused = 0
    for where, changed in broken(body, canary):
        answer = endpoint.client.request(method, path, json=changed)
        assert answer.status_code < 500, answer.text
        if answer.status_code >= 400:
            refused += 1
            if not LABELS.get(path, set()) & set(where[-1:]) or where[:2] == ("llm_configuration", "messages"):
                assert canary not in answer.text, (where, answer.text)
    assert refused > 3
    text = json.dumps(body).replace("default", f"w-{canary}").encode()
    for cut in (text[:-1], b"\xff" + text, text + b"]", b"[" * 300 + text + b"]" * 300):
        answer = endpoint.client.request(method, path, content=cut)
        assert 400 <= answer.status_code < 500
        assert canary not in answer.text
    assert canary not in written_output()
