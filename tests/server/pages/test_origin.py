"""Where a record came from: sender, dialect, what was not sent, and which records are steps."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Raw

from everycall.record import Record, to_raw
from everycall.server.pages.content import sections_of
from everycall.server.pages.origin import is_step, origin_of


def foreign(dialect: str = "openinference", attributes: dict[str, Any] | None = None, **fields: Any) -> Record:
    """A record as the OTLP routes store it."""
    values: dict[str, Any] = {"start_time_unix_nano": 1, "end_time_unix_nano": 2, "latency": 1e-9, **fields}
    marks = {"everycall.dialect": dialect, **(attributes or {})}
    return Record(inference_id="i", trace_id="t", attributes=to_raw(marks), **values)


def not_sent(record: Record) -> set[str]:
    origin = origin_of(record)
    assert origin is not None
    return set(origin.not_sent)


def test_a_record_of_everycall_has_no_origin() -> None:
    assert origin_of(Record(inference_id="i", trace_id="t", scope="everycall")) is None
    attributes = to_raw({"note": "everycall.dialect"})
    assert origin_of(Record(inference_id="i", trace_id="t", attributes=attributes)) is None


@pytest.mark.parametrize(
    ("dialect", "scope", "sdk", "sender", "name"),
    [
        ("openinference", "openinference.instrumentation.openai", "x", "OpenInference", "OpenInference"),
        ("gen_ai", "opentelemetry.instrumentation.openai_v2", "x", "opentelemetry.instrumentation.openai_v2",
         "OpenTelemetry GenAI"),
        ("opentelemetry", None, "opentelemetry-go/1", "opentelemetry-go/1", "plain OpenTelemetry"),
        ("opentelemetry", None, None, "the sender", "plain OpenTelemetry"),
        ("logfire", "pydantic-ai", None, "Pydantic AI", "Logfire"),
        ("a-new-one", "scope", None, "a-new-one", "a-new-one"),
    ],
)  # fmt: skip
def test_sender_and_dialect_have_names(
    dialect: str, scope: str | None, sdk: str | None, sender: str, name: str
) -> None:
    attributes = {"otel.scope.version": "1.2", "resource": {"service.name": "shop"}}
    origin = origin_of(foreign(dialect, attributes, scope=scope, sdk=sdk))
    assert origin is not None
    assert (origin.sender, origin.dialect, origin.dialect_name) == (sender, dialect, name)
    assert (origin.scope, origin.scope_version, origin.sdk, origin.service) == (scope, "1.2", sdk, "shop")


@pytest.mark.parametrize("attributes", [b"[1]", b'"everycall.dialect"', b'{"everycall.dialect":7}', b"null"])
def test_attributes_of_any_shape_are_read(attributes: bytes) -> None:
    record = Record(inference_id="i", trace_id="t", parent_id="p", attributes=Raw(attributes))
    assert origin_of(record) is None
    assert not is_step(record)


def test_what_a_model_call_lacks_is_named() -> None:
    everything: dict[str, Any] = {
        "kind": "llm",
        "model": "m",
        "provider": "openai",
        "input_tokens": 1,
        "output_tokens": 2,
        "llm_configuration": to_raw({"messages": [{"role": "user", "content": "hi"}]}),
        "content": "hello",
    }
    reasons = {"gen_ai.response.finish_reasons": ["stop"]}
    assert not_sent(foreign(attributes=reasons, **everything)) == set()
    assert not_sent(foreign(kind="llm", start_time_unix_nano=0, end_time_unix_nano=0, latency=None)) == {
        "start_time", "end_time", "latency", "model", "provider", "input_tokens", "output_tokens", "finish_reason",
        "inputs", "output",
    }  # fmt: skip


def test_a_failed_call_lacks_no_answer_but_may_lack_its_error() -> None:
    failed: dict[str, Any] = {"kind": "tool", "inputs": to_raw({"a": 1}), "status": "error"}
    assert not_sent(foreign(**failed, error="error")) == {"error", "error_type"}
    assert not_sent(foreign(**failed, error="KeyError", error_type="KeyError")) == {"error"}
    assert not_sent(foreign(**failed, error="no such city", error_type="KeyError")) == set()


def test_omitted_content_is_not_called_not_sent() -> None:
    record = foreign(kind="tool", omitted=["inputs", "outputs"])
    assert not_sent(record) == set()
    assert [section.not_sent for section in sections_of(record, origin_of(record))] == [None, None]


def test_missing_content_has_a_section_that_says_so() -> None:
    record = foreign(kind="tool", scope="openinference.instrumentation.openai")
    sections = {section.key: section.not_sent for section in sections_of(record, origin_of(record))}
    assert sections == {"inputs": "OpenInference", "output": "OpenInference"}


@pytest.mark.parametrize(
    ("expected", "record"),
    [
        (True, foreign("opentelemetry", {"http.request.method": "POST"}, name="POST", parent_id="p")),
        (True, foreign("opentelemetry", {"db.system": "postgresql"}, name="SELECT shop", parent_id="p")),
        (True, foreign("vercel-ai", name="some wrapper", parent_id="p")),
        (True, foreign("strands", name="execute_event_loop_cycle", parent_id="p", inputs=to_raw({"a": 1}))),
        (True, foreign("langfuse", name="RunnableSequence", parent_id="p", inputs=to_raw({"a": 1}))),
        (True, foreign("langsmith", name="ChatPromptTemplate", kind="prompt", parent_id="p", output=to_raw("x"))),
        (False, foreign("langfuse", name="my function", parent_id="p", inputs=to_raw({"a": 1}))),
        (False, foreign("opentelemetry", name="the root")),
        (False, foreign("opentelemetry", name="failed", parent_id="p", status="error")),
        (False, foreign("openinference", name="a tool", kind="tool", parent_id="p")),
        (False, foreign("openinference", name="private", parent_id="p", omitted=["inputs"])),
        (False, Record(inference_id="i", trace_id="t", name="RunnableSequence", parent_id="p")),
    ],
)
def test_steps_are_what_is_no_call(expected: bool, record: Record) -> None:
    assert is_step(record) is expected
