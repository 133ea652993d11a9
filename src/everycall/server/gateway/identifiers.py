"""The ids of a completion: its own, its trace's and its parent's, and what it means that one comes again.

Called by `gateway/gateway.py`.
"""

from __future__ import annotations

import hashlib
import re
import secrets

from everycall.server.gateway.recording import Identifiers
from everycall.server.gateway.request import CompletionRequest
from everycall.server.problems import problem

__all__ = ["check_same", "identifiers", "is_sampled", "not_kept"]

_OWN_ID = re.compile(r"[0-9a-f]{32}-[0-9a-f]{16}\Z")


def identifiers(request: CompletionRequest) -> Identifiers:
    """Return the ids: those given, else `<32 hex>-<16 hex>`. A parent that is the record itself (Parea) is none."""
    parent = request.parent_trace_id or None
    if parent is not None and parent == request.inference_id:
        parent = None
    inference_id = request.inference_id or f"{secrets.token_hex(16)}-{secrets.token_hex(8)}"
    own = inference_id[:32] if _OWN_ID.match(inference_id) else inference_id
    return Identifiers(inference_id, request.trace_id or request.root_trace_id or parent or own, parent)


def check_same(before: str, now: str) -> None:
    """Raise 409 where two digests of requests differ."""
    if before != now:
        raise problem(
            "inference_id_taken",
            409,
            "Another completion has this inference_id",
            "The same inference_id came before with another request. Use a new one for each completion.",
            field="inference_id",
        )


def not_kept(*, abandoned: bool) -> Exception:
    """Return the 409 to raise for a completion whose answer cannot be given again."""
    why = "Its caller went away before the end" if abandoned else "The log left its output out"
    return problem(
        "answer_not_kept",
        409,
        "This completion was made, and its answer was not kept",
        f"{why}, so it cannot be given again. Use a new inference_id to ask again.",
    )


def is_sampled(trace_id: str, rate: float | None) -> bool:
    """Return whether a trace is kept: all of its records or none, whichever server answers."""
    if rate is None or rate >= 1:
        return True
    return int.from_bytes(hashlib.sha256(trace_id.encode()).digest()[:8], "big") < rate * 2**64
