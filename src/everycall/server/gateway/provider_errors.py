"""Makes `ProviderError`s of failed requests to a provider. Their types have the names of the official clients.

Called by `providers.py` for HTTP errors, and by `formats/reports.py` for errors inside a response.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from everycall._retry import retry_after_s
from everycall.server.gateway.provider_response import ProviderError

__all__ = [
    "STREAM_ERROR",
    "http_error",
    "is_transient_status",
    "no_connection",
    "status_error_type",
    "timed_out",
]

STREAM_ERROR = "StreamError"
"""The type of an error that a stream reports without a status."""
_TRANSIENT = frozenset({408, 409, 424, 425, 429})
_TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    409: "ConflictError",
    413: "RequestTooLargeError",
    422: "UnprocessableEntityError",
    429: "RateLimitError",
    529: "OverloadedError",
}


def status_error_type(status: int) -> str:
    """Return the name of the error for a status."""
    return _TYPES.get(status) or ("InternalServerError" if status >= 500 else "APIStatusError")


def is_transient_status(status: int) -> bool:
    """Return whether another try, or another provider, may succeed after this status."""
    return status in _TRANSIENT or status >= 500


def http_error(status: int, headers: Mapping[str, str], data: bytes) -> ProviderError:
    """Return the error of a response whose status is not 2xx."""
    text = data.decode("utf-8", "replace").strip()
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        body = None
    report = body
    if isinstance(body, list) and body:  # Google's
        report = body[0]
    if isinstance(report, Mapping):
        report = report.get("error", report)
    message = report.get("message") if isinstance(report, Mapping) else report
    if not isinstance(message, str) or not message:
        message = f"Error code: {status}" + (f" - {text}" if text else "")
    if isinstance(report, Mapping) and (categories := _filtered(report.get("innererror"))):
        message = f"{message} (filtered: {categories})"
    error = ProviderError(
        status_error_type(status),
        status,
        message,
        is_transient=is_transient_status(status) or headers.get("x-should-retry") == "true",
        retry_after_s=_retry_after_s(headers),
    )
    if isinstance(report, Mapping):
        error.code, error.param = _text(report.get("code")), _text(report.get("param"))
    return error


def no_connection() -> ProviderError:
    """Return the error of a request that got no response, or only a part of one."""
    return ProviderError("APIConnectionError", None, "Connection error.", is_transient=True)


def timed_out() -> ProviderError:
    """Return the error of a provider that was silent for longer than its `timeout_s`."""
    return ProviderError("APITimeoutError", None, "Request timed out.", is_transient=True)


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds to wait before another try, infinity if there must be none, or None if it says neither."""
    if headers.get("x-should-retry") == "false":
        return math.inf
    return retry_after_s(headers)


def _filtered(details: Any) -> str:
    """Return the categories for which Azure's filter refused a prompt, with their severity; "" if there are none."""
    verdicts = details.get("content_filter_result") if isinstance(details, Mapping) else None
    if not isinstance(verdicts, Mapping):
        return ""
    return ", ".join(
        f"{name} {verdict.get('severity', '')}".rstrip()
        for name, verdict in verdicts.items()
        if isinstance(verdict, Mapping) and (verdict.get("filtered") is True or verdict.get("detected") is True)
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
