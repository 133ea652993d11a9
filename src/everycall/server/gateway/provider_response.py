"""What comes back from a provider, in one shape for all of them: an answer or a failure. Made by the two backends.

Tokens are counted in one way: `input_tokens` includes cached and cache-write tokens, `output_tokens` includes
reasoning; what a provider does not say is None.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from everycall import limits
from everycall.semconv import SERVICE_TIER
from everycall.server.gateway.provider_request import Asked
from everycall.usage import usage_fields

if TYPE_CHECKING:
    from everycall.server.gateway.sse import ProviderStream

__all__ = [
    "Backend",
    "ProviderAnswer",
    "ProviderFailure",
    "Tokens",
    "decode_body",
    "streamed_texts",
    "tokens_of",
    "tool_text",
    "without_secrets",
]

_SECRETS = re.compile(r"\b(?:sk|pk|key|gsk|xai)-[A-Za-z0-9_*\-.]{6,}|\bBearer\s+\S+", re.IGNORECASE)
_MESSAGE_CHARS_MAX = 4_000  # of a provider's error text: some answer with a whole web page


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of one answer; `parts` has the keys of `semconv.USAGE_*`, only those above zero.

    `tier` is the service tier that the provider billed, None for its standard one.
    """

    input: int | None = None
    output: int | None = None
    total: int | None = None
    parts: dict[str, int] = {}
    tier: str | None = None


class ProviderAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One answer. `model` is the one that answered; `output` has tool calls; cost is set when it was first paid.

    This is also the form in which an answer is kept in the response cache.
    """

    content: str
    model: str
    tokens: Tokens
    output: list[dict[str, Any]] | None = None
    finish_reasons: list[str] = []
    response_id: str | None = None
    cost: float | None = None
    cost_source: str | None = None
    price_version: str | None = None


class ProviderFailure(Exception):
    """A provider did not answer as asked. `text` has no secret, but may repeat the prompt; `brief` has neither.

    `passing` says that another try, or another provider, may answer: there was no connection, a time-out, 408, 409, 429
    or 5xx. `retry_after_s` is how long the provider asks to wait, None when it does not say. `tries` counts those made.
    """

    def __init__(
        self,
        error_type: str,
        status: int | None,
        message: str,
        *,
        passing: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        self.error_type = error_type
        self.brief = error_type if status is None else f"{error_type} ({status})"
        self.text = f"{self.brief}: {message}"[: limits.ERROR_CHARS_MAX] if message else self.brief
        self.passing = passing
        self.retry_after_s = retry_after_s
        self.tries = 1
        super().__init__(self.brief)


class Backend(Protocol):
    """One provider's API, through its official client."""

    async def ask(self, asked: Asked, own_key: str | None) -> ProviderAnswer:
        """Ask once, without a retry.

        Raises `ProviderFailure`, and `ProblemError` 422 for what this provider cannot be asked.
        """
        ...

    def stream(self, asked: Asked, own_key: str | None) -> ProviderStream:
        """Return the answer as it will come; nothing is asked before its texts are read.

        Raises `ProblemError` 422 for what this provider cannot be asked.
        """
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


def tokens_of(usage: Any, service_tier: Any = None) -> Tokens:
    """Return the counts of a provider's report of usage, of any provider; see `everycall.usage`."""
    told = usage_fields(usage if not isinstance(service_tier, str) else {"service_tier": service_tier, **(usage or {})})
    return Tokens(
        input=told.get("input_tokens"),
        output=told.get("output_tokens"),
        total=told.get("total_tokens"),
        parts={name: number for name, number in told.get("usage", {}).items() if number},
        tier=told.get(SERVICE_TIER),
    )


def decode_body(data: bytes, provider: str) -> dict[str, Any]:
    """Return a provider's JSON object. Raises `ProviderFailure` when it is not one."""
    try:
        body = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        body = None
    if not isinstance(body, dict):
        raise ProviderFailure("InvalidAnswer", None, f"the answer of {provider} is not a JSON object")
    return body


def tool_text(calls: list[dict[str, Any]]) -> str:
    """Return tool calls as the text that Parea's callers get: an indented JSON list, arguments as objects."""
    return json.dumps(calls, indent=4, ensure_ascii=False)


def streamed_texts(answer: ProviderAnswer) -> list[str]:
    """Return what a whole answer is when it is streamed: its text, then its tool calls as `tool_text` writes them."""
    before = [part["text"] for part in answer.output or () if part.get("type") == "text"]
    return [text for text in (*before, answer.content) if text]


def without_secrets(message: str, secrets: Iterable[str | None]) -> str:
    """Return an error text without the keys in use and without anything that looks like one, cut to a bound."""
    for secret in secrets:
        if secret:
            message = message.replace(secret, "[key]")
    return _SECRETS.sub("[key]", message)[:_MESSAGE_CHARS_MAX]
