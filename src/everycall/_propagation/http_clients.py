"""Hooks of httpx and requests that add trace headers to requests to the hosts that the user listed.

`everycall.propagation` and the runtime install them. The headers are on a request only while it is being sent: the host
of each redirect is checked again, and the program's request object is unchanged afterwards.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

import wrapt

from everycall import _guard
from everycall._patches import AnyFunction, Patches
from everycall._propagation.headers import additions

__all__ = ["HTTPX", "LIBRARIES", "REQUESTS", "install", "uninstall"]

HTTPX: Final = ("httpx", "httpx2")
REQUESTS: Final = ("requests",)
LIBRARIES: Final = (*HTTPX, *REQUESTS)
_patches = {name: Patches() for name in LIBRARIES}
_wanted: set[str] = set()
_awaited: set[str] = set()


def install(*libraries: str) -> None:
    """Hook into these libraries, or wait until they are imported. Calling it again does nothing."""
    for library in libraries:
        _wanted.add(library)
        if library not in _awaited:
            _awaited.add(library)
            wrapt.register_post_import_hook(_imported(library), library)
        else:
            _imported(library)(None)


def uninstall() -> None:
    """Restore the libraries' functions. If another library has wrapped ours, ours stays in place and does nothing."""
    _wanted.clear()
    for patches in _patches.values():
        patches.undo()


def _imported(library: str) -> Callable[[Any], None]:
    """Return the hook to run when a library is imported. A library with other internals than expected is not hooked."""

    def hook(module: Any) -> None:
        module = module or sys.modules.get(library)
        if module is None or library not in _wanted:
            return
        try:
            _hook_into(library, module)
        except (AttributeError, TypeError) as error:
            _guard.report(f"propagation to {library}", error)

    return hook


def _hook_into(library: str, module: Any) -> None:
    patches = _patches[library]
    if library in REQUESTS:
        patches.replace(module.adapters.HTTPAdapter, "send", lambda original: _send(original, patches))
    else:
        patches.replace(module.Client, "_send_single_request", lambda original: _send(original, patches))
        patches.replace(module.AsyncClient, "_send_single_request", lambda original: _send_async(original, patches))


@_guard.guarded
def _with_trace(request: Any) -> Any:
    """Return a copy of a request's headers with the trace headers; None if its host gets none."""
    added = additions(request.headers, str(request.url))
    if not added:
        return None
    headers = request.headers.copy()
    headers.update(added)
    return headers


def _send(original: AnyFunction, patches: Patches) -> AnyFunction:
    def send(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        headers = _with_trace(request) if patches.on else None
        if headers is None:
            return original(self, request, *args, **kwargs)
        before, request.headers = request.headers, headers
        try:
            return original(self, request, *args, **kwargs)
        finally:
            request.headers = before

    return send


def _send_async(original: AnyFunction, patches: Patches) -> AnyFunction:
    async def send(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        headers = _with_trace(request) if patches.on else None
        if headers is None:
            return await original(self, request, *args, **kwargs)
        before, request.headers = request.headers, headers
        try:
            return await original(self, request, *args, **kwargs)
        finally:
            request.headers = before

    return send
