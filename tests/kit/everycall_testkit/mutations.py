"""Seeded damage to good bodies: bytes cut, flipped and put in; JSON values replaced by hostile ones; wrong encodings.

Loaded by fixtures; no test. The same seed makes the same bodies in each run.
"""

from __future__ import annotations

import copy
import gzip
import json
import random
import zlib
from typing import Any

import zstandard

__all__ = ["RAW", "VALUES", "mutated", "packed"]

RAW = {
    "@deep@": b"[" * 3_000 + b"]" * 3_000,
    "@objects@": b'{"a":' * 3_000 + b"1" + b"}" * 3_000,
    "@unclosed@": b"[" * 100_000,
    "@digits@": b"9" * 5_000,
    "@exponent@": b"1e999999",
    "@nan@": b"NaN",
    "@infinity@": b"-Infinity",
    "@surrogate@": b'"\\ud800"',
    "@reversed@": b'"\\udc00\\ud800"',
    "@zero@": b'"a\\u0000b"',
    "@utf8@": b'"\xff\xfe\xc0\x80"',
    "@cesu@": b'"\xed\xa0\x80"',
    "@hex@": b"0x1F",
    "@comment@": b"/* x */ 1",
    "@quotes@": b"'single'",
    "@twice@": b'{"a":1,"a":{"a":2}}',
}
VALUES: list[Any] = [
    *RAW, None, True, False, 0, -1, 2**31, 2**53, 2**63, 2**64, -(2**63) - 1, 10**308, 0.1, -0.0, 1e308, 5e-324,
    "", " ", "null", "NaN", "\u202e\ufeff", "x" * 2_000, "é" * 300, "\U0001f600", "../../etc/passwd",
    "'; DROP TABLE records; --",
    "{{ x }}", "%s%n", "1970-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+23:59",
    "2024-02-30T25:61:61Z",
    [], {}, [[]], [{}], {"": ""}, [None], ["a", 1, None, {}], {"__proto__": {"x": 1}}, {"a": {"b": {"c": [1, 2, 3]}}},
    [1] * 500, {str(number): number for number in range(300)},
]  # fmt: skip
SPICE = [
    b"null",
    b"\x00",
    b"\xff",
    b"\n",
    b"\r\n",
    b'"',
    b"{}",
    b"[" * 300,
    b"\\u",
    b"\\ud800",
    b",",
    b":",
    b"1e400",
    b"\xef\xbb\xbf",
]
ENCODINGS = ["gzip", "deflate", "zstd", "identity", "br", "x-gzip", "gzip, gzip", "GZIP", "", "\t", "chunked", "none"]
PACKERS = {
    "gzip": lambda data: gzip.compress(data, 1),
    "deflate": lambda data: zlib.compress(data, 1),
    "zstd": lambda data: zstandard.compress(data, 1),
}


def mutated(source: random.Random, body: Any) -> bytes:
    """Return a JSON body with one to four damages; most keep it JSON, so that what reads it is reached."""
    if source.random() < 0.65:
        body = json.loads(json.dumps(body))
        for _ in range(source.choice((1, 1, 1, 2, 3))):
            body = _changed(source, body)
        data = json.dumps(body, ensure_ascii=source.random() < 0.5).encode("utf-8", "surrogatepass")
        for name, raw in RAW.items():
            data = data.replace(f'"{name}"'.encode(), raw)
        if source.random() < 0.8:
            return data
    else:
        data = json.dumps(body).encode()
    for _ in range(source.choice((1, 1, 2, 4))):
        data = _damaged(source, data)
    return data


def packed(source: random.Random, data: bytes) -> tuple[bytes, str | None, bool]:
    """Return a body as it is sent, its content-encoding (mostly none, some wrong), and whether it is whole."""
    chance = source.random()
    if chance < 0.8:
        return data, None, True
    if chance < 0.88:
        encoding = source.choice(sorted(PACKERS))
        return PACKERS[encoding](data), encoding, True
    if chance < 0.94:
        encoding = source.choice(sorted(PACKERS))
        return _damaged(source, PACKERS[encoding](data)), encoding, False
    return data, source.choice(ENCODINGS), True


def _hostile(source: random.Random) -> Any:
    return copy.deepcopy(source.choice(VALUES))  # what is put in may be changed next


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Return each container and key of a JSON value."""
    places: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        one = waiting.pop()
        items = list(one.items() if isinstance(one, dict) else enumerate(one))
        places += [(one, key) for key, _ in items]
        waiting += [child for _, child in items if isinstance(child, dict | list)]
    return places


def _changed(source: random.Random, body: Any) -> Any:
    places = _places(body) if isinstance(body, dict | list) else []
    how = source.random()
    if not places or how < 0.03:
        return _hostile(source)
    container, key = source.choice(places)
    if how < 0.12:
        del container[key]
    elif how < 0.2 and isinstance(container, dict):
        container[
            source.choice(["__proto__", "constructor", "", "x" * 500, "\u0000", "a.b.c", "$ref", "__class__"])
        ] = _hostile(source)
    elif how < 0.27 and isinstance(container, dict):
        container[key + source.choice(["", " ", "s", "\u200b"])] = container.pop(key)
    else:
        container[key] = _hostile(source)
    return body


def _damaged(source: random.Random, data: bytes) -> bytes:
    place = source.randrange(len(data) + 1)
    match source.choice(["cut", "flip", "insert", "double", "drop", "wide", "mark"]):
        case "cut":
            return data[:place]
        case "flip" if data:
            place %= len(data)
            return data[:place] + bytes([data[place] ^ (1 << source.randrange(8))]) + data[place + 1 :]
        case "insert":
            return data[:place] + source.choice([*SPICE, source.randbytes(4)]) + data[place:]
        case "double":
            return data + data[place:]
        case "drop":
            return data[:place] + data[place + source.randrange(1, 40) :]
        case "wide":
            return data.decode("latin-1").encode(source.choice(["utf-16", "utf-32", "utf-16-le", "utf-7"]))
        case "mark":
            return b"\xef\xbb\xbf" + data
    return data
