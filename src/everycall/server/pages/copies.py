"""A record as text to copy: as JSON, and as a command and a program that run its model call again.

Pure functions; called by `routes`. The key is never part of the text: it is read from `EVERYCALL_API_KEY`.
"""

from __future__ import annotations

import json
import pprint
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from everycall import limits, semconv
from everycall.record import Record, encode, to_json

__all__ = ["Copies", "copies_of", "request_of"]

_PATH = "/api/parea/v1/completion"


@dataclass(frozen=True, slots=True)
class Copies:
    """Texts to copy. Each is None if it is too large for a page; `curl` and `python` also if this is no model call."""

    json: str | None
    curl: str | None
    python: str | None


def request_of(record: Record) -> dict[str, Any] | None:
    """Return the body of `POST /api/parea/v1/completion` that runs a model call again.

    Return None for a record of another kind, and where messages were omitted, cut or never recorded.
    """
    if record.kind != semconv.LLM or "inputs" in record.omitted or "llm_configuration" in record.truncated:
        return None
    try:
        configuration, variables = to_json(record.llm_configuration), to_json(record.llm_inputs)
    except RecursionError:
        return None
    if not isinstance(configuration, Mapping) or not configuration.get("messages"):
        return None
    body: dict[str, Any] = {"llm_configuration": dict(configuration)}
    if variables:
        body["llm_inputs"] = variables
    if record.project_name != semconv.DEFAULT_PROJECT:
        body["project_name"] = record.project_name
    return body


def copies_of(record: Record, endpoint: str) -> Copies:
    """Return a record as JSON, and as curl and Python that send its model call to the server at `endpoint` again."""
    encoded = encode(record)
    if len(encoded) > limits.COPY_BYTES_MAX:
        return Copies(None, None, None)
    text = msgspec.json.format(encoded, indent=2).decode()
    body = request_of(record)
    if body is None:
        return Copies(text, None, None)
    return Copies(text, _curl(body, endpoint + _PATH), _python(body, endpoint + _PATH))


def _curl(body: dict[str, Any], url: str) -> str:
    """Return a command for a POSIX shell. All but printable ASCII is escaped, so it cannot control a terminal."""
    lines = (
        f"curl {shlex.quote(url)}",
        '-H "x-api-key: $EVERYCALL_API_KEY"',
        "-H 'content-type: application/json'",
        f"-d {shlex.quote(json.dumps(body, indent=2))}",
    )
    return " \\\n  ".join(lines)


def _python(body: dict[str, Any], url: str) -> str:
    literal = pprint.pformat(body, width=100, sort_dicts=False)
    return "\n".join(
        (
            "import os",
            "",
            "import httpx",
            "",
            f"body = {literal}",
            'headers = {"x-api-key": os.environ["EVERYCALL_API_KEY"]}',
            f"response = httpx.post({url!r}, json=body, headers=headers, timeout=600)",
            "response.raise_for_status()",
            'print(response.json()["content"])',
        )
    )
