"""The record of one completion, and the answer that goes over the wire. Called by `gateway/gateway.py`.

Here the omit flags take effect: what they cover is not in the record that leaves this file. Under either of them a
provider's error text is replaced by its type and status, because providers repeat the prompt in it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import msgspec
from msgspec import Raw

from everycall import limits
from everycall._pricing.price_book import SOURCE
from everycall.record import ABSENT, CONTENT_FIELDS, Cut, Record, encode, to_json, to_raw
from everycall.semconv import (
    ABANDONED,
    DEPLOYMENT_VERSION,
    ERROR,
    GEN_AI_FINISH_REASONS,
    GEN_AI_RESPONSE_ID,
    LLM,
    SERVICE_TIER,
    SUCCESS,
)
from everycall.server.gateway.provider_request import ProviderRequest
from everycall.server.gateway.provider_response import ProviderError, ProviderResponse
from everycall.server.gateway.request import CompletionRequest, CompletionResponse
from everycall.server.gateway.retry import Attempt
from everycall.server.gateway.scoring import score

__all__ = [
    "SCOPE",
    "Identifiers",
    "Outcome",
    "Timing",
    "completion_response",
    "make_record",
    "request_digest",
    "response_from_record",
]

SCOPE = "everycall.gateway"
"""The `scope` of records made here."""
DIGEST = "everycall.request"
ATTEMPTS = "everycall.attempts"
"""The attribute that lists the providers which were asked before the one of the record: provider, model, error, tries,
seconds.
"""
_SDK = f"everycall-server/{version('everycall')}"


@dataclass(frozen=True, slots=True)
class Identifiers:
    """Who this completion is in its trace: the record's ids."""

    inference_id: str
    trace_id: str
    parent_id: str | None


@dataclass(frozen=True, slots=True)
class Timing:
    """When it started (nanoseconds UTC) and how long it took (seconds, monotonic clock)."""

    start_unix_nano: int
    latency: float

    @property
    def end_unix_nano(self) -> int:
        return self.start_unix_nano + int(self.latency * 1e9)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of it: an answer (from the cache, or another's call, when `hit`) or a failure.

    `by` is what the provider that answered was asked, or the last one that failed to.
    """

    result: ProviderResponse | ProviderError
    by: ProviderRequest
    hit: bool = False
    pays: bool = False
    """Whether a provider was asked for this completion and answered, or began to: then its key's budget pays."""
    partial: ProviderResponse | None = None
    """What had come of a stream that failed or was abandoned."""
    abandoned: bool = False
    """Whether all callers of a stream went away before its end; `result` is then what had come."""
    first_text_s: float | None = None
    """Seconds to the first text of a stream."""
    attempts: tuple[Attempt, ...] = ()
    """The providers of a fallback list that did not answer."""

    @property
    def answer(self) -> ProviderResponse | None:
        """What there is of an answer."""
        return self.result if isinstance(self.result, ProviderResponse) else self.partial


def make_record(
    project: str, request: CompletionRequest, ids: Identifiers, asked: ProviderRequest, outcome: Outcome, timing: Timing
) -> Record:
    """Return the record, without what the omit flags cover and within the bounds of a record.

    A hit costs 0 and has the original cost in `saved_cost`; a cost or count that is not known is None.
    """
    result, answer = outcome.result, outcome.answer
    failure = result if isinstance(result, ProviderError) else None
    omit_inputs, omit_outputs = bool(request.log_omit_inputs), bool(request.log_omit_outputs)
    name = f"llm-{asked.provider}"
    record = Record(
        inference_id=ids.inference_id,
        trace_id=ids.trace_id,
        trace_name=request.trace_name or (None if ids.parent_id else name),
        parent_id=ids.parent_id,
        name=request.name or request.trace_name or name,
        kind=LLM,
        project_name=project,
        end_user_identifier=request.end_user_identifier or None,
        session_id=request.session_id or None,
        deployment_id=request.deployment_id or None,
        llm_inputs=ABSENT if omit_inputs else to_raw(dict(request.variables()) or None),
        llm_configuration=ABSENT if omit_inputs else to_raw(asked.as_json()),
        target=ABSENT if omit_inputs else to_raw(request.target or request.taget or None),
        content=None if omit_outputs or answer is None else answer.content,
        output=ABSENT if omit_outputs or answer is None else to_raw(answer.output),
        metadata=to_raw(request.metadata or None),
        tags=request.tags or [],
        model=(answer.model if answer else outcome.by.model)[: limits.NAME_CHARS_MAX],
        provider=outcome.by.provider,
        cache=request.cache is not False,
        cache_hit=outcome.hit,
        status=ERROR if failure else SUCCESS,
        error=None if failure is None else failure.brief if omit_inputs or omit_outputs else failure.text,
        error_type=failure.error_type if failure else ABANDONED if outcome.abandoned else None,
        latency=timing.latency,
        time_to_first_token=outcome.first_text_s,
        start_time_unix_nano=timing.start_unix_nano,
        end_time_unix_nano=timing.end_unix_nano,
        omitted=[*(["inputs"] if omit_inputs else []), *(["outputs"] if omit_outputs else [])],
        sdk=_SDK,
        scope=SCOPE,
        attributes=_attributes(request, outcome, omits=omit_inputs or omit_outputs),
        **(_figures(answer, outcome.hit) if answer else {}),
    )
    return _bounded(record)


def _figures(answer: ProviderResponse, hit: bool) -> dict[str, Any]:
    tokens = answer.tokens
    figures: dict[str, Any] = {
        "input_tokens": tokens.input,
        "output_tokens": tokens.output,
        "total_tokens": tokens.total,
        "usage": tokens.parts,
    }
    if hit:
        figures |= {"cost": 0.0, "saved_cost": answer.cost, "cost_source": "cache"}
    elif answer.cost is not None:
        figures |= {"cost": answer.cost, "cost_source": answer.cost_source or SOURCE}
    if answer.cost is not None:
        figures["price_version"] = answer.price_version
    return figures


def _attributes(request: CompletionRequest, outcome: Outcome, *, omits: bool) -> Raw:
    answer = outcome.answer
    attributes: dict[str, Any] = {
        GEN_AI_FINISH_REASONS: answer.finish_reasons if answer else None,
        GEN_AI_RESPONSE_ID: answer.response_id if answer else None,
        SERVICE_TIER: answer.tokens.tier if answer else None,
        "parea.experiment_uuid": request.experiment_uuid or None,
        DEPLOYMENT_VERSION: outcome.by.version,
        ATTEMPTS: [attempt.as_json() for attempt in outcome.attempts],
        DIGEST: request.digest() if request.inference_id and not omits else None,
    }
    target = request.target or request.taget
    if target and not omits and not outcome.abandoned and isinstance(outcome.result, ProviderResponse):
        attributes["parea.scores"] = score(outcome.result.content, target)
    return to_raw({name: value for name, value in attributes.items() if value} or None)


def completion_response(ids: Identifiers, outcome: Outcome, timing: Timing) -> CompletionResponse:
    """Return the answer on the wire: the whole content whatever the log leaves out, 0 for what is not known."""
    result = outcome.result
    answer = result if isinstance(result, ProviderResponse) else None
    return CompletionResponse(
        inference_id=ids.inference_id,
        content=answer.content if answer else "",
        latency=timing.latency,
        input_tokens=answer.tokens.input or 0 if answer else 0,
        output_tokens=answer.tokens.output or 0 if answer else 0,
        total_tokens=answer.tokens.total or 0 if answer else 0,
        cost=answer.cost or 0.0 if answer else 0.0,
        model=answer.model if answer else outcome.by.model,
        provider=outcome.by.provider or "",
        cache_hit=outcome.hit,
        status=SUCCESS if answer else ERROR,
        error=result.text if isinstance(result, ProviderError) else None,
        start_timestamp=_timestamp(timing.start_unix_nano),
        end_timestamp=_timestamp(timing.end_unix_nano),
    )


def response_from_record(record: Record) -> CompletionResponse | None:
    """Return the answer that a stored record of this room gave, or None when its content was not kept whole."""
    if record.status == SUCCESS and (record.content is None or "content" in record.truncated):
        return None
    if record.error_type == ABANDONED:
        return None
    cost = record.saved_cost if record.cache_hit else record.cost
    return CompletionResponse(
        inference_id=record.inference_id,
        content=(record.content or "") if record.status == SUCCESS else "",
        latency=record.latency or 0.0,
        input_tokens=record.input_tokens or 0,
        output_tokens=record.output_tokens or 0,
        total_tokens=record.total_tokens or 0,
        cost=cost or 0.0,
        model=record.model or "",
        provider=record.provider or "",
        cache_hit=bool(record.cache_hit),
        status=record.status,
        error=record.error,
        start_timestamp=_timestamp(record.start_time_unix_nano),
        end_timestamp=_timestamp(record.end_time_unix_nano),
    )


def request_digest(record: Record) -> str | None:
    """Return the digest of the request that a record answers, or None when it was not to be kept."""
    attributes = to_json(record.attributes)
    digest = attributes.get(DIGEST) if isinstance(attributes, dict) else None
    return digest if isinstance(digest, str) else None


def _timestamp(unix_nano: int) -> str:
    return datetime.fromtimestamp(unix_nano // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _bounded(record: Record) -> Record:
    """Return the record with too large fields cut, each named in `truncated`, so that the store takes it."""
    record = _cut_fields(record, limits.FIELD_BYTES_MAX)
    if len(encode(record)) > limits.RECORD_BYTES_MAX:
        record = _cut_fields(record, limits.RECORD_BYTES_MAX // 32)
    return record


def _cut_fields(record: Record, most: int) -> Record:
    changes: dict[str, Any] = {}
    truncated = dict(record.truncated)
    for name in CONTENT_FIELDS:
        value = getattr(record, name)
        data = value.encode() if isinstance(value, str) else bytes(value or b"")
        if len(data) <= most or name in truncated:
            continue
        half = most // 4  # JSON in a JSON string can become twice as long
        head, tail = data[:half].decode(errors="ignore"), data[-half:].decode(errors="ignore")
        kept = f"{head}\n… {len(data)} bytes, cut …\n{tail}"
        changes[name] = kept if isinstance(value, str) else Raw(msgspec.json.encode(kept))
        truncated[name] = Cut(bytes=len(data), kept=len(kept.encode()), sha256=hashlib.sha256(data).hexdigest())
    return msgspec.structs.replace(record, **changes, truncated=truncated) if changes else record
