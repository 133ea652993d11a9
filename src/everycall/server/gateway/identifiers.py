"""The ids of a completion: its own, its trace's and its parent's. Called by `idempotency.py`."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

from everycall.server.gateway.request import CompletionRequest

__all__ = ["Identifiers", "identifiers"]

_OWN_ID = re.compile(r"[0-9a-f]{32}-[0-9a-f]{16}\Z")


@dataclass(frozen=True, slots=True)
class Identifiers:
    """The place of a completion in its trace: its record's ids."""

    inference_id: str
    trace_id: str
    parent_id: str | None


def identifiers(request: CompletionRequest) -> Identifiers:
    """Return the ids of the request, or new ones (`<32 hex>-<16 hex>`).

    Parea's client names the completion itself as its parent, which counts as no parent.
    """
    parent = request.parent_trace_id or None
    if parent is not None and parent == request.inference_id:
        parent = None
    inference_id = request.inference_id or f"{secrets.token_hex(16)}-{secrets.token_hex(8)}"
    own = inference_id[:32] if _OWN_ID.match(inference_id) else inference_id
    return Identifiers(inference_id, request.trace_id or request.root_trace_id or parent or own, parent)
