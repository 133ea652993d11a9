"""Where a record came from, if another tool sent it by OpenTelemetry. Pure functions; called by `views` and `tree`.

The OTLP routes leave the dialect of a span in the attribute `everycall.dialect`; everycall's own records lack it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from msgspec import Raw

from everycall import semconv
from everycall.dialects.marks import dialect_of
from everycall.record import Record, to_json

__all__ = ["Origin", "is_step", "origin_of"]

_PLAIN: Final = "opentelemetry"
_DIALECTS: Final = {
    "anthropic": "Anthropic's client",
    "autogen": "AutoGen",
    "gen_ai": "OpenTelemetry GenAI",
    "google-adk": "Google ADK",
    "haystack": "Haystack",
    "laminar": "Laminar",
    "langfuse": "Langfuse",
    "langsmith": "LangSmith",
    "logfire": "Logfire",
    "microsoft-agent-framework": "Microsoft Agent Framework",
    "mlflow": "MLflow",
    "openinference": "OpenInference",
    "openlit": "OpenLIT",
    _PLAIN: "plain OpenTelemetry",
    "pydantic-ai": "Pydantic AI",
    "strands": "Strands Agents",
    "traceloop": "Traceloop",
    "vercel-ai": "Vercel AI SDK",
}
"""Value of `everycall.dialect` -> its name for people."""
_SHARED_DIALECTS: Final = frozenset({"gen_ai", _PLAIN})
"""Dialects that many senders use, so that they do not identify the sender."""
_SCOPES: Final = {"pydantic-ai": "Pydantic AI"}
"""Instrumentation scopes that name the sender better than the dialect does."""
_PACKAGE_PREFIXES: Final = ("opentelemetry.instrumentation.", "openinference.instrumentation.")

_STEP_KINDS: Final = frozenset({semconv.CHAIN, semconv.PROMPT, semconv.PARSER})
_INTERNAL: Final = re.compile(
    r"execute_event_loop_cycle|turn|[Ss]tep \d+|Runnable\w*(<.*>)?|\w*PromptTemplate|\w*OutputParser"
)
"""Names of the spans that frameworks make for their own machinery: loops, turns, pipes, prompts and parsers."""
_NULL: Final = b"null"


@dataclass(frozen=True, slots=True)
class Origin:
    """Who sent a record. `dialect` is the vocabulary; `sender` and `dialect_name` are names for people.

    `scope` is the instrumentation scope, `service` the resource's `service.name`; each is None if it was not sent.
    `not_sent` names the fields that a record of this kind usually has and that this sender did not send.
    """

    sender: str
    dialect: str
    dialect_name: str
    scope: str | None
    scope_version: str | None
    sdk: str | None
    service: str | None
    not_sent: tuple[str, ...]


def origin_of(record: Record) -> Origin | None:
    """Return where a record came from; None for a record of everycall itself."""
    dialect = dialect_of(bytes(record.attributes))
    if dialect is None:
        return None
    attributes = _object(record.attributes)
    resource = attributes.get("resource")
    service = resource.get("service.name") if isinstance(resource, Mapping) else None
    version = attributes.get("otel.scope.version")
    return Origin(
        sender=_sender(record, dialect),
        dialect=dialect,
        dialect_name=_DIALECTS.get(dialect, dialect),
        scope=record.scope,
        scope_version=version if isinstance(version, str) else None,
        sdk=record.sdk,
        service=service if isinstance(service, str) and service else None,
        not_sent=_not_sent(record, attributes),
    )


def is_step(record: Record) -> bool:
    """Return whether a foreign record is a step and not a call: an HTTP request, a query, a loop of a framework.

    Functions that were traced with their arguments or result are not steps, and neither are failed records.
    """
    if record.kind not in _STEP_KINDS or record.parent_id is None or record.status != semconv.SUCCESS or record.omitted:
        return False
    dialect = dialect_of(bytes(record.attributes))
    if dialect is None:
        return False
    has_content = record.content is not None or not (_is_null(record.inputs) and _is_null(record.output))
    return dialect == _PLAIN or not has_content or _INTERNAL.fullmatch(record.name) is not None


def _sender(record: Record, dialect: str) -> str:
    scope = record.scope or ""
    if scope in _SCOPES:
        return _SCOPES[scope]
    if dialect not in _SHARED_DIALECTS:
        return _DIALECTS.get(dialect, dialect)
    return scope or record.sdk or "the sender"


def _not_sent(record: Record, attributes: Mapping[str, Any]) -> tuple[str, ...]:
    missing = _missing_times(record)
    failed = record.status == semconv.ERROR
    if failed:
        missing += [name for name, value in _error_parts(record).items() if not value]
    if record.kind in semconv.PRICED_KINDS:
        missing += [name for name in ("model", "provider") if getattr(record, name) is None]
        if not failed:
            missing += ["input_tokens"] if record.input_tokens is None else []
            missing += ["output_tokens"] if record.output_tokens is None and record.kind == semconv.LLM else []
            finished = record.kind != semconv.LLM or attributes.get(semconv.GEN_AI_FINISH_REASONS)
            missing += [] if finished else ["finish_reason"]
    if record.kind != semconv.CHAIN:
        if not _has_inputs(record) and "inputs" not in record.omitted:
            missing.append("inputs")
        answers = record.kind != semconv.EMBEDDING and not failed and "outputs" not in record.omitted
        if answers and record.content is None and _is_null(record.output):
            missing.append("output")
    return tuple(missing)


def _missing_times(record: Record) -> list[str]:
    times = {
        "start_time": record.start_time_unix_nano,
        "end_time": record.end_time_unix_nano,
        "latency": record.latency is not None,
    }
    return [name for name, value in times.items() if not value]


def _error_parts(record: Record) -> dict[str, bool]:
    """Return which parts of an error were sent; without a message, the record repeats the type or says `error`."""
    return {
        "error_type": record.error_type is not None,
        "error": record.error not in (None, "", "error", record.error_type) or bool(record.omitted),
    }


def _has_inputs(record: Record) -> bool:
    if not (_is_null(record.inputs) and _is_null(record.llm_inputs)):
        return True
    return bool(_object(record.llm_configuration).get("messages"))


def _object(field: Raw) -> Mapping[str, Any]:
    """Return a field that is a JSON object; an empty one for anything else, and for JSON nested too deep to be read."""
    try:
        value = to_json(field)
    except RecursionError:
        return {}
    return value if isinstance(value, Mapping) else {}


def _is_null(field: Raw) -> bool:
    return bytes(field) == _NULL
