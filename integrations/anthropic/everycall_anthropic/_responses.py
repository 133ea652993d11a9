"""What an answer says, as fields of a record. Called by exchanges with the library's objects or with plain JSON.

Nothing is guessed: what was not reported stays unknown. Anthropic's `input_tokens` leave out what was read from and
written to its cache; a record's have it (`usage_fields`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from everycall.integration import get_member, members, to_plain, usage_fields
from everycall.semconv import GEN_AI_FINISH_REASONS, GEN_AI_RESPONSE_ID, USAGE_UNPRICED

__all__ = ["REPORTED_SERVICE_TIER", "completion", "failure", "message"]

REPORTED_SERVICE_TIER: Final = "anthropic.response.service_tier"
_USED: Final = "anthropic.usage."
_DETAILS: Final = ("stop_details", "stop_sequence")
_IS_ANTHROPICS: Final = {"cache_creation": None}
"""A member by which a report is known as Anthropic's, for those of compatible hosts that know of no cache."""
_COMPACTED: Final = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
_LIFETIMES: Final = ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")


def message(answer: Any) -> dict[str, Any]:
    """Read a message: `content` is its text, `output` the message with its blocks where there is more than text.

    More is thinking, a tool's use or result, text with citations. Signatures and thoughts in cipher are by reference.
    """
    told = members(answer)
    fields = _about(told)
    blocks = told.get("content")
    if not isinstance(blocks, list) or not blocks:
        return fields
    said, is_text = [], True
    for block in blocks:
        held = members(block)
        chunk = held.get("text")
        if held.get("type") == "text" and isinstance(chunk, str):
            said.append(chunk)
        is_text = is_text and held.get("type") == "text" and not held.get("citations")
    if said:
        fields["content"] = "".join(said)
    if not is_text:
        fields["output"] = {"role": "assistant", "content": [_shown(block) for block in blocks]}
    return fields


def _shown(block: Any) -> Any:
    """Return a block as plain values, without what the library parsed out of its text."""
    shown = to_plain(block)
    if type(shown) is dict:
        shown = {name: value for name, value in shown.items() if value is not None and name != "parsed_output"}
    return shown


def completion(answer: Any) -> dict[str, Any]:
    """Read a legacy completion, which reports no tokens."""
    told = members(answer)
    fields = _about(told)
    fields["content"] = told.get("completion")
    return fields


def failure(error: Any) -> str:
    """Return what an answer says of its failure: the error's type and message."""
    told = (get_member(error, "type"), get_member(error, "message"))
    return ": ".join(str(part) for part in told if part) or "the request failed"


def _about(told: dict[str, Any]) -> dict[str, Any]:
    """Read what all answers have: the model that answered, tokens, the id, why it stopped."""
    fields = tokens(told["usage"]) if told.get("usage") is not None else {}
    for name, field in (("model", "model"), ("id", GEN_AI_RESPONSE_ID)):
        value = told.get(name)
        if value and isinstance(value, str):
            fields[field] = value
    reason = told.get("stop_reason")
    if isinstance(reason, str):
        fields[GEN_AI_FINISH_REASONS] = [reason]
    for name in _DETAILS:
        if told.get(name) is not None:
            fields[f"anthropic.{name}"] = to_plain(told[name])
    return fields


def tokens(usage: Any) -> dict[str, Any]:
    """Read a report of tokens, the uses of Anthropic's own tools, and the service tier."""
    told: dict[str, Any] = {**_IS_ANTHROPICS, **members(usage)}
    rounds = told.pop("iterations", None)
    if rounds:
        told.update(_compacted(told, rounds))
    fields = usage_fields(told)
    if rounds:
        _add_advice(fields, rounds)
    tier = told.get("service_tier")
    if isinstance(tier, str):
        fields[REPORTED_SERVICE_TIER] = tier
    uses = told.get("server_tool_use")
    if uses is not None:
        for name, number in members(uses).items():
            if type(number) is int and number > 0:
                fields[f"{_USED}server_tool_use.{name}"] = number
    return fields


def _compacted(told: dict[str, Any], rounds: Iterable[Any]) -> dict[str, Any]:
    """Return the counts that grow by what compactions took: those are billed, and Anthropic leaves them out above."""
    compactions = [members(entry) for entry in rounds if get_member(entry, "type") == "compaction"]
    if not compactions:
        return {}
    grown: dict[str, Any] = {
        name: _sum(told.get(name), *(entry.get(name) for entry in compactions)) for name in _COMPACTED
    }
    kept = [get_member(told, "cache_creation"), *(entry.get("cache_creation") for entry in compactions)]
    if any(entry is not None for entry in kept):
        grown["cache_creation"] = {name: _sum(*(get_member(entry, name) for entry in kept)) for name in _LIFETIMES}
    return grown


def _sum(*numbers: Any) -> int | None:
    known = [number for number in numbers if type(number) is int]
    return sum(known) if known else None


def _add_advice(fields: dict[str, Any], rounds: Iterable[Any]) -> None:
    """Add what an advisor took: another model, with prices of its own, whose tokens are in neither sum."""
    for entry in rounds:
        if get_member(entry, "type") == "advisor_message":
            parts = fields.setdefault("usage", {})
            for name in _COMPACTED:
                number = get_member(entry, name)
                if type(number) is int and number > 0:
                    key = f"{USAGE_UNPRICED}advisor_{name}"
                    parts[key] = parts.get(key, 0) + number
