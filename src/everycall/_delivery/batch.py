"""Delivers chunks of lines. Batches are split, and records cut or set aside, until each line has its receipt.

The sender and `everycall ship` use it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from everycall import _guard, limits
from everycall._capture.processors import encode_within
from everycall._delivery import folder
from everycall._delivery.receipt import Committed, Refused, TooLarge, Unreachable
from everycall._delivery.segment import Chunk, Segment, read_lines
from everycall._delivery.transport import Transport
from everycall._ledger import Balance
from everycall.errors import Loss
from everycall.record import decode

__all__ = ["Outcome", "Stuck", "deliver", "ship_segments"]

Outcome = tuple[int, dict[Loss, int]]
"""How many lines were delivered, and how many were lost for which reason."""


class Stuck(Exception):
    """The endpoint cannot be reached at present. `receipt` says why; `outcome` is that of the lines sent before."""

    def __init__(self, receipt: Unreachable) -> None:
        super().__init__(receipt.reason)
        self.receipt = receipt
        self.outcome: Outcome = 0, {}


def deliver(chunk: Chunk, transport: Transport, key: str | None, balance: Balance, directory: Path | None) -> Outcome:
    """Send a chunk's lines and return what happened to them. Raise `Stuck` if the endpoint cannot be reached.

    A line whose checksum is wrong is a `Loss.SPOOL_CORRUPT`. After a 413 the batch is split; a single record that is
    too large is cut and sent again. After another 4xx the batch is split too, so that only the bad record is refused.
    Refused records are kept in `directory`, if there is one.
    """
    records = list(read_lines(chunk.data))
    lines = [record for record in records if record is not None]
    damaged = chunk.skipped + len(records) - len(lines)
    losses: dict[Loss, int] = {}
    if damaged:
        losses[Loss.SPOOL_CORRUPT] = damaged
        _guard.warn_once("corrupt", "everycall found %d damaged lines in its spool in %s", damaged, directory)
    delivered = 0
    batches = [lines] if lines else []
    while batches:
        batch = batches.pop()
        receipt = transport.send(batch, key, balance)
        if isinstance(receipt, Unreachable):
            raise Stuck(receipt)
        if isinstance(receipt, Committed):
            for index, reason in receipt.refused.items():
                _keep_refused(directory, batch[index], reason)
            delivered += len(batch) - len(receipt.refused)
            _add(losses, Loss.REFUSED, len(receipt.refused))
        elif len(batch) > 1:
            half = len(batch) // 2
            batches += [batch[half:], batch[:half]]
        elif isinstance(receipt, TooLarge) and (smaller := _cut(batch[0])) is not None:
            batches.append([smaller])
        else:
            reason = receipt.reason if isinstance(receipt, Refused) else "too large even when cut"
            _keep_refused(directory, batch[0], reason)
            _add(losses, Loss.REFUSED, 1)
    return delivered, losses


def ship_segments(
    segments: Iterable[Segment], transport: Transport, key: str | None, balance: Balance, directory: Path | None
) -> Outcome:
    """Deliver adopted segments, then delete and release them. Small segments share a request.

    Raise `Stuck`, with the outcome so far, if the endpoint cannot be reached. Delivered lines are overwritten in the
    files, so that the next attempt does not send them again. A torn last line is ignored: the call that wrote it never
    returned.
    """
    delivered, losses = 0, dict[Loss, int]()
    waiting = list(segments)
    try:
        while parts := _next_parts(waiting):
            data = b"".join(chunk.data for _, chunk in parts)
            chunk = Chunk(data, len(data), skipped=sum(chunk.skipped for _, chunk in parts))
            count, chunk_losses = deliver(chunk, transport, key, balance, directory)
            for segment, part in parts:
                start, segment.sent = segment.sent, part.end
                if segment.sent < segment.size:
                    segment.discard_sent(start)
            delivered += count
            for loss, lost in chunk_losses.items():
                _add(losses, loss, lost)
    except Stuck as stuck:
        stuck.outcome = delivered, losses
        raise
    finally:
        for segment in waiting:
            segment.release()
    return delivered, losses


def _next_parts(waiting: list[Segment]) -> list[tuple[Segment, Chunk]]:
    """Return the chunks of the next request, oldest first. Segments without further lines are deleted."""
    parts: list[tuple[Segment, Chunk]] = []
    size = count = 0
    for segment in list(waiting):
        chunk = segment.read(limits.BATCH_BYTES_MAX)
        if chunk is None:
            segment.remove()
            segment.release()
            waiting.remove(segment)
            continue
        size, count = size + len(chunk.data), count + chunk.count
        if parts and (size > limits.BATCH_BYTES_MAX or count > limits.BATCH_RECORDS_MAX):
            break
        parts.append((segment, chunk))
    return parts


def _add(losses: dict[Loss, int], loss: Loss, count: int) -> None:
    if count:
        losses[loss] = losses.get(loss, 0) + count


def _cut(line: bytes) -> bytes | None:
    """Return a record's JSON cut to a quarter of its size, or None if it is already small."""
    if len(line) < limits.SMALL_RECORD_BYTES:
        return None
    cut = encode_within(decode(line), max(len(line) // 4, limits.SMALL_RECORD_BYTES))
    return cut if len(cut) < len(line) else None


def _keep_refused(directory: Path | None, line: bytes, reason: str) -> None:
    """Keep a refused record, with the reason, where a person can look at it; within `limits.REFUSED_BYTES_MAX`."""
    # The endpoint's reason may repeat the record, so it goes to the file and not to the log.
    if directory is None:
        _guard.warn_once("refused", "everycall's endpoint refused a record; there is no directory to keep it in")
        return
    try:
        folder.keep_refused(directory, b'{"reason":%b,"record":%b}\n' % (json.dumps(reason).encode(), line))
    except OSError as error:
        _guard.report("refused", error)
        return
    _guard.warn_once(
        "refused",
        "everycall's endpoint refused a record; it is kept, with the reason, in %s",
        directory / folder.REFUSED_DIR,
    )
