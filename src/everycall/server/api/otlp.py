"""OpenTelemetry's OTLP over HTTP: `POST /v1/traces`, `/v1/logs`, `/v1/metrics`, below the prefixes that senders use.

`everycall.dialects` makes records of the spans, and the response is sent after the store's commit. A span that cannot
be stored is rejected alone (partial success). Metrics are accepted and counted, not stored. Errors are
`google.rpc.Status` in the request's encoding, as the OTLP specification says. The routes are not in the OpenAPI
document: OTLP has a specification of its own, and docs/otlp.md says what is done with it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from litestar import Request, Response, post
from litestar.di import NamedDependency
from litestar.handlers import HTTPRouteHandler
from litestar.types import Scope

from everycall import limits
from everycall.dialects import Span, hand_down, is_of_a_call, translate, translate_logs
from everycall.record import Record
from everycall.server.auth import Identity, project_of, require
from everycall.server.otlp import answers, json_encoding, protobuf
from everycall.server.otlp.load import OtlpLoad
from everycall.server.otlp.requests import JSON, PROTOBUF, Batch, Undecodable
from everycall.server.problems import ProblemError, bad_request, problem
from everycall.server.security import header
from everycall.server.services import Services
from everycall.server.store.base import Store

__all__ = ["PREFIXES", "handlers", "is_otlp", "status_response"]

T = TypeVar("T")

PREFIXES: Final = ("", "/otel", "/api/public/otel")
"""The prefixes of the routes: none (the standard), a common one, and that of Langfuse's SDK."""
_PROJECT_HEADERS: Final = (b"x-everycall-project", b"x-project-name", b"langsmith-project")
_PROJECT_ATTRIBUTES: Final = ("everycall.project.name", "openinference.project.name")
_PLAIN_LOG: Final = "only log records of the GenAI conventions are stored, with a span or a response id"


def is_otlp(path: str) -> bool:
    """Return whether a path is an OTLP route, whose errors must be `google.rpc.Status`."""
    return path.rstrip("/").endswith(("/v1/traces", "/v1/logs", "/v1/metrics"))


def media_type_of(scope: Scope) -> str:
    """Return a request's media type without parameters, which is also the response's. Raise `ProblemError` 415."""
    content_type = (header(scope, b"content-type") or "").partition(";")[0].strip().lower()
    if content_type in (PROTOBUF, "application/protobuf", "application/octet-stream"):
        return PROTOBUF
    if content_type == JSON:
        return JSON
    detail = f"Send content-type {PROTOBUF} or {JSON}."
    raise problem("unsupported_media_type", 415, "Unsupported content-type", detail)


def status_response(scope: Scope, error: ProblemError) -> Response[bytes]:
    """Return an error as `google.rpc.Status` in the request's encoding, or in JSON if that is unknown."""
    try:
        media_type = media_type_of(scope)
    except ProblemError:
        media_type = JSON
    details = error.problem
    http_status = 400 if details.status in (408, 422) else details.status
    body = answers.status(http_status, details.detail, media_type)
    return Response(body, status_code=http_status, media_type=media_type, headers=error.headers)


async def post_traces(request: Request[Identity, Any, Any], services: NamedDependency[Services]) -> Response[bytes]:
    """Store spans. The same spans may be sent again at any time; a later version replaces the fields that it has."""
    media_type = _started(request)
    batch = Batch()
    async with _body(request, services) as data:
        read = protobuf.read_traces if media_type == PROTOBUF else json_encoding.read_traces
        spans = read(data, time.time_ns(), batch)
        del data
        while records := await _decoded(_next_records, spans, batch):
            await _commit(services.store, request, batch, records)
            services.otlp.spans += len(records)
    return _answer("traces", media_type, batch, services.otlp)


async def post_logs(request: Request[Identity, Any, Any], services: NamedDependency[Services]) -> Response[bytes]:
    """Store what log records of the GenAI conventions say about calls. Their spans may arrive before or after them."""
    media_type = _started(request)
    async with _body(request, services) as data:
        batch = await _decoded(protobuf.read_logs if media_type == PROTOBUF else json_encoding.read_logs, data)
        call_logs = [log for log in batch.logs if is_of_a_call(log)]
        for _ in range(len(batch.logs) - len(call_logs)):
            batch.reject(_PLAIN_LOG)
        records = await asyncio.to_thread(translate_logs, call_logs)
        await _commit(services.store, request, batch, [(None, record) for record in records])
    services.otlp.log_records += len(call_logs)
    return _answer("logs", media_type, batch, services.otlp)


async def post_metrics(request: Request[Identity, Any, Any], services: NamedDependency[Services]) -> Response[bytes]:
    """Accept metrics, so that exporters get no error. Data points are counted, not stored."""
    media_type = _started(request)
    async with _body(request, services) as data:
        batch = await _decoded(protobuf.read_metrics if media_type == PROTOBUF else json_encoding.read_metrics, data)
    services.otlp.metric_points += batch.points
    return _answer("metrics", media_type, batch, services.otlp)


@asynccontextmanager
async def _body(request: Request[Identity, Any, Any], services: Services) -> AsyncIterator[bytes]:
    """Wait until the body may be read, and yield it. Only a few large bodies are in memory at once."""
    async with (
        services.otlp.receive(request.scope),
        services.bodies.body(request.scope, request.receive) as data,
        services.otlp.read(len(data)),
    ):
        body = [data]
        del data
        yield body.pop()  # no reference is kept here: the reader frees it after parsing


def _started(request: Request[Identity, Any, Any]) -> str:
    require(request.user, "write")
    return media_type_of(request.scope)


async def _decoded(read: Callable[..., T], *arguments: Any) -> T:
    try:
        return await asyncio.to_thread(read, *arguments)
    except Undecodable as error:
        raise bad_request(f"{str(error)[:1].upper()}{str(error)[1:]}. Nothing was stored.") from error


def _next_records(spans: Iterator[Span], batch: Batch) -> list[tuple[str | None, Record]]:
    """Return the records of the next spans, each with the project in its resource; an empty list after the last span.

    A large request is translated and stored in pieces, so that its records are never in memory all at once.
    """
    records: list[Record] = []
    projects: list[str | None] = []
    for span in spans:
        try:
            record = translate(span)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:  # a value that JSON cannot represent
            batch.reject(f"a span cannot be read: {type(error).__name__}")
            continue
        records.append(record)
        projects.append(_project_in(span.scope.resource))
        if len(records) >= limits.OTLP_PIECE_SPANS:
            break
    return list(zip(projects, hand_down(records), strict=True))


def _project_in(resource: dict[str, Any]) -> str | None:
    for name in _PROJECT_ATTRIBUTES:
        project = resource.get(name)
        if isinstance(project, str) and project:
            return project[:256]
    return None


async def _commit(
    store: Store, request: Request[Identity, Any, Any], batch: Batch, records: Iterable[tuple[str | None, Record]]
) -> None:
    """Store records in the key's project. For a key of all projects, use the project in the headers or the resource."""
    identity = request.user
    header_project = next((value for name in _PROJECT_HEADERS if (value := header(request.scope, name))), None)
    own = project_of(identity, None if identity.project is not None else header_project)
    groups: dict[str, list[Record]] = {}
    for resource_project, record in records:
        project = own
        if identity.project is None and not header_project and resource_project is not None:
            project = resource_project
        groups.setdefault(project, []).append(record)
    for project, group in groups.items():
        for start in range(0, len(group), limits.BODY_RECORDS_MAX):
            commit = await store.commit(project, group[start : start + limits.BODY_RECORDS_MAX], None)
            for refusal in commit.refused:
                batch.reject(refusal.reason)


def _answer(signal: str, media_type: str, batch: Batch, load: OtlpLoad) -> Response[bytes]:
    load.rejected += batch.rejected
    return Response(answers.success(signal, media_type, batch.rejected, batch.message), media_type=media_type)


def handlers(prefixes: Iterable[str] = ()) -> list[HTTPRouteHandler]:
    """Return the routes, below `PREFIXES` and further prefixes such as `/collector`."""
    below = dict.fromkeys((*PREFIXES, *prefixes))
    functions = {"traces": post_traces, "logs": post_logs, "metrics": post_metrics}
    return [
        post([f"{prefix}/v1/{signal}" for prefix in below], status_code=200, include_in_schema=False)(function)
        for signal, function in functions.items()
    ]
