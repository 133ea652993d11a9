"""Media by reference: the same for base64 that comes whole and in pieces."""

from __future__ import annotations

import base64
import hashlib
import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from everycall import limits
from everycall._instrumentation.content import Base64Buffer
from everycall.integration import media_reference, to_plain

LONG = bytes(range(256)) * 2


@settings(deadline=None)
@given(st.binary(min_size=200, max_size=600), st.lists(st.integers(0, 800), max_size=4), st.booleans(), st.booleans())
def test_pieces_of_base64_have_the_reference_of_the_whole(
    data: bytes, places: list[int], url_safe: bool, padded: bool
) -> None:
    """Whichever alphabet, with or without padding, cut anywhere."""
    encoded = (base64.urlsafe_b64encode if url_safe else base64.b64encode)(data).decode()
    encoded = encoded if padded else encoded.rstrip("=")
    buffer = Base64Buffer()
    cuts = [0, *sorted(min(place, len(encoded)) for place in places), len(encoded)]
    for start, end in itertools.pairwise(cuts):
        buffer.add(encoded[start:end])
    assert buffer.value("audio/wav") == media_reference(encoded, "audio/wav")
    assert hashlib.sha256(data).hexdigest() in buffer.value()


def test_pieces_may_each_have_padding() -> None:
    buffer = Base64Buffer()
    for start in range(0, len(LONG), 100):
        buffer.add(base64.b64encode(LONG[start : start + 100]).decode())
    assert buffer.value() == f"<base64, {len(LONG)} bytes, sha256 {hashlib.sha256(LONG).hexdigest()}>"


def test_text_that_is_not_base64_is_kept() -> None:
    """Members with the name of media may hold other text."""
    prose = "It is not base64, but a long text. " * 20
    buffer = Base64Buffer()
    for start in range(0, len(prose), 7):
        buffer.add(prose[start : start + 7])
    assert buffer.value() == prose == to_plain({"data": prose})["data"]


def test_short_base64_is_kept() -> None:
    buffer = Base64Buffer()
    buffer.add("QUJD")
    assert buffer.value() == "QUJD" == to_plain({"data": "QUJD"})["data"]


def test_large_media_are_not_hashed() -> None:
    buffer = Base64Buffer()
    piece = base64.b64encode(bytes(3 * 1024 * 1024)).decode()
    for _ in range(limits.MEDIA_HASH_BYTES_MAX // (3 * 1024 * 1024) + 1):
        buffer.add(piece)
    assert "sha256" not in buffer.value()
    assert f"{9 * 1024 * 1024} bytes" in buffer.value()


def test_none_members_of_json_are_kept_in_requests_and_left_out_of_responses() -> None:
    value = {"a": None, "b": [{"c": None, "d": 1}]}
    assert to_plain(value) == value
    assert to_plain(value, keep_none=False) == {"b": [{"d": 1}]}
