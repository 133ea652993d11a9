"""The open connections of a server, bounded so that they cannot use up its file descriptors.

A `Listener` accepts connections and asks `Connections` for room first. At the bound, in all or for one address, the
connection that has been idle for longest is closed, so that a new one is always served: someone who opens thousands of
connections displaces their own. A connection whose request is being answered is never closed. The runner creates both;
`http_protocol.Connection` reports what it is doing.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import resource
import socket
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv6Address
from typing import Protocol

from everycall import limits

__all__ = ["Activity", "Connections", "Displaceable", "Listener", "raise_descriptor_limit"]

logger = logging.getLogger("everycall.server.connections")

ACCEPTS_AT_ONCE = 32
"""Connections accepted before the event loop does anything else."""
REPORT_INTERVAL_S = 60.0
RETRY_S = 0.1
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n"
    b"content-type: application/problem+json\r\ncontent-length: %d\r\n\r\n%b"
)
_BUSY_BODY = (
    b'{"type":"urn:everycall:error:busy","title":"Busy","status":503,'
    b'"detail":"Too many connections are open. Nothing was stored; try again in a moment."}'
)


class Activity(IntEnum):
    """What a connection is doing, in the order in which connections are closed to make room."""

    IDLE = 0
    """No request: it is silent, sends the head of one, or is kept alive."""
    TRANSFERRING = 1
    """The client is sending a body, or is slow to read the response."""
    RESPONDING = 2
    """The server is working on a complete request."""


class Displaceable(Protocol):
    """A connection as `Connections` needs it."""

    address: str

    def displace(self) -> None:
        """Close at once, without sending what is left."""
        ...


@dataclass(slots=True, eq=False)
class _Group:
    """Connections by activity, the longest unchanged first."""

    count: int = 0
    by_activity: tuple[OrderedDict[Displaceable, None], ...] = field(
        default_factory=lambda: tuple(OrderedDict() for _ in Activity)
    )

    def oldest(self) -> Displaceable | None:
        """Return the connection to close first, or None if all are responding."""
        for activity in (Activity.IDLE, Activity.TRANSFERRING):
            if self.by_activity[activity]:
                return next(iter(self.by_activity[activity]))
        return None


class Connections:
    """The connections of one server: at most `most` in all and `per_address` from one address.

    An IPv6 /64 network counts as one address. Addresses that `is_exempt` accepts (trusted proxies) have no bound of
    their own. Used on the event loop's thread alone.
    """

    def __init__(
        self,
        most: int | None = None,
        per_address: int | None = None,
        is_exempt: Callable[[str], bool] = lambda _: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.most = most if most is not None else _connections_max()
        self.per_address = per_address if per_address is not None else max(1, self.most * 3 // 4)
        self.displaced = 0
        """Connections closed to make room."""
        self.refused = 0
        """Connections refused because all were busy."""
        self._is_exempt = is_exempt
        self._clock = clock
        self._all = _Group()
        self._groups: dict[str, _Group] = {}
        self._activity: dict[Displaceable, Activity] = {}
        self._reported_at: float | None = None
        self._reported = 0

    def __len__(self) -> int:
        """Return the number of open connections."""
        return self._all.count

    def make_room(self, address: str) -> bool:
        """Return whether a new connection from an address may be opened; close another one for it if needed."""
        group = self._groups.get(_network(address))
        if group is not None and group.count >= self.per_address and not self._is_exempt(address):
            return self._displace(group, address)
        return self._all.count < self.most or self._displace(self._all, address)

    def displace_oldest(self) -> bool:
        """Close the longest idle connection; return False if there is none."""
        oldest = self._all.oldest()
        if oldest is None:
            return False
        self.displaced += 1
        self.remove(oldest)
        oldest.displace()
        return True

    def add(self, connection: Displaceable) -> None:
        """Add a connection that was opened; it is idle."""
        group = self._groups.setdefault(_network(connection.address), _Group())
        self._activity[connection] = Activity.IDLE
        for one in (self._all, group):
            one.count += 1
            one.by_activity[Activity.IDLE][connection] = None

    def set_activity(self, connection: Displaceable, activity: Activity) -> None:
        """Note what a connection is doing now. Ignored for one that was removed."""
        before = self._activity.get(connection)
        if before is None or before is activity:
            return
        self._activity[connection] = activity
        for group in (self._all, self._groups[_network(connection.address)]):
            del group.by_activity[before][connection]
            group.by_activity[activity][connection] = None

    def remove(self, connection: Displaceable) -> None:
        """Remove a connection that was closed. May be called twice."""
        activity = self._activity.pop(connection, None)
        if activity is None:
            return
        network = _network(connection.address)
        for group in (self._all, self._groups[network]):
            group.count -= 1
            del group.by_activity[activity][connection]
        if not self._groups[network].count:
            del self._groups[network]

    def report(self, reason: str) -> None:
        """Log that connections were closed or refused, at most once in `REPORT_INTERVAL_S`."""
        now = self._clock()
        if self._reported_at is not None and now - self._reported_at < REPORT_INTERVAL_S:
            return
        total = self.displaced + self.refused
        logger.warning(
            "%s: %d are open. To make room, %d idle connections were closed or new ones refused since the last such "
            "message. A higher limit of open files (ulimit -n) allows more; a proxy in front keeps strangers away.",
            reason,
            self._all.count,
            total - self._reported,
        )
        self._reported_at, self._reported = now, total

    def _displace(self, group: _Group, address: str) -> bool:
        oldest = group.oldest()
        if oldest is None:
            self.refused += 1
        else:
            self.displaced += 1
            self.remove(oldest)
            oldest.displace()
        if group is self._all:
            self.report(f"The limit of {self.most} connections is reached")
        else:
            self.report(f"The limit of {self.per_address} connections from one address is reached by {address}")
        return oldest is not None


class Listener:
    """Accepts the connections of a listening socket, within the bounds of `connections`.

    asyncio's own server accepts as many as are waiting before it does anything else, so the process can run out of
    descriptors before a bound can act; then it logs each attempt.
    """

    def __init__(
        self, listening: socket.socket, connections: Connections, protocol: Callable[[], asyncio.Protocol]
    ) -> None:
        self._listening = listening
        self._connections = connections
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[None]] = set()
        self._retry: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._start()

    def close(self) -> None:
        """Accept no more connections. The socket is the caller's to close."""
        self._is_closed = True
        if self._retry is not None:
            self._retry.cancel()
        self._loop.remove_reader(self._listening.fileno())

    def _start(self) -> None:
        if not self._is_closed:
            self._loop.add_reader(self._listening.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            if len(self._opening) >= ACCEPTS_AT_ONCE:
                return  # `Connections` counts them once they are open
            try:
                client, peer = self._listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause(error)
                    return
                continue  # this one connection failed before it was accepted
            client.setblocking(False)
            if self._connections.make_room(str(peer[0])):
                task = self._loop.create_task(self._open(client))
                self._opening.add(task)
                task.add_done_callback(self._opening.discard)
            else:
                _refuse(client)

    async def _open(self, client: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, client)
        except OSError:
            client.close()

    def _pause(self, error: OSError) -> None:
        """Try again in a moment, when the descriptors of closed connections are free."""
        self._connections.displace_oldest()
        self._connections.report(f"No further connection can be accepted ({error.strerror})")
        self._loop.remove_reader(self._listening.fileno())
        self._retry = self._loop.call_later(RETRY_S, self._start)


def raise_descriptor_limit() -> None:
    """Raise this process's limit of open files to `limits.DESCRIPTORS_WANTED`, as far as its hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    goal = limits.DESCRIPTORS_WANTED if hard == resource.RLIM_INFINITY else min(hard, limits.DESCRIPTORS_WANTED)
    if soft != resource.RLIM_INFINITY and soft < goal:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (goal, hard))


def _connections_max() -> int:
    """Return how many connections fit: a quarter of the descriptors is kept for files and calls to providers."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return limits.CONNECTIONS_MAX
    return max(8, min(limits.CONNECTIONS_MAX, soft - soft // 4))


def _network(address: str) -> str:
    """Return what counts as one address: an IPv6 client can use every address of its /64 network."""
    if ":" not in address:
        return address
    try:
        parsed = IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    return str(parsed.ipv4_mapped) if parsed.ipv4_mapped else (int(parsed) >> 64).to_bytes(8, "big").hex()


def _refuse(client: socket.socket) -> None:
    with client, contextlib.suppress(OSError):
        client.send(_BUSY % (len(_BUSY_BODY), _BUSY_BODY))
        client.shutdown(socket.SHUT_WR)
