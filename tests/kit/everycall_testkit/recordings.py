"""Recorded answers of real providers: replayed on loopback, and compared with the records they give.

The recordings are no part of the repository. They are looked for in the folder that `EVERYCALL_RECORDINGS` names, else
beside the repository in `../shared/recordings`. A file holds one exchange: the request's body, and the response as JSON
or as server-sent events.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import re
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from everycall.record import Record, to_json

__all__ = ["Recording", "Replay", "lost_leaves", "parametrize_recordings"]

_ROOT = Path(__file__).parents[3]
_FOLDER = Path(os.environ.get("EVERYCALL_RECORDINGS") or _ROOT.parent / "shared" / "recordings")
_JSON_FIELDS = ("llm_configuration", "inputs", "output", "attributes")
_OTHER_FIELDS = ("content", "model", "error", "input_tokens", "output_tokens", "total_tokens", "cost")
_PART_INDEXES = ("index", "output_index", "content_index", "summary_index")
_UTC_TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{200,}={0,2}\Z")


@dataclass(frozen=True)
class Recording:
    """One exchange. `body` is the body of the response as it is sent."""

    name: str
    provider: str
    url: str
    request: dict[str, Any]
    status: int
    content_type: str
    is_stream: bool
    body: bytes
    documents: tuple[Any, ...] = field(repr=False)
    """The response, or the data of the events of a stream."""


def _load(path: Path) -> Recording:
    values = json.loads(path.read_text(encoding="utf-8"))
    if values["stream"]:
        events = values["events"]
        body = "".join(f"{event}\n\n" for event in events).encode()
        lines = (line for event in events for line in event.splitlines() if line.startswith("data:"))
        documents = tuple(json.loads(line[5:]) for line in lines if line[5:].strip() not in ("", "[DONE]"))
    elif "response" in values:
        body, documents = json.dumps(values["response"]).encode(), (values["response"],)
    else:
        body, documents = values["response_text"].encode(), ()
    return Recording(
        path.stem,
        values["provider"],
        values["url"],
        values["request"],
        values["status"],
        values["content_type"],
        values["stream"],
        body,
        documents,
    )


def parametrize_recordings(*apis: str) -> pytest.MarkDecorator:
    """Give a test one recording at a time, as `recording`; skip it if there are none."""
    paths = [path for api in apis for path in sorted((_FOLDER / api).glob("*.json"))]
    values: Iterable[Any] = [pytest.param(_load(path), id=f"{path.parent.name}/{path.stem}") for path in paths]
    if not paths:
        reason = f"no recordings in {_FOLDER.name} beside the repository; set EVERYCALL_RECORDINGS to their folder"
        values = [pytest.param(None, marks=pytest.mark.skip(reason=reason))]
    return pytest.mark.parametrize("recording", values)


class Replay:
    """A server on loopback that answers every request with one recording."""

    def __init__(self, recording: Recording) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"recording": recording}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), name="replay")

    @property
    def url(self) -> str:
        """The server's URL, without a path."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Replay:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    recording: Recording

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(self.recording.status)
        self.send_header("content-type", self.recording.content_type)
        self.send_header("content-length", str(len(self.recording.body)))
        self.end_headers()
        self.wfile.write(self.recording.body)

    def log_message(self, *args: object) -> None:
        """Say nothing on stderr."""


def lost_leaves(
    recording: Recording, record: Record, left_out: Sequence[str], replaced: Sequence[str] = ()
) -> list[tuple[str, Any]]:
    """Return the texts and numbers of the response that the record does not have, each with its path.

    A path is such as `choices[0].message.content`. `left_out` has patterns of the paths that are left out on purpose,
    `replaced` of those of which only the last value counts, such as the status in each event of a stream.
    The pieces of a stream are joined by path first; where a joined text is not found, each piece is looked for. A text
    that is JSON, such as the arguments of a call, may be there as its values; base64 as its size or hash.
    """
    omitted, last_only = re.compile("|".join(left_out)), re.compile("|".join(replaced) or "(?!)")
    texts, numbers = _contents(record)
    missing: list[tuple[str, Any]] = []
    for path, pieces in _leaves_by_path(recording.documents):
        if omitted.fullmatch(path):
            continue
        if last_only.fullmatch(path):
            pieces = pieces[-1:]
        joined = "".join(piece for piece in pieces if isinstance(piece, str))
        if joined and _has_text(joined, texts, numbers):
            pieces = [piece for piece in pieces if not isinstance(piece, str)]
        missing += [(path, piece) for piece in pieces if not _has_leaf(piece, texts, numbers)]
    return missing


def _contents(record: Record) -> tuple[list[str], set[float]]:
    """Return all texts and numbers of a record."""
    values = [to_json(getattr(record, name)) for name in _JSON_FIELDS]
    values += [getattr(record, name) for name in _OTHER_FIELDS]
    values.append(record.usage)
    texts: list[str] = []
    numbers: set[float] = set()
    for _, leaf in _leaves(values, ""):
        if isinstance(leaf, str):
            texts.append(leaf)
        else:
            numbers.add(leaf)
    return texts, numbers


def _leaves_by_path(documents: Iterable[Any]) -> Iterator[tuple[str, list[Any]]]:
    """Return the leaves of all documents by path; those of events about different parts apart."""
    leaves: dict[Any, list[Any]] = defaultdict(list)
    for document in documents:
        part = tuple(document.get(name) for name in _PART_INDEXES) if isinstance(document, dict) else ()
        for path, leaf in _leaves(document, ""):
            leaves[path, part].append(leaf)
    return ((path, pieces) for (path, _), pieces in leaves.items())


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Return the texts and numbers of a value that say anything, each with its path."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _leaves(item, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            index = item.get("index", number) if isinstance(item, dict) else number
            yield from _leaves(item, f"{path}[{index}]")
    elif value not in (None, "") and not isinstance(value, bool):
        yield path, value


def _has_leaf(leaf: Any, texts: list[str], numbers: set[float]) -> bool:
    if isinstance(leaf, str):
        return _has_text(leaf, texts, numbers)
    return leaf == 0 or leaf in numbers or str(leaf) in texts  # integers beyond 64 bits are kept as texts


def _has_text(text: str, texts: list[str], numbers: set[float]) -> bool:
    if any(text in other for other in texts):
        return True
    if _UTC_TIME.fullmatch(text):  # libraries parse it, so that its zone is written otherwise
        return any(text[:-1] in other for other in texts)
    if text[:1] in "{[":
        try:
            value = json.loads(text)
        except ValueError:
            return False
        return all(_has_leaf(leaf, texts, numbers) for _, leaf in _leaves(value, ""))
    return any(reference in other for reference in _references(text) for other in texts)


def _references(text: str) -> Iterator[str]:
    """Return what stands for base64 in a record: the hash, or the size, of the bytes."""
    encoded = text.partition(";base64,")[2] if text.startswith("data:") else text
    if text.startswith("data:") or _BASE64.match(encoded):
        try:
            data = base64.b64decode(encoded.translate(str.maketrans("-_", "+/")) + "=" * (-len(encoded) % 4))
        except (binascii.Error, ValueError):
            return
        yield f"sha256 {hashlib.sha256(data).hexdigest()}"
        yield f"{len(data)} bytes"
