"""The pages' addresses: `/traces`, `/traces/{trace_id}`, `/status`, each with a `.json` twin, and the static files.

`handlers` is what `app.create_app` takes. Who asks is known from `request.user`; every read is bound to one project.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from litestar import Request, Response, get
from litestar.response import Redirect

from everycall import limits
from everycall._pricing.records import unpriced_reason
from everycall.server.pages.addresses import read_trace_path, trace_path, with_query
from everycall.server.pages.content import sections_of, traceback_of
from everycall.server.pages.filters import FIELDS, RANGES, FilterError, Filters, read_filters
from everycall.server.pages.layout import Asked, chrome_of, data, reading
from everycall.server.pages.rendering import STATIC_FILES, html, static_file
from everycall.server.pages.tree import state_of
from everycall.server.pages.views import TraceView, record_view, status_view, trace_view, traces_view
from everycall.server.problems import bad_request, not_found

__all__ = ["handlers"]

_FOLDED: Final = {"trace_name", "end_user_identifier", "session_id", "tag", "since", "until"}
"""The filters that are in the folded part of the form."""
_FOR_EVER: Final = "public, max-age=31536000, immutable"


@get("/", include_in_schema=False)
async def home() -> Redirect:
    """Send to the list of traces."""
    return Redirect("/traces")


@get("/traces", include_in_schema=False)
async def traces_page(request: Asked) -> Response[bytes]:
    """Show the newest traces that match the filters."""
    store, project = reading(request)
    filters = _filters(request)
    view = await traces_view(store, project, filters)
    first_page = filters.query.cursor is None
    chrome = await chrome_of(request, store, project)
    return await asyncio.to_thread(
        html,
        "traces.html",
        view=view,
        filters=filters,
        fields=FIELDS,
        ranges=RANGES,
        any_filter=bool(filters.given),
        more_given=bool(_FOLDED & filters.given.keys()),
        longest=max((trace.duration for trace in view.traces), default=0.0),
        first_page=first_page,
        empty_project=not view.traces and not filters.given and first_page,
        endpoint=str(request.base_url).rstrip("/"),
        twin=filters.href("/traces.json", cursor=filters.query.cursor),
        **chrome,
    )


@get("/traces.json", include_in_schema=False)
async def traces_twin(request: Asked) -> Response[bytes]:
    """Give the list of traces as data."""
    store, project = reading(request)
    return data(await traces_view(store, project, _filters(request)))


@get("/traces/{rest:path}", include_in_schema=False)
async def trace_page(request: Asked) -> Response[bytes]:
    """Show one trace, give it as data (`.json`), or give just the panel of one record (`part=record`)."""
    store, project = reading(request)
    trace_id, twin = read_trace_path(request.scope)
    asked = request.query_params
    selected = asked.get("record") or None
    if asked.get("part") == "record" and selected and not twin:
        record = await record_view(store, project, trace_id, selected)
        if record is None:
            raise not_found("record")
        base = _trace_base(request, trace_id, None)
        return html("record.html", **_panel(record, base))
    view = await trace_view(
        store,
        project,
        trace_id,
        selected=selected,
        cursor=asked.get("cursor") or None,
        first_row=_first_row(asked.get("from", "")),
    )
    if view is None:
        raise not_found("trace")
    if selected and view.record is None:
        raise not_found("record")
    if twin:
        return data(view)
    chrome = await chrome_of(request, store, project)
    return await asyncio.to_thread(_trace_html, request, view, chrome)


@get("/status", include_in_schema=False)
async def status_page(request: Asked) -> Response[bytes]:
    """Show the client processes' balance sheets, the server's bounds and its version."""
    store, project = reading(request)
    view = await status_view(store, project)
    chrome = await chrome_of(request, store, project)
    return html("status.html", view=view, twin=with_query("/status.json", project=chrome["asked_project"]), **chrome)


@get("/status.json", include_in_schema=False)
async def status_twin(request: Asked) -> Response[bytes]:
    """Give the status as data."""
    store, project = reading(request)
    return data(await status_view(store, project))


@get("/static/{file_path:path}", include_in_schema=False)
async def static(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Give a file of the pages; for ever when asked with its hash, as the pages do."""
    name = str(request.path_params["file_path"]).removeprefix("/")
    if name not in STATIC_FILES:
        raise not_found("file")
    content, digest = static_file(name)
    kept = _FOR_EVER if request.query_params.get("v") == digest else "no-cache"
    headers = {"cache-control": kept, "etag": f'"{digest}"'}
    if request.headers.get("if-none-match") == f'"{digest}"':
        return Response(b"", status_code=304, media_type=STATIC_FILES[name], headers=headers)
    return Response(content, media_type=STATIC_FILES[name], headers=headers)


handlers = [home, traces_page, traces_twin, trace_page, status_page, status_twin, static]


def _filters(request: Asked) -> Filters:
    try:
        return read_filters(request.query_params, request.query_params.get("project") or None, time.time_ns())
    except FilterError as error:
        raise bad_request(f"{error}.") from error


def _first_row(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise bad_request("from is the number of the first row: 0 or more.")
    return int(text)


def _trace_base(request: Asked, trace_id: str, view: TraceView | None) -> dict[str, Any]:
    """Return the parts of the addresses of a trace's page: its path, and the parameters kept from link to link."""
    return {
        "trace_id": trace_id,
        "path": trace_path(trace_id),
        "asked_project": request.query_params.get("project") or None,
        "cursor": view.cursor if view else request.query_params.get("cursor") or None,
    }


def _trace_html(request: Asked, view: TraceView, chrome: dict[str, Any]) -> Response[bytes]:
    base = _trace_base(request, view.trace.trace_id, view)
    panel = _panel(view.record, base) if view.record else {"record": None, "base": base}
    following = view.first_row + limits.TREE_ROWS
    kept = {"project": chrome["asked_project"], "cursor": view.cursor}
    links = {
        "newer_rows": with_query(base["path"], **kept, **{"from": str(max(0, view.first_row - limits.TREE_ROWS))})
        if view.first_row
        else None,
        "more_rows": with_query(base["path"], **kept, **{"from": following}) if following < view.tree_rows else None,
        "next_records": with_query(base["path"], **{**kept, "cursor": view.next_cursor}) if view.next_cursor else None,
        "first_records": with_query(base["path"], project=chrome["asked_project"]) if view.cursor else None,
    }
    twin = with_query(
        trace_path(view.trace.trace_id, twin=True),
        **kept,
        record=request.query_params.get("record"),
        **{"from": request.query_params.get("from")},
    )
    return html("trace.html", view=view, links=links, twin=twin, **{**panel, **chrome})


def _panel(record: Any, base: dict[str, Any]) -> dict[str, Any]:
    return {
        "record": record,
        "sections": sections_of(record),
        "traceback": traceback_of(record),
        "state": state_of(record),
        "unpriced": unpriced_reason(record),
        "base": base,
    }
