"""What ended processes left: delivered in few requests, damaged lines counted, whatever the endpoint does meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from everycall import limits
from everycall._delivery.batch import Stuck, ship_segments
from everycall._delivery.segment import adoptable, segment_paths
from everycall._delivery.spool import Spool
from everycall._delivery.transport import Transport
from everycall._ledger import Balance, Ledger
from everycall.errors import Loss
from everycall_testkit.sink import Sink


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as started:
        yield started


def leave(root: Path, sink: Sink, *counts: int) -> Path:
    """Leave a segment for each count, with that many numbered records; return the folder."""
    number = 0
    directory = root
    for count in counts:
        spool = Spool(root, sink.address, "default", Ledger())
        for _ in range(count):
            spool.append(b'{"inference_id":"%d","inputs":{"n":%d}}' % (number, number))
            number += 1
        spool.close()
        assert spool.directory is not None
        directory = spool.directory
    return directory


def ship(sink: Sink, directory: Path) -> tuple[int, dict[Loss, int]]:
    transport = Transport(sink.address, compress=False, client="test:1:1", user_agent="test")
    try:
        return ship_segments(list(adoptable(directory)), transport, None, Balance(0, 0, 0), directory)
    finally:
        transport.close()


def assert_once(sink: Sink, count: int) -> None:
    assert sink.counts() == {str(n): 1 for n in range(count)}


def test_small_files_share_a_request(tmp_path: Path, sink: Sink) -> None:
    """Fifty processes that made one call each cost one request, not fifty."""
    directory = leave(tmp_path, sink, *[1] * 50)
    assert ship(sink, directory) == (50, {})
    assert_once(sink, 50)
    assert len(sink.times) == 1
    assert segment_paths(directory) == []


def test_a_request_stays_within_its_bound(tmp_path: Path, sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of any size, before and after each other, are sent in order and in requests of at most so many records."""
    monkeypatch.setattr(limits, "BATCH_RECORDS_MAX", 10)
    directory = leave(tmp_path, sink, 3, 25, 4, 4, 1, 40, 9, 1, 2)
    assert ship(sink, directory) == (89, {})
    assert [record["inputs"]["n"] for record in sink.records] == list(range(89))
    assert max(body.count(b"\n") for body in sink.bodies) <= 10
    assert segment_paths(directory) == []


def test_records_delivered_before_an_outage_are_counted_and_not_sent_again(
    tmp_path: Path, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The endpoint goes away between two requests of one file: the first ones stay delivered."""
    monkeypatch.setattr(limits, "BATCH_RECORDS_MAX", 10)
    directory = leave(tmp_path, sink, 4, 30, 5)
    sink.script = ["ok", "ok", "status:503"]
    with pytest.raises(Stuck) as stuck:
        ship(sink, directory)
    delivered, losses = stuck.value.outcome
    assert (delivered, losses) == (len(sink.records), {})
    assert 0 < delivered < 39
    assert ship(sink, directory) == (39 - delivered, {})
    assert_once(sink, 39)


def test_damage_in_one_of_many_files_is_counted_once(tmp_path: Path, sink: Sink) -> None:
    """A damaged line and a torn last one: the lines of the other files arrive."""
    directory = leave(tmp_path, sink, 2, 2, 2)
    first, second, _ = segment_paths(directory)
    data = first.read_bytes()
    first.write_bytes(data.replace(b'"n":0', b'"n":7'))
    with second.open("ab") as file:
        file.write(b'{"torn')
    assert ship(sink, directory) == (5, {Loss.SPOOL_CORRUPT: 1})
    assert set(sink.numbers()) == {1, 2, 3, 4, 5}
    assert segment_paths(directory) == []
