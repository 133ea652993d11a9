"""Context between processes: the headers, the hosts that get them, and which incoming values are used."""

from __future__ import annotations

import json
import logging
import pickle
import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest
from opentelemetry import baggage, propagate
from opentelemetry import context as otel_context
from opentelemetry import trace as otel_trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

import everycall
from everycall import _guard, limits
from everycall._call.call import OwnedCall
from everycall.errors import ConfigurationError
from everycall.propagation import (
    carry,
    extract,
    inject,
    use_context,
)
from everycall.record import Record, to_json
from everycall.settings import Settings
from everycall.testing import capture_records

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


@pytest.fixture
def settings() -> Settings:
    return Settings(propagate_to=("127.0.0.1",))


@pytest.fixture(autouse=True)
def records(settings: Settings) -> Iterator[list[Record]]:
    before = dict(_guard.failures)
    with capture_records(settings) as captured:
        yield captured
    assert _guard.failures == before


@everycall.trace
def child(n: int = 0) -> int:
    return n


# --- what is written and read ---


def test_injected_headers_can_be_extracted(records: list[Record]) -> None:
    """Everything that a call below inherits crosses, whatever is in the texts, and the sender's call is the parent."""
    text = 'ü, ;="\\ %+\t\n\x00 日本 🎈'
    headers: dict[str, str] = {}
    with everycall.context(
        trace_id="order-42", trace_name=text, end_user_identifier=text, session_id=text, log_omit_inputs=True,
        log_omit_outputs=True,
    ), everycall.span("sender") as call:  # fmt: skip
        inject(headers)
    assert headers["traceparent"] == f"00-{cast(OwnedCall, call).trace_hex}-{cast(OwnedCall, call).span_id}-01"
    assert all(value.isascii() and value.isprintable() for value in headers.values())
    with use_context(headers):
        child()
    sender, receiver = records
    assert receiver.parent_id == sender.inference_id
    assert receiver.trace_id == sender.trace_id == "order-42"
    assert [receiver.trace_name, receiver.end_user_identifier, receiver.session_id] == [text] * 3
    assert receiver.omitted == ["inputs", "outputs"]


@pytest.mark.parametrize("trace_id", ["order-42", TRACE, "4BF92F35-77B3-4DA6-A3CE-929D0E0E4736", "x" * 512, "й" * 512])
def test_a_trace_id_in_every_form(trace_id: str, records: list[Record]) -> None:
    """32 hex digits are in `traceparent`; any other text is sent in baggage, and is the same on both sides."""
    headers: dict[str, str] = {}
    with everycall.context(trace_id=trace_id):
        with everycall.span("sender"):
            inject(headers)
    assert ("baggage" in headers) == (trace_id != TRACE)
    with use_context(headers):
        child()
    assert [r.trace_id for r in records] == [trace_id] * 2


def test_a_scope_without_a_call_is_injected(records: list[Record]) -> None:
    """No call is in progress to be the parent: there is no `traceparent`, and the calls are roots of that trace."""
    for trace_id in ("order-42", TRACE):
        headers: dict[str, str] = {}
        with everycall.context(trace_id=trace_id, session_id="s"):
            inject(headers)
        assert set(headers) == {"baggage"}
        with use_context(headers):
            child()
        assert (records[-1].trace_id, records[-1].parent_id, records[-1].session_id) == (trace_id, None, "s")


def test_labels_are_cut_when_they_are_set(records: list[Record]) -> None:
    """A label that a record could not take is cut or rewritten, never the loss of the record."""

    class Hostile:
        def __str__(self) -> str:
            raise RuntimeError

    with everycall.context(trace_id="x" * 1_000, trace_name="\ud800", end_user_identifier=7, session_id="y" * 1_000):  # type: ignore[arg-type]
        with everycall.span("a"):
            headers: dict[str, str] = {}
            inject(headers)
    with use_context(headers):
        child()
    first, second = records
    assert (len(first.trace_id), first.trace_name, first.end_user_identifier) == (512, "\\ud800", "7")
    assert first.session_id == second.session_id == "y" * 511 + "…"
    assert second.parent_id == first.inference_id
    with everycall.context(trace_id=Hostile(), session_id=Hostile()):  # type: ignore[arg-type]
        child()
    assert records[2].session_id is None
    assert _guard.failures.pop("_label") == 2


def test_nothing_is_injected_without_a_call() -> None:
    headers: dict[str, str] = {}
    inject(headers)
    assert headers == {}
    assert extract({}) is None
    assert extract({"baggage": "colour=red", "accept": "*/*"}) is None


def test_an_intermediate_service_passes_the_trace_on(records: list[Record]) -> None:
    """A service that traces nothing itself, but forwards: the last one's calls are the first one's children."""
    first: dict[str, str] = {}
    with everycall.context(trace_id="order-42", log_omit_outputs=True), everycall.span("first"):
        inject(first)
    second: dict[str, str] = {}
    with use_context({**first, "tracestate": "a=1,b=2"}):
        inject(second)
    assert second == {**first, "tracestate": "a=1,b=2"}
    with use_context(second):
        child()
    assert records[1].parent_id == records[0].inference_id
    assert records[1].trace_id == "order-42"


def test_a_call_passes_the_tracestate_on(records: list[Record]) -> None:
    """A `tracestate` that came in leaves as it came, with the calls of that trace, and with no others."""
    with use_context({"traceparent": PARENT, "tracestate": "a=1,b=2"}):
        with everycall.span("in it"):
            headers: dict[str, str] = {"tracestate": "own=1"}
            inject(headers)
            assert headers["tracestate"] == "own=1"
            headers = {}
            inject(headers)
            assert headers["tracestate"] == "a=1,b=2"
        with everycall.context(trace_id="another"), everycall.span("beside it"):
            headers = {}
            inject(headers)
            assert "tracestate" not in headers


def test_the_users_headers_are_kept() -> None:
    """A `traceparent` is not overwritten, other members of baggage are kept, and telling twice is telling once."""
    with everycall.context(trace_id="order-42", session_id="s"), everycall.span("a"):
        headers = {"TraceParent": PARENT, "Baggage": "colour=red;p=1, size=9", "x": "y"}
        inject(headers)
        once = dict(headers)
        inject(headers)
    assert headers == once
    assert headers["TraceParent"] == PARENT
    assert headers["Baggage"] == "everycall.session_id=s,colour=red;p=1, size=9"
    assert set(headers) == {"TraceParent", "Baggage", "x"}


def test_old_everycall_members_are_replaced() -> None:
    with everycall.context(session_id="new"):
        headers = {"baggage": "a=1,everycall.session_id=old,b=2,everycall.trace_name=x"}
        inject(headers)
    assert headers["baggage"] == "everycall.session_id=new,a=1,b=2"


def test_a_full_baggage_keeps_the_most_important_members() -> None:
    """8 KiB is what every reader takes. The omit flags go in any case; labels only where there is room, and whole."""
    with everycall.context(log_omit_inputs=True, end_user_identifier="й" * 512, session_id="s"):
        headers = {"baggage": "a=" + "x" * (limits.BAGGAGE_SENT_BYTES - 100)}
        inject(headers)
        assert headers["baggage"].startswith("everycall.omit=inputs,everycall.session_id=s,a=xxx")
        assert len(headers["baggage"]) <= limits.BAGGAGE_SENT_BYTES
        headers = {"baggage": "a=" + "x" * limits.BAGGAGE_SENT_BYTES}
        inject(headers)
        assert headers["baggage"].startswith("everycall.omit=inputs,a=xxx")


def test_the_flags_of_the_process_are_propagated() -> None:
    headers: dict[str, str] = {}
    with capture_records(Settings(omit=3)), everycall.span("a"):
        inject(headers)
    assert "everycall.omit=inputs.outputs" in headers["baggage"]


# --- what comes in is data ---


@pytest.mark.parametrize(
    "parent",
    [
        "", " ", "garbage", "00", PARENT[:-1], PARENT + "0", PARENT.upper(), f"00-{TRACE}-{SPAN}",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE}-{SPAN}-01-more", f"00-{TRACE}-{SPAN}-0g",
        f"{PARENT},{PARENT}", f"00-{TRACE[:-1]}é-{SPAN}-01", PARENT + "\n", "0" * 1_000_000, b"\xff\xfe",
        f"0٠-{TRACE}-{SPAN}-01",
    ],
)  # fmt: skip
def test_a_malformed_traceparent_is_ignored(parent: Any, records: list[Record]) -> None:
    """W3C Trace Context: a header that cannot be read begins a new trace. Its labels are read all the same."""
    with use_context({"traceparent": parent, "baggage": "everycall.session_id=s"}):
        child()
    assert records[0].parent_id is None
    assert records[0].trace_id not in (TRACE, "0" * 32)
    assert records[0].session_id == "s"
    with use_context({"traceparent": parent}):
        child()
    assert records[1].session_id is None


@pytest.mark.parametrize(
    "parent", [f"  {PARENT}\t", f"01-{TRACE}-{SPAN}-01-more.of-it", f"00-{TRACE}-{SPAN}-00", PARENT.encode()]
)
def test_a_traceparent_of_another_sender_is_continued(parent: Any, records: list[Record]) -> None:
    """Any sender's, a later version's too: its trace, its span as the parent."""
    with use_context({"Traceparent": parent}):
        child()
        with everycall.span("above"):
            child()
    first, second, above = records
    assert {r.trace_id for r in records} == {TRACE}
    assert [r.parent_id for r in (first, above, second)] == [f"{TRACE}-{SPAN}"] * 2 + [above.inference_id]


@pytest.mark.parametrize("state", ["é=1", "=", "a", "a=1," * 100, "x" * 1_000_000, "A=1", "a=1\n"])
def test_a_malformed_tracestate_is_ignored_alone(state: str, records: list[Record], caplog: Any) -> None:
    """It is dropped, and the trace continues; nothing of it is logged."""
    with caplog.at_level(logging.DEBUG), use_context({"traceparent": PARENT, "tracestate": state}), everycall.span("a"):
        headers: dict[str, str] = {}
        inject(headers)
    assert "tracestate" not in headers
    assert records[0].trace_id == TRACE
    assert caplog.records == []


@pytest.mark.parametrize(
    "member",
    [
        "everycall.session_id", "everycall.session_id=", "everycall.session_id=" + "x" * 513, "everycall.session_id=%",
        "everycall.session_id=" + "%D0%B9" * 513, "xeverycall.session_id=a", "everycall.session_idx=a", "=", ",,,", "a",
        "everycall.endpoint=http://evil.example", "everycall.api_key=k", "everycall.omit=", "everycall.omit=none",
        "everycall.omit=inputs,everycall.omit=", "a=everycall.session_id=a", "everycall.session_id=\ud800",
    ],
)  # fmt: skip
def test_malformed_and_foreign_members_are_ignored(member: str, records: list[Record]) -> None:
    """They change no record, or at most the field they are for, within its bound."""
    with use_context({"traceparent": PARENT, "baggage": member}):
        child(1)
    (record,) = records
    assert record.trace_id == TRACE
    assert record.session_id in (None, "%", "\\ud800")
    assert record.omitted == (["inputs"] if "inputs" in member else [])


def test_amplification_is_bounded(records: list[Record]) -> None:
    """10 000 members and a megabyte: what lies beyond the bound is not looked at, and a label stays one label."""
    many = ",".join(f"everycall.session_id=s{n},k{n}=v" for n in range(10_000))
    huge = "everycall.end_user_identifier=" + "u" * 1_000_000
    spaces = "," + " " * 1_000_000 + "everycall.session_id=x"
    commas = "," * 1_000_000
    omits = "everycall.omit=inputs.outputs," * 40_000
    for header in (many, huge, spaces, commas, omits):
        with use_context({"baggage": header, "traceparent": PARENT}):
            child()
    assert [r.session_id for r in records] == ["s0", None, None, None, None]
    assert {r.end_user_identifier for r in records} == {None}
    assert records[-1].omitted == ["inputs", "outputs"]
    cut = (
        "everycall.trace_name=whole,"
        + "k=v," * (limits.BAGGAGE_READ_CHARS // 4 - 10)
        + "everycall.session_id=half-of-it"
    )
    assert limits.BAGGAGE_READ_CHARS - 10 < len(cut) - 4 < limits.BAGGAGE_READ_CHARS + 25
    with use_context({"baggage": cut}):
        child()
    assert (records[-1].trace_name, records[-1].session_id) == ("whole", None)


def test_a_raw_trace_id_must_match_traceparent(records: list[Record]) -> None:
    """A sender cannot file its calls under one id on the list and another in the tree."""
    with use_context({"traceparent": PARENT, "baggage": "everycall.trace_id=order-42"}):
        child()
    assert records[0].trace_id == TRACE


def test_incoming_flags_are_only_added(records: list[Record]) -> None:
    """Nobody outside can lift an omit flag; unknown words mean nothing."""
    with everycall.context(log_omit_inputs=True):
        for word in ("", "none", "0", "outputs", "whatever.outputs"):
            with use_context({"baggage": f"everycall.omit={word}"}):
                child(1)
        with use_context({"baggage": "everycall.omit=all"}):
            child(1)
    both = ["inputs", "outputs"]
    assert [r.omitted for r in records] == [["inputs"], ["inputs"], ["inputs"], both, both]


def test_no_url_is_read_from_a_header(records: list[Record], settings: Settings) -> None:
    with use_context({"baggage": "everycall.endpoint=http://evil.example,everycall.propagate_to=*"}):
        with everycall.span("a") as call:
            headers: dict[str, str] = {}
            inject(headers, "http://evil.example/")
            assert headers == {}
            assert call.url.startswith(settings.endpoint)


# --- the hosts that get headers ---


@pytest.mark.parametrize(
    ("pattern", "url", "is_allowed"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000/x", True),
        ("127.0.0.1", "http://localhost:8000/x", False),
        ("api.example", "https://API.Example./x", True),
        ("api.example", "https://xapi.example/x", False),
        ("api.example", "https://api.example.evil.example/x", False),
        ("api.example", "https://api.example@evil.example/x", False),
        ("api.example", "https://evil.example/api.example", False),
        ("api.example", "https://evil.example#@api.example", False),
        ("api.example", "https://evil.example\\@api.example/", False),
        ("api.example", "ftp://api.example/x", False),
        ("api.example", "//api.example/x", False),
        ("api.example", "api.example", False),
        ("api.example", "https://api.example:99999/", False),
        ("api.example", "https://[api.example/", False),
        ("api.example", "", False),
        ("*.internal.example", "https://a.internal.example/", True),
        ("*.internal.example", "https://a.b.internal.example/", True),
        ("*.internal.example", "https://internal.example/", False),
        ("*.internal.example", "https://.internal.example/", False),
        ("*.internal.example", "https://evilinternal.example/", False),
        ("billing:8080", "http://billing:8080/", True),
        ("billing:8080", "http://billing/", False),
        ("billing:443", "https://billing/", True),
        ("[::1]", "http://[::1]:9/", True),
        ("[::1]:9", "http://[::1]:9/", True),
        ("[::1]:9", "http://[::1]:8/", False),
    ],
)
def test_only_listed_hosts_get_headers(pattern: str, url: str, is_allowed: bool) -> None:
    with capture_records(Settings(propagate_to=(pattern,))), everycall.span("a"):
        headers: dict[str, str] = {}
        inject(headers, url)
    assert bool(headers) is is_allowed


def test_no_host_gets_headers_by_default() -> None:
    with capture_records(Settings()), everycall.span("a"):
        headers: dict[str, str] = {}
        inject(headers, "http://127.0.0.1/")
    assert headers == {}


@pytest.mark.parametrize(
    "bad", ["*", "*.", "http://a.example", "a.example/x", "a b", "a*.example", "*.*.example", "::1", "ü.example"]
)
def test_a_pattern_that_matches_every_host_is_refused(bad: str) -> None:
    with pytest.raises(ConfigurationError, match="propagate_to takes host names such as"):
        Settings.build({}, propagate_to=[bad])


def test_names_from_the_environment() -> None:
    env = {"EVERYCALL_PROPAGATE_TO": " A.example , *.b.example:80,"}
    assert Settings.build(env).propagate_to == ("a.example", "*.b.example:80")
    assert Settings.build(env, propagate_to=()).propagate_to == ()
    assert Settings.build({}, propagate_to="c.example").propagate_to == ("c.example",)


# --- with OpenTelemetry's own propagators ---


def test_both_write_the_same(records: list[Record]) -> None:
    """A call is the current span: `opentelemetry.propagate.inject` writes the same `traceparent`."""
    ours: dict[str, str] = {}
    theirs: dict[str, str] = {}
    with everycall.context(trace_id="order-42", end_user_identifier="u"), everycall.span("a"):
        inject(ours)
        propagate.inject(theirs)
    assert theirs == {"traceparent": ours["traceparent"]}


def test_headers_are_compatible_with_opentelemetry(records: list[Record]) -> None:
    headers: dict[str, str] = {}
    with everycall.context(trace_id="order-42"), everycall.span("sender") as call:
        inject(headers)
    token = otel_context.attach(propagate.extract(headers))
    child()
    assert baggage.get_baggage("everycall.trace_id") == "order-42"
    otel_context.detach(token)
    assert records[-1].parent_id == call.inference_id
    with use_context(headers):
        relayed: dict[str, str] = {}
        propagate.inject(relayed)
        assert otel_trace.get_current_span().get_span_context().is_remote
    assert relayed == {"traceparent": headers["traceparent"]}


def test_a_span_around_the_request_stays_current(records: list[Record]) -> None:
    """An OpenTelemetry server span that is current already is not replaced; the caller's call is still the parent."""
    server = NonRecordingSpan(SpanContext(int(TRACE, 16), 7, False, TraceFlags(1)))
    with otel_trace.use_span(server), use_context({"traceparent": PARENT}):
        assert otel_trace.get_current_span() is server
        child()
    assert records[0].parent_id == f"{TRACE}-{SPAN}"


# --- a function that takes its context along ---


def test_carry_passes_the_context_on(records: list[Record]) -> None:
    """Through pickle: the parent, the labels, tags and metadata (as JSON); in the context it was given and no other."""
    metadata = {"team": "a", "lock": threading.Lock()}
    with everycall.context(trace_id="order-42", session_id="s", tags=["beta"], metadata=metadata):
        with everycall.span("above") as call:
            packed = pickle.dumps(carry(child))
    with everycall.context(session_id="of the child", tags=["stale"], trace_name="stale"), everycall.span("stale"):
        assert pickle.loads(packed)(n=3) == 3
    (record,) = [r for r in records if r.name == "child"]
    assert (record.trace_id, record.parent_id, record.session_id) == ("order-42", call.inference_id, "s")
    assert (record.tags, record.trace_name) == (["beta"], None)
    assert to_json(record.metadata)["team"] == "a"


def test_carry_outside_a_call(records: list[Record]) -> None:
    """Then its calls are roots, also in a worker that was forked inside some call; that one's omit flags hold."""
    carried = carry(child)
    with everycall.context(log_omit_inputs=True), everycall.span("stale"):
        assert carried(1) == 1
    assert (records[0].parent_id, records[0].omitted) == (None, ["inputs"])
    with pytest.raises(TypeError):
        carried(1, 2, 3)  # type: ignore[call-arg]
    assert not everycall.current().inference_id


async def test_use_context_in_async_code_and_again(records: list[Record]) -> None:
    """`async with`, entered twice and nested; without trace headers nothing changes."""
    scope = use_context({"traceparent": PARENT})
    async with scope:
        with scope:
            child()
        child()
    with use_context(None), use_context({}), use_context({"x": "y"}):
        child()
    assert [r.trace_id == TRACE for r in records] == [True, True, False]


def test_headers_of_a_task(records: list[Record]) -> None:
    """A plain dict that survives JSON, as task queues carry it."""
    task: dict[str, Any] = {"id": 1, "headers": {}}
    with everycall.context(trace_id="order-42", log_omit_outputs=True), everycall.span("enqueue") as call:
        inject(task["headers"])
    with use_context(json.loads(json.dumps(task))["headers"]):
        child(1)
    assert (records[1].parent_id, records[1].trace_id) == (call.inference_id, "order-42")
    assert records[1].omitted == ["outputs"]
