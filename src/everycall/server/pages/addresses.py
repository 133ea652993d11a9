"""URLs of pages: any trace id as one path segment, and back; query strings with only the parameters that are set.

A trace id may be any text: with slashes, dots, `?`, `#`, a line break or `.json` at its end. The path is read as it
was sent (`raw_path`), because the decoded path has lost the difference between `/` and `%2F`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, unquote, urlencode

__all__ = ["deployment_path", "read_trace_path", "trace_path", "with_query"]

_PREFIX: Final = "/traces/"
_TWIN: Final = ".json"
_DOTS_AND_SLASHES: Final = frozenset("./")


def trace_path(trace_id: str, *, twin: bool = False) -> str:
    """Return the path of a trace's page, or of its JSON twin. `read_trace_path` is the inverse.

    Ids made only of dots and slashes get a `~` in front: browsers resolve `..` and `%2E%2E` alike (WHATWG URL, 4.4).
    """
    segment = quote(trace_id, safe="")
    if segment.endswith(_TWIN):
        segment = segment[: -len(_TWIN)] + "%2Ejson"
    if _DOTS_AND_SLASHES.issuperset(trace_id):
        segment = "~" + segment
    elif segment.startswith("~"):
        segment = "%7E" + segment[1:]
    return _PREFIX + segment + (_TWIN if twin else "")


def read_trace_path(scope: Mapping[str, Any]) -> tuple[str, bool]:
    """Return `(trace_id, twin)` from an ASGI scope whose path is below `/traces/`."""
    raw = scope.get("raw_path")
    path = raw.decode("ascii", "replace").split("?", 1)[0] if raw else quote(scope["path"])
    _, _, segment = path.partition(_PREFIX)
    twin = segment.endswith(_TWIN)
    if twin:
        segment = segment[: -len(_TWIN)]
    trace_id = unquote(segment)
    if segment.startswith("~") and _DOTS_AND_SLASHES.issuperset(trace_id[1:]):
        trace_id = trace_id[1:]
    return trace_id, twin


def deployment_path(deployment_id: str) -> str:
    """Return the path of a deployment's page."""
    return f"/deployments/{quote(deployment_id, safe='')}"


def with_query(path: str, **parameters: object) -> str:
    """Return `path` with the parameters that are neither None nor empty."""
    query = {name: str(value) for name, value in parameters.items() if value is not None and value != ""}
    return f"{path}?{urlencode(query)}" if query else path
