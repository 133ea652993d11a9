"""The outcome of a completion, its record and its response on the wire. Called by `completion_log.py`.

The omit flags take effect here (`everycall.record.omit`): a record has nothing that they cover. With either of them a
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
from everycall.record import (
    ABSENT,
    CONTENT_FIELDS,
    OMITTED_FIELDS,
    Cut,
    Record,
    encode,
    is_safe_attribute,
    omit_from,
    to_json,
    to_raw,
)
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
from everycall.server.gateway.identifiers import Identifiers
from everycall.server.gateway.preparation import PreparedRequest
from everycall.server.gateway.provider_request import ProviderRequest
from everycall.server.gateway.provider_response import ProviderError, ProviderResponse
from everycall.server.gateway.request import CompletionRequest, CompletionResponse
from everycall.server.gateway.retry import FailedAttempt
from everycall.server.gateway.scoring import score
from everycall.server.store.values import Expense

__all__ = [
    "SCOPE",
    "Outcome",
    "Timing",
    "completion_response",
    "is_repeatable",
    "make_record",
    "request_digest",
    "response_from_record",
]

SCOPE = "everycall.gateway"
"""The `scope` of the gateway's records."""
MISSING_VARIABLES = "everycall.missing_variables"
"""The attribute with the names in a template that had no value, and so were sent as they are."""
DIGEST = "everycall.request"
"""The attribute with the digest of a request that brought its own `inference_id`."""
ATTEMPTS = "everycall.attempts"
"""The attribute that lists the providers asked before the one in the record: provider, model, error, tries, seconds."""
_EXPERIMENT = "parea.experiment_uuid"
_WITHOUT_CONTENT = frozenset({ATTEMPTS, DEPLOYMENT_VERSION, _EXPERIMENT})
_SDK = f"everycall-server/{version('everycall')}"


@dataclass(frozen=True, slots=True)
class Timing:
    """When a completion started (nanoseconds UTC) and how long it took (seconds, monotonic clock)."""

    start_unix_nano: int = 0
    latency: float = 0.0

    @property
    def end_unix_nano(self) -> int:
        return self.start_unix_nano + int(self.latency * 1e9)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a completion: a response (if `hit`, from the cache or another completion's call) or an error.

    `request` is what was asked of the provider that answered, or of the last one that failed.
    """

    result: ProviderResponse | ProviderError
    request: ProviderRequest
    hit: bool = False
    pays: bool = False
    """Whether a provider answered this completion, or began to: its key's budget pays."""
    partial: ProviderResponse | None = None
    """What had arrived of a stream that failed."""
    abandoned: bool = False
    """Whether all callers of a stream went away before its end; `result` is then what had arrived."""
    first_text_s: float | None = None
    """Seconds to the first text of a stream."""
    failed_attempts: tuple[FailedAttempt, ...] = ()
    """The providers that were asked before this one."""
    timing: Timing = Timing()
    expense: Expense | None = None
    """What the store has yet to be told about the key's spending."""

    @property
    def response(self) -> ProviderResponse | None:
        """The response, whole or partial, if there is one."""
        return self.result if isinstance(self.result, ProviderResponse) else self.partial


def make_record(prepared: PreparedRequest, ids: Identifiers, outcome: Outcome) -> Record:
    """Return the record, without what the omit flags cover and within the bounds of a record.

    Its name is the request's `name`, else its `trace_name`, else the deployment's name, else `llm-<provider>`.
    A hit costs 0, and its original cost is in `saved_cost`. An unknown cost or count is None.
    """
    request, first = prepared.request, prepared.first.request
    result, response, timing = outcome.result, outcome.response, outcome.timing
    error = result if isinstance(result, ProviderError) else None
    sides = [side for side in OMITTED_FIELDS if getattr(request, f"log_omit_{side}")]
    name = f"llm-{first.provider}"
    record = Record(
        inference_id=ids.inference_id,
        trace_id=ids.trace_id,
        trace_name=request.trace_name or (None if ids.parent_id else name),
        parent_id=ids.parent_id,
        name=request.name or request.trace_name or prepared.deployment_name or name,
        kind=LLM,
        project_name=prepared.project,
        end_user_identifier=request.end_user_identifier or None,
        session_id=request.session_id or None,
        deployment_id=request.deployment_id or None,
        llm_inputs=to_raw(dict(request.variables()) or None),
        llm_configuration=to_raw(first.as_json()),
        target=to_raw(request.target or request.taget or None),
        content=response.content if response else None,
        output=to_raw(response.output) if response else ABSENT,
        metadata=to_raw(request.metadata or None),
        tags=request.tags or [],
        model=(response.model if response else outcome.request.model)[: limits.NAME_CHARS_MAX],
        provider=outcome.request.provider,
        cache=request.cache is not False,
        cache_hit=outcome.hit,
        status=ERROR if error else SUCCESS,
        error=error.text if error else None,
        error_type=error.error_type if error else ABANDONED if outcome.abandoned else None,
        latency=timing.latency,
        time_to_first_token=outcome.first_text_s,
        start_time_unix_nano=timing.start_unix_nano,
        end_time_unix_nano=timing.end_unix_nano,
        sdk=_SDK,
        scope=SCOPE,
        attributes=_attributes(request, outcome, omits=bool(sides)),
        **(_figures(response, outcome.hit) if response else {}),
    )
    summary = error.summary if error else None
    return _bounded(omit_from(record, sides, error=summary, keep_attribute=_keeps_attribute))


def _keeps_attribute(name: str, value: Any) -> bool:
    """Return whether an attribute stays where content is omitted: besides the safe ones, those that hold none here."""
    return name in _WITHOUT_CONTENT or is_safe_attribute(name, value)


def _figures(response: ProviderResponse, hit: bool) -> dict[str, Any]:
    tokens = response.tokens
    figures: dict[str, Any] = {
        "input_tokens": tokens.input,
        "output_tokens": tokens.output,
        "total_tokens": tokens.total,
        "usage": tokens.parts,
    }
    if hit:
        figures |= {"cost": 0.0, "saved_cost": response.cost, "cost_source": "cache"}
    elif response.cost is not None:
        figures |= {"cost": response.cost, "cost_source": response.cost_source or SOURCE}
    if response.cost is not None:
        figures["price_version"] = response.price_version
    return figures


def _attributes(request: CompletionRequest, outcome: Outcome, *, omits: bool) -> Raw:
    response = outcome.response
    attributes: dict[str, Any] = {
        GEN_AI_FINISH_REASONS: response.finish_reasons if response else None,
        GEN_AI_RESPONSE_ID: response.response_id if response else None,
        SERVICE_TIER: response.tokens.tier if response else None,
        _EXPERIMENT: request.experiment_uuid or None,
        DEPLOYMENT_VERSION: outcome.request.version,
        MISSING_VARIABLES: list(outcome.request.missing_variables),
        ATTEMPTS: [attempt.as_json() for attempt in outcome.failed_attempts],
        DIGEST: request.digest() if request.inference_id and not omits else None,
    }
    target = request.target or request.taget
    if target and not omits and not outcome.abandoned and isinstance(outcome.result, ProviderResponse):
        attributes["parea.scores"] = score(outcome.result.content, target)
    return to_raw({name: value for name, value in attributes.items() if value} or None)


def completion_response(ids: Identifiers, outcome: Outcome) -> CompletionResponse:
    """Return the response on the wire: all of its content whatever the log omits, and 0 for what is unknown."""
    result, timing = outcome.result, outcome.timing
    response = result if isinstance(result, ProviderResponse) else None
    return CompletionResponse(
        inference_id=ids.inference_id,
        content=response.content if response else "",
        latency=timing.latency,
        input_tokens=response.tokens.input or 0 if response else 0,
        output_tokens=response.tokens.output or 0 if response else 0,
        total_tokens=response.tokens.total or 0 if response else 0,
        cost=response.cost or 0.0 if response else 0.0,
        model=response.model if response else outcome.request.model,
        provider=outcome.request.provider or "",
        cache_hit=outcome.hit,
        status=SUCCESS if response else ERROR,
        error=result.text if isinstance(result, ProviderError) else None,
        start_timestamp=_timestamp(timing.start_unix_nano),
        end_timestamp=_timestamp(timing.end_unix_nano),
    )


def is_repeatable(record: Record) -> bool:
    """Return whether a record has all of the response that was given."""
    if record.status == SUCCESS and (record.content is None or "content" in record.truncated):
        return False
    return record.error_type != ABANDONED


def response_from_record(record: Record) -> CompletionResponse | None:
    """Return the response whose record this is, or None if the record does not have all of its content."""
    if not is_repeatable(record):
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
    """Return the digest of the request whose record this is, or None if it was not kept."""
    attributes = to_json(record.attributes)
    digest = attributes.get(DIGEST) if isinstance(attributes, dict) else None
    return digest if isinstance(digest, str) else None


def _timestamp(unix_nano: int) -> str:
    return datetime.fromtimestamp(unix_nano // 1_000_000_000, UTC).isoformat(" ")[:19]


def _bounded(record: Record) -> Record:
    """Return the record with fields that are too large cut and named in `truncated`, so that the store accepts it."""
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
