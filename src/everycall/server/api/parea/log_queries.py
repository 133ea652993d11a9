"""Reading logs as Parea's clients do: one with its tree, and the list with its one condition.

`GET /api/parea/v1/trace_log/{trace_id}` and `POST /api/parea/v1/get_trace_logs`.
"""

from __future__ import annotations

import time
from typing import Annotated

import msgspec
from litestar import Response, get, post
from litestar.openapi.spec import Schema
from litestar.openapi.spec.enums import OpenAPIType
from msgspec import Meta

from everycall import limits
from everycall.semconv import ERROR, SUCCESS
from everycall.server.api.http import PAREA_PREFIX, ApiRequest, invalid_field, json_response, path_tail, read_json
from everycall.server.api.openapi import operation, path_text, schema_of
from everycall.server.api.parea.log_fields import KEPT_PREFIX
from everycall.server.api.parea.log_trees import Forest, root_of
from everycall.server.api.parea.projects import find_project, project_named
from everycall.server.auth import require
from everycall.server.problems import not_found
from everycall.server.store.base import Store
from everycall.server.store.values import OPERATORS, Condition, LogQuery
from everycall.server.times import read_timestamp

__all__ = ["Filters", "condition_of", "handlers"]

ONE_PATH = f"{PAREA_PREFIX}/trace_log/"
_HOUR = 3_600
_DAY = 24 * _HOUR
RANGES = {
    "na": None, "1h": _HOUR, "3h": 3 * _HOUR, "6h": 6 * _HOUR, "24h": _DAY, "7d": 7 * _DAY, "1m": 30 * _DAY,
    "3m": 90 * _DAY, "6m": 182 * _DAY, "1y": 365 * _DAY,
}  # fmt: skip
"""Seconds back from now, by Parea's names."""

_OWN_NAMES = {
    "trace_id": "inference_id", "root_trace_id": "trace_id", "parent_trace_id": "parent_id", "trace_name": "name",
    "start_timestamp": "start_time_unix_nano", "end_timestamp": "end_time_unix_nano", "feedback_score": "feedback",
}  # fmt: skip
_SAME_NAMES = frozenset(
    {
        "status", "error", "target", "latency", "time_to_first_token", "input_tokens", "output_tokens", "total_tokens",
        "cost", "cache_hit", "deployment_id", "end_user_identifier", "session_id", "metadata", "tags", "model",
        "provider",
    }
)  # fmt: skip
_KEPT_NAMES = frozenset(
    {"experiment_uuid", "scores", "annotations", "evaluation_metric_names", "images", "comments", "log_sample_rate"}
)
FIELDS = sorted({*_OWN_NAMES, *_SAME_NAMES, *_KEPT_NAMES, "inputs", "output", "configuration"})

_encoder = msgspec.json.Encoder()
_TREE = Schema(
    type=OpenAPIType.OBJECT, description="Parea's TraceLogTree: a log, and `children_logs` with those below it."
)


class Filters(msgspec.Struct, kw_only=True):
    """One condition on logs, as Parea's clients write it."""

    filter_field: str | None = None
    filter_key: str | None = None
    filter_operator: str | None = None
    filter_value: str | int | float | bool | None = None


class LogsRequest(Filters, kw_only=True):
    """Which logs to list."""

    project_name: Annotated[str, Meta(max_length=256)] | None = None
    page: Annotated[int, Meta(ge=1, le=10**9)] = 1
    page_size: Annotated[int, Meta(ge=1, le=100_000)] = 20
    time_range: str | None = None
    status: str | None = None


_decoder = msgspec.json.Decoder(LogsRequest)


@get(
    f"{PAREA_PREFIX}/trace_log/{{trace_id:path}}",
    operation_class=operation(
        parameters=[path_text("trace_id", "The log's id; or the id of a chain of logs.")],
        answer=_TREE,
        problems={404: "No such log in this project.", 413: "More logs below it than one answer holds."},
    ),
)
async def get_trace_log(request: ApiRequest) -> Response[bytes]:
    """Return one log with the logs below it. By the id of a trace: its root, with all logs of the trace below it."""
    require(request.user, "read")
    store: Store = request.app.state.store
    asked = path_tail(request, ONE_PATH)

    async def has_log(project: str) -> bool:
        return await store.record(project, asked) is not None

    async def has_trace(project: str) -> bool:
        return await store.trace_summary(project, asked) is not None

    project = await find_project(request, has_log, has_trace)
    record = await store.record(project, asked)
    forest = await Forest.read(store, project, [asked if record is None else record.trace_id])
    root = forest.records.get(asked) or root_of(list(forest.records.values()))
    if root is None:
        raise not_found("log")
    return json_response(forest.tree(root, whole=root.trace_id == asked))


@post(
    f"{PAREA_PREFIX}/get_trace_logs",
    status_code=200,
    operation_class=operation(
        body=schema_of(LogsRequest),
        answer=Schema(
            type=OpenAPIType.OBJECT,
            required=["total", "page", "total_pages", "page_size", "results"],
            properties={
                **{name: Schema(type=OpenAPIType.INTEGER) for name in ("total", "page", "total_pages", "page_size")},
                "results": Schema(type=OpenAPIType.ARRAY, items=_TREE),
            },
        ),
        problems={413: "More logs than one answer holds; ask for a smaller page.", 422: "A field is wrong."},
    ),
)
async def get_trace_logs(request: ApiRequest) -> Response[bytes]:
    """List logs, newest first: without a condition the roots of all trees, with one every log that meets it.

    Each has the logs below it nested in it. A page has at most `limits.PAGE_ROWS_MAX` logs, whatever `page_size` says.
    """
    require(request.user, "read")
    store: Store = request.app.state.store
    asked = await read_json(request, _decoder, limits.SMALL_BODY_BYTES_MAX)
    project = project_named(request.user, asked.project_name)
    size = min(asked.page_size, limits.PAGE_ROWS_MAX)
    condition = condition_of(asked)
    page = await store.logs(
        project,
        LogQuery(
            roots=condition is None,
            status=_status(asked.status),
            since=_since(asked.time_range),
            condition=condition,
            offset=(asked.page - 1) * size,
            limit=size,
        ),
    )
    forest = await Forest.read(store, project, list(dict.fromkeys(record.trace_id for record in page.records)))
    return json_response(
        {
            "total": page.total,
            "page": asked.page,
            "total_pages": -(-page.total // size),
            "page_size": size,
            "results": [forest.tree(record) for record in page.records],
        }
    )


def condition_of(filters: Filters) -> Condition | None:
    """Return the condition that filters state, or None. Raises `ProblemError` 422 for a field that logs do not have."""
    field = filters.filter_field
    if not field:
        return None
    operator = filters.filter_operator or "equals"
    if operator not in OPERATORS:
        raise invalid_field("filter_operator", f"filter_operator is one of {', '.join(OPERATORS)}")
    value = filters.filter_value
    text = value if isinstance(value, str) or value is None else _encoder.encode(value).decode()
    if field in ("start_timestamp", "end_timestamp") and text is not None:
        try:
            text = str(read_timestamp(text))
        except ValueError as error:
            raise invalid_field("filter_value", f"filter_value is {error}") from None
    return Condition(_paths(field, filters.filter_key), operator, text)


def _paths(field: str, key: str | None) -> tuple[tuple[str, ...], ...]:
    below = (key,) if key else ()
    kind, _, name = field.partition(":")
    if "*" in (key, name.rpartition(":")[2]):  # which a store takes for every key
        raise invalid_field("filter_key", "filter_key is the name of one value, and * is none")
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
    if field in _KEPT_NAMES:
        return (("attributes", KEPT_PREFIX + field, *below),)
    if field in _OWN_NAMES or field in _SAME_NAMES:
        return ((_OWN_NAMES.get(field, field), *below),)
    raise invalid_field("filter_field", f"filter_field is one of {', '.join(FIELDS)}, score:NAME or annotation:TYPE:ID")


def _status(status: str | None) -> str | None:
    if status not in (None, "", SUCCESS, ERROR):
        raise invalid_field("status", "status is success or error")
    return status or None


def _since(time_range: str | None) -> int | None:
    name = time_range or "na"
    if name not in RANGES:
        raise invalid_field("time_range", f"time_range is one of {', '.join(RANGES)}")
    seconds = RANGES[name]
    return None if seconds is None else time.time_ns() - seconds * 10**9


handlers = [get_trace_log, get_trace_logs]
