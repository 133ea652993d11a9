"""Templates and static files. Used by everything that responds with HTML.

Autoescape is always on and an undefined name is an error. No template has a script, a style attribute or a URL of
another origin, so the content security policy of every response allows only this server's own files.
"""

from __future__ import annotations

import hashlib
import time
from functools import cache
from pathlib import Path
from typing import Any, Final

import jinja2
from litestar import MediaType, Response

from everycall import semconv
from everycall.server.base_path import with_base_path
from everycall.server.gateway.templates import pieces
from everycall.server.pages import formatting
from everycall.server.pages.addresses import deployment_path, trace_path, with_query
from everycall.server.pages.tree import rails
from everycall.server.pages.values import node_of

__all__ = ["STATIC_FILES", "asset_href", "html", "render", "static_file"]

_SERVER_DIR: Final = Path(__file__).resolve().parent.parent
STATIC_FILES: Final = {
    "everycall.css": "text/css",
    "everycall.js": "text/javascript",
    "deployments.css": "text/css",
    "deployments.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
"""The static files by name, with their media types. No other file is ever read."""

RAIL_DEPTH_MAX: Final = 12
"""Deeper rows of a tree are not indented further; the depth is written in the row."""


def html(template: str, *, status: int = 200, **context: Any) -> Response[bytes]:
    """Return a response with a rendered template. Lone surrogates, which UTF-8 cannot encode, become `?`."""
    body = with_base_path(render(template, **context)).encode("utf-8", "replace")
    return Response(body, status_code=status, media_type=MediaType.HTML)


def render(template: str, **context: Any) -> str:
    """Render a template of `server/templates`. Raise `jinja2.UndefinedError` for a name that is missing."""
    return _environment().get_template(template).render(now=time.time_ns(), **context)


def asset_href(name: str) -> str:
    """Return the URL of a static file, with a hash of its content so that browsers can keep it forever."""
    return f"/static/{name}?v={static_file(name)[1]}"


@cache
def static_file(name: str) -> tuple[bytes, str]:
    """Return the content of a static file and its hash. Raise `KeyError` for a name not in `STATIC_FILES`."""
    if name not in STATIC_FILES:
        raise KeyError(name)
    content = (_SERVER_DIR / "static" / name).read_bytes()
    return content, hashlib.sha256(content).hexdigest()[:16]


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_SERVER_DIR / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for function in (
        formatting.absolute_time,
        formatting.byte_size,
        formatting.code_spans,
        formatting.count,
        formatting.duration,
        formatting.iso_time,
        formatting.money,
        formatting.tick_label,
    ):
        environment.filters[function.__name__] = function
    environment.filters["percent"] = lambda value: f"{value:.3f}%"
    environment.globals.update(
        ago=formatting.ago,
        asset_href=asset_href,
        dash=formatting.DASH,
        deployment_path=deployment_path,
        kinds=semconv.KINDS,
        node_of=node_of,
        rail_depth_max=RAIL_DEPTH_MAX,
        rails=rails,
        template_pieces=pieces,
        priced_kinds=semconv.PRICED_KINDS,
        trace_path=trace_path,
        usage_keys=semconv.USAGE_KEYS,
        with_query=with_query,
    )
    return environment
