"""The fields of a record that a response gives. Used by requests, with the library's objects or with plain JSON.

What was not reported stays unknown. What has no field of its own is kept as it came: members of blocks in `output`,
members of a response as attributes `anthropic.response.<name>`. Anthropic's `input_tokens` leave out what was read from
and written to the cache; a record's include it (`usage_fields`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any, Final

from everycall.integration import Fields, get_member, members, to_plain, usage_fields
from everycall.semconv import ERROR_TYPE, GEN_AI_FINISH_REASONS, GEN_AI_RESPONSE_ID, USAGE_UNPRICED

__all__ = ["REPORTED_SERVICE_TIER", "completion", "failure", "message"]


REPORTED_SERVICE_TIER: Final = "anthropic.response.service_tier"
_ATTRIBUTE: Final = "anthropic.response."
_USAGE_ATTRIBUTE: Final = "anthropic.usage."
_FIELDS: Final = frozenset({"id", "type", "role", "model", "content", "completion", "usage", "stop_reason", "error"})
_STOP_DETAILS: Final = frozenset({"stop_details", "stop_sequence"})
_PARSED: Final = "parsed_output"
"""What the library's `parse` makes of a block's text."""
_ANTHROPIC_MARK: Final = {"cache_creation": None}
"""Marks a report as Anthropic's, for compatible hosts whose reports have no cache."""
_COUNTS: Final = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
_CACHE_LIFETIMES: Final = ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")

_plain: Final = functools.partial(to_plain, keep_none=False)


def message(response: object) -> Fields:
    """Read a message: `content` is its text, `output` the message with its blocks if there is more than text.

    More is thinking, the use or the result of a tool, or text with citations. Signatures and encrypted thinking are
    kept by reference. `failure` is the text of an error that came with status 200.
    """
    values = members(response)
    fields = _common_fields(values)
    error = values.get("error")
    if error:  # sent with status 200
        fields["failure"] = failure(error)
        fields[ERROR_TYPE] = get_member(error, "type")
    blocks = values.get("content")
    if not isinstance(blocks, list) or not blocks:
        return fields
    texts = [
        text
        for block in blocks
        if get_member(block, "type") == "text" and isinstance(text := get_member(block, "text"), str)
    ]
    if texts:
        fields["content"] = "".join(texts)
    if not all(_is_plain_text(block) for block in blocks):
        fields["output"] = {"role": "assistant", "content": [_plain_block(block) for block in blocks]}
    return fields


def _is_plain_text(block: object) -> bool:
    """Whether a block is text only, which `content` tells completely."""
    values = members(block)
    return values.get("type") == "text" and all(
        not item or name in ("type", "text", _PARSED) for name, item in values.items()
    )


def _plain_block(block: object) -> Any:
    plain = _plain(block)
    if isinstance(plain, dict):
        plain.pop(_PARSED, None)
    return plain


def completion(response: object) -> Fields:
    """Read a legacy completion, which reports no tokens."""
    values = members(response)
    return {**_common_fields(values), "content": values.get("completion")}


def failure(error: object) -> str:
    """Return the text of an error that a result reports: its type and message."""
    parts = (get_member(error, "type"), get_member(error, "message"))
    return ": ".join(str(part) for part in parts if part) or "the request failed"


def _common_fields(values: Mapping[str, Any]) -> Fields:
    """Read what all responses have: the model that answered, tokens, the id, why it stopped; and keep what else."""
    usage = values.get("usage")
    fields = _token_fields(usage) if usage is not None else {}
    for name, item in values.items():
        if name == "id" or name == "model":
            if item and isinstance(item, str):
                fields["model" if name == "model" else GEN_AI_RESPONSE_ID] = item
        elif name == "stop_reason":
            if isinstance(item, str):
                fields[GEN_AI_FINISH_REASONS] = [item]
        elif item is not None and name in _STOP_DETAILS:
            fields[f"anthropic.{name}"] = _plain(item)
        elif item not in (None, "", [], {}) and name not in _FIELDS:
            fields[f"{_ATTRIBUTE}{name}"] = _plain(item)
    return fields


def _token_fields(usage: object) -> Fields:
    """Read a report of tokens, the uses of Anthropic's own tools, and the service tier."""
    report: Fields = {**_ANTHROPIC_MARK, **members(usage)}
    iterations = report.pop("iterations", None)
    if iterations:
        report.update(_with_compactions(report, iterations))
    fields = usage_fields(report)
    if iterations:
        _add_advisors(fields, iterations)
    tier = report.get("service_tier")
    if isinstance(tier, str):
        fields[REPORTED_SERVICE_TIER] = tier
    for name, number in members(report.get("server_tool_use")).items():
        if type(number) is int and number > 0:
            fields[f"{_USAGE_ATTRIBUTE}server_tool_use.{name}"] = number
    for name, item in report.items():
        if isinstance(item, str) and item and name != "service_tier":
            fields[f"{_USAGE_ATTRIBUTE}{name}"] = item
    return fields


def _with_compactions(report: Mapping[str, Any], iterations: Iterable[Any]) -> Fields:
    """Return the counts that grow by the tokens of compactions: they are billed, and Anthropic's sums omit them."""
    compactions = [members(entry) for entry in iterations if get_member(entry, "type") == "compaction"]
    if not compactions:
        return {}
    counts: Fields = {name: _sum(report.get(name), *(entry.get(name) for entry in compactions)) for name in _COUNTS}
    writes = [report.get("cache_creation"), *(entry.get("cache_creation") for entry in compactions)]
    if any(entry is not None for entry in writes):
        counts["cache_creation"] = {
            name: _sum(*(get_member(entry, name) for entry in writes)) for name in _CACHE_LIFETIMES
        }
    return counts


def _sum(*numbers: Any) -> int | None:
    integers = [number for number in numbers if type(number) is int]
    return sum(integers) if integers else None


def _add_advisors(fields: Fields, iterations: Iterable[Any]) -> None:
    """Add the tokens of advisors: other models, with prices of their own, which neither sum includes."""
    models = []
    for entry in iterations:
        if get_member(entry, "type") != "advisor_message":
            continue
        models.append(get_member(entry, "model"))
        parts = fields.setdefault("usage", {})
        for name in _COUNTS:
            number = get_member(entry, name)
            if type(number) is int and number > 0:
                part = f"{USAGE_UNPRICED}advisor_{name}"
                parts[part] = parts.get(part, 0) + number
    if any(models):
        fields[f"{_USAGE_ATTRIBUTE}advisor_models"] = models
