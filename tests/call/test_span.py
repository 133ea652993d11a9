"""`span()`, and what `current()` gives inside it: a call that is an OpenTelemetry span too."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from typing import Any, cast

import pytest
from opentelemetry import trace as otel_trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, Status, StatusCode, TraceFlags

from everycall import Call, context, current, span, trace
from everycall._call.call import OwnedCall
from everycall.record import to_json
from everycall.settings import Settings
from everycall.testing import capture_records


def test_a_span_becomes_a_record() -> None:
    with capture_records() as records:
        with span(
            "lookup", kind="retriever", inputs={"q": "why"}, tags=["t"], metadata={"k": 1}, target="gold"
        ) as call:
            assert current() is call
            call.update(output=["d1"], model="m", provider="p", input_tokens=3, output_tokens=4, cost=0.5)
            call.set_attribute("custom", "c")
            call.update(metadata={"l": 2}, tags=["u", "t"], usage={"cached": 1})
        assert not current().inference_id
    (record,) = records
    assert (record.name, record.kind, record.status, record.error_type) == ("lookup", "retriever", "success", None)
    assert (to_json(record.inputs), to_json(record.output), to_json(record.target)) == ({"q": "why"}, ["d1"], "gold")
    assert (record.tags, to_json(record.metadata)) == (["t", "u"], {"k": 1, "l": 2})
    assert (record.model, record.provider, record.input_tokens, record.output_tokens) == ("m", "p", 3, 4)
    assert (record.total_tokens, record.usage, record.cost) == (7, {"cached": 1}, 0.5)
    assert to_json(record.attributes) == {"custom": "c"}
    assert record.inference_id == call.inference_id
    assert record.inference_id == f"{record.trace_id}-{cast(OwnedCall, call).span_id}"
    assert record.end_time_unix_nano >= record.start_time_unix_nano > 0


async def test_an_async_span() -> None:
    with capture_records() as records:
        async with span("outer") as outer:
            async with span("inner"):
                await asyncio.sleep(0)
    assert [record.name for record in records] == ["inner", "outer"]
    assert records[0].parent_id == outer.inference_id


@pytest.mark.parametrize(
    ("error", "status", "error_type"),
    [
        (ValueError("v"), "error", "ValueError"),
        (KeyboardInterrupt(), "error", "KeyboardInterrupt"),
        (asyncio.CancelledError(), "error", "cancelled"),
        (GeneratorExit(), "success", "abandoned"),
    ],
)
def test_the_exception_of_a_block_is_raised_and_recorded(error: BaseException, status: str, error_type: str) -> None:
    with capture_records() as records:
        with pytest.raises(type(error)) as info:
            with span("block"):
                raise error
    assert info.value is error
    assert error.__context__ is None
    assert [(record.status, record.error_type) for record in records] == [(status, error_type)]


def test_a_span_can_be_reused_and_nested() -> None:
    block = span("again")
    with capture_records() as records:
        with block as outer:
            with block as inner:
                assert current() is inner
            assert current() is outer
        with block:
            pass
        assert not current().inference_id
    assert [record.parent_id for record in records] == [outer.inference_id, None, None]
    block.__exit__(None, None, None)  # once too often: nothing to end


def test_spans_that_end_out_of_order_are_both_recorded() -> None:
    def run() -> None:
        first, second = span("first"), span("second")
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        second.__exit__(None, None, None)

    with capture_records() as records:
        contextvars.copy_context().run(run)
    assert [record.name for record in records] == ["first", "second"]


def test_a_span_under_another_programs_span_joins_its_trace() -> None:
    above = SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(1))
    with capture_records() as records, otel_trace.use_span(NonRecordingSpan(above)):
        with span("ours"):
            pass
    assert records[0].trace_id == f"{0xABC:032x}"
    assert records[0].parent_id == f"{0xABC:032x}-{0xDEF:016x}"


def test_a_call_is_the_current_opentelemetry_span() -> None:
    with capture_records() as records:
        with span("ours") as call:
            current_span = otel_trace.get_current_span()
            assert current_span is call
            assert current_span.is_recording()
            ids = current_span.get_span_context()
            assert f"{ids.trace_id:032x}-{ids.span_id:016x}" == call.inference_id
            current_span.set_attribute("a", 1)
            current_span.set_attributes({"b": [1, 2]})
            current_span.add_event("happened", {"n": 1})
            current_span.record_exception(LookupError("handled"))
            current_span.update_name("renamed")
            current_span.set_status(Status(StatusCode.ERROR, "declared"))
        assert not current_span.is_recording()
        current_span.set_attribute("late", 1)
        current_span.end()
    (record,) = records
    attributes = to_json(record.attributes)
    assert (attributes["a"], attributes["b"]) == (1, [1, 2])
    assert [event["name"] for event in attributes["events"]] == ["happened", "exception"]
    assert attributes["events"][1]["attributes"]["exception.message"] == "handled"
    assert "late" not in attributes
    assert (record.name, record.status, record.error) == ("renamed", "error", "declared")


def test_a_handled_exception_leaves_the_call_a_success() -> None:
    with capture_records() as records:
        with span("ours") as call:
            call.record_exception(ValueError("x"))
    assert records[0].status == "success"


@pytest.mark.parametrize(
    "fields",
    [
        {"input_tokens": "many"},
        {"input_tokens": -1},
        {"cost": float("nan")},
        {"usage": {"cached": "x"}},
        {"metadata": 5},
        {"tags": 5},
        {"usage": 5},
        {"content": object()},
        {"model": object()},
        {"name": "\ud800"},
        {"name": "x" * 100_000},
        {"name": 7},
    ],
)
def test_records_with_invalid_fields_are_kept(fields: dict[str, Any]) -> None:
    with capture_records() as records:
        with span("block") as call:
            call.update(**fields)
            call.update(output="kept")
        name = fields.get("name", "given")
        with span(name, **{k: v for k, v in fields.items() if k != "name"}):
            pass
    assert len(records) == 2
    assert to_json(records[0].output) == "kept"


@pytest.mark.parametrize("settings", [Settings(omit=1), Settings(omit=2), Settings(omit=3), Settings(omit=4)])
def test_omit_flags_apply_to_spans(settings: Settings) -> None:
    with capture_records(settings) as records:
        with contextlib.suppress(ValueError):
            with span("block", inputs="canary-in", tags=["label"]) as call:
                call.update(output="canary-out", tags=["canary-tag"])
                call.set_attribute("attribute", "canary-at")
                call.add_event("canary-event")
                raise ValueError("canary-error")
    if settings.omit == 4:
        assert records == []
        return
    text = repr(records[0]) + "".join(
        bytes(getattr(records[0], name)).decode() for name in ("inputs", "output", "attributes", "metadata")
    )
    for flag, canary in ((1, "canary-in"), (2, "canary-out"), (3, "canary-a"), (3, "canary-e"), (3, "canary-t")):
        assert (canary in text) == (not settings.omit & flag), canary
    assert records[0].tags == ["label"]
    assert records[0].error_type == "ValueError"


def test_with_log_omit_nothing_is_recorded_and_spans_work() -> None:
    with capture_records() as records:
        with span("hidden", log_omit=True) as call:
            assert isinstance(call, Call)
            with span("below"):
                trace(lambda: 1)()
    assert records == []


def test_an_inner_scope_cannot_remove_a_flag() -> None:
    with capture_records() as records:
        with context(log_omit_inputs=True), context(log_omit_inputs=False), span("s", inputs="canary"):
            pass
    assert to_json(records[0].inputs) is None
    assert records[0].omitted == ["inputs"]


def test_sampling_keeps_whole_traces() -> None:
    with capture_records(Settings(sample_rate=0.5)) as records:
        for _ in range(200):
            with span("root"):
                with span("child"):
                    pass
    roots = {record.inference_id for record in records if record.parent_id is None}
    children = {record.parent_id for record in records if record.parent_id is not None}
    assert roots == children
    assert 40 < len(roots) < 160
