"""Numbers, times and URLs of the pages."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everycall import limits
from everycall.server.pages import formatting
from everycall.server.pages.addresses import read_trace_path, trace_path, with_query
from everycall.server.pages.filters import FilterError, read_filters

SECOND = 1_000_000_000
NOW = 1_800_000_000 * SECOND


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "—"),
        (0, "$0"),
        (0.0, "$0"),
        (0.000123, "$0.000123"),
        (0.00000062, "$0.00000062"),
        (0.0123456, "$0.0123"),
        (0.9, "$0.9"),
        (0.9999, "$1.00"),
        (1, "$1.00"),
        (1234.5, "$1,234.50"),
        (1e-12, "<$0.000000001"),
        (1e300, "$1e+300"),
    ],
)
def test_money(value: float | None, shown: str) -> None:
    assert formatting.money(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "—"),
        (0, "0 ms"),
        (0.0004, "0.40 ms"),
        (0.004, "4.0 ms"),
        (0.318, "318 ms"),
        (0.9996, "1.00 s"),
        (2.468, "2.47 s"),
        (59.94, "59.9 s"),
        (59.96, "1 m 00 s"),
        (185, "3 m 05 s"),
        (3599.6, "1 h 00 m"),
        (7620, "2 h 07 m"),
        (1e300, "1e+300 s"),
    ],
)
def test_duration(value: float | None, shown: str) -> None:
    assert formatting.duration(value) == shown


def test_counts_sizes_and_marks() -> None:
    assert [formatting.count(value) for value in (None, 0, 1234567, 0.25, 2**60)] == [
        "—",
        "0",
        "1,234,567",
        "0.25",
        "1.15e+18",
    ]
    assert [formatting.byte_size(value) for value in (None, 512, 1536, 5_242_880)] == [
        "—",
        "512 bytes",
        "1.5 KB",
        "5.0 MB",
    ]
    assert [formatting.tick_label(value) for value in (0, 0.25, 1.5, 120, 7200)] == [
        "0",
        "250 ms",
        "1.5 s",
        "2 m",
        "2 h",
    ]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-60, "in the future"),
        (2, "now"),
        (42, "42 s ago"),
        (119, "1 min ago"),
        (7200, "2 h ago"),
        (864_000, "10 d ago"),
    ],
)
def test_ago(seconds: int, shown: str) -> None:
    assert formatting.ago(NOW - seconds * SECOND, NOW) == shown


def test_moments() -> None:
    nanos = int(datetime(2026, 9, 12, 14, 3, 7, tzinfo=UTC).timestamp()) * SECOND + 250_999_999
    assert formatting.iso_time(nanos) == "2026-09-12T14:03:07.250Z"
    assert formatting.absolute_time(nanos) == "2026-09-12 14:03:07.250 UTC"
    assert (formatting.iso_time(0), formatting.absolute_time(0), formatting.ago(0, NOW)) == ("", "not known", "—")
    assert formatting.absolute_time(2**63 - 1) == "2262-04-11 23:47:16.854 UTC"


def read(address: str) -> tuple[str, bool]:
    path = urlsplit("http://host" + address).path
    return read_trace_path({"raw_path": path.encode(), "path": path})


@given(st.text(min_size=1))
@pytest.mark.parametrize("twin", [False, True])
def test_every_trace_id_has_its_own_path(twin: bool, trace_id: str) -> None:
    if any("\ud800" <= character <= "\udfff" for character in trace_id):
        return
    assert read(trace_path(trace_id, twin=twin)) == (trace_id, twin)


@pytest.mark.parametrize("trace_id", [".", "..", "/", "//", "./..", "~.", "~", ".json", "a.json", "a/../b", "%2E%2E"])
@pytest.mark.parametrize("twin", [False, True])
def test_special_ids_have_paths_that_browsers_do_not_change(twin: bool, trace_id: str) -> None:
    address = trace_path(trace_id, twin=twin)
    assert read(address) == (trace_id, twin)
    segment = address.removeprefix("/traces/")
    assert "/" not in segment
    assert segment.lower().replace("%2e", ".") not in (".", "..")


def test_a_query_has_the_parameters_that_are_set() -> None:
    assert with_query("/traces", tag="a&b", cursor=None, search="", limit=0) == "/traces?tag=a%26b&limit=0"
    assert with_query("/traces") == "/traces"


def test_filters_become_a_query() -> None:
    parameters = {"search": " refund ", "status": "error", "tag": "", "since": "2026-01-31T12:00", "cursor": "c"}
    asked = read_filters(parameters, "p", NOW)
    assert asked.values == {"search": "refund", "status": "error", "since": "2026-01-31T12:00"}
    since = int(datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp()) * SECOND
    query = asked.query
    assert (query.search, query.status, query.since, query.tag, query.cursor) == ("refund", "error", since, None, "c")
    assert query.limit == limits.PAGE_ROWS
    assert [chip.href for chip in asked.chips()][1] == "/traces?project=p&search=refund&since=2026-01-31T12%3A00"
    assert asked.href(cursor="n").endswith("&cursor=n")


def test_a_range_counts_back_from_now() -> None:
    assert read_filters({"range": "1h"}, None, NOW).query.since == NOW - 3600 * SECOND
    narrower = str(NOW - 60 * SECOND)
    assert read_filters({"range": "1h", "since": narrower}, None, NOW).query.since == NOW - 60 * SECOND


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("status", "maybe"),
        ("range", "1y"),
        ("since", "yesterday"),
        ("until", "2026-13-01"),
        ("limit", "0"),
        ("limit", "1001"),
        ("limit", "-1"),
        ("limit", "ten"),
    ],
)
def test_an_invalid_filter_says_what_it_may_be(name: str, value: str) -> None:
    with pytest.raises(FilterError, match=rf"^{name} may be .*{value}"):
        read_filters({name: value}, None, NOW)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("plain", [("plain", False)]),
        ("a `b` c", [("a ", False), ("b", True), (" c", False)]),
        ("`a``b`", [("a", True), ("b", True)]),
        ("one ` alone", [("one ` alone", False)]),
        ("`a` and `", [("a", True), (" and `", False)]),
        ("", []),
    ],
)
def test_code_in_messages_is_found(text: str, pieces: list[tuple[str, bool]]) -> None:
    assert formatting.code_spans(text) == pieces
