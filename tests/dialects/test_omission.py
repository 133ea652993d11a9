"""`everycall.log_omit*` on foreign spans: nothing that a flag covers is in the database or its log, in whatever order.

Each dialect's call carries texts that occur nowhere else; afterwards the bytes of all files are searched for them.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from everycall_testkit.otlp_requests import export, log_json, partial_success, send, span_json

IN, OUT = "canary-of-the-question", "canary-of-the-answer"
ASKED = [{"role": "user", "content": IN}]
PARTS_IN = json.dumps([{"role": "user", "parts": [{"type": "text", "content": IN}]}])
PARTS_OUT = json.dumps([{"role": "assistant", "parts": [{"type": "text", "content": OUT}], "finish_reason": "stop"}])
COMPLETION = json.dumps({"id": "chatcmpl-1", "choices": [{"message": {"role": "assistant", "content": OUT}}]})
GEN_AI = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o", "gen_ai.provider.name": "openai"}
EXCEPTION = {"exception.type": "ValueError", "exception.message": f"not {IN} but {OUT}"}
FAILED = {"status": {"code": 2, "message": f"{IN} {OUT}"}, "events": [{"name": "exception", "attributes": []}]}
FAILED["events"][0]["attributes"] = [  # type: ignore[index]
    {"key": name, "value": {"stringValue": value}} for name, value in EXCEPTION.items()
]
DIALECTS: dict[str, tuple[str, dict[str, Any]]] = {
    "gen_ai": ("test", {**GEN_AI, "gen_ai.input.messages": PARTS_IN, "gen_ai.output.messages": PARTS_OUT}),
    "gen_ai, older": (
        "test",
        {**GEN_AI, "gen_ai.prompt.0.content": IN, "gen_ai.prompt.0.role": "user", "gen_ai.completion.0.content": OUT},
    ),
    "openinference": (
        "openinference.instrumentation.openai",
        {
            "openinference.span.kind": "LLM",
            "llm.input_messages.0.message.role": "user",
            "llm.input_messages.0.message.content": IN,
            "llm.output_messages.0.message.content": OUT,
            "input.value": json.dumps({"messages": ASKED}),
            "output.value": COMPLETION,
        },
    ),
    "traceloop": (
        "opentelemetry.instrumentation.openai",
        {
            **GEN_AI,
            "traceloop.span.kind": "tool",
            "traceloop.entity.input": json.dumps({"args": [IN]}),
            "traceloop.entity.output": OUT,
        },
    ),
    "langfuse": (
        "langfuse-sdk",
        {
            "langfuse.observation.type": "generation",
            "langfuse.observation.input": json.dumps(ASKED),
            "langfuse.observation.output": json.dumps({"role": "assistant", "content": OUT}),
            "langfuse.trace.input": IN,
            "langfuse.trace.output": OUT,
        },
    ),
    "logfire": (
        "logfire",
        {
            "logfire.msg": f"answer question={IN}",
            "logfire.msg_template": "answer {question=}",
            "logfire.span_type": "span",
            "question": IN,
            "return": OUT,
        },
    ),
    "pydantic-ai": (
        "pydantic-ai",
        {
            "gen_ai.operation.name": "invoke_agent",
            "pydantic_ai.all_messages": json.dumps([*json.loads(PARTS_IN), *json.loads(PARTS_OUT)]),
            "final_result": OUT,
        },
    ),
    "langsmith": (
        "langsmith",
        {
            "langsmith.span.kind": "llm",
            "gen_ai.prompt": json.dumps({"messages": ASKED}),
            "gen_ai.completion": COMPLETION,
        },
    ),
    "mlflow": (
        "mlflow",
        {
            "mlflow.spanType": '"CHAT_MODEL"',
            "mlflow.spanInputs": json.dumps({"messages": ASKED}),
            "mlflow.spanOutputs": COMPLETION,
        },
    ),
    "vercel-ai": (
        "ai",
        {
            "ai.operationId": "ai.generateText.doGenerate",
            "ai.prompt.messages": json.dumps(ASKED),
            "ai.response.text": OUT,
        },
    ),
    "plain": ("test", {"db.statement": IN, "db.result": OUT}),
}
WHERE = [
    (place, flag) for place in ("own", "parent", "grandparent", "resource") for flag in ("inputs", "outputs", "all")
]


@pytest.fixture
def sender(server: Any) -> Iterator[httpx.Client]:
    """A client that may write."""
    with httpx.Client(base_url=server.address, headers={"x-api-key": server.key}, timeout=30) as client:
        yield client


@pytest.fixture
def on_disk(tmp_path: Path) -> Callable[[], set[str]]:
    """Return which of the texts are in any file of the data directory."""

    def search() -> set[str]:
        content = b"".join(path.read_bytes() for path in (tmp_path / "data").iterdir() if path.is_file())
        return {text for text in (IN, OUT) if text.encode() in content}

    return search


def flagged(flag: str, value: Any = True) -> dict[str, Any]:
    """Return the attribute that leaves this out."""
    return {"everycall.log_omit" if flag == "all" else f"everycall.log_omit_{flag}": value}


def family(dialect: str, flag: str, place: str) -> list[dict[str, Any]]:
    """Return requests, in the usual order: a call, its parent, its grandparent; the flag is on one of them."""
    scope, attributes = DIALECTS[dialect]
    trace = dialect.encode().hex()
    own, parent, grandparent, resource = (
        flagged(flag) if place == one else {} for one in ("own", "parent", "grandparent", "resource")
    )
    call = span_json("03", trace, "02", attributes={**attributes, **own}, **FAILED)
    return [
        export(call, scope=scope, resource=resource),
        export(span_json("02", trace, "01", attributes=parent)),
        export(span_json("01", trace, attributes=grandparent)),
    ]


def calls(client: httpx.Client) -> list[dict[str, Any]]:
    """Return the stored records of calls, those of the spans 03."""
    answer = client.get("/api/records", params={"limit": "200"}).json()["records"]
    return [one for one in answer if one["inference_id"].partition("-")[2].startswith("03")]


def records(client: httpx.Client) -> dict[str, dict[str, Any]]:
    """Return the stored records by the first digits of their span's id."""
    answer = client.get("/api/records", params={"limit": "200"}).json()["records"]
    return {one["inference_id"].partition("-")[2][:2]: one for one in answer}


def covered(flag: str) -> set[str]:
    """Return the texts that must be nowhere."""
    return {"inputs": {IN}, "outputs": {OUT}, "all": {IN, OUT}}[flag]


@pytest.mark.parametrize(("place", "flag"), WHERE)
def test_nothing_omitted_is_in_any_file(
    sender: httpx.Client, on_disk: Callable[[], set[str]], place: str, flag: str
) -> None:
    """Children first, each span in a request of its own, as exporters send them."""
    for dialect in DIALECTS:
        for request in family(dialect, flag, place):
            assert partial_success(send(sender, request)) == (0, "")
        assert on_disk() & covered(flag) == set(), dialect
    stored = calls(sender)
    assert len(stored) == (0 if flag == "all" else len(DIALECTS))
    other = {"inputs": "outputs", "outputs": "inputs", "all": ""}[flag]
    for record in stored:
        assert flag in record["omitted"]
        assert other not in record["omitted"]
        assert record["status"] == "error"


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("place", ["parent", "grandparent"])
def test_in_every_order(
    sender: httpx.Client, on_disk: Callable[[], set[str]], order: tuple[int, ...], place: str
) -> None:
    """The ancestor with the flag comes before, between or after; then all of them come again."""
    for dialect in ("gen_ai", "openinference", "langfuse", "logfire", "plain"):
        requests = family(dialect, "all", place)
        for number in (*order, *order):
            send(sender, requests[number])
        assert on_disk() == set(), dialect
    assert calls(sender) == []


@pytest.mark.parametrize("flag", ["inputs", "outputs", "all"])
@pytest.mark.parametrize("place", ["own", "parent"])
def test_log_records_of_a_span(sender: httpx.Client, on_disk: Callable[[], set[str]], flag: str, place: str) -> None:
    """The messages come in log records, before or after the span and the ancestor with the flag: in every order."""
    own, above = (flagged(flag), {}) if place == "own" else ({}, flagged(flag))
    for trace, order in enumerate(itertools.permutations(range(3)), start=0xA1):
        of = f"{trace:x}"
        question = log_json("gen_ai.user.message", "03", of, {"content": IN})
        answer = log_json("gen_ai.choice", "03", of, {"message": {"content": OUT}, "finish_reason": "stop"})
        requests = [
            ("/v1/logs", export(question, answer, logs=True)),
            ("/v1/traces", export(span_json("03", of, "02", attributes={**GEN_AI, **own}))),
            ("/v1/traces", export(span_json("02", of, attributes=above))),
        ]
        for number in (*order, *order):
            path, body = requests[number]
            send(sender, body, path)
        assert on_disk() & covered(flag) == set(), order
    assert len(calls(sender)) == (0 if flag == "all" else 6)


@pytest.mark.parametrize("flag", ["inputs", "outputs", "all"])
def test_the_flag_on_a_log_record(sender: httpx.Client, on_disk: Callable[[], set[str]], flag: str) -> None:
    """It holds for the span that the log record belongs to, whichever comes first."""
    attributes = DIALECTS["gen_ai"][1]
    details = {name: value for name, value in attributes.items() if name.endswith("messages")}
    name = "gen_ai.client.inference.operation.details"
    for span, order in (("03", 1), ("04", -1)):
        requests = [
            ("/v1/logs", export(log_json(name, span, **{**details, **flagged(flag)}), logs=True)),
            ("/v1/traces", export(span_json(span, attributes=attributes))),
        ]
        for path, body in requests[::order]:
            send(sender, body, path)
    assert on_disk() & covered(flag) == set()
    assert (records(sender) == {}) is (flag == "all")


@pytest.mark.parametrize("order", [1, -1])
def test_a_log_record_that_names_no_span(sender: httpx.Client, on_disk: Callable[[], set[str]], order: int) -> None:
    """OpenLIT's log records of a stream have the answer's id alone; the span with that id has the flag."""
    scope, name = "openlit.otel.tracing", "gen_ai.client.inference.operation.details"
    log = log_json(
        name,
        "00",
        trace="00",
        **{"gen_ai.response.id": "resp-1", "gen_ai.input.messages": PARTS_IN, "gen_ai.output.messages": PARTS_OUT},
    )
    span = span_json("03", attributes={**GEN_AI, "gen_ai.response.id": "resp-1", **flagged("all")})
    requests = [("/v1/logs", export(log, scope=scope, logs=True)), ("/v1/traces", export(span, scope=scope))]
    for path, body in requests[::order]:
        send(sender, body, path)
    assert on_disk() == set()
    assert records(sender) == {}


@pytest.mark.parametrize("order", [1, -1])
def test_the_halves_of_a_stream(sender: httpx.Client, on_disk: Callable[[], set[str]], order: int) -> None:
    """Logfire sends the answer of a stream in a span of its own; the flag is above the request only."""
    start = 1_790_000_000_000_000_000
    attributes = {**GEN_AI, "gen_ai.input.messages": PARTS_IN, "logfire.msg": "Chat"}
    times = {"startTimeUnixNano": str(start), "endTimeUnixNano": str(start + 10)}
    later = {"startTimeUnixNano": str(start + 20), "endTimeUnixNano": str(start + 20)}
    answer = {**attributes, "gen_ai.output.messages": PARTS_OUT, "logfire.span_type": "log", "duration": 1e-8}
    requests = [
        export(span_json("01", attributes=flagged("outputs"))),
        export(span_json("03", parent="01", attributes=attributes, **times), scope="logfire.openai"),
        export(span_json("04", attributes=answer, **later), scope="logfire.openai"),
    ]
    for request in requests[::order]:
        send(sender, request)
    assert on_disk() & {OUT} == set()
    assert set(records(sender)) == {"01", "03"}


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("outer", [{}, {"gen_ai.response.id": "resp-1"}])
def test_a_call_recorded_twice(
    sender: httpx.Client, on_disk: Callable[[], set[str]], order: int, outer: dict[str, str]
) -> None:
    """The one that counts is filled from the other one, but not with what its own flag leaves out."""
    attributes = {**DIALECTS["gen_ai"][1], **outer}
    requests = [
        export(span_json("03", parent="02", attributes={**attributes, **flagged("inputs"), **flagged("outputs")})),
        export(span_json("02", attributes={**attributes})),
    ]
    for request in requests[::order]:
        send(sender, request)
    inner = records(sender)["03"]
    assert IN not in json.dumps(inner)
    assert OUT not in json.dumps(inner)


def test_values_that_set_a_flag(sender: httpx.Client, on_disk: Callable[[], set[str]]) -> None:
    """Whatever does not clearly say no leaves the content out."""
    for value in (True, "true", "True", " TRUE ", 1, "1", "yes", "on", 1.0, ["true"], "certainly"):
        attributes = {**DIALECTS["gen_ai"][1], **flagged("inputs", value), **flagged("outputs", value)}
        send(sender, export(span_json("03", attributes=attributes)))
        assert on_disk() == set(), value


def test_values_that_set_no_flag(sender: httpx.Client) -> None:
    """A flag may be sent as off."""
    for value in (False, "false", "False", 0, "0", "no", "off", ""):
        attributes = {**DIALECTS["gen_ai"][1], **flagged("all", value), **flagged("inputs", value)}
        send(sender, export(span_json("03", attributes=attributes)))
        assert records(sender)["03"]["content"] == OUT, value


@pytest.mark.parametrize("order", [1, -1])
def test_a_later_copy_with_the_flag(sender: httpx.Client, on_disk: Callable[[], set[str]], order: int) -> None:
    """A span is sent again, once with the flag and once without: the content is gone in either order."""
    attributes = DIALECTS["openinference"][1]
    copies = [attributes, {**attributes, **flagged("inputs"), **flagged("outputs")}]
    for copy in copies[::order]:
        send(sender, export(span_json("03", attributes=copy)))
    assert on_disk() == set()
    assert set(records(sender)["03"]["omitted"]) >= {"inputs", "outputs"}


def test_long_content_and_many_spans(sender: httpx.Client, on_disk: Callable[[], set[str]]) -> None:
    """Content that fills many pages of the database, among spans that stay, goes from the pages too."""
    long = json.dumps([{"role": "user", "parts": [{"type": "text", "content": f"{IN} " * 20_000}]}])
    for number in range(0x20, 0x60):
        attributes = {**GEN_AI, "gen_ai.input.messages": long if number % 2 else PARTS_IN.replace(IN, "kept" * 200)}
        parent = "01" if number % 2 else None
        send(sender, export(span_json(f"{number:x}", parent=parent, attributes=attributes)))
    assert on_disk() == {IN}
    send(sender, export(span_json("01", attributes=flagged("inputs"))))
    assert on_disk() == set()
    assert len(records(sender)) == 65
