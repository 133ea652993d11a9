"""What the official clients of OpenAI and Anthropic have in common: one generator makes them both, so they are set up
alike and fail alike. Called by the two backends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from everycall._retry import retry_after_s
from everycall.server.gateway.provider_response import ProviderError, redact_secrets
from everycall.server.provider_settings import ProviderSettings, on_loopback

__all__ = ["NO_KEY", "client_error", "client_options", "stream_error"]

NO_KEY = "none"
"""Local servers ask for no key, the clients do."""
_TRANSIENT = frozenset({408, 409, 425, 429})
_TRANSIENT_TYPES = frozenset({"api_error", "overloaded_error", "rate_limit_error", "server_error", "timeout_error"})
"""What an error event of a stream calls a failure that passes."""
_NO_ANSWER = frozenset({"APIConnectionError", "TransportError", "OSError"})
"""Bases of the exceptions that mean no whole answer came. By name: which httpx a client uses is its own affair."""


def client_options(settings: ProviderSettings, http_client: Callable[..., Any]) -> dict[str, Any]:
    """Return what both clients are made with; `http_client` is the package's `DefaultAsyncHttpxClient`.

    The client tries once, since retries are counted by `attempts.py`. It follows no redirect: a provider that is
    configured by its address would else hand the prompt, and a key in a header of its own, to any other address.
    """
    direct = {"trust_env": False} if on_loopback(settings.base_url) else {}
    return {
        "api_key": settings.api_key or NO_KEY,
        "timeout": settings.timeout_s,
        "max_retries": 0,
        "http_client": http_client(follow_redirects=False, **direct),
    }


def client_error(error: Exception, secrets: Iterable[str | None]) -> ProviderError:
    """Return what an exception of a client, or of the HTTP package below it, says; without the secrets."""
    status = getattr(error, "status_code", None)
    status = status if isinstance(status, int) else None
    if status is None:
        bases = {base.__name__ for base in type(error).__mro__}
        is_transient, wait_s = not bases.isdisjoint(_NO_ANSWER), None
    else:
        is_transient = status in _TRANSIENT or status >= 500
        wait_s = _retry_after(getattr(getattr(error, "response", None), "headers", {}))
    message = redact_secrets(_told(error), secrets)
    return ProviderError(type(error).__name__, status, message, is_transient=is_transient, retry_after_s=wait_s)


def stream_error(error: Any, secrets: Iterable[str | None]) -> ProviderError:
    """Return what the `error` member of an event in a stream says."""
    told = error.get("message") if isinstance(error, dict) else error
    kind = error.get("type") if isinstance(error, dict) else None
    message = redact_secrets(str(told), secrets)
    return ProviderError("StreamError", None, message, is_transient=kind in _TRANSIENT_TYPES)


def _told(error: Exception) -> str:
    body = getattr(error, "body", None)
    if isinstance(body, dict):
        inner = body.get("error")  # OpenAI's client has taken it out already
        told = (inner if isinstance(inner, dict) else body).get("message")
        if isinstance(told, str):
            return told
    told = getattr(error, "message", None)
    return told if isinstance(told, str) else str(error)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that the provider asks to wait; infinity where it asks for no other try; None: not said."""
    if headers.get("x-should-retry") == "false":
        return math.inf
    return retry_after_s(headers)
