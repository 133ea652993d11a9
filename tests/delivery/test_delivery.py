"""The sender against a real HTTP sink that misbehaves: nothing is lost or stored twice, and no call waits."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import everycall
from everycall import _guard, _runtime, limits
from everycall_testkit.sink import Sink


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as started:
        yield started


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Short waits, and no runtime left behind."""
    monkeypatch.setattr(limits, "BACKOFF_FIRST_S", 0.02)
    monkeypatch.setattr(limits, "BACKOFF_MAX_S", 0.1)
    _guard._warned_at.clear()
    yield
    everycall.shutdown(0.2)


@everycall.trace
def numbered(n: int, pad: str = "") -> int:
    return n


def begin(sink: Sink, **options: Any) -> None:
    everycall.init(endpoint=sink.address, **options)


def settle(count: int, sink: Sink, timeout_s: float = 20) -> everycall.Balance:
    """Wait until everything has its receipt, then hold the sheet against what the sink has."""
    flushed = everycall.flush(timeout_s)
    sheet = everycall.stats()
    assert flushed.spooled == 0, (flushed, sheet)
    assert sheet.recorded == count
    assert sheet.recorded == sheet.delivered + sheet.lost
    return sheet


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until something is true; the time-out only ends a test that hangs."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def once_each(sink: Sink, count: int) -> bool:
    numbers = sink.numbers()
    return set(numbers) == set(range(count)) and set(numbers.values()) == {1}


def test_every_call_arrives_once(sink: Sink) -> None:
    """A thousand calls, no fault: a thousand records, each once, and nothing left on disk."""
    begin(sink)
    for n in range(1_000):
        numbered(n)
    settle(1_000, sink)
    assert once_each(sink, 1_000)
    assert max(sink.counts().values()) == 1


@pytest.mark.parametrize(
    "mode", ["status:500", "status:503", "status:429", "status:408", "reset", "swallow", "status:302", "status:401"]
)
def test_everything_is_delivered_after_an_outage(sink: Sink, mode: str) -> None:
    """While it answers wrongly nothing is lost; when it recovers, all arrive once."""
    sink.mode = mode
    begin(sink)
    for n in range(200):
        numbered(n)
    assert everycall.flush(0.4).spooled == 200
    sink.mode = "ok"
    settle(200, sink)
    assert once_each(sink, 200)
    assert max(sink.counts().values()) == 1


def test_a_refused_connection_is_waited_out(sink: Sink) -> None:
    """Nothing listens for a while: calls go on, and all arrive afterwards."""
    sink.stop()
    begin(sink)
    for n in range(300):
        numbered(n)
    assert everycall.flush(0.3).spooled == 300
    sink.start()
    settle(300, sink)
    assert once_each(sink, 300)


def test_a_batch_without_a_response_is_sent_again_with_the_same_ids(sink: Sink) -> None:
    """Stored but not acknowledged: sent again, and the ids tell the server that it has them."""
    sink.mode = "lost_ack"
    begin(sink)
    for n in range(50):
        numbered(n)
    everycall.flush(0.4)
    sink.mode = "ok"
    settle(50, sink)
    assert once_each(sink, 50)
    assert max(sink.counts().values()) > 1


@pytest.mark.parametrize("mode", ["garbage", "endless"])
def test_a_success_with_an_unreadable_body_is_a_success(sink: Sink, mode: str) -> None:
    """A 2xx with an unreadable or endless body counts as committed, and little of it is read."""
    sink.mode = mode
    begin(sink)
    for n in range(20):
        numbered(n)
    settle(20, sink)
    assert once_each(sink, 20)
    assert sink.sent_bytes < 8 * limits.MIB * max(len(sink.bodies), 1)


def test_retry_after_is_obeyed(sink: Sink) -> None:
    """No second request comes before the time the endpoint asked for, however short the back-off; a flush is one."""
    sink.mode = "retry_after:200"
    begin(sink)
    numbered(0)
    wait_for(lambda: len(sink.times) == 1)
    for n in range(1, 50):  # fifty times the back-off, and as many calls that wake the sender
        time.sleep(limits.BACKOFF_FIRST_S)
        numbered(n)
    assert len(sink.times) == 1
    sink.mode = "retry_after:0.1"
    everycall.flush(0.2)
    wait_for(lambda: len(sink.times) >= 3)
    sink.mode = "ok"
    settle(50, sink)


def test_too_large_is_split_and_a_single_one_is_cut(sink: Sink) -> None:
    """413 halves the batch down to single records; one that is too large alone arrives cut, with its size and hash."""
    sink.mode = "too_large:60000"
    begin(sink)
    for n in range(100):
        numbered(n, "p" * 2_000)
    numbered(100, "q" * 200_000)
    sheet = settle(101, sink)
    assert sheet.lost == 0
    numbers = {json.dumps(r["inputs"])[:12]: r for r in sink.records}
    assert len(sink.records) == 101, len(numbers)
    cut = next(r for r in sink.records if "truncated" in r)
    assert cut["truncated"]["inputs"]["bytes"] > 200_000
    assert len(cut["truncated"]["inputs"]["sha256"]) == 64


def test_a_refused_record_is_refused_alone(sink: Sink) -> None:
    """Refused by index: that one is put aside with its reason and counted; its neighbours are stored."""
    sink.mode = "refuse:poison"
    begin(sink)
    for n in range(30):
        numbered(n, "poison" if n == 7 else "")
    sheet = settle(30, sink)
    assert sheet.dropped == {"refused": 1}
    assert set(sink.numbers()) == set(range(30)) - {7}
    assert _runtime._current is not None
    directory = _runtime._current.spool.directory
    assert directory is not None
    (refused_file,) = (directory / "refused").iterdir()
    put_aside = json.loads(refused_file.read_text())
    assert put_aside["reason"] == "told to"
    assert put_aside["record"]["inputs"]["n"] == 7


def test_more_refusals_than_a_response_lists(sink: Sink) -> None:
    """When the answer names only some of the refused, smaller batches find them all: none counts as delivered."""
    sink.mode = "refuse:poison"
    begin(sink)
    for n in range(60):
        numbered(n, "poison" if n % 2 else "")
    sheet = settle(60, sink)
    assert sheet.dropped == {"refused": 30}
    assert set(sink.numbers()) == set(range(0, 60, 2))


def test_a_batch_that_is_refused_as_a_whole_is_sent_line_by_line(sink: Sink) -> None:
    """A 400 for the batch costs only the record that caused it."""
    sink.mode = "bad_batch:poison"
    begin(sink)
    for n in range(30):
        numbered(n, "poison" if n == 7 else "")
    sheet = settle(30, sink)
    assert sheet.dropped == {"refused": 1}
    assert set(sink.numbers()) == set(range(30)) - {7}


def test_flush_returns_in_time_with_correct_counts(sink: Sink) -> None:
    """Against an endpoint that hangs, flush comes back within its time-out and says what is left."""
    sink.mode = "hang"
    begin(sink)
    for n in range(5):
        numbered(n)
    flushed = everycall.flush(0.5)
    assert sink.bodies
    assert sink.records == []
    assert (flushed.delivered, flushed.spooled, flushed.dropped) == (0, 5, 0)


def test_a_dead_sender_is_restarted_by_the_next_call(sink: Sink) -> None:
    """If the sender's thread ends, the next call starts another, and nothing is missing."""
    begin(sink)
    numbered(0)
    everycall.flush(5)
    assert _runtime._current is not None
    sender = _runtime._current.sender
    thread = sender._thread
    assert thread is not None
    sender._is_stopping = True
    sender._wake.set()
    thread.join(5)
    assert not thread.is_alive()
    sender._is_stopping = False
    numbered(1)
    settle(2, sink)
    assert once_each(sink, 2)


def test_spools_of_ended_processes_are_adopted(sink: Sink) -> None:
    """A living process ships what a dead one left for the same endpoint and project."""
    sink.stop()
    begin(sink)
    for n in range(10):
        numbered(n)
    everycall.shutdown(0.1)
    assert everycall.stats().spooled == 10
    sink.start()
    begin(sink)
    numbered(10)
    wait_for(lambda: len(sink.numbers()) == 11)
    assert once_each(sink, 11)
    wait_for(lambda: everycall.stats().adopted == 10)
    assert everycall.stats().adopted == 10
    assert everycall.stats().recorded == 1


def test_each_batch_has_the_counts(sink: Sink) -> None:
    """Each request carries the client's name and its balance sheet as JSON."""
    begin(sink)
    for n in range(3):
        numbered(n)
    settle(3, sink)
    assert {h["content-type"] for h in sink.headers} == {"application/x-ndjson"}
    (client,) = {h["x-everycall-client"] for h in sink.headers}
    assert client.count(":") == 2
    sheets = [json.loads(h["x-everycall-balance"]) for h in sink.headers]
    assert sheets[-1]["recorded"] == 3
    for sheet in sheets:
        assert sheet["recorded"] == sheet["delivered"] + sheet["spooled"] + sum(sheet["dropped"].values())
        assert sheet["spooled"] > 0


def test_an_outage_is_one_line_of_log_without_content(
    sink: Sink, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many batches fail, there is one warning a minute, and no payload or traceback in it."""
    monkeypatch.setattr(limits, "OUTAGE_WARN_S", 0.1)
    caplog.set_level(logging.DEBUG)
    sink.stop()
    begin(sink)
    for n in range(50):
        numbered(n, "CANARY")
        if n % 10 == 0:
            everycall.flush(0.05)
    wait_for(lambda: [r for r in caplog.records if r.name.startswith("everycall")])
    everycall.flush(0.3)
    ours = [r for r in caplog.records if r.name.startswith("everycall")]
    assert len(ours) == 1
    assert "CANARY" not in caplog.text
    assert ours[0].exc_info is None
    sink.start()


def test_a_remote_endpoint_gets_gzip(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bodies are compressed unless the endpoint is this machine."""
    from everycall.settings import Settings

    monkeypatch.setattr(Settings, "on_loopback", property(lambda self: False))
    monkeypatch.setenv("no_proxy", "*")
    begin(sink)
    for n in range(10):
        numbered(n, "compress me " * 50)
    settle(10, sink)
    assert sink.headers[0]["content-encoding"] == "gzip"
    assert int(sink.headers[0]["content-length"]) < len(sink.bodies[0]) / 3
    assert once_each(sink, 10)


@pytest.mark.slow
def test_the_balance_sheet_is_correct_with_threads_and_outages(sink: Sink) -> None:
    """recorded = delivered + spooled + dropped at every look, under load and faults."""
    begin(sink)
    stop = threading.Event()
    call_counts = [0] * 4

    def call(worker: int) -> None:
        while not stop.is_set():
            numbered(worker * 1_000_000 + call_counts[worker], "x" * 500)
            call_counts[worker] += 1

    workers = [threading.Thread(target=call, args=(w,)) for w in range(4)]
    for worker in workers:
        worker.start()
    for mode in ("ok", "status:500", "ok", "reset", "lost_ack", "ok") * 2:
        sink.mode = mode
        for _ in range(5):
            sheet = everycall.stats()
            assert sheet.recorded == sheet.delivered + sheet.spooled + sheet.lost, sheet
            time.sleep(0.01)
    stop.set()
    for worker in workers:
        worker.join()
    sink.mode = "ok"
    settle(sum(call_counts), sink, 40)
    assert set(sink.numbers().values()) == {1}
    assert len(sink.numbers()) == sum(call_counts)
