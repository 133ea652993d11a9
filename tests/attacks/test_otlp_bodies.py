"""Damaged, huge and wrong OTLP requests: a clear `google.rpc.Status`, or the good spans stored and the others named."""

from __future__ import annotations

import gzip
import json
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import httpx
import pytest
import zstandard

from everycall import limits
from everycall_testkit.otlp_requests import (
    JSON,
    PROTOBUF,
    export,
    partial_success,
    send,
    span_json,
    status_of,
    to_protobuf,
)

MIB = 1 << 20
projects = (f"otlp-{number}" for number in count())


@pytest.fixture
def sender(victim: Any) -> Iterator[httpx.Client]:
    """A client that sends to a separate project; the server is healthy afterwards."""
    with victim.client(headers={"x-everycall-project": next(projects)}) as client:
        yield client
    victim.is_well()


def stored(client: httpx.Client) -> dict[str, dict[str, Any]]:
    """Return the stored records of the client's project by name."""
    query = {"project": client.headers["x-everycall-project"], "limit": "200"}
    return {one["name"]: one for one in client.get("/api/records", params=query).json()["records"]}


@contextmanager
def memory_bound(victim: Any, growth_max: int) -> Iterator[None]:
    """Assert that the server's process does not grow by more than this."""
    process = victim.process()
    before = process.memory_info().rss
    peak, done = [before], threading.Event()

    def measure() -> None:
        while not done.wait(0.005):
            peak.append(process.memory_info().rss)

    thread = threading.Thread(target=measure)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    assert max(peak) - before < growth_max


def good_and(*others: Any) -> dict[str, Any]:
    """Return a request with a good span before and after others."""
    return export(span_json("01"), *others, span_json("02"))


@pytest.mark.parametrize("cut", [1, 10, 30, 45])
def test_a_truncated_request_keeps_its_whole_spans(sender: httpx.Client, cut: int) -> None:
    """Protobuf cut off within its last span: the spans before it are stored, one is rejected."""
    body = to_protobuf(export(span_json("01"), span_json("02"), span_json("03"))).SerializeToString()
    rejected, message = partial_success(send(sender, body[:-cut]))
    assert rejected == 1
    assert "cut off or damaged" in message
    assert set(stored(sender)) == {"span 01", "span 02"}


def test_a_request_that_is_damaged_after_its_spans(sender: httpx.Client) -> None:
    """Unexpected bytes are reported, although every span is stored."""
    body = to_protobuf(export(span_json("01"))).SerializeToString()
    rejected, message = partial_success(send(sender, body + b"\xff\xff\xff"))
    assert rejected == 1
    assert "damaged" in message
    assert set(stored(sender)) == {"span 01"}


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        (b"\xff\xfe\xfd", PROTOBUF, "not an ExportTraceServiceRequest in protobuf"),
        (to_protobuf(export(span_json("01"))).SerializeToString()[:30], PROTOBUF, "cut off or damaged"),
        (b"", JSON, "not an ExportTraceServiceRequest in JSON"),
        (b'{"resourceSpans": [{"scopeSp', JSON, "truncated"),
        (b'"text"', JSON, "Expected object"),
        (b'{"resourceSpans": 5}', JSON, "resourceSpans must be a list"),
        (b'{"resourceSpans": "\xff"', JSON, "not an ExportTraceServiceRequest"),
        (b"[" * 100_000, JSON, "not an ExportTraceServiceRequest"),
        (b'{"resourceSpans":' * 5_000, JSON, "not an ExportTraceServiceRequest"),
    ],
)
def test_what_is_no_request_at_all(sender: httpx.Client, content: bytes, kind: str, words: str) -> None:
    """400 with INVALID_ARGUMENT in the request's encoding; nothing is stored."""
    response = sender.post("/v1/traces", content=content, headers={"content-type": kind})
    code, message = status_of(response, kind)
    assert (response.status_code, code) == (400, 3)
    assert words in message
    assert message.endswith("Nothing was stored.")
    assert stored(sender) == {}


WRONG_SPANS: list[tuple[Any, str]] = [
    (5, "a span must be an object"),
    (None, "a span must be an object"),
    ([], "a span must be an object"),
    (span_json("09", name=5), "name must be a string"),
    (span_json("09", status=[]), "status must be an object"),
    (span_json("09", status={"code": "FAILED"}), "status.code must be 0, 1 or 2"),
    (span_json("09", status={"code": 2, "message": {}}), "message must be a string"),
    (span_json("09", events={}), "events must be a list"),
    (span_json("09", events=["x"]), "an event must be an object"),
    (span_json("09", links=[3]), "a link must be an object"),
    (span_json("09", startTimeUnixNano="soon"), "startTimeUnixNano must be a whole number"),
    (span_json("09", endTimeUnixNano={}), "endTimeUnixNano must be a whole number"),
    (span_json("09", endTimeUnixNano=1.5), "endTimeUnixNano must be a whole number"),
    (span_json("09", startTimeUnixNano="9" * 40), "of at most 64 bits"),
    (span_json("09", traceId=7), "traceId must be a string of hex digits"),
    (span_json("09", spanId="7zzzzzzzzzzzzzzz"), "spanId must be a string of hex digits"),
    (span_json("09", traceId="qr2t6yJ6TFaFW3j1Yk1tZA=="), "does not use base64"),
    (span_json("09", traceId="ab" * 15), "traceId must have 16 bytes (32 hex digits); this one has 15 bytes"),
    (span_json("09", traceId="abc"), "this one has 3 hex digits"),
    (span_json("09", traceId="0" * 32), "traceId is all zeros"),
    (span_json("09", spanId="ab" * 9), "spanId must have 8 bytes"),
    (span_json("09", spanId=""), "spanId must have 8 bytes"),
    ({"spanId": "09" * 8}, "traceId must have 16 bytes"),
    ({**span_json("09"), "attributes": {"a": 1}}, "attributes must be a list"),
    ({**span_json("09"), "attributes": ["a"]}, "an attribute must be an object"),
    ({**span_json("09"), "attributes": [{"key": 4}]}, "a string as its key"),
]
WRONG_VALUES: list[tuple[Any, str]] = [
    ("text", "a value must be an object such as"),
    ({"intValue": "many"}, "intValue must be a whole number of 64 bits"),
    ({"intValue": str(2**63)}, "intValue must be a whole number of 64 bits"),
    ({"intValue": True}, "intValue must be a whole number of 64 bits"),
    ({"boolValue": "yes"}, "boolValue must be true or false"),
    ({"doubleValue": "much"}, "doubleValue must be a number"),
    ({"stringValue": {"a": 1}}, "stringValue must be a string"),
    ({"bytesValue": 7}, "bytesValue must be a string in base64"),
    ({"arrayValue": []}, "must be objects with a list of values"),
    ({"arrayValue": {"values": 7}}, "values must be a list"),
    ({"kvlistValue": {"values": [7]}}, "an entry of a kvlistValue must be an object"),
]
WRONG_SPANS += [
    ({**span_json("09"), "attributes": [{"key": "a", "value": value}]}, words) for value, words in WRONG_VALUES
]


@pytest.mark.parametrize(("wrong", "words"), WRONG_SPANS)
def test_a_span_with_wrong_types_is_rejected_alone(sender: httpx.Client, wrong: Any, words: str) -> None:
    """JSON: the spans before and after it are stored, and the response says what is wrong."""
    rejected, message = partial_success(send(sender, good_and(wrong)))
    assert rejected == 1
    assert words in message
    assert set(stored(sender)) == {"span 01", "span 02"}


@pytest.mark.parametrize(
    ("body", "rejected", "words"),
    [
        ({"resourceSpans": [5, *good_and()["resourceSpans"]]}, 1, "an entry of resourceSpans cannot be read"),
        ({"resourceSpans": [{"scopeSpans": "x"}, *good_and()["resourceSpans"]]}, 1, "scopeSpans must be a list"),
        ({"resourceSpans": [{"scopeSpans": [7]}, *good_and()["resourceSpans"]]}, 1, "an entry of scopeSpans"),
        ({"resourceSpans": [{**good_and()["resourceSpans"][0], "resource": 5}]}, 0, "a resource must be an object"),
        (
            {"resourceSpans": [{**good_and()["resourceSpans"][0], "resource": {"attributes": 5}}]},
            0,
            "the attributes of a resource cannot be read and are left out",
        ),
        ({"resourceSpans": [{**good_and()["resourceSpans"][0], "resource": None}, None]}, 0, ""),
        ({"resourceSpans": [{**good_and()["resourceSpans"][0], "unknown": [[{}]]}]}, 0, ""),
    ],
)
def test_wrong_types_around_the_spans(sender: httpx.Client, body: Any, rejected: int, words: str) -> None:
    """JSON: what can be read is stored. `null` and unknown members are as good as absent."""
    count_of, message = partial_success(send(sender, body))
    assert (count_of, bool(message)) == (rejected, bool(words))
    assert words in message
    assert set(stored(sender)) == {"span 01", "span 02"}


def test_ids_of_a_wrong_length_in_protobuf(sender: httpx.Client) -> None:
    """Spans without a usable id are rejected; a parent's id of a wrong length makes a root."""
    message = to_protobuf(good_and(span_json("03"), span_json("04"), span_json("05", parent="01")))
    spans = message.resource_spans[0].scope_spans[0].spans
    spans[1].trace_id, spans[2].span_id, spans[3].parent_span_id = b"short", b"", b"123"
    rejected, words = partial_success(send(sender, message))
    assert rejected == 2
    assert "traceId must have 16 bytes (32 hex digits); this one has 5 bytes" in words
    assert "spanId must have 8 bytes" in words
    records = stored(sender)
    assert set(records) == {"span 01", "span 02", "span 05"}
    assert "parent_id" not in records["span 05"]


@pytest.mark.parametrize("encoding", [JSON, PROTOBUF])
def test_times_of_zero_and_in_2262(sender: httpx.Client, encoding: str) -> None:
    """A time that was not sent, or is out of range, is replaced by the other one or the arrival."""
    last = 2**63 - 1
    body = export(
        span_json("01", startTimeUnixNano="0", endTimeUnixNano="0"),
        span_json("02", startTimeUnixNano="5", endTimeUnixNano=str(last)),
        span_json("03", startTimeUnixNano=str(last + 1), endTimeUnixNano=str(2**64 - 1)),
        span_json("04", startTimeUnixNano="7", endTimeUnixNano="6"),
        span_json("05", startTimeUnixNano="0", endTimeUnixNano="9"),
    )
    assert partial_success(send(sender, body if encoding == JSON else to_protobuf(body))) == (0, "")
    times = {name: (one["start_time_unix_nano"], one["end_time_unix_nano"]) for name, one in stored(sender).items()}
    now = times["span 01"][0]
    assert times == {
        "span 01": (now, now),
        "span 02": (5, last),
        "span 03": (now, now),
        "span 04": (7, 7),
        "span 05": (9, 9),
    }
    assert 1_700_000_000_000_000_000 < now < last
    project = sender.headers["x-everycall-project"]
    pages = [f"/traces?project={project}", f"/traces/{'a1'.ljust(32, '0')}?project={project}"]
    assert [sender.get(page, headers={"accept": "text/html"}).status_code for page in pages] == [200, 200]


def test_100_000_attributes(sender: httpx.Client) -> None:
    """The span is stored with those within the limit; how many came is in the record and in the response."""
    body = good_and(span_json("03", attributes={f"a{number}": number for number in range(100_000)}))
    for request in (body, to_protobuf(body)):
        rejected, message = partial_success(send(sender, request))
        assert rejected == 0
        assert f"a span has 100000 attributes; the first {limits.OTLP_ATTRIBUTES_MAX} are stored" in message
    records = stored(sender)
    assert set(records) == {"span 01", "span 02", "span 03"}
    attributes = records["span 03"]["attributes"]
    assert attributes["otel.dropped_attributes_count"] == 100_000 - limits.OTLP_ATTRIBUTES_MAX
    assert attributes["a0"] == 0


def nested(levels: int, of: str = "arrayValue") -> dict[str, Any]:
    """Return a value nested so many levels deep."""
    value: dict[str, Any] = {"stringValue": "innermost"}
    for _ in range(levels):
        value = {of: {"values": [value if of == "arrayValue" else {"key": "k", "value": value}]}}
    return value


@pytest.mark.parametrize("of", ["arrayValue", "kvlistValue"])
@pytest.mark.parametrize("levels", [100, 200, 1_000, 20_000])
def test_values_nested_deep_in_json(sender: httpx.Client, levels: int, of: str) -> None:
    """The span with the value is rejected, at whatever depth the decoder gives up."""
    before, after = json.dumps(good_and("HERE")).split('"HERE"')
    value = {"arrayValue": ('{"arrayValue":{"values":[', "]}}")}.get(
        of, ('{"kvlistValue":{"values":[{"key":"k","value":', "}]}}")
    )
    deep = value[0] * levels + '{"stringValue":"innermost"}' + value[1] * levels
    span = json.dumps({**span_json("09"), "attributes": [{"key": "a", "value": "HERE"}]}).replace('"HERE"', deep)
    response = sender.post("/v1/traces", content=before + span + after, headers={"content-type": JSON})
    rejected, message = partial_success(response)
    assert rejected == 1
    assert "nested" in message
    assert set(stored(sender)) == {"span 01", "span 02"}


@pytest.mark.parametrize("levels", [60, 1_000])
def test_values_nested_deep_in_protobuf(sender: httpx.Client, levels: int) -> None:
    """Protobuf's parser gives up on the whole request; the other spans are stored all the same."""
    value = b"\x0a\x01x"
    for _ in range(levels):
        value = field(5, field(1, value))  # AnyValue.array_value, ArrayValue.values
    attribute = field(9, field(1, b"a") + field(2, value))  # Span.attributes, KeyValue.key and value
    wrong = to_protobuf(export(span_json("09"))).resource_spans[0].scope_spans[0].spans[0].SerializeToString()
    spans = [span.SerializeToString() for span in to_protobuf(good_and()).resource_spans[0].scope_spans[0].spans]
    scope_spans = field(2, spans[0]) + field(2, wrong + attribute) + field(2, spans[1])
    rejected, message = partial_success(send(sender, field(1, field(2, scope_spans))))
    assert rejected == 1
    assert "nested too deep" in message
    assert set(stored(sender)) == {"span 01", "span 02"}


def field(number: int, content: bytes) -> bytes:
    """Return a length-delimited protobuf field."""
    size, length = bytearray(), len(content)
    while length > 0x7F:
        size.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([number << 3 | 2, *size, length]) + content


@pytest.mark.parametrize("levels", [100, 300, 900, 5_000])
def test_json_in_a_string_that_is_nested_deep(sender: httpx.Client, levels: int) -> None:
    """It stays the string it is, whichever field would be read from it."""
    deep = "[" * levels + "]" * levels
    names = ("gen_ai.input.messages", "gen_ai.output.messages", "input.value", "llm.invocation_parameters", "metadata")
    span = span_json("01", attributes={"gen_ai.operation.name": "chat", **dict.fromkeys(names, deep)})
    assert partial_success(send(sender, export(span))) == (0, "")
    assert set(stored(sender)) == {"span 01"}


def test_invalid_utf_8(sender: httpx.Client) -> None:
    """In either encoding, the span with the text is rejected and the others are stored."""
    body = to_protobuf(good_and(span_json("09", attributes={"a": "HERE"}))).SerializeToString()
    rejected, message = partial_success(send(sender, body.replace(b"HERE", b"\xff\xfe\xfd\xfc")))
    assert (rejected, message) == (1, "a span cannot be read: a string is not UTF-8")
    assert set(stored(sender)) == {"span 01", "span 02"}
    content = json.dumps(good_and(span_json("08", attributes={"a": "HERE"}))).encode()
    response = sender.post(
        "/v1/traces", content=content.replace(b"HERE", b"\xff\xfe\xfd\xfc"), headers={"content-type": JSON}
    )
    assert partial_success(response) == (1, "a span cannot be read: it is not UTF-8")
    assert set(stored(sender)) == {"span 01", "span 02"}


def test_half_characters(sender: httpx.Client) -> None:
    """JavaScript writes half of a character that it cut; the span is stored with U+FFFD in its place."""
    text = "whole \U0001f600, half \ud83d, quoted \\\\ud83d, half \ude00"
    rejected, message = partial_success(send(sender, good_and(span_json("03", attributes={"text": text}))))
    assert (rejected, message) == (0, "half characters (lone surrogates) were replaced by U+FFFD")
    records = stored(sender)
    assert set(records) == {"span 01", "span 02", "span 03"}
    assert records["span 03"]["attributes"]["text"] == text.replace("\ud83d", "\ufffd").replace("\ude00", "\ufffd")


@pytest.mark.parametrize("kind", [JSON, PROTOBUF])
def test_1_gb_of_zeros(victim: Any, sender: httpx.Client, kind: str) -> None:
    """413 with what to do, at a memory bound that does not depend on the gigabyte."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join([packer.compress(bytes(MIB)) for _ in range(1_024)]) + packer.flush()
    with memory_bound(victim, 96 * MIB):
        response = sender.post("/v1/traces", content=bomb, headers={"content-type": kind, "content-encoding": "gzip"})
    code, message = status_of(response, kind)
    assert (response.status_code, code) == (413, 8)
    assert f"at most {limits.BODY_BYTES_MAX} bytes decompressed. Split the batch" in message


@pytest.mark.parametrize("kind", [JSON, PROTOBUF])
def test_a_body_over_the_limit(sender: httpx.Client, kind: str) -> None:
    """413 with what to do."""
    response = sender.post("/v1/traces", content=bytes(limits.BODY_WIRE_BYTES_MAX + 1), headers={"content-type": kind})
    code, message = status_of(response, kind)
    assert (response.status_code, code) == (413, 8)
    assert "Split the batch" in message


@pytest.mark.parametrize("encoding", ["identity", "gzip", "zstd", "deflate"])
def test_every_content_encoding(sender: httpx.Client, encoding: str) -> None:
    """Protobuf and JSON, compressed in each way that OpenTelemetry's exporters know."""
    packers: dict[str, Callable[[bytes], bytes]] = {
        "gzip": gzip.compress,
        "zstd": zstandard.compress,
        "deflate": zlib.compress,
        "identity": bytes,
    }
    pack = packers[encoding]
    for kind, content in (
        (JSON, json.dumps(export(span_json("01"))).encode()),
        (PROTOBUF, to_protobuf(export(span_json("02"))).SerializeToString()),
    ):
        headers = {"content-type": kind, "content-encoding": encoding}
        assert partial_success(sender.post("/v1/traces", content=pack(content), headers=headers)) == (0, "")
    assert set(stored(sender)) == {"span 01", "span 02"}


@pytest.mark.parametrize(
    ("headers", "status", "code", "kind", "words"),
    [
        ({"content-type": "text/plain"}, 415, 3, JSON, "Send content-type application/x-protobuf or application/json"),
        ({"content-type": ""}, 415, 3, JSON, "Send content-type"),
        ({"content-type": JSON, "content-encoding": "br"}, 415, 3, JSON, "Use one content-encoding: gzip, zstd"),
        ({"content-type": PROTOBUF, "content-encoding": "br"}, 415, 3, PROTOBUF, "Use one content-encoding"),
        ({"content-type": PROTOBUF, "content-encoding": "gzip"}, 400, 3, PROTOBUF, "cannot be decompressed"),
        ({"content-type": JSON, "content-encoding": "zstd"}, 400, 3, JSON, "cannot be decompressed"),
        ({"content-type": PROTOBUF, "x-api-key": "wrong"}, 401, 16, PROTOBUF, "everycall key create"),
        ({"content-type": JSON, "x-api-key": "wrong"}, 401, 16, JSON, "everycall key create"),
        ({"content-type": PROTOBUF, "x-api-key": "READ"}, 403, 7, PROTOBUF, "This needs a key with the role write"),
        ({"content-type": JSON, "x-api-key": "READ"}, 403, 7, JSON, "This needs a key with the role write"),
        ({"content-type": "application/json; charset=utf-8", "x-api-key": "wrong"}, 401, 16, JSON, "key"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/traces", "/v1/logs", "/v1/metrics", "/api/public/otel/v1/traces"])
def test_requests_that_are_refused(
    victim: Any, path: str, headers: dict[str, str], status: int, code: int, kind: str, words: str
) -> None:
    """Wrong types, encodings and keys: a status in the request's encoding that says what to do."""
    if headers.get("x-api-key") == "READ":
        headers = {**headers, "x-api-key": victim.make_key("otlp-read", "read")}
    with victim.client() as client:
        response = client.post(path, content=b"{}", headers=headers)
    assert response.status_code == status
    number, message = status_of(response, kind)
    assert number == code
    assert words in message


@pytest.mark.parametrize("path", ["/v1/traces", "/v1/logs", "/v1/metrics"])
def test_an_empty_body(sender: httpx.Client, path: str) -> None:
    """In protobuf it is a request without spans, in JSON `{}` is."""
    response = sender.post(path, content=b"", headers={"content-type": PROTOBUF})
    assert (response.status_code, response.content) == (200, b"")
    response = sender.post(path, content=b"{}", headers={"content-type": JSON})
    assert (response.status_code, response.json()) == (200, {})
    assert status_of(sender.post(path, content=b"", headers={"content-type": JSON}), JSON)[0] == 3


def test_attributes_that_only_everycall_may_write(sender: httpx.Client) -> None:
    """A sender's attribute of such a name is not taken over, and does not disturb what is joined by it."""
    names = ("everycall.half", "everycall.partial", "everycall.log_events", "everycall.omit", "everycall.answer")
    for value in (5, "x", ["x"], {"key": "k", "at": "now", "answer": 1}):
        attributes = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m", **dict.fromkeys(names, value)}
        for _ in range(2):
            assert partial_success(send(sender, export(span_json("01", attributes=attributes)))) == (0, "")
    assert set(names) & set(stored(sender)["span 01"]["attributes"]) == set()


def test_too_many_wrong_keys(start_victim: Callable[..., Any]) -> None:
    """429 with Retry-After; a right key from the same address is taken."""
    server = start_victim()
    with server.client("wrong") as client:
        for _ in range(1_000):
            response = client.post("/v1/traces", content=b"", headers={"content-type": PROTOBUF})
            if response.status_code == 429:
                break
            assert response.status_code == 401
    code, message = status_of(response, PROTOBUF)
    assert (response.status_code, code) == (429, 8)
    assert "Try again in" in message
    assert int(response.headers["retry-after"]) >= 1
    with server.client() as client:
        assert send(client, {}).status_code == 200
