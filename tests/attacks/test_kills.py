"""kill -9 and SIGTERM at random moments of ingest: what was acknowledged is in the database, exactly once.

`EVERYCALL_TEST_KILLS=200` goes on for longer than CI does.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

KILLS = int(os.environ.get("EVERYCALL_TEST_KILLS", "20"))
ACKNOWLEDGED = 1_000 * KILLS
SENDERS = 4
BATCH = 50
PADDING = "x" * 400


class Ingest(threading.Thread):
    """A client that sends one batch after the other, each again until it is acknowledged, across restarts."""

    def __init__(self, number: int, server: Any) -> None:
        super().__init__(name=f"ingest {number}")
        self._number = number
        self._server = server
        self._stopping = threading.Event()
        self.acknowledged: list[str] = []
        self.sent: list[str] = []
        self.unexpected: list[str] = []

    def stop(self) -> None:
        """Stop, even if the current batch is not acknowledged."""
        self._stopping.set()

    def run(self) -> None:
        turn = 0
        while not self._stopping.is_set():
            own = [f"{self._number}-{turn}-{place}" for place in range(BATCH)]
            self.sent += own
            lines = [{"inference_id": one, "trace_id": f"{self._number}-{turn}", "content": PADDING} for one in own]
            data = b"\n".join(json.dumps(line).encode() for line in lines)
            while not self._stopping.is_set():
                if self._send(data):
                    self.acknowledged += own
                    break
                time.sleep(0.01)
            turn += 1

    def _send(self, data: bytes) -> bool:
        connection = http.client.HTTPConnection(self._server.address.removeprefix("http://"), timeout=30)
        try:
            while not self._stopping.is_set():
                connection.request("POST", "/v1/records", data, {"x-api-key": self._server.key})
                answer = connection.getresponse()
                content = answer.read()
                if answer.status == 200:
                    if json.loads(content)["committed"] != BATCH:
                        self.unexpected.append(content.decode())
                    return True
                if answer.status != 503:  # the server is stopping, or its queue is full
                    self.unexpected.append(f"{answer.status} {content!r}")
                return False
        except (OSError, http.client.HTTPException):
            return False  # it is dead, or just dying
        finally:
            connection.close()
        return False


@pytest.mark.slow
@pytest.mark.timeout(180 + 5 * KILLS)
def test_acknowledged_records_are_stored_once(
    start_victim: Callable[..., Any], record_property: Callable[[str, object], None]
) -> None:
    source = random.Random(5)
    server = start_victim()
    senders = [Ingest(number, server) for number in range(SENDERS)]
    for sender in senders:
        sender.start()
    try:
        for life in range(KILLS):
            number = signal.SIGTERM if life % 4 == 3 else signal.SIGKILL
            goal = ACKNOWLEDGED * (life + 1) // KILLS
            while sum(len(sender.acknowledged) for sender in senders) < goal:
                time.sleep(0.005)
            time.sleep(source.random() * 0.05)  # anywhere in a commit
            code = server.end(number)
            assert code == (0 if number == signal.SIGTERM else -signal.SIGKILL)
            assert "Traceback" not in server.log(), server.log()
            server.start()
    finally:
        for sender in senders:
            sender.stop()
        for sender in senders:
            sender.join()
    server.is_well()
    server.end(signal.SIGKILL)
    assert [content for sender in senders for content in sender.unexpected] == []
    acknowledged = [one for sender in senders for one in sender.acknowledged]
    stored = [one for (one,) in server.rows("SELECT inference_id FROM records")]
    record_property(
        "fault",
        (
            len(acknowledged),
            len(set(acknowledged) & set(stored)),
            len(stored) - len(set(stored)),
            len(set(acknowledged) - set(stored)),
        ),
    )
    assert len(acknowledged) >= ACKNOWLEDGED
    assert set(acknowledged) <= set(stored)
    assert len(stored) == len(set(stored))
    assert set(stored) <= {one for sender in senders for one in sender.sent}
    assert server.rows("PRAGMA integrity_check") == [("ok",)]
    counts = dict(server.rows("SELECT records.trace, count(*) FROM records GROUP BY records.trace"))
    assert set(counts.values()) == {BATCH}, "a batch is stored whole or not at all"
