"""Server-sent events, read from bytes however they are split (WHATWG HTML, section 9.2.6).

Used by the completion client for the endpoint's streams, and by the gateway for those of providers.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Event", "EventReader"]


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its type ("" if it has none) and its data, with lines joined by a newline."""

    kind: str
    data: bytes


class EventReader:
    """Reads one stream. Comments, and fields other than `event` and `data`, are ignored."""

    def __init__(self, bytes_max: int | None = None) -> None:
        self._bytes_max = bytes_max
        self._rest = b""
        self._kind = ""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[Event]:
        """Return the events that these bytes complete. Raise `ValueError` for an event longer than `bytes_max`."""
        # Bytes are split, because text would also be split at characters that JSON may contain unescaped.
        lines = (self._rest + chunk).splitlines(keepends=True)
        self._rest = b""
        if lines and not lines[-1].endswith(b"\n"):
            self._rest = lines.pop()  # incomplete, or ends with "\r" whose "\n" may follow
        events = [event for line in lines if (event := self._read(line.rstrip(b"\r\n"))) is not None]
        if self._bytes_max is not None and len(self._rest) + self._size > self._bytes_max:
            raise self._too_long()
        return events

    def end(self) -> list[Event]:
        """Return the last event of a stream that ended without its empty line, if there is one."""
        lines, self._rest = [self._rest.rstrip(b"\r\n"), b""], b""
        return [event for line in lines if (event := self._read(line)) is not None]

    def _read(self, line: bytes) -> Event | None:
        if line.startswith(b"data:"):
            value = line[6:] if line[5:6] == b" " else line[5:]
            self._size += len(value)
            if self._bytes_max is not None and self._size > self._bytes_max:
                raise self._too_long()
            self._data.append(value)
        elif line.startswith(b"event:"):
            self._kind = line[6:].strip().decode("ascii", "replace")
        elif not line:
            event = Event(self._kind, b"\n".join(self._data)) if self._data else None
            self._kind, self._data, self._size = "", [], 0
            return event
        return None

    def _too_long(self) -> ValueError:
        return ValueError(f"an event has more than {self._bytes_max} bytes")
