"""Reading logs as Parea's clients do: one log with its tree, and the list with its one condition.

`GET /api/parea/v1/trace_log/{trace_id}` and `POST /api/parea/v1/get_trace_logs`.
"""

from __future__ import annotations

import time
from typing import Annotated

import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency
from msgspec import Meta

from everycall import limits
from everycall.semconv import ERROR, SUCCESS
from everycall.server.api.http import (
    PAREA_PREFIX,
    ApiRequest,
    encode_json,
    invalid_field,
    json_response,
    path_tail,
    read_json,
)
from everycall.server.api.openapi import operation, path_parameter
from everycall.server.api.parea.log_fields import KEPT_PREFIX
from everycall.server.api.parea.log_trees import Forest, LogTree, root_of
from everycall.server.api.parea.projects import find_project, project_named
from everycall.server.auth import require
from everycall.server.problems import not_found
from everycall.server.services import Services
from everycall.server.store.values import OPERATORS, Condition, LogQuery
from everycall.server.times import read_timestamp

__all__ = ["LogFilter", "condition_of", "handlers"]

_LOG_PATH = f"{PAREA_PREFIX}/trace_log/"
_HOUR = 3_600
_DAY = 24 * _HOUR
RANGES = {
    "na": None, "1h": _HOUR, "3h": 3 * _HOUR, "6h": 6 * _HOUR, "24h": _DAY, "7d": 7 * _DAY, "1m": 30 * _DAY,
    "3m": 90 * _DAY, "6m": 182 * _DAY, "1y": 365 * _DAY,
}  # fmt: skip
"""Parea's names of time ranges, and the seconds before now at which each starts."""

_RENAMED = {
    "trace_id": "inference_id", "root_trace_id": "trace_id", "parent_trace_id": "parent_id", "trace_name": "name",
    "start_timestamp": "start_time_unix_nano", "end_timestamp": "end_time_unix_nano", "feedback_score": "feedback",
}  # fmt: skip
_UNCHANGED = frozenset(
    {
        "status", "error", "target", "latency", "time_to_first_token", "input_tokens", "output_tokens", "total_tokens",
        "cost", "cache_hit", "deployment_id", "end_user_identifier", "session_id", "metadata", "tags", "model",
        "provider",
    }
)  # fmt: skip
_IN_ATTRIBUTES = frozenset(
    {"experiment_uuid", "scores", "annotations", "evaluation_metric_names", "images", "comments", "log_sample_rate"}
)
FIELDS = sorted({*_RENAMED, *_UNCHANGED, *_IN_ATTRIBUTES, "inputs", "output", "configuration"})
"""Parea's names of the fields that a condition may name."""


class LogFilter(msgspec.Struct, kw_only=True):
    """One condition on logs, as Parea's clients write it."""

    filter_field: str | None = None
    filter_key: str | None = None
    filter_operator: str | None = None
    filter_value: str | int | float | bool | None = None


class LogsRequest(LogFilter, kw_only=True):
    """Which logs to list. A page has at most as many logs as the server allows, whatever `page_size` says."""

    project_name: Annotated[str, Meta(max_length=256)] | None = None
    page: Annotated[int, Meta(ge=1, le=10**9)] = 1
    page_size: Annotated[int, Meta(ge=1, le=100_000)] = 20
    time_range: str | None = None
    status: str | None = None


class LogsResponse(msgspec.Struct):
    """A page of logs."""

    total: int
    page: int
    total_pages: int
    page_size: int
    results: list[LogTree]


_decoder = msgspec.json.Decoder(LogsRequest)


@get(
    f"{PAREA_PREFIX}/trace_log/{{trace_id:path}}",
    operation_class=operation(
        parameters=[path_parameter("trace_id", "The id of a log, or of a trace.")],
        response=LogTree,
        problems={404: "No such log in this project.", 413: "More logs below it than one response holds."},
    ),
)
async def get_trace_log(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """Return one log with the logs below it. By the id of a trace: its root, with all logs of the trace below it."""
    require(request.user, "read")
    store = services.store
    log_id = path_tail(request, _LOG_PATH)

    async def has_log(project: str) -> bool:
        return await store.record(project, log_id) is not None

    async def has_trace(project: str) -> bool:
        return await store.trace_summary(project, log_id) is not None

    project = await find_project(request.user, store, has_log, has_trace)
    record = await store.record(project, log_id)
    forest = await Forest.read(store, project, [log_id if record is None else record.trace_id])
    root = forest.records.get(log_id) or root_of(list(forest.records.values()))
    if root is None:
        raise not_found("log")
    return json_response(forest.tree(root, whole=root.trace_id == log_id))


@post(
    f"{PAREA_PREFIX}/get_trace_logs",
    status_code=200,
    operation_class=operation(
        body=LogsRequest,
        response=LogsResponse,
        problems={413: "More logs than one response holds; ask for a smaller page.", 422: "A field is wrong."},
    ),
)
async def get_trace_logs(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """List logs, newest first, each with the logs below it.

    Without a condition the list has the roots of all trees; with one it has every log that meets it. A page has at
    most `limits.PAGE_ROWS_MAX` logs.
    """
    require(request.user, "read")
    query = await read_json(request, services.bodies, _decoder, limits.SMALL_BODY_BYTES_MAX)
    project = project_named(request.user, query.project_name)
    page_size = min(query.page_size, limits.PAGE_ROWS_MAX)
    condition = condition_of(query)
    logs = await services.store.logs(
        project,
        LogQuery(
            roots=condition is None,
            status=_status(query.status),
            since=_since(query.time_range),
            condition=condition,
            offset=(query.page - 1) * page_size,
            limit=page_size,
        ),
    )
    trace_ids = list(dict.fromkeys(record.trace_id for record in logs.records))
    forest = await Forest.read(services.store, project, trace_ids)
    return json_response(
        LogsResponse(
            total=logs.total,
            page=query.page,
            total_pages=-(-logs.total // page_size),
            page_size=page_size,
            results=[forest.tree(record) for record in logs.records],
        )
    )


def condition_of(query: LogFilter) -> Condition | None:
    """Return the condition that a filter states, or None. Raise `ProblemError` 422 for an unknown field."""
    field = query.filter_field
    if not field:
        return None
    operator = query.filter_operator or "equals"
    if operator not in OPERATORS:
        raise invalid_field("filter_operator", f"filter_operator must be one of {', '.join(OPERATORS)}")
    value = query.filter_value
    text = value if isinstance(value, str) or value is None else encode_json(value).decode()
    if field in ("start_timestamp", "end_timestamp") and text is not None:
        try:
            text = str(read_timestamp(text))
        except ValueError as error:
            raise invalid_field("filter_value", f"filter_value is {error}") from None
    return Condition(_paths(field, query.filter_key), operator, text)


def _paths(field: str, key: str | None) -> tuple[tuple[str, ...], ...]:
    """Return where in a record the values of one of Parea's fields are, as `Condition.paths`."""
    below = (key,) if key else ()
    kind, _, name = field.partition(":")
    if "*" in (key, name.rpartition(":")[2]):  # a store takes * for every key
        raise invalid_field("filter_key", "filter_key must be the name of one value, not *")
    if name and kind == "score":
        return (("attributes", f"{KEPT_PREFIX}scores", name),)
    if name and kind == "annotation":
        return (("attributes", f"{KEPT_PREFIX}annotations", name.rpartition(":")[2], "*", "score"),)
    if field == "output":
        return (("content",), ("output",))
    if field == "inputs":
        return (("llm_inputs", *below), ("inputs", *below))
    if field == "configuration":
        return (("llm_configuration", *below),)
    if field in _IN_ATTRIBUTES:
        return (("attributes", KEPT_PREFIX + field, *below),)
    if field in _RENAMED or field in _UNCHANGED:
        return ((_RENAMED.get(field, field), *below),)
    names = ", ".join(FIELDS)
    raise invalid_field("filter_field", f"filter_field must be one of {names}, score:NAME or annotation:TYPE:ID")


def _status(status: str | None) -> str | None:
    if status not in (None, "", SUCCESS, ERROR):
        raise invalid_field("status", f"status must be {SUCCESS} or {ERROR}")
    return status or None


def _since(time_range: str | None) -> int | None:
    name = time_range or "na"
    if name not in RANGES:
        raise invalid_field("time_range", f"time_range must be one of {', '.join(RANGES)}")
    seconds = RANGES[name]
    return None if seconds is None else time.time_ns() - seconds * 10**9


handlers = [get_trace_log, get_trace_logs]
