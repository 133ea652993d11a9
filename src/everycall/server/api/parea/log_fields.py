"""Parea's trace logs translated to records. Used by `trace_logs` and `langchain_runs`.

In Parea's API from 0.2.0 on, `trace_id` is the id of one log and `root_trace_id` is the id of its tree; here these are
`inference_id` and `trace_id`. A value that has no field of its own is kept in `attributes`, as `parea.` and its name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from everycall import limits, record, semconv
from everycall.record import OMITTED_FIELDS, Record
from everycall.server.api.records import check_json
from everycall.server.store.base import Store
from everycall.server.times import read_timestamp

__all__ = [
    "KEPT_PREFIX",
    "checked_record",
    "fields_of_log",
    "fields_of_update",
    "restore_attributes",
    "stored_attributes",
]

KEPT_PREFIX = "parea."
SCOPE = "parea"

_SAME_MEANING = {
    "end_user_identifier": "end_user_identifier",
    "session_id": "session_id",
    "deployment_id": "deployment_id",
    "inputs": "inputs",
    "target": "target",
    "metadata": "metadata",
    "latency": "latency",
    "time_to_first_token": "time_to_first_token",
    "error": "error",
    "trace_name": "name",
}
_IDS = ("end_user_identifier", "session_id", "deployment_id")
_TOKENS = ("input_tokens", "output_tokens", "total_tokens")
_TRANSLATED = frozenset(
    {
        *_SAME_MEANING, *_TOKENS, "trace_id", "parent_trace_id", "root_trace_id", "start_timestamp", "end_timestamp",
        "output", "configuration", "cost", "status", "cache_hit", "tags", "project_name", "project_uuid",
        "organization_id", "children", "children_ids", "children_logs", "fill_children", "log_omit", "log_omit_inputs",
        "log_omit_outputs",
    }
)  # fmt: skip
_CONTENT_ATTRIBUTES = frozenset(KEPT_PREFIX + name for name in ("output_for_eval_metrics", "images", "children_logs"))
_DEFAULTS: dict[str, Any] = {"apply_eval_frac": 1.0, "log_sample_rate": 1.0, "depth": 0, "execution_order": 0}
"""What clients send when the user set nothing; only other values are kept."""


def checked_record(fields: Mapping[str, Any]) -> Record:
    """Return the record with these fields (plain JSON values). Raise `ValueError` that names an invalid field."""
    line = msgspec.json.encode(fields)
    if len(line) > limits.RECORD_BYTES_MAX:
        raise ValueError(f"the log has {len(line)} bytes, {limits.RECORD_BYTES_MAX} are allowed")
    check_json(line)
    return record.decode(line)


def stored_attributes(stored: Record | None) -> dict[str, Any]:
    """Return the attributes already stored with a log: an update or a repeated log adds to them."""
    attributes = None if stored is None else record.to_json(stored.attributes)
    return attributes if isinstance(attributes, dict) else {}


async def restore_attributes(store: Store, log: Record, attributes: dict[str, Any]) -> None:
    """Add the attributes of a log to those of an update that was sent before it.

    A store applies an earlier update after the log, and replaces all attributes with those of the update.
    """
    stored = stored_attributes(await store.record(log.project_name, log.inference_id))
    if any(stored.get(name) != value for name, value in attributes.items()):
        await store.merge(log.project_name, log.inference_id, {"attributes": {**stored, **attributes}})


def fields_of_log(log: Mapping[str, Any], omitted: Collection[str] = ()) -> dict[str, Any]:
    """Return the record's fields for a whole log (`POST /trace_log`). Raise `ValueError` if the log is not valid.

    `omitted` is the `omitted` field of the record already stored under its id, if any.
    """
    log_id = _text(log, "trace_id")
    if log_id is None:
        raise ValueError("trace_id is required: the id of this log")
    if not isinstance(log.get("start_timestamp"), str):
        raise ValueError("start_timestamp is required: a time such as 2024-05-30T13:48:34+00:00")
    fields = _left_out(log, _translated(log, llm=_is_llm(log)), omitted)
    parent = _text(log, "parent_trace_id")
    root = _text(log, "root_trace_id") or parent or log_id
    fields |= {"inference_id": log_id, "trace_id": root, "scope": SCOPE}
    if parent is not None and parent != log_id:
        fields["parent_id"] = parent
    if root == log_id and fields.get("name"):
        fields["trace_name"] = fields["name"]
    fields.setdefault("kind", semconv.CHAIN)
    if "end_time_unix_nano" not in fields and "latency" in fields and isinstance(fields["latency"], int | float):
        fields["end_time_unix_nano"] = fields["start_time_unix_nano"] + round(max(0.0, fields["latency"]) * 1e9)
    return fields


def fields_of_update(update: Mapping[str, Any], *, llm: bool | None, omitted: Collection[str] = ()) -> dict[str, Any]:
    """Return the record's fields for some fields of a log (`PUT /trace_log`).

    `llm` says whether the stored log is a call of a model; None when no log is stored yet. `omitted` is the `omitted`
    field of the stored log.
    """
    return _left_out(update, _translated(update, llm=_is_llm(update) or bool(llm)), omitted)


def _left_out(log: Mapping[str, Any], fields: Mapping[str, Any], omitted: Collection[str]) -> dict[str, Any]:
    """Return the fields without the sides that the log's flags or the stored record omit.

    Parea's clients send no such flags with logs; these have the names of the completion's.
    """
    sides = [side for side in OMITTED_FIELDS if side in omitted or log.get("log_omit") or log.get(f"log_omit_{side}")]
    if not sides:
        return dict(fields)
    remaining = record.omit({**fields, "attributes": record.ABSENT, "omitted": list(omitted)}, sides)
    attributes = {
        name: value for name, value in fields.get("attributes", {}).items() if name not in _CONTENT_ATTRIBUTES
    }
    del remaining["attributes"]
    return {**remaining, "attributes": attributes} if attributes else remaining


def _translated(log: Mapping[str, Any], *, llm: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {
        ours: value for theirs, ours in _SAME_MEANING.items() if (value := log.get(theirs)) is not None
    }
    for name in _IDS:
        if fields.get(name) == "":
            del fields[name]
    for name in ("start", "end"):
        if (value := log.get(f"{name}_timestamp")) is not None:
            fields[f"{name}_time_unix_nano"] = _time(f"{name}_timestamp", value)
    if (tags := log.get("tags")) is not None:
        fields["tags"] = tags
    if (output := log.get("output")) is not None:
        fields["content" if llm and isinstance(output, str) else "output"] = output
    fields |= _status(log) | _model(log, llm) | _tokens_and_cost(log, llm)
    attributes = _attributes(log)
    if attributes:
        fields["attributes"] = attributes
    return fields


def _is_llm(log: Mapping[str, Any]) -> bool:
    configuration = log.get("configuration")
    return isinstance(configuration, Mapping) and bool(configuration.get("model"))


def _model(log: Mapping[str, Any], llm: bool) -> dict[str, Any]:
    configuration = log.get("configuration")
    if not isinstance(configuration, Mapping) or not llm:
        return {}  # other logs have a configuration too, which consists of defaults
    fields: dict[str, Any] = {"llm_configuration": configuration, "kind": semconv.LLM}
    for name in ("model", "provider"):
        if configuration.get(name):
            fields[name] = configuration[name]
    return fields


def _status(log: Mapping[str, Any]) -> dict[str, Any]:
    """Return the status: an error where there is an error text, whatever the status says.

    A null without an error means success: clients send it when outputs are omitted.
    """
    if log.get("error"):
        return {"status": semconv.ERROR}
    return {"status": log["status"]} if log.get("status") is not None else {}


def _tokens_and_cost(log: Mapping[str, Any], llm: bool) -> dict[str, Any]:
    """Return tokens and cost. Clients send zeros for what they do not know, so all zeros are unknown here.

    Clients log a hit in their cache with the cost of the first call; here it cost nothing and saved that much.
    """
    fields: dict[str, Any] = {}
    hit = log.get("cache_hit")
    if hit or (llm and hit is not None):
        fields["cache_hit"] = hit
    if not llm and not any(log.get(name) for name in (*_TOKENS, "cost")):
        return fields
    if any(log.get(name) for name in _TOKENS):
        fields |= {name: log[name] for name in _TOKENS if log.get(name) is not None}
    if cost := log.get("cost"):
        fields |= {"cost": 0.0, "saved_cost": cost} if hit else {"cost": cost}
        fields["cost_source"] = "client"
    return fields


def _attributes(log: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that have no field of their own."""
    attributes: dict[str, Any] = {}
    for name, value in log.items():
        if name in _TRANSLATED or value is None or value in ([], {}) or _DEFAULTS.get(name) == value:
            continue
        if name == "output_for_eval_metrics" and value == log.get("output"):
            continue
        attributes[KEPT_PREFIX + name] = value
    for name in ("start_timestamp", "end_timestamp"):
        text = log.get(name)
        if isinstance(text, str) and text.strip()[-2:].isalpha():
            attributes[KEPT_PREFIX + name] = text  # the name of a time zone may mean several zones
    return attributes


def _text(log: Mapping[str, Any], name: str) -> str | None:
    value = log.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name} must be text, not {type(value).__name__}")
    return value or None


def _time(name: str, value: Any) -> int:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a time such as 2024-05-30T13:48:34+00:00")
    try:
        return read_timestamp(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
