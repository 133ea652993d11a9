"""Anthropic's client from version 2 on opens spans of its own and sends their ids along: they stay as they would be.

One request is one record. The program's exporters see what they would see without everycall, and Anthropic is told
nothing of a call, unless the host is one that the trace may be told to.
"""

from __future__ import annotations

import inspect
from typing import Any

import anthropic
import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, NoOpTracerProvider

import everycall
from everycall import propagation
from everycall.record import Record
from everycall.settings import Settings
from everycall.testing import capture_records
from everycall_testkit.client_bench import Clients
from everycall_testkit.provider import FakeProvider

pytestmark = pytest.mark.skipif(
    "open_telemetry" not in inspect.signature(anthropic.Anthropic.__init__).parameters,
    reason="this version opens no spans",
)

REQUEST: dict[str, Any] = {"model": "claude-test", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
OWN = "anthropic.messages.create"
TRACE_HEADERS = ("traceparent", "tracestate", "baggage")
REMOTE = "00-11111111111111111111111111111111-2222222222222222-01"


class Stack:
    """A program's own OpenTelemetry: a real SDK, a tracer of the program's, and what its exporter has got."""

    def __init__(self, sampler: Any = None) -> None:
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        self.provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self._exporter = InMemorySpanExporter()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("the program")

    @property
    def spans(self) -> dict[str, Any]:
        """The finished spans by their names, the last of each."""
        return {span.name: span for span in self._exporter.get_finished_spans()}


@pytest.fixture
def stack() -> Stack:
    pytest.importorskip("opentelemetry.sdk")
    return Stack()


def trace_headers(provider: FakeProvider) -> list[dict[str, str]]:
    """Return the trace headers of each request."""
    return [
        {name: request.headers[name] for name in TRACE_HEADERS if name in request.headers}
        for request in provider.requests
    ]


async def ask(clients: Clients, provider_of_spans: Any, **more: Any) -> Any:
    client = clients.new(open_telemetry={"tracer_provider": provider_of_spans})
    everycall_client = clients.wrap(client)
    return await clients.wait(everycall_client.messages.create(**REQUEST, **more))


async def test_without_a_tracer_provider_no_ids_are_sent(
    clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    """OpenTelemetry's API alone propagates the ids of the current span; those of a call are hidden from it."""
    await ask(clients, NoOpTracerProvider())
    with everycall.span("outer"):
        await ask(clients, NoOpTracerProvider())
        await clients.all(await ask(clients, NoOpTracerProvider(), stream=True))
    assert trace_headers(provider) == [{}, {}, {}]
    assert [r.name for r in records] == ["chat claude-test"] * 3 + ["outer"]


async def test_requests_that_are_not_recorded_send_no_ids(
    clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    client = clients.wrapped()
    request = {name: value for name, value in REQUEST.items() if name != "max_tokens"}
    with everycall.span("outer"):
        await clients.wait(client.messages.count_tokens(**request))
        with everycall.context(log_omit=True):
            await clients.wait(client.messages.create(**REQUEST))
    assert trace_headers(provider) == [{}, {}]


async def test_a_span_of_a_call_sends_no_ids(clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    """Without an SDK, a span that a library opens below a call has that call's ids."""
    with everycall.span("outer"):
        with NoOpTracerProvider().get_tracer("a library").start_as_current_span("below") as below:
            assert isinstance(below, NonRecordingSpan)
            await ask(clients, NoOpTracerProvider())
    assert trace_headers(provider) == [{}]


async def test_the_call_of_another_process_is_not_passed_on(
    clients: Clients, provider: FakeProvider, records: list[Record]
) -> None:
    with propagation.use_context({"traceparent": REMOTE, "baggage": "everycall.trace_name=support"}):
        await ask(clients, NoOpTracerProvider())
    assert trace_headers(provider) == [{}]
    assert (records[0].trace_id, records[0].trace_name) == ("1" * 32, "support")


async def test_the_clients_span_belongs_to_the_program(
    clients: Clients, provider: FakeProvider, records: list[Record], stack: Stack
) -> None:
    """A span alone is a root with ids of its own, and has nothing of the call. There is one record."""
    with everycall.span("outer") as outer:
        await ask(clients, stack.provider)
    span = stack.spans[OWN]
    assert span.parent is None
    assert f"{span.context.trace_id:032x}" != outer.inference_id.partition("-")[0]
    (header,) = trace_headers(provider)
    assert header["traceparent"].startswith(f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-")
    assert [r.name for r in records] == ["chat claude-test", "outer"]


async def test_the_clients_span_is_below_the_programs_span(
    clients: Clients, provider: FakeProvider, records: list[Record], stack: Stack
) -> None:
    """The program's own spans are its parents, as if there were no calls."""
    with stack.tracer.start_as_current_span("request"), everycall.span("outer"):
        await ask(clients, stack.provider)
    spans = stack.spans
    request, span = spans["request"].context, spans[OWN]
    assert (span.parent.span_id, span.context.trace_id) == (request.span_id, request.trace_id)
    answer, outer = records
    assert (answer.parent_id, answer.trace_id) == (outer.inference_id, f"{request.trace_id:032x}")
    with everycall.span("outer"), stack.tracer.start_as_current_span("step"), everycall.span("inner"):
        await ask(clients, stack.provider)
    spans = stack.spans
    assert spans[OWN].parent.span_id == spans["step"].context.span_id


async def test_the_programs_sampling_applies(clients: Clients, provider: FakeProvider, records: list[Record]) -> None:
    """A call is not a sampled parent: a program that samples nothing exports nothing, and has the record."""
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.trace.sampling import DEFAULT_OFF

    stack = Stack(DEFAULT_OFF)
    with everycall.span("outer"):
        await ask(clients, stack.provider)
    assert stack.spans == {}
    flags = trace_headers(provider)[0]["traceparent"].rpartition("-")[2]
    assert not int(flags, 16) & trace.TraceFlags.SAMPLED
    assert [r.name for r in records] == ["chat claude-test", "outer"]


@pytest.mark.parametrize("how", ["whole", "stream", "left", "error"])
async def test_the_clients_span_is_as_without_everycall(
    how: str, clients: Clients, provider: FakeProvider, records: list[Record], stack: Stack
) -> None:
    """It has the attributes, status and end of the span of a client that is not wrapped."""
    spans = []
    for wraps in (False, True):
        if how == "error":
            provider.reply(status=529)
        client = clients.new(open_telemetry={"tracer_provider": stack.provider})
        client = clients.wrap(client) if wraps else client
        try:
            answer = await clients.wait(client.messages.create(**REQUEST, stream=how in ("stream", "left")))
            if how == "stream":
                await clients.all(answer)
            elif how == "left":
                await clients.next(answer)
                await clients.wait(answer.close())
        except anthropic.InternalServerError:
            assert how == "error"
        span = stack.spans[OWN]
        attributes = {k: v for k, v in span.attributes.items() if not k.endswith("time_to_first_chunk")}
        spans.append((attributes, span.status.status_code, span.kind, len(span.events)))
        stack._exporter.clear()
    assert spans[0] == spans[1]
    assert len(records) == 1


async def test_a_listed_host_gets_the_calls_ids(clients: Clients, provider: FakeProvider) -> None:
    """`propagate_to` names the hosts that continue a trace, such as your own gateway."""
    with capture_records(Settings(propagate_threads=False, propagate_to=("127.0.0.1",))) as records:
        propagation.instrument_httpx()
        try:
            with everycall.context(trace_name="support"):
                await ask(clients, NoOpTracerProvider())
        finally:
            propagation.uninstrument()
    (header,) = trace_headers(provider)
    trace_id, span_id = records[0].inference_id.split("-")
    assert header == {"traceparent": f"00-{trace_id}-{span_id}-01", "baggage": "everycall.trace_name=support"}


async def test_the_programs_context_is_restored(
    clients: Clients, provider: FakeProvider, records: list[Record], stack: Stack
) -> None:
    with stack.tracer.start_as_current_span("request") as request, everycall.span("outer") as outer:
        await ask(clients, stack.provider)
        assert trace.get_current_span() is outer
    assert request.get_span_context().is_valid
