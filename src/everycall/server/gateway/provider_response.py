"""What a provider gives back, in one form for all of them: a response or an error. Made by `formats`.

`input_tokens` includes cached and cache-write tokens, `output_tokens` includes reasoning. What a provider does not say
is None.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import msgspec

from everycall import limits
from everycall.record import error_without_content
from everycall.semconv import SERVICE_TIER
from everycall.usage import usage_fields

__all__ = [
    "ProviderError",
    "ProviderResponse",
    "TokenCounts",
    "build_response",
    "stream_texts",
    "token_counts",
]

_SECRETS = re.compile(r"\b(?:sk|pk|key|gsk|xai)-[A-Za-z0-9_*\-.]{6,}|\bBearer\s+\S+", re.IGNORECASE)
_MESSAGE_CHARS_MAX = 4_000  # of a provider's error text: some answer with a whole web page
_SHORT_KEY_CHARS = 8
_COMPLETE = frozenset(
    {
        "stop", "end_turn", "stop_sequence", "tool_calls", "tool_use", "function_call", "eos", "eos_token",
        "stop_token", "complete", "completed", "end", "done", "finished",
    }
)  # fmt: skip
"""Finish reasons of a response that says all it would say. With any other one (cut, filtered, interrupted), another try
may give a better response."""
_LENGTHS = frozenset({"length", "max_tokens"})


class TokenCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of one response. `parts` has the keys of `semconv.USAGE_*`, only those above zero.

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
    """One response, also as the response cache stores it.

    `content` is its text, or its tool calls as text. `output` has what the text does not say: reasoning, annotations,
    tool calls, each with a `type`, and the text among them; None for text alone. `cost` is what it cost when a provider
    made it.
    """

    content: str
    model: str
    tokens: TokenCounts
    output: list[dict[str, Any]] | None = None
    has_tool_calls: bool = False
    finish_reasons: list[str] = []
    response_id: str | None = None
    cost: float | None = None
    cost_source: str | None = None
    price_version: str | None = None

    def is_complete(self, *, has_limit: bool) -> bool:
        """Return whether this is all that was asked for: neither empty nor filtered nor cut.

        An answer that was cut at a limit which the request set (`has_limit`) is what was asked for.
        """
        complete = _COMPLETE | _LENGTHS if has_limit else _COMPLETE
        return bool(self.content.strip()) and complete.issuperset(
            reason.lower() for reason in self.finish_reasons if reason
        )


class ProviderError(Exception):
    """A provider did not give a usable answer. `text` may repeat the prompt; `summary` does not. Neither has a secret.

    `is_transient` says that another try or another provider may succeed: no connection, a time-out, 408, 409, 424, 425,
    429 or 5xx. `retry_after_s` is how long the provider asks to wait, or None. `code` and `param` are what OpenAI's
    errors have of these names. `tries` counts the requests sent.
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
        self.status = status
        self.message = message
        self.is_transient = is_transient
        self.retry_after_s = retry_after_s
        self.code: str | None = None
        self.param: str | None = None
        self.tries = 1
        super().__init__(self.summary)

    @property
    def summary(self) -> str:
        """The type and the status."""
        return error_without_content(self.error_type, status=self.status)

    @property
    def text(self) -> str:
        """The summary and the provider's message."""
        return f"{self.summary}: {self.message}"[: limits.ERROR_CHARS_MAX] if self.message else self.summary

    def redact(self, secrets: Iterable[str | None]) -> None:
        """Remove the keys in use, and whatever looks like a key, from the message, and cut it to a bound."""
        message = self.message
        for secret in secrets:
            if not secret:
                continue
            pattern = re.escape(secret)
            if len(secret) < _SHORT_KEY_CHARS:  # within words, so few letters are no key
                pattern = rf"(?<![\w-]){pattern}(?![\w-])"
            message = re.sub(pattern, "[key]", message)
        self.message = _SECRETS.sub("[key]", message)[:_MESSAGE_CHARS_MAX]


def build_response(
    *,
    text: str,
    parts: list[dict[str, Any]],
    tool_calls: list[dict[str, Any]],
    model: str,
    tokens: TokenCounts,
    finish_reason: Any,
    response_id: Any,
) -> ProviderResponse:
    """Return a response from its text, the parts before it and its tool calls, which win over the text as `content`."""
    output = list(parts)
    if text and (parts or tool_calls):
        output.append({"type": "text", "text": text})
    output += tool_calls
    return ProviderResponse(
        content=_format_tool_calls(tool_calls) if tool_calls else text,
        output=output or None,
        has_tool_calls=bool(tool_calls),
        model=model,
        tokens=tokens,
        finish_reasons=[finish_reason] if isinstance(finish_reason, str) else [],
        response_id=response_id if isinstance(response_id, str) else None,
    )


def token_counts(usage: Any, service_tier: Any = None, *, response: Any = None) -> TokenCounts:
    """Return the counts of a provider's report of usage, of any provider; see `everycall.usage`.

    `response` is the body that the report is part of.
    """
    if isinstance(service_tier, str):
        usage = {"service_tier": service_tier, **(usage if isinstance(usage, dict) else {})}
    fields = usage_fields(usage, response=response)
    return TokenCounts(
        input=fields.get("input_tokens"),
        output=fields.get("output_tokens"),
        total=fields.get("total_tokens"),
        parts={name: number for name, number in fields.get("usage", {}).items() if number},
        tier=fields.get(SERVICE_TIER),
        charge=fields.get("cost"),
    )


def stream_texts(response: ProviderResponse) -> list[str]:
    """Return the texts of a whole response as a stream gives them: its text, then its tool calls."""
    texts: list[str] = []
    if response.has_tool_calls:
        texts = [part["text"] for part in response.output or () if part.get("type") == "text"]
    return [text for text in (*texts, response.content) if text]


def _format_tool_calls(calls: list[dict[str, Any]]) -> str:
    """Return tool calls as the text that Parea's callers get: an indented JSON list, arguments as objects.

    Of a function's call it has what OpenAI's has. What other servers add is in the output alone.
    """
    calls = [
        {name: call[name] for name in ("id", "type", "function")} if call.get("type") == "function" else call
        for call in calls
    ]
    return json.dumps(calls, indent=4, ensure_ascii=False)
