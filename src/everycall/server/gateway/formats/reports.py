"""Errors that a provider reports inside a response: in a stream, or in a body with status 200."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from everycall.server.gateway.provider_errors import STREAM_ERROR, is_transient_status, status_error_type
from everycall.server.gateway.provider_response import ProviderError

__all__ = ["reported_error"]

_PERMANENT = frozenset(
    {
        "invalid_request_error", "authentication_error", "permission_error", "not_found_error", "request_too_large",
        "billing_error", "invalid_api_key", "insufficient_quota", "context_length_exceeded", "model_not_found",
        "content_filter", "content_policy_violation", "invalid_prompt", "tool_use_failed",
    }
)  # fmt: skip
"""What providers call an error that comes again for the same request."""


def reported_error(report: Any, error_type: str = STREAM_ERROR) -> ProviderError:
    """Return the error of an `error` member. A code that is an HTTP status means what the status means."""
    if not isinstance(report, Mapping):
        return ProviderError(error_type, None, str(report), is_transient=True)
    message = str(report.get("message") or report)
    details = report.get("metadata")
    if isinstance(details, Mapping) and isinstance(raw := details.get("raw"), str) and raw not in message:
        message = f"{message}: {raw}"  # what OpenRouter was told by the provider behind it
    code = _status(report.get("code")) or _status(report.get("status"))
    if code is not None:
        return ProviderError(status_error_type(code), code, message, is_transient=is_transient_status(code))
    names = {report.get("type"), report.get("code")}
    return ProviderError(error_type, None, message, is_transient=_PERMANENT.isdisjoint(map(str, names)))


def _status(code: Any) -> int | None:
    if isinstance(code, str) and code.isdecimal() and code.isascii() and len(code) == 3:
        code = int(code)
    return code if type(code) is int and 400 <= code <= 599 else None
