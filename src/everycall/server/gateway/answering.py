"""What comes back from a provider, in one shape for all of them: an answer or a failure. Made by the two backends.

Tokens are counted in one way: `input_tokens` includes cached and cache-write tokens, `output_tokens` includes
reasoning; what a provider does not say is None.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from everycall import limits
from everycall.server.gateway.asking import Asked

if TYPE_CHECKING:
    from everycall.server.gateway.events import ProviderStream

__all__ = [
    "Backend",
    "ProviderAnswer",
    "ProviderFailure",
    "Tokens",
    "count",
    "decode_body",
    "streamed_texts",
    "tool_text",
    "without_secrets",
]

_SECRETS = re.compile(r"\b(?:sk|pk|key|gsk|xai)-[A-Za-z0-9_*\-.]{6,}|\bBearer\s+\S+", re.IGNORECASE)
_MESSAGE_CHARS_MAX = 4_000  # of a provider's error text: some answer with a whole web page


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of one answer; `parts` has the keys of `semconv.USAGE_*`, only those above zero."""

    input: int | None = None
    output: int | None = None
    total: int | None = None
    parts: dict[str, int] = {}


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
    price_version: str | None = None


class ProviderFailure(Exception):
    """A provider did not answer as asked. `text` has no secret, but may repeat the prompt; `brief` has neither."""

    def __init__(self, error_type: str, status: int | None, message: str) -> None:
        self.error_type = error_type
        self.brief = error_type if status is None else f"{error_type} ({status})"
        self.text = f"{self.brief}: {message}"[: limits.ERROR_CHARS_MAX] if message else self.brief
        super().__init__(self.brief)


class Backend(Protocol):
    """One provider's API, through its official client."""

    async def ask(self, asked: Asked, own_key: str | None) -> ProviderAnswer:
        """Ask once, with the client's own retries.

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


def count(values: Mapping[str, Any], *names: str) -> int | None:
    """Return the first of these members that is a whole number of tokens, or None."""
    for name in names:
        value = values.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return None


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
