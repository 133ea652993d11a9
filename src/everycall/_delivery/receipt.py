"""The endpoint's answer to a batch, as one of four types; the transport returns it, the sender acts on it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from everycall import limits
from everycall._retry import retry_after_s

__all__ = ["Committed", "Receipt", "Refused", "TooLarge", "Unreachable", "receipt_of"]


@dataclass(frozen=True, slots=True)
class Committed:
    """The batch is stored, except for the refused records: index in the batch -> reason."""

    refused: dict[int, str]


@dataclass(frozen=True, slots=True)
class Unreachable:
    """No valid answer: keep the records and try again, after `retry_after_s` if the endpoint asked for that."""

    reason: str
    retry_after_s: float | None = None
    unauthorised: bool = False
    status: int | None = None


@dataclass(frozen=True, slots=True)
class TooLarge:
    """413: send smaller batches."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Another 4xx: the endpoint will never take this body."""

    status: int
    reason: str


Receipt = Committed | Unreachable | TooLarge | Refused


def receipt_of(status: int, body: bytes, headers: Mapping[str, str], count: int) -> Receipt:
    """Return the receipt in an HTTP answer to a batch of `count` records. Names in `headers` are lower case."""
    if 200 <= status < 300:
        refused, refused_count = _refusals(body, count)
        # If more were refused than the answer names, send smaller batches, whose answers name them all.
        return Committed(refused) if refused_count <= len(refused) or count == 1 else TooLarge()
    if status == 413:
        return TooLarge()
    if status in (401, 403):
        return Unreachable(f"the endpoint answered {status}: the key is missing or not accepted", None, True, status)
    if status in (408, 425, 429) or status >= 500 or status < 400:
        requested_s = retry_after_s(headers)
        wait_s = min(requested_s, limits.RETRY_AFTER_MAX_S) if requested_s is not None else None
        return Unreachable(f"the endpoint answered {status}", wait_s, status=status)
    return Refused(status, _detail(body) or f"the endpoint answered {status}")


def _refusals(body: bytes, count: int) -> tuple[dict[int, str], int]:
    """Return the refused records and their number. A 2xx with an unreadable body refuses none."""
    try:
        answer = json.loads(body)
        refused = {
            int(entry["index"]): str(entry.get("reason", "refused"))[:500]
            for entry in answer["refused"]
            if 0 <= int(entry["index"]) < count
        }
        return refused, int(answer.get("refused_count", 0))
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}, 0


def _detail(body: bytes) -> str | None:
    try:
        return str(json.loads(body)["detail"])[:500]
    except (ValueError, KeyError, TypeError):
        return None
