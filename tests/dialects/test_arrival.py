"""Spans in any order, more than once, changed, or without their parent: each is on the record once."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from everycall import limits
from everycall.errors import ConfigurationError
from everycall.server.options import ServerOptions
from everycall.server.otlp.load import OtlpLoad
from everycall.server.problems import ProblemError
from everycall.server.runner import Server
from everycall_testkit.otlp_requests import (
    JSON,
    PROTOBUF,
    export,
    log_json,
    partial_success,
    send,
    span_json,
    status_of,
    to_protobuf,
)

CALL = {
    "gen_ai.operation.name": "chat",
    "gen_ai.request.model": "gpt-4o-mini",
    "gen_ai.usage.input_tokens": 10,
    "gen_ai.usage.output_tokens": 5,
}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The address and key of a server with a prefix of its own."""
    options = ServerOptions(data_dir=tmp_path_factory.mktemp("arrival"), port=0, otlp_prefixes=("/collector/team",))
    with Server(options) as server:
        yield server.address, server.key


projects = (f"arrival-{number}" for number in itertools.count())


@pytest.fixture
def sender(address: tuple[str, str]) -> Iterator[httpx.Client]:
    """A client that sends to a project of its own."""
    headers = {"x-api-key": address[1], "x-everycall-project": next(projects)}
    with httpx.Client(base_url=address[0], headers=headers, timeout=30) as client:
        yield client


def records(client: httpx.Client) -> dict[str, dict[str, Any]]:
    """Return the records of the client's project by name."""
    query = {"project": client.headers["x-everycall-project"], "limit": "200"}
    return {one["name"]: one for one in client.get("/api/records", params=query).json()["records"]}


def traces(client: httpx.Client) -> list[dict[str, Any]]:
    """Return the traces of the client's project."""
    query = {"project": client.headers["x-everycall-project"]}
    found: list[dict[str, Any]] = client.get("/traces.json", params=query).json()["traces"]
    return found


def test_the_same_span_twice(sender: httpx.Client) -> None:
    """In one request and in two: one record, counted once."""
    span = span_json("01", attributes=CALL)
    for body in (export(span, span), export(span), to_protobuf(export(span))):
        assert partial_success(send(sender, body)) == (0, "")
    assert list(records(sender)) == ["span 01"]
    (trace,) = traces(sender)
    assert (trace["records"], trace["input_tokens"], trace["output_tokens"]) == (1, 10, 5)


def test_an_update_of_a_span(sender: httpx.Client) -> None:
    """A later copy replaces what it says, keeps what it does not, and moves the sums with it."""
    start = 1_790_000_000_000_000_000
    first = span_json("01", attributes={**CALL, "note": "first", "user.id": "u1"}, startTimeUnixNano=str(start))
    changed = {**CALL, "gen_ai.usage.output_tokens": 7, "late": True}
    times = {"startTimeUnixNano": str(start), "endTimeUnixNano": str(start + 9_000_000_000)}
    later = span_json("01", attributes=changed, status={"code": 2, "message": "it broke"}, **times)
    for span in (first, later):
        send(sender, export(span))
    record = records(sender)["span 01"]
    assert (record["output_tokens"], record["total_tokens"]) == (7, 17)
    assert (record["status"], record["error"]) == ("error", "it broke")
    assert record["latency"] == 9.0
    assert record["end_user_identifier"] == "u1"
    assert {name: record["attributes"][name] for name in ("note", "late")} == {"note": "first", "late": True}
    (trace,) = traces(sender)
    assert (trace["records"], trace["output_tokens"]) == (1, 7)


def test_a_parent_that_never_comes(sender: httpx.Client) -> None:
    """Its children are a trace all the same, with the parent's id, and the page shows them."""
    for number in ("02", "03"):
        send(sender, export(span_json(number, parent="01", attributes=CALL)))
    found = records(sender)
    assert {one["parent_id"] for one in found.values()} == {f"{'a1'.ljust(32, '0')}-{'01'.ljust(16, '0')}"}
    (trace,) = traces(sender)
    assert (trace["records"], trace["input_tokens"]) == (2, 20)
    query = {"project": sender.headers["x-everycall-project"]}
    page = sender.get(f"/traces/{'a1'.ljust(32, '0')}", params=query, headers={"accept": "text/html"})
    assert page.status_code == 200
    assert "span 02" in page.text
    assert "span 03" in page.text


def test_labels_of_an_ancestor_in_every_order(sender: httpx.Client) -> None:
    """User, session and tags of a root hold for the call two levels below, whenever the three arrive."""
    for trace, order in enumerate(itertools.permutations(range(3)), start=0xB1):
        of = f"{trace:x}"
        labels = {"user.id": "u1", "session.id": "s1", "tag.tags": ["a"], "openinference.span.kind": "CHAIN"}
        spans = [
            span_json("01", of, attributes=labels, name=f"root {of}"),
            span_json("02", of, "01", name=f"middle {of}"),
            span_json("03", of, "02", name=f"call {of}", attributes=CALL),
        ]
        for number in order:
            send(sender, export(spans[number]))
        call = records(sender)[f"call {of}"]
        assert (call["end_user_identifier"], call["session_id"], call["tags"]) == ("u1", "s1", ["a"]), order


def test_log_records_before_and_after_their_span(sender: httpx.Client) -> None:
    """Messages come one by one in log records of two requests; the span between them has the tokens."""
    question = log_json("gen_ai.user.message", "01", body={"content": "What?"})
    answer = log_json("gen_ai.choice", "01", body={"message": {"content": "That."}, "finish_reason": "stop"})
    send(sender, export(question, logs=True), "/v1/logs")
    send(sender, export(span_json("01", attributes=CALL)))
    send(sender, export(answer, logs=True), "/v1/logs")
    record = records(sender)["span 01"]
    assert record["llm_configuration"]["messages"] == [{"role": "user", "content": "What?"}]
    assert (record["content"], record["input_tokens"]) == ("That.", 10)


@pytest.mark.parametrize("prefix", ["", "/otel", "/api/public/otel", "/collector/team"])
@pytest.mark.parametrize("header", ["x-api-key", "bearer", "basic"])
def test_every_prefix_and_key(address: tuple[str, str], prefix: str, header: str) -> None:
    """The routes are below each prefix, and take the key in each header that senders use."""
    key = address[1]
    headers = {
        "x-api-key": {"x-api-key": key},
        "bearer": {"authorization": f"Bearer {key}"},
        "basic": {"authorization": f"Basic {base64.b64encode(f'pk-lf-any:{key}'.encode()).decode()}"},
    }[header]
    with httpx.Client(base_url=address[0], headers=headers) as client:
        for signal in ("traces", "logs", "metrics"):
            assert send(client, {}, f"{prefix}/v1/{signal}").json() == {}


@pytest.mark.parametrize("prefix", ["collector", "/collector/", "/", "", "/a/../b", "/a b"])
def test_a_prefix_that_is_no_path(tmp_path: Path, prefix: str) -> None:
    """It is refused before the server starts, with what to use."""
    with pytest.raises(ConfigurationError, match="use a path such as /collector"):
        ServerOptions(data_dir=tmp_path, otlp_prefixes=(prefix,))


def test_metrics_are_accepted_and_counted(server: Any, client: httpx.Client) -> None:
    """Data points are counted, of either encoding; what was stored and rejected is counted too."""
    message = ExportMetricsServiceRequest()
    scoped = message.resource_metrics.add().scope_metrics.add()
    scoped.metrics.add(name="a").gauge.data_points.add(as_int=1)
    scoped.metrics.add(name="b").histogram.data_points.add(count=1)
    scoped.metrics[1].histogram.data_points.add(count=2)
    points = {"name": "c", "sum": {"dataPoints": [{"asInt": "4"}]}}
    body = {"resourceMetrics": [{"scopeMetrics": [{"metrics": [points, {"name": "d"}]}]}]}
    for metrics in (message, body):
        assert send(client, metrics, "/v1/metrics").status_code == 200
    send(client, export(span_json("01"), span_json("02", spanId="short")))
    send(client, export(log_json("app.started", "01"), log_json("gen_ai.user.message", "01"), logs=True), "/v1/logs")
    lines = client.get("/metrics").text.splitlines()
    counts = dict(line.split(" ") for line in lines if line.startswith("everycall_otlp_"))
    assert counts == {
        "everycall_otlp_spans_total": "1",
        "everycall_otlp_log_records_total": "1",
        "everycall_otlp_metric_points_total": "4",
        "everycall_otlp_rejected_total": "2",
    }


def test_log_records_that_say_nothing_of_a_call(sender: httpx.Client) -> None:
    """They are not stored, and the response says so, in the terms of log records."""
    response = send(sender, export(log_json("app.started", "01", body="up"), logs=True), "/v1/logs")
    told = response.json()["partialSuccess"]
    assert told["rejectedLogRecords"] == "1"
    assert "only log records of the GenAI conventions are stored" in told["errorMessage"]
    assert records(sender) == {}


def test_projects_of_resources(sender: httpx.Client, address: tuple[str, str]) -> None:
    """A key of all projects stores by the resource's project where no header names one."""
    with httpx.Client(base_url=address[0], headers={"x-api-key": address[1]}) as client:
        body = export(span_json("01"), resource={"openinference.project.name": "of-the-resource"})
        body["resourceSpans"] += export(span_json("02"), resource={"everycall.project.name": "another"})[
            "resourceSpans"
        ]
        assert partial_success(send(client, body)) == (0, "")
        for project, name in (("of-the-resource", "span 01"), ("another", "span 02")):
            answer = client.get("/api/records", params={"project": project}).json()["records"]
            assert [one["name"] for one in answer] == [name]
    assert json.dumps(records(sender)) == "{}"


@pytest.mark.parametrize("kind", [JSON, PROTOBUF])
@pytest.mark.parametrize(("limit", "value"), [("BODIES_BYTES_MAX", 10), ("WRITE_QUEUE_MAX", 0)])
def test_a_busy_server_says_when_to_try_again(
    server: Any, client: httpx.Client, monkeypatch: pytest.MonkeyPatch, kind: str, limit: str, value: int
) -> None:
    """503 with Retry-After while bodies use all the memory for them, or too much waits to be written."""
    body = export(span_json("01"))
    monkeypatch.setattr(limits, limit, value)
    response = send(client, body if kind == JSON else to_protobuf(body))
    code, message = status_of(response, kind)
    assert (response.status_code, code) == (503, 14)
    assert "Nothing was stored; try again in a moment." in message
    assert int(response.headers["retry-after"]) >= 1
    monkeypatch.undo()
    assert partial_success(send(client, body)) == (0, "")


def test_labels_within_one_request(sender: httpx.Client) -> None:
    """Handed down three levels in whatever order the spans are in the request; a ring of parents is no trouble."""
    labels = {"user.id": "u1", "everycall.trace.name": "flow", "everycall.tags": ["a"]}
    spans = [
        span_json("03", parent="02", attributes={"everycall.tags": ["b"]}),
        span_json("04", parent="03", attributes={"user.id": "own"}),
        span_json("02", parent="01"),
        span_json("01", attributes=labels),
        span_json("05", parent="06"),
        span_json("06", parent="05"),
    ]
    for trace, order in (("c1", 1), ("c2", -1)):
        for span in spans:
            span["traceId"] = trace.ljust(32, "0")
            span["name"] = f"{span['spanId'][:2]} {trace}"
        assert partial_success(send(sender, export(*spans[::order]))) == (0, "")
        found = records(sender)
        assert len([name for name in found if name.endswith(trace)]) == 6
        innermost, middle = found[f"04 {trace}"], found[f"03 {trace}"]
        assert (innermost["end_user_identifier"], middle["end_user_identifier"]) == ("own", "u1")
        assert innermost["trace_name"] == "flow"
        assert (middle["tags"], innermost["tags"]) == (["b", "a"], ["b", "a"])


async def test_a_large_body_waits_for_others_and_then_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """While two others are received it waits, then gets 503; a small one never waits."""
    monkeypatch.setattr(limits, "OTLP_WAIT_S", 0.01)
    load = OtlpLoad()

    def scope(size: int, *more: tuple[bytes, bytes]) -> Any:
        return {"type": "http", "headers": [(b"content-length", str(size).encode()), *more]}

    large, small = scope(16 * limits.MIB), scope(limits.KIB)
    packed = scope(limits.MIB, (b"content-encoding", b"gzip"))
    async with load.receive(large), load.receive(large), load.receive(small):
        for waiting in (large, packed):
            with pytest.raises(ProblemError, match="Other large bodies are being read") as refused:
                async with load.receive(waiting):
                    pass
            assert refused.value.headers == {"retry-after": "1"}
    async with load.receive(large), load.receive(large):
        pass
