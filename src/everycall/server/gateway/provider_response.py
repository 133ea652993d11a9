"""What comes back from a provider, in one shape for all of them: an answer or a failure. Made by the two backends.

TokenCounts are counted in one way: `input_tokens` includes cached and cache-write tokens, `output_tokens` includes
reasoning; what a provider does not say is None.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from everycall import limits
from everycall.record import error_without_content
from everycall.semconv import SERVICE_TIER
from everycall.server.gateway.provider_request import ProviderRequest
from everycall.usage import usage_fields

if TYPE_CHECKING:
    from everycall.server.gateway.sse import ProviderStream

__all__ = [
    "Backend",
    "ProviderError",
    "ProviderResponse",
    "TokenCounts",
    "decode_body",
    "format_tool_calls",
    "redact_secrets",
    "stream_texts",
    "token_counts",
]

_SECRETS = re.compile(r"\b(?:sk|pk|key|gsk|xai)-[A-Za-z0-9_*\-.]{6,}|\bBearer\s+\S+", re.IGNORECASE)
_MESSAGE_CHARS_MAX = 4_000  # of a provider's error text: some answer with a whole web page


class TokenCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of one answer; `parts` has the keys of `semconv.USAGE_*`, only those above zero.

    `tier` is the service tier that the provider billed, None for its standard one. `charge` is what it says it charged,
    in US dollars.
    """

    input: int | None = None
    output: int | None = None
    total: int | None = None
    parts: dict[str, int] = {}
    tier: str | None = None
    charge: float | None = None


class ProviderResponse(msgspec.Struct, frozen=True, kw_only=True):
    """One answer. `model` is the one that answered; `output` has tool calls; cost is set when it was first paid.

    This is also the form in which an answer is kept in the response cache.
    """

    content: str
    model: str
    tokens: TokenCounts
    output: list[dict[str, Any]] | None = None
    finish_reasons: list[str] = []
    response_id: str | None = None
    cost: float | None = None
    cost_source: str | None = None
    price_version: str | None = None


class ProviderError(Exception):
    """A provider did not give a usable answer. `text` may repeat the prompt; `summary` does not. Neither has a secret.

    `is_transient` says that another try or another provider may succeed: no connection, a time-out, 408, 409, 425, 429
    or 5xx. `retry_after_s` is how long the provider asks to wait, or None. `tries` counts the requests sent.
    """

    def __init__(
        self,
        error_type: str,
        status: int | None,
        message: str,
        *,
        is_transient: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        self.error_type = error_type
        self.summary = error_without_content(error_type, status=status)
        self.text = f"{self.summary}: {message}"[: limits.ERROR_CHARS_MAX] if message else self.summary
        self.is_transient = is_transient
        self.retry_after_s = retry_after_s
        self.tries = 1
        super().__init__(self.summary)


class Backend(Protocol):
    """One provider's API, through its official client."""

    async def ask(self, asked: ProviderRequest, caller_key: str | None) -> ProviderResponse:
        """Ask once, without a retry.

        Raises `ProviderError`, and `ProblemError` 422 for what this provider cannot be asked.
        """
        ...

    def stream(self, asked: ProviderRequest, caller_key: str | None) -> ProviderStream:
        """Return the answer as it will come; nothing is asked before its texts are read.

        Raises `ProblemError` 422 for what this provider cannot be asked.
        """
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


def token_counts(usage: Any, service_tier: Any = None, *, response: Any = None) -> TokenCounts:
    """Return the counts of a provider's report of usage, of any provider; see `everycall.usage`."""
    report = usage
    if isinstance(service_tier, str) and (usage is None or isinstance(usage, dict)):
        report = {"service_tier": service_tier, **(usage or {})}
    told = usage_fields(report, response=response)
    return TokenCounts(
        input=told.get("input_tokens"),
        output=told.get("output_tokens"),
        total=told.get("total_tokens"),
        parts={name: number for name, number in told.get("usage", {}).items() if number},
        tier=told.get(SERVICE_TIER),
        charge=told.get("cost"),
    )


def decode_body(data: bytes, provider: str) -> dict[str, Any]:
    """Return a provider's JSON object. Raises `ProviderError` when it is not one."""
    try:
        body = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        body = None
    if not isinstance(body, dict):
        raise ProviderError("InvalidAnswer", None, f"the answer of {provider} is not a JSON object")
    return body


def format_tool_calls(calls: list[dict[str, Any]]) -> str:
    """Return tool calls as the text that Parea's callers get: an indented JSON list, arguments as objects."""
    return json.dumps(calls, indent=4, ensure_ascii=False)


def stream_texts(answer: ProviderResponse) -> list[str]:
    """Return the texts of a whole answer as a stream gives them: its text, then its tool calls."""
    before = [part["text"] for part in answer.output or () if part.get("type") == "text"]
    return [text for text in (*before, answer.content) if text]


def redact_secrets(message: str, secrets: Iterable[str | None]) -> str:
    """Return an error text without the keys in use and without anything that looks like one, cut to a bound."""
    for secret in secrets:
        if secret:
            message = message.replace(secret, "[key]")
    return _SECRETS.sub("[key]", message)[:_MESSAGE_CHARS_MAX]
