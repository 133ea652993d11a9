"""`POST /v1/records`: what is stored, what is refused and why, and that no body causes a 500."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from everycall import limits, record
from everycall.record import CONTENT_FIELDS, Record, encode, to_raw
from everycall.server.api.records import check_json

FULL = Record(
    inference_id="full-1",
    trace_id="trace/of everything",
    trace_name="support",
    parent_id="root",
    name="answer",
    kind="llm",
    end_user_identifier="u-7",
    session_id="s-1",
    deployment_id="p-1",
    llm_inputs=to_raw({"x": "Golang"}),
    llm_configuration=to_raw({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}),
    inputs=to_raw({"q": ["Größe", None, 1.5]}),
    content="hello",
    output=to_raw([{"name": "tool"}]),
    target=to_raw("gold"),
    metadata=to_raw({"team": "a"}),
    tags=["beta"],
    model="gpt-4o-mini",
    provider="openai",
    input_tokens=22,
    output_tokens=189,
    total_tokens=211,
    usage={"cached": 2},
    cost=0.0008,
    cost_source="client",
    status="error",
    error="boom",
    latency=1.25,
    start_time_unix_nano=1_790_000_000_000_000_001,
    end_time_unix_nano=1_790_000_001_250_000_001,
    sdk="everycall-python/0.1.0",
    attributes=to_raw({"__proto__": {"x": 1}, "constructor.prototype.y": 2}),
)


def line(inference_id: str, **fields: Any) -> bytes:
    return json.dumps({"inference_id": inference_id, "trace_id": "t", **fields}).encode()


def send(client: httpx.Client, *lines: bytes, **headers: str) -> dict[str, Any]:
    answer = client.post("/v1/records", content=b"\n".join(lines), headers=headers)
    assert answer.status_code == 200, answer.text
    receipt: dict[str, Any] = answer.json()
    return receipt


def test_a_record_is_returned_as_it_was_sent(client: httpx.Client) -> None:
    """The server's codec reads every field that the SDK's wrote."""
    assert send(client, encode(FULL)) == {"committed": 1, "refused": [], "refused_count": 0}
    stored = client.get("/api/records/full-1").content
    assert json.loads(stored) == json.loads(encode(FULL))


def test_the_same_batch_again_changes_nothing(client: httpx.Client) -> None:
    """Delivery is at least once: stored records count as committed, also within one batch."""
    batch = [line("a", name="one"), line("b"), line("a", name="one")]
    assert send(client, *batch)["committed"] == 3
    assert send(client, *batch)["committed"] == 3
    assert len(client.get("/api/records").json()["records"]) == 2


def test_blank_lines_are_ignored(client: httpx.Client) -> None:
    body = b"\n\r\n" + line("a") + b"\r\n  \n" + b"nonsense" + b"\n" + line("b") + b"\n\n"
    answer = client.post("/v1/records", content=body).json()
    assert answer["committed"] == 2
    assert [refusal["index"] for refusal in answer["refused"]] == [1]


@pytest.mark.parametrize("body", [b"", b"\n", b"  \n\n"])
def test_an_empty_batch_is_accepted(client: httpx.Client, body: bytes) -> None:
    assert client.post("/v1/records", content=body).json() == {"committed": 0, "refused": [], "refused_count": 0}


def test_a_bad_line_is_refused_alone(client: httpx.Client) -> None:
    """By its index, its id if it can be read, and a reason that names the field."""
    deep = b'{"inference_id":"deep","trace_id":"t","inputs":' + b"[" * 500 + b"]" * 500 + b"}"
    deeper = deep.replace(b"[", b"[" * 1000).replace(b"]", b"]" * 1000)
    bad = {
        b"nonsense": (None, "malformed"),
        b"[1]": (None, "Expected 'object'"),
        b'{"trace_id":"t"}': (None, "inference_id"),
        b'{"inference_id":"a"}': ("a", "trace_id"),
        line("b", input_tokens="many"): ("b", "$.input_tokens"),
        line("c", input_tokens=-1): ("c", "$.input_tokens"),
        line("d", status="fine"): ("d", "$.status"),
        line("e", name="x" * (limits.NAME_CHARS_MAX + 1)): ("e", "$.name"),
        line("f" * 600): ("f" * limits.ID_CHARS_MAX, "$.inference_id"),
        b'{"inference_id":"g","trace_id":"t","inputs":1e999}': (None, "out of range"),
        b'{"inference_id":"h","trace_id":"t","inputs":"\xff"}': (None, "utf-8"),
        b'{"inference_id":"i","trace_id":"t","inputs":NaN}': (None, "malformed"),
        deep: ("deep", "nested deeper than 200"),
        deeper: (None, "nested deeper than 200"),
        line("big", content="x" * limits.RECORD_BYTES_MAX): ("big", "bytes"),
    }
    answer = send(client, line("good-1"), *bad, line("good-2"))
    assert answer["committed"] == 2
    assert answer["refused_count"] == len(bad)
    for place, (refusal, (_, reason)) in enumerate(zip(answer["refused"], bad.values(), strict=True), start=1):
        assert refusal["index"] == place
        assert reason in refusal["reason"], refusal
    refused_ids = {refusal["inference_id"] for refusal in answer["refused"]}
    assert {"a", "b", "c", "d", "e", "f" * limits.ID_CHARS_MAX, "deep", "big"} <= refused_ids
    stored = client.get("/api/records").json()["records"]
    assert {record["inference_id"] for record in stored} == {"good-1", "good-2"}


def test_json_that_can_be_read_back_is_accepted() -> None:
    check_json(b'{"a":' + b"[" * 150 + b"]" * 150 + b"}")
    check_json(b"[" + b"{}," * 5_000 + b"{}]")
    with pytest.raises(ValueError, match="nested"):
        check_json(b'{"a":' * 201 + b"1" + b"}" * 201)


def test_a_project_key_writes_into_its_own_project(
    server: Any, client: httpx.Client, make_key: Callable[..., str]
) -> None:
    """A record without a project goes into the key's project; one with another project is refused."""
    with httpx.Client(base_url=server.address, headers={"x-api-key": make_key("alpha")}) as alpha:
        answer = send(alpha, line("none"), line("own", project_name="alpha"), line("other", project_name="beta"))
        assert answer["committed"] == 2
        assert answer["refused"] == [
            {"index": 2, "inference_id": "other", "reason": "the record names another project than the key's"}
        ]
        mine = alpha.get("/api/records").json()["records"]
    assert {(record["inference_id"], record["project_name"]) for record in mine} == {
        ("none", "alpha"),
        ("own", "alpha"),
    }
    assert client.get("/api/records", params={"project": "beta"}).json()["records"] == []


def test_the_local_key_writes_into_the_project_of_each_record(client: httpx.Client) -> None:
    send(client, line("a"), line("b", project_name="beta"), b"bad", line("c", project_name="beta"))
    for project, ids in (("default", {"a"}), ("beta", {"b", "c"})):
        stored = client.get("/api/records", params={"project": project}).json()["records"]
        assert {one["inference_id"] for one in stored} == ids
    assert set(client.get("/api/projects").json()["projects"]) >= {"default", "beta"}


def test_nothing_omitted_is_stored(client: httpx.Client, server: Any) -> None:
    """Content that a record says is omitted is not stored, even if a client sends it."""
    inputs = ("llm_inputs", "llm_configuration", "inputs", "target")
    fields: dict[str, Any] = {name: {"k": f"CANARY-{name}"} for name in inputs}
    fields |= {"output": ["CANARY-output"]}
    send(
        client,
        line("in", omitted=["inputs"], content="kept", **fields),
        line("out", omitted=["outputs"], content="CANARY-content", **fields),
        line("both", omitted=["inputs", "outputs"], content="CANARY-content", **fields),
    )
    stored = {one["inference_id"]: one for one in client.get("/api/records").json()["records"]}
    assert set(stored["in"]) & set(CONTENT_FIELDS) == {"content", "output"}
    assert set(stored["out"]) & set(CONTENT_FIELDS) == {"llm_inputs", "llm_configuration", "inputs", "target"}
    assert set(stored["both"]) & set(CONTENT_FIELDS) == set()
    assert stored["both"]["omitted"] == ["inputs", "outputs"]
    server.stop()
    on_disk = b"".join(path.read_bytes() for path in server.options.data_dir.rglob("*") if path.is_file())
    assert b"CANARY-content" not in on_disk
    assert on_disk.count(b"CANARY-inputs") == on_disk.count(b"CANARY-target") > 0


def test_records_with_tokens_and_no_cost_are_priced(client: httpx.Client) -> None:
    """If the call costs money and the price is known; unknown stays unknown, and a measured zero stays zero."""
    tokens = {"input_tokens": 1_000, "output_tokens": 100, "provider": "openai"}
    send(
        client,
        line("priced", kind="llm", model="gpt-4o-mini", **tokens),
        line("chain", kind="chain", model="gpt-4o-mini", **tokens),
        line("unknown", kind="llm", model="no-such-model-anywhere", **tokens),
        line("given", kind="llm", model="gpt-4o-mini", cost=0.5, **tokens),
        line("free", kind="llm", model="gpt-4o-mini", cost=0.0, **tokens),
    )
    stored = {one["inference_id"]: one for one in client.get("/api/records").json()["records"]}
    assert stored["priced"]["cost"] == pytest.approx(1_000 * 0.15e-6 + 100 * 0.6e-6)
    assert stored["priced"]["cost_source"] == "genai-prices"
    assert stored["priced"]["price_version"]
    assert "cost" not in stored["chain"]
    assert "cost" not in stored["unknown"]
    assert stored["given"]["cost"] == 0.5
    assert stored["free"]["cost"] == 0.0


def test_balance_sheets_of_clients(client: httpx.Client) -> None:
    """The latest report of each process, also if it comes without records."""
    first = {"recorded": 2, "delivered": 0, "spooled": 2, "dropped": {}}
    last = {"recorded": 3, "delivered": 2, "spooled": 0, "dropped": {"spool_full": 1}}
    headers = {"x-everycall-client": "host:1:100"}
    send(client, line("a"), **headers, **{"x-everycall-balance": json.dumps(first)})
    send(client, **headers, **{"x-everycall-balance": json.dumps(last)})
    reports = client.get("/api/clients").json()["clients"]
    assert [(report["client"], report["balance"]) for report in reports] == [("host:1:100", last)]
    assert reports[0]["seen_unix_nano"] > 1_700_000_000 * 10**9


@pytest.mark.parametrize(
    "balance",
    ["", "nonsense", "[1]", '{"recorded":"many"}', '{"dropped":[1]}', "{" + " " * limits.BALANCE_BYTES_MAX + "}"],
)
def test_a_malformed_balance_is_ignored(client: httpx.Client, balance: str) -> None:
    send(client, line("a"), **{"x-everycall-client": "host:1:100", "x-everycall-balance": balance})
    assert client.get("/api/clients").json()["clients"] == []


def test_the_records_of_a_batch_are_bounded(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_RECORDS_MAX", 10)
    answer = client.post("/v1/records", content=b"\n".join(line(str(number)) for number in range(12)))
    assert answer.status_code == 413
    assert answer.json()["records_max"] == 10


def test_a_receipt_is_never_longer_than_a_client_reads(client: httpx.Client) -> None:
    """All refusals are counted, and as many as fit are listed."""
    answer = client.post("/v1/records", content=b"\n".join(b'{"inference_id":"%04d"}' % n for n in range(3_000)))
    body = answer.json()
    assert body["refused_count"] == 3_000
    assert 300 < len(body["refused"]) <= limits.REFUSALS_MAX
    assert len(answer.content) <= limits.ANSWER_BYTES_MAX
    assert [refusal["index"] for refusal in body["refused"]] == list(range(len(body["refused"])))


def test_acknowledged_records_survive_a_kill(server_process: Callable[..., Any]) -> None:
    """200 means committed: the process is killed immediately, and the next one has the records."""
    first = server_process()
    batch = b"\n".join(line(f"r-{number}") for number in range(200))
    answer = httpx.post(f"{first.address}/v1/records", headers={"x-api-key": first.key}, content=batch)
    first.kill()
    assert answer.json()["committed"] == 200
    first.wait()
    second = server_process()
    stored = httpx.get(f"{second.address}/api/records", params={"limit": 1000}, headers={"x-api-key": second.key})
    assert len(stored.json()["records"]) == 200


@pytest.fixture(scope="module")
def lasting_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """One server for hundreds of requests."""
    from everycall.server.options import ServerOptions
    from everycall.server.runner import Server

    options = ServerOptions(tmp_path_factory.mktemp("fuzz"), port=0, local_key="fuzzing-local-key")
    with Server(options) as server, httpx.Client(base_url=server.address, headers={"x-api-key": server.key}) as client:
        yield client


SEED_BODY = encode(FULL) + b"\n" + encode(msgspec.structs.replace(FULL, inference_id="full-2")) + b"\n"


@st.composite
def mutated_bodies(draw: st.DrawFn) -> bytes:
    """Return a valid batch with bytes changed, removed, inserted or repeated."""
    body = bytearray(SEED_BODY)
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, len(body)))
        match draw(st.sampled_from(["set", "cut", "insert", "double"])):
            case "set":
                body[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
            case "cut":
                del body[place : place + draw(st.integers(1, 60))]
            case "insert":
                spice = [b"null", b"-1", b"1e400", b"[" * 300, b"{}", b'"\\ud800"', b"\x00", b"\xff", b"\n", b"9" * 400]
                body[place:place] = draw(st.sampled_from(spice) | st.binary(max_size=8))
            case "double":
                body += body[place:]
    return bytes(body)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=mutated_bodies())
def test_no_body_causes_a_server_error(lasting_server: httpx.Client, body: bytes) -> None:
    """Each line is committed or refused, and committed records can be read."""
    answer = lasting_server.post("/v1/records", content=body)
    assert answer.status_code == 200
    receipt = answer.json()
    lines = [one for one in body.split(b"\n") if one.strip()]
    assert receipt["committed"] + receipt["refused_count"] == len(lines)
    listed = lasting_server.get("/api/records", params={"limit": 5})
    assert listed.status_code == 200
    for listed_record in listed.json()["records"]:
        record.decode(json.dumps(listed_record).encode())


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=200), encoding=st.sampled_from(["gzip", "zstd", "deflate", "identity", "x", ""]))
def test_no_encoding_causes_a_server_error(lasting_server: httpx.Client, body: bytes, encoding: str) -> None:
    answer = lasting_server.post("/v1/records", content=body, headers={"content-encoding": encoding})
    assert answer.status_code in (200, 400, 413, 415)


def test_a_full_write_queue_is_503_and_loses_nothing(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """503 with Retry-After, and nothing is stored; the same batch is accepted later."""
    with monkeypatch.context() as full:
        full.setattr(limits, "WRITE_QUEUE_MAX", 0)
        answer = client.post("/v1/records", content=line("a"))
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["type"] == "urn:everycall:error:busy"
    assert client.get("/api/records").json()["records"] == []
    assert send(client, line("a"))["committed"] == 1
