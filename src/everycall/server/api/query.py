"""Reading what is stored: records, traces, balances of client processes, projects. Each response is a bounded page.

The filters of a list are the fields of `RecordQuery` and `TraceQuery`; an unknown filter is an error, never ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from msgspec import Meta

from everycall import limits, record, semconv
from everycall.record import Record
from everycall.server.api.http import ApiRequest, json_response, path_tail, project_for, query_values
from everycall.server.api.openapi import RecordJson, operation, path_parameter, query_parameter
from everycall.server.auth import require
from everycall.server.problems import bad_request, not_found
from everycall.server.services import Services
from everycall.server.store.values import RecordQuery, TraceQuery, TraceSummary

__all__ = ["handlers", "parse_query", "parse_time"]

Query = TypeVar("Query", RecordQuery, TraceQuery)
TEXT_CHARS_MAX = 2_048
RECORDS_PREFIX = "/api/records/"
TRACES_PREFIX = "/api/traces/"

_RFC_3339 = re.compile(r"(\d{4}-\d\d-\d\d)(?:[Tt ](\d\d:\d\d(?::\d\d)?)(?:\.(\d{1,9})\d*)?([Zz]|[+-]\d\d:?\d\d)?)?")
_DESCRIPTIONS = {
    "since": "Started at or after: RFC 3339, or nanoseconds since 1970.",
    "until": "Started before: RFC 3339, or nanoseconds since 1970.",
    "status": "success or error.",
    "cache_hit": "true or false.",
    "search": "Literal text in name, trace_name, content or inputs.",
    "limit": f"Rows of a page, 1 to {limits.PAGE_ROWS_MAX}.",
    "cursor": "next_cursor of the page before.",
}
_TYPES = {
    "since": str | Annotated[int, Meta(ge=0, le=2**63 - 1)],
    "until": str | Annotated[int, Meta(ge=0, le=2**63 - 1)],
    "status": Literal["success", "error"],
    "cache_hit": bool,
    "limit": Annotated[int, Meta(ge=1, le=limits.PAGE_ROWS_MAX)],
}
"""The types of the filters that are not text."""
_PROJECT = query_parameter("project", "The project, for keys of all projects; `default` if missing.")
_CURSOR = query_parameter("cursor", _DESCRIPTIONS["cursor"])
_MISSING = {404: "No such record or trace in this project."}
Cursor = Annotated[str, Meta(description="Given as `cursor`, it continues the list; null on the last page.")]


class RecordsResponse(msgspec.Struct):
    """A page of records, as they are sent to `POST /v1/records`."""

    records: list[RecordJson]  # type: ignore[valid-type]
    next_cursor: Cursor | None


class TracesResponse(msgspec.Struct):
    """A page of traces."""

    traces: list[TraceSummary]
    next_cursor: Cursor | None


class TraceResponse(msgspec.Struct):
    """A trace, and a page of its records, the oldest first."""

    trace: TraceSummary
    records: list[RecordJson]  # type: ignore[valid-type]
    next_cursor: Cursor | None


class ClientBalance(msgspec.Struct):
    """What a client process has counted, as it was last reported: recorded, delivered, spooled, dropped by reason."""

    client: str
    balance: dict[str, Any]
    seen_unix_nano: int


class ClientsResponse(msgspec.Struct):
    """The client processes of a project, the most recently seen first."""

    clients: list[ClientBalance]


class ProjectsResponse(msgspec.Struct):
    """The names of projects."""

    projects: list[str]


def _filters(kind: type[RecordQuery] | type[TraceQuery]) -> list[dict[str, Any]]:
    """Return the descriptions of a list's query parameters."""
    parameters = []
    for field in fields(kind):
        description = _DESCRIPTIONS.get(field.name, f"Only with this {field.name}.")
        parameters.append(query_parameter(field.name, description, _TYPES.get(field.name, str)))
    return [*parameters, _PROJECT]


def parse_time(name: str, text: str) -> int:
    """Return nanoseconds since 1970 for RFC 3339 text (UTC if it names no zone) or for an integer. Raise 400."""
    if text.isascii() and text.isdigit() and len(text) <= 19:
        value = int(text)
        if value < 2**63:
            return value
    match = _RFC_3339.fullmatch(text.replace(" 0", "+0") if text.count(" ") and "T" in text else text)
    if match:
        day, clock, fraction, zone = match.groups()
        try:
            zone = "+00:00" if zone in (None, "Z", "z") else zone
            moment = datetime.fromisoformat(f"{day}T{clock or '00:00:00'}{zone}").astimezone(UTC)
        except (ValueError, OverflowError):
            moment = None
        if moment is not None and moment.year >= 1970:
            return int(moment.timestamp()) * 10**9 + int((fraction or "").ljust(9, "0"))
    raise bad_request(f"{name} must be a time: RFC 3339 such as 2026-10-18T12:00:00Z, or nanoseconds since 1970.")


def parse_query(kind: type[Query], parameters: Mapping[str, Sequence[str]]) -> Query:
    """Return the filters of a list; empty ones are left out. Raise 400 for an unknown, repeated or invalid one."""
    known_names: set[str] = {field.name for field in fields(kind)}
    unknown = sorted(set(parameters) - known_names - {"project"})
    if unknown:
        names = ", ".join(sorted({*known_names, "project"}))
        raise bad_request(f"There is no filter {unknown[0][:100]!r}. There are: {names}.")
    values: dict[str, Any] = {"limit": limits.PAGE_ROWS}
    for name, texts in parameters.items():
        if len(texts) > 1:
            raise bad_request(f"{name} appears {len(texts)} times; send it once.")
        if name != "project" and texts[0]:
            values[name] = _value(name, texts[0])
    return kind(**values)


def _value(name: str, text: str) -> Any:
    if len(text) > TEXT_CHARS_MAX:
        raise bad_request(f"{name} may have at most {TEXT_CHARS_MAX} characters.")
    if name in ("since", "until"):
        return parse_time(name, text)
    if name == "cache_hit":
        if text not in ("true", "false"):
            raise bad_request("cache_hit must be true or false.")
        return text == "true"
    if name == "limit":
        if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= limits.PAGE_ROWS_MAX):
            raise bad_request(f"limit must be a whole number from 1 to {limits.PAGE_ROWS_MAX}.")
        return int(text)
    if name == "status" and text not in (semconv.SUCCESS, semconv.ERROR):
        raise bad_request("status must be success or error.")
    return text


def _parameters(request: ApiRequest, *known_names: str) -> dict[str, str]:
    """Return the query of a route with only these parameters and `project`. Raise 400 for any other parameter."""
    values = query_values(request)
    unknown = sorted(set(values) - {*known_names, "project"})
    if unknown:
        names = ", ".join(sorted({*known_names, "project"}))
        raise bad_request(f"There is no parameter {unknown[0][:100]!r} here. There are: {names}.")
    return {name: texts[-1] for name, texts in values.items() if texts[-1]}


@get(
    "/api/records",
    operation_class=operation(parameters=_filters(RecordQuery), response=RecordsResponse),
)
async def list_records(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """List the records that match all filters, newest first."""
    if path_tail(request, RECORDS_PREFIX.rstrip("/")) not in ("", "/"):  # an id of slashes, which the router drops
        return await _one_record(request, services)
    project = project_for(request, "read")
    page = await services.store.records(project, parse_query(RecordQuery, query_values(request)))
    return json_response({"records": _raw(page.records), "next_cursor": page.next_cursor})


@get(
    "/api/records/{inference_id:path}",
    operation_class=operation(
        parameters=[path_parameter("inference_id", "The record's id, percent-encoded."), _PROJECT],
        response=RecordJson,
        problems=_MISSING,
    ),
)
async def one_record(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """Return one record."""
    return await _one_record(request, services)


async def _one_record(request: ApiRequest, services: Services) -> Response[bytes]:
    _parameters(request)
    project = project_for(request, "read")
    stored = await services.store.record(project, path_tail(request, RECORDS_PREFIX))
    if stored is None:
        raise not_found("record")
    return json_response(record.encode(stored))


@get(
    "/api/traces",
    operation_class=operation(parameters=_filters(TraceQuery), response=TracesResponse),
)
async def list_traces(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """List the traces that match all filters, with their sums; the trace with the newest activity first."""
    if path_tail(request, TRACES_PREFIX.rstrip("/")) not in ("", "/"):
        return await _one_trace(request, services)
    project = project_for(request, "read")
    page = await services.store.traces(project, parse_query(TraceQuery, query_values(request)))
    return json_response(TracesResponse(list(page.traces), page.next_cursor))


@get(
    "/api/traces/{trace_id:path}",
    operation_class=operation(
        parameters=[path_parameter("trace_id", "The trace's id, percent-encoded."), _CURSOR, _PROJECT],
        response=TraceResponse,
        problems=_MISSING,
    ),
)
async def one_trace(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """Return one trace: its sums, and its records, oldest first."""
    return await _one_trace(request, services)


async def _one_trace(request: ApiRequest, services: Services) -> Response[bytes]:
    parameters = _parameters(request, "cursor")
    project = project_for(request, "read")
    trace_id = path_tail(request, TRACES_PREFIX)
    summary = await services.store.trace_summary(project, trace_id)
    if summary is None:
        raise not_found("trace")
    page = await services.store.trace(project, trace_id, parameters.get("cursor"))
    return json_response({"trace": summary, "records": _raw(page.records), "next_cursor": page.next_cursor})


@get("/api/clients", operation_class=operation(parameters=[_PROJECT], response=ClientsResponse))
async def list_clients(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """List the balance sheet of each client process, the most recently seen first."""
    _parameters(request)
    reports = await services.store.clients(project_for(request, "read"))
    clients = [ClientBalance(report.client, dict(report.balance), report.seen_unix_nano) for report in reports]
    return json_response(ClientsResponse(clients))


@get("/api/projects", operation_class=operation(response=ProjectsResponse))
async def list_projects(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """List the projects this key may read: its own, or all."""
    require(request.user, "read")
    own = request.user.project
    return json_response(ProjectsResponse([own] if own is not None else list(await services.store.projects())))


def _raw(records: Sequence[Record]) -> list[msgspec.Raw]:
    """Return records in exactly their wire form."""
    return [msgspec.Raw(record.encode(one)) for one in records]


handlers = [list_records, one_record, list_traces, one_trace, list_clients, list_projects]
