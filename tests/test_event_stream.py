"""Server-sent events, however their bytes are split."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everycall._event_stream import Event, EventReader

STREAM = (
    b": a comment\r\n\r\n"
    b'event: message\r\ndata: {"a": "\xe2\x80\xa8"}\r\n\r\n'
    b"data: one\ndata:two\nid: 7\n\n"
    b"data:\n\n"
    b"event: end\ndata: last\n\n"
)
EVENTS = [
    Event("message", b'{"a": "\xe2\x80\xa8"}'),
    Event("", b"one\ntwo"),
    Event("", b""),
    Event("end", b"last"),
]


def read(*chunks: bytes) -> list[Event]:
    reader = EventReader()
    events = [event for chunk in chunks for event in reader.feed(chunk)]
    return events + reader.end()


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_any_split_of_the_bytes_gives_the_same_events(places: list[int]) -> None:
    bounds = [0, *sorted(places), len(STREAM)]
    assert read(*(STREAM[start:end] for start, end in itertools.pairwise(bounds))) == EVENTS


def test_byte_by_byte() -> None:
    assert read(*(STREAM[n : n + 1] for n in range(len(STREAM)))) == EVENTS


def test_lines_may_end_with_a_carriage_return_alone() -> None:
    assert read(STREAM.replace(b"\r\n", b"\n").replace(b"\n", b"\r")) == EVENTS


def test_the_last_event_needs_no_empty_line() -> None:
    assert read(b"data: a\n\ndata: b") == [Event("", b"a"), Event("", b"b")]
    assert read(b"data: a\n\nevent: nothing") == [Event("", b"a")]


@pytest.mark.parametrize("stream", [b"data: " + b"x" * 20, b"data: 12345\ndata: 12345\n\n"], ids=["a line", "lines"])
def test_the_size_of_an_event_is_bounded(stream: bytes) -> None:
    with pytest.raises(ValueError, match="more than 9 bytes"):
        EventReader(9).feed(stream)
