"""Reading what is stored: records, traces, client balances, projects. Each answer is a bounded page of JSON.

Filters are the fields of `RecordQuery` and `TraceQuery`; an unknown one is an error, never ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
from litestar import Response, get
from litestar.openapi.spec import Parameter, Schema
from litestar.openapi.spec.enums import OpenAPIType

from everycall import limits, record, semconv
from everycall.record import Record
from everycall.server.api.http import ApiRequest, json_response, path_tail, query_values
from everycall.server.api.openapi import operation, path_text, query_text
from everycall.server.auth import project_of, require
from everycall.server.problems import bad_request, not_found
from everycall.server.store.base import Store
from everycall.server.store.values import RecordQuery, TraceQuery

__all__ = ["handlers", "parse_query", "parse_time"]

Query = TypeVar("Query", RecordQuery, TraceQuery)
TEXT_CHARS_MAX = 2_048
RECORDS_PREFIX = "/api/records/"
TRACES_PREFIX = "/api/traces/"

_ABOUT = {
    "since": "Started at or after: RFC 3339, or nanoseconds since 1970.",
    "until": "Started before: RFC 3339, or nanoseconds since 1970.",
    "status": "success or error.",
    "cache_hit": "true or false.",
    "search": "Literal text in name, trace_name, content or inputs.",
    "limit": f"Rows of a page, 1 to {limits.PAGE_ROWS_MAX}.",
    "cursor": "next_cursor of the page before.",
}
_BOUNDS = {
    "since": Schema(type=[OpenAPIType.STRING, OpenAPIType.INTEGER], minimum=0, maximum=2**63 - 1),
    "until": Schema(type=[OpenAPIType.STRING, OpenAPIType.INTEGER], minimum=0, maximum=2**63 - 1),
    "status": Schema(type=OpenAPIType.STRING, enum=[semconv.SUCCESS, semconv.ERROR]),
    "cache_hit": Schema(type=OpenAPIType.BOOLEAN),
    "limit": Schema(type=OpenAPIType.INTEGER, minimum=1, maximum=limits.PAGE_ROWS_MAX),
}
_RFC_3339 = re.compile(r"(\d{4}-\d\d-\d\d)(?:[Tt ](\d\d:\d\d(?::\d\d)?)(?:\.(\d{1,9})\d*)?([Zz]|[+-]\d\d:?\d\d)?)?")

_PROJECT = query_text("project", "The project; needed only by keys of all projects that want another than `default`.")
_CURSOR = query_text("cursor", _ABOUT["cursor"])
_STRING = Schema(type=OpenAPIType.STRING)
_RECORD = Schema(type=OpenAPIType.OBJECT, description="A record, as it is sent to POST /v1/records.")
_RECORDS = Schema(type=OpenAPIType.ARRAY, items=_RECORD)
_NEXT = Schema(
    type=[OpenAPIType.STRING, OpenAPIType.NULL], description="Given as `cursor`, it continues; null: no more."
)
_SUMMARY = Schema(type=OpenAPIType.OBJECT, description="One trace as a row: sums over its inference leaves.")
_MISSING = {404: "No such record or trace in this project."}


def _parameters(query: type[RecordQuery] | type[TraceQuery]) -> list[Parameter]:
    found = []
    for one in fields(query):
        about = _ABOUT.get(one.name, f"Only with this {one.name}.")
        found.append(query_text(one.name, about, schema=_BOUNDS.get(one.name) or Schema(type=OpenAPIType.STRING)))
    return [*found, _PROJECT]


def _listing(**properties: Schema) -> Schema:
    return Schema(type=OpenAPIType.OBJECT, required=list(properties), properties={**properties})


def parse_time(name: str, text: str) -> int:
    """Return nanoseconds since 1970 for RFC 3339 text (without a zone: UTC) or for an integer. Raises 400."""
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
    raise bad_request(f"{name} is a time: RFC 3339 such as 2026-10-18T12:00:00Z, or nanoseconds since 1970.")


def parse_query(kind: type[Query], given: Mapping[str, Sequence[str]]) -> Query:
    """Return the filters of a list. An empty value is none. Raises 400 for an unknown, repeated or unusable one."""
    known: set[str] = {one.name for one in fields(kind)}
    unknown = sorted(set(given) - known - {"project"})
    if unknown:
        raise bad_request(
            f"There is no filter {unknown[0][:100]!r}. There are: {', '.join(sorted({*known, 'project'}))}."
        )
    values: dict[str, Any] = {"limit": limits.PAGE_ROWS}
    for name, texts in given.items():
        if len(texts) > 1:
            raise bad_request(f"{name} was given {len(texts)} times; give it once.")
        if name != "project" and texts[0]:
            values[name] = _value(name, texts[0])
    return kind(**values)


def _value(name: str, text: str) -> Any:
    if len(text) > TEXT_CHARS_MAX:
        raise bad_request(f"{name} has at most {TEXT_CHARS_MAX} characters.")
    if name in ("since", "until"):
        return parse_time(name, text)
    if name == "cache_hit":
        if text not in ("true", "false"):
            raise bad_request("cache_hit is true or false.")
        return text == "true"
    if name == "limit":
        if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= limits.PAGE_ROWS_MAX):
            raise bad_request(f"limit is a whole number from 1 to {limits.PAGE_ROWS_MAX}.")
        return int(text)
    if name == "status" and text not in (semconv.SUCCESS, semconv.ERROR):
        raise bad_request("status is success or error.")
    return text


def _encoded(records: Sequence[Record]) -> list[msgspec.Raw]:
    """Return records in exactly their wire form."""
    return [msgspec.Raw(record.encode(one)) for one in records]


def _reader(request: ApiRequest, *known: str) -> tuple[Store, str, dict[str, str]]:
    """Return the store, the project and the parameters of a route that has only the `known` ones."""
    given = query_values(request)
    unknown = sorted(set(given) - {*known, "project"})
    if unknown:
        names = ", ".join(sorted({*known, "project"}))
        raise bad_request(f"There is no parameter {unknown[0][:100]!r} here. There are: {names}.")
    require(request.user, "read")
    values = {name: texts[-1] for name, texts in given.items() if texts[-1]}
    return request.app.state.store, project_of(request.user, values.get("project")), values


@get(
    "/api/records",
    operation_class=operation(
        parameters=_parameters(RecordQuery), answer=_listing(records=_RECORDS, next_cursor=_NEXT)
    ),
)
async def list_records(request: ApiRequest) -> Response[bytes]:
    """List records, newest first; all filters given apply."""
    if path_tail(request, RECORDS_PREFIX.rstrip("/")) not in ("", "/"):
        return await _one_record(request)
    require(request.user, "read")
    query = parse_query(RecordQuery, query_values(request))
    project = project_of(request.user, request.query_params.get("project"))
    page = await request.app.state.store.records(project, query)
    return json_response({"records": _encoded(page.records), "next_cursor": page.next_cursor})


@get(
    "/api/records/{inference_id:path}",
    operation_class=operation(
        parameters=[path_text("inference_id", "The record's id, percent-encoded."), _PROJECT],
        answer=_RECORD,
        problems=_MISSING,
    ),
)
async def one_record(request: ApiRequest) -> Response[bytes]:
    """Return one record."""
    return await _one_record(request)


async def _one_record(request: ApiRequest) -> Response[bytes]:
    store, project, _ = _reader(request)
    found = await store.record(project, path_tail(request, RECORDS_PREFIX))
    if found is None:
        raise not_found("record")
    return json_response(record.encode(found))


@get(
    "/api/traces",
    operation_class=operation(
        parameters=_parameters(TraceQuery),
        answer=_listing(traces=Schema(type=OpenAPIType.ARRAY, items=_SUMMARY), next_cursor=_NEXT),
    ),
)
async def list_traces(request: ApiRequest) -> Response[bytes]:
    """List traces with their sums, newest activity first; all filters given apply."""
    if path_tail(request, TRACES_PREFIX.rstrip("/")) not in ("", "/"):
        return await _one_trace(request)
    require(request.user, "read")
    query = parse_query(TraceQuery, query_values(request))
    project = project_of(request.user, request.query_params.get("project"))
    page = await request.app.state.store.traces(project, query)
    body = {"traces": [asdict(trace) for trace in page.traces], "next_cursor": page.next_cursor}
    return json_response(body)


@get(
    "/api/traces/{trace_id:path}",
    operation_class=operation(
        parameters=[path_text("trace_id", "The trace's id, percent-encoded."), _CURSOR, _PROJECT],
        answer=_listing(trace=_SUMMARY, records=_RECORDS, next_cursor=_NEXT),
        problems=_MISSING,
    ),
)
async def one_trace(request: ApiRequest) -> Response[bytes]:
    """Return one trace: its sums, and its records, oldest first."""
    return await _one_trace(request)


async def _one_trace(request: ApiRequest) -> Response[bytes]:
    store, project, values = _reader(request, "cursor")
    trace_id = path_tail(request, TRACES_PREFIX)
    summary = await store.trace_summary(project, trace_id)
    if summary is None:
        raise not_found("trace")
    page = await store.trace(project, trace_id, values.get("cursor"))
    return json_response({"trace": asdict(summary), "records": _encoded(page.records), "next_cursor": page.next_cursor})


@get(
    "/api/clients",
    operation_class=operation(
        parameters=[_PROJECT],
        answer=_listing(
            clients=Schema(
                type=OpenAPIType.ARRAY,
                items=_listing(
                    client=_STRING,
                    balance=Schema(
                        type=OpenAPIType.OBJECT, description="recorded, delivered, spooled, dropped by reason."
                    ),
                    seen_unix_nano=Schema(type=OpenAPIType.INTEGER),
                ),
            )
        ),
    ),
)
async def list_clients(request: ApiRequest) -> Response[bytes]:
    """List the balance sheet of each client process, the most recently seen first."""
    store, project, _ = _reader(request)
    reports = [
        {"client": report.client, "balance": dict(report.balance), "seen_unix_nano": report.seen_unix_nano}
        for report in await store.clients(project)
    ]
    return json_response({"clients": reports})


@get(
    "/api/projects",
    operation_class=operation(answer=_listing(projects=Schema(type=OpenAPIType.ARRAY, items=_STRING))),
)
async def list_projects(request: ApiRequest) -> Response[bytes]:
    """List the projects this key may read: its own, or all."""
    require(request.user, "read")
    own = request.user.project
    names = [own] if own is not None else list(await request.app.state.store.projects())
    return json_response({"projects": names})


handlers = [list_records, one_record, list_traces, one_trace, list_clients, list_projects]
