"""The pages of traces and of the server's status, each with a `.json` twin, and the static files.

`handlers` is what `app.create_app` takes. Every read is of one project, which the caller's key allows.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.response import Redirect

from everycall import limits
from everycall._pricing.records import unpriced_reason
from everycall.record import Record
from everycall.server.api.http import ApiRequest, project_for
from everycall.server.base_path import public_url
from everycall.server.pages.addresses import read_trace_path, trace_path, with_query
from everycall.server.pages.content import error_text_of, finish_reasons_of, sections_of, traceback_of
from everycall.server.pages.copies import copies_of
from everycall.server.pages.filters import FIELDS, RANGES, FilterError, Filters, read_filters, unread_filters
from everycall.server.pages.layout import frame_of, json_twin
from everycall.server.pages.origin import is_step, origin_of
from everycall.server.pages.rendering import STATIC_FILES, html, static_file
from everycall.server.pages.tree import state_of
from everycall.server.pages.views import TracesView, TraceView, record_view, status_view, trace_view, traces_view
from everycall.server.problems import bad_request, not_found, with_full_stop
from everycall.server.services import Services
from everycall.server.store.errors import StoreBusy, StoreError

__all__ = ["handlers"]

_FOLDED: Final = {"trace_name", "end_user_identifier", "session_id", "tag", "since", "until"}
"""The filters that are in the folded part of the form."""
_FOLDED_STEPS: Final = "folded"
_CACHE_FOREVER: Final = "public, max-age=31536000, immutable"


@get("/", include_in_schema=False)
async def home() -> Redirect:
    """Redirect to the list of traces."""
    return Redirect("/traces")


@get("/traces", include_in_schema=False)
async def traces_page(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """Show the newest traces that match the filters."""
    project = project_for(request, "read")
    error = None
    try:
        filters = read_filters(request.query_params, request.query_params.get("project") or None, time.time_ns())
        view = await traces_view(services.store, project, filters)
    except StoreBusy:
        raise
    except (FilterError, StoreError) as invalid:
        error = with_full_stop(str(invalid))
        filters = unread_filters(request.query_params, request.query_params.get("project") or None)
        view = TracesView.empty(project, filters)
    first_page = filters.query.cursor is None
    frame = await frame_of(request, services, project)
    return await asyncio.to_thread(
        html,
        "traces.html",
        status=200 if error is None else 400,
        error=error,
        view=view,
        filters=filters,
        fields=FIELDS,
        ranges=RANGES,
        any_filter=bool(filters.values),
        unfolded=bool(_FOLDED & filters.values.keys()),
        longest=max((trace.duration for trace in view.traces), default=0.0),
        first_page=first_page,
        empty_project=not view.traces and not filters.values and first_page and error is None,
        endpoint=public_url(request.scope, services.options.trusted_proxies),
        twin=filters.href("/traces.json", cursor=filters.query.cursor),
        **frame,
    )


@get("/traces.json", include_in_schema=False)
async def traces_json(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """Return the list of traces as JSON."""
    project = project_for(request, "read")
    return json_twin(await traces_view(services.store, project, _filters(request)))


@get("/traces/{rest:path}", include_in_schema=False)
async def trace_page(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """Show one trace, return it as JSON (`.json`), or return only the panel of one record (`part=record`)."""
    project = project_for(request, "read")
    trace_id, is_twin = read_trace_path(request.scope)
    parameters = request.query_params
    selected = parameters.get("record") or None
    if parameters.get("part") == "record" and selected and not is_twin:
        record = await record_view(services.store, project, trace_id, selected)
        if record is None:
            raise not_found("record")
        return html("record.html", **_panel(record, _base(request, trace_id, parameters.get("cursor") or None)))
    view = await trace_view(
        services.store,
        project,
        trace_id,
        selected=selected,
        cursor=parameters.get("cursor") or None,
        first_row=_first_row(parameters.get("from", "")),
        steps_folded=_steps(parameters.get("steps", "")) is not None,
    )
    if view is None:
        raise not_found("trace")
    if selected and view.record is None:
        raise not_found("record")
    if is_twin:
        return json_twin(view)
    frame = await frame_of(request, services, project)
    return await asyncio.to_thread(_trace_html, request, view, frame)


@get("/status", include_in_schema=False)
async def status_page(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """Show the balance sheets of the client processes, the server's bounds and its version."""
    project = project_for(request, "read")
    view = await status_view(services, project, is_operator=request.user.project is None)
    frame = await frame_of(request, services, project)
    return html("status.html", view=view, twin=with_query("/status.json", project=frame["project_in_url"]), **frame)


@get("/status.json", include_in_schema=False)
async def status_json(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """Return the status as JSON."""
    project = project_for(request, "read")
    return json_twin(await status_view(services, project, is_operator=request.user.project is None))


@get("/static/{file_path:path}", include_in_schema=False)
async def static(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Return a file of the pages; browsers keep it forever when its URL has its hash, as in the pages."""
    name = str(request.path_params["file_path"]).removeprefix("/")
    if name not in STATIC_FILES:
        raise not_found("file")
    content, digest = static_file(name)
    cache_control = _CACHE_FOREVER if request.query_params.get("v") == digest else "no-cache"
    headers = {"cache-control": cache_control, "etag": f'"{digest}"'}
    if request.headers.get("if-none-match") == f'"{digest}"':
        return Response(b"", status_code=304, media_type=STATIC_FILES[name], headers=headers)
    return Response(content, media_type=STATIC_FILES[name], headers=headers)


handlers = [home, traces_page, traces_json, trace_page, status_page, status_json, static]


def _filters(request: ApiRequest) -> Filters:
    try:
        return read_filters(request.query_params, request.query_params.get("project") or None, time.time_ns())
    except FilterError as error:
        raise bad_request(with_full_stop(str(error))) from error


def _first_row(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise bad_request("from must be the number of the first row: 0 or more.")
    return int(text)


def _steps(text: str) -> str | None:
    """Return how steps are shown: None for rows like any other, or `folded`."""
    if text not in ("", _FOLDED_STEPS):
        raise bad_request(f"steps may be {_FOLDED_STEPS!r} or absent, not {text[:80]!r}.")
    return text or None


def _base(request: ApiRequest, trace_id: str, cursor: str | None) -> dict[str, Any]:
    """Return the path of a trace's page, the parameters that its links keep, and the server's URL."""
    services: Services = request.app.state.services
    return {
        "trace_id": trace_id,
        "path": trace_path(trace_id),
        "project_in_url": request.query_params.get("project") or None,
        "cursor": cursor,
        "steps": _steps(request.query_params.get("steps", "")),
        "endpoint": public_url(request.scope, services.options.trusted_proxies),
    }


def _trace_html(request: ApiRequest, view: TraceView, frame: dict[str, Any]) -> Response[bytes]:
    base = _base(request, view.trace.trace_id, view.cursor)
    panel = _panel(view.record, base) if view.record else {"record": None, "base": base}
    twin = with_query(
        trace_path(view.trace.trace_id, twin=True),
        project=frame["project_in_url"],
        cursor=view.cursor,
        steps=base["steps"],
        record=request.query_params.get("record"),
        **{"from": request.query_params.get("from")},
    )
    return html("trace.html", view=view, links=_links(view, base), twin=twin, **{**panel, **frame})


def _links(view: TraceView, base: dict[str, Any]) -> dict[str, str | None]:
    """Return the links to the other rows of the tree and to the other parts of the trace; None where there are none."""
    path = base["path"]
    state = {"project": base["project_in_url"], "steps": base["steps"]}

    def rows_from(row: int) -> str:
        return with_query(path, **state, cursor=view.cursor, **{"from": row})

    next_row = view.first_row + limits.TREE_ROWS
    next_part = None
    if view.next_cursor:
        next_part = with_query(path, **state, cursor=view.next_cursor)
    return {
        "rows_before": rows_from(max(0, view.first_row - limits.TREE_ROWS)) if view.first_row else None,
        "rows_after": rows_from(next_row) if next_row < view.tree_rows else None,
        "next_part": next_part,
        "steps": _steps_link(view, base),
        "first_part": with_query(path, **state) if view.cursor else None,
    }


def _steps_link(view: TraceView, base: dict[str, Any]) -> str:
    """Return the link that folds the steps, or shows them again; it keeps the selected record."""
    steps = None if view.steps_folded else _FOLDED_STEPS
    record = view.record.inference_id if view.record else None
    return with_query(base["path"], project=base["project_in_url"], cursor=view.cursor, steps=steps, record=record)


def _panel(record: Record, base: dict[str, Any]) -> dict[str, Any]:
    origin = origin_of(record)
    return {
        "record": record,
        "origin": origin,
        "sections": sections_of(record, origin),
        "step": is_step(record),
        "finish_reasons": finish_reasons_of(record),
        "copies": copies_of(record, base["endpoint"]),
        "error_text": error_text_of(record),
        "traceback": traceback_of(record),
        "state": state_of(record),
        "unpriced": unpriced_reason(record),
        "base": base,
    }
