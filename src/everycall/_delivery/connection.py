"""A connection to the endpoint: `http.client` over a non-blocking socket that is safe to fork at any time.

Imported when the sender is started, not with everycall. Waiting for the network is a `poll` that holds no lock. A
deadline bounds it and `cancel` ends it. Name look-ups and TLS run inside the fork gate.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import http.client
import io
import os
import select
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from everycall import limits
from everycall._delivery.fork_gate import gate

if TYPE_CHECKING:
    import ssl

__all__ = ["Connection", "Stream"]

T = TypeVar("T")
_SLICE_S = 0.05  # how soon a wait notices that it was cancelled
_IN_PROGRESS = frozenset({errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EAGAIN})


class Stream:
    """A TCP connection with the methods of a socket that `http.client` uses, for one thread.

    A wait raises `TimeoutError` at the deadline or at `until`, and `ConnectionAbortedError` once `is_cancelled()` is
    true.
    """

    def __init__(self, is_cancelled: Callable[[], bool], until: float) -> None:
        self._until = until
        self._deadline = 0.0
        self._patience_s = 0.0
        self._is_cancelled = is_cancelled
        self._socket: socket.socket | None = None
        self._files = 0
        self._is_closed = False
        self._is_secure = False

    def allow(self, seconds: float) -> None:
        """Set the deadline in `seconds` from now. Each part of a body that is sent sets it again."""
        self._patience_s = seconds
        self._deadline = min(time.monotonic() + seconds, self._until)

    def connect(self, host: str, port: int) -> None:
        """Connect to the first address of `host` that accepts. Raise `OSError` if none does.

        The deadline is set after the name look-up, whose duration only the system can limit.
        """
        with gate:
            gate.is_looking_up = True
            try:
                addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            finally:
                gate.is_looking_up = False
        self.allow(self._patience_s)
        failure: OSError | None = None
        for index, (family, kind, protocol, _, address) in enumerate(addresses):
            until = time.monotonic() + (self._deadline - time.monotonic()) / (len(addresses) - index)
            try:
                with gate:
                    self._socket = socket.socket(family, kind, protocol)
                self._socket.setblocking(False)
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._connect_to(address, until)
            except OSError as error:
                failure = error
                self._drop_socket()
            else:
                return
        raise failure or OSError(f"{host} has no address")

    def _connect_to(self, address: Any, until: float) -> None:
        assert self._socket is not None
        code = self._socket.connect_ex(address)
        if code in _IN_PROGRESS:
            self._wait(until, to_write=True)
            code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))

    def start_tls(self, context: ssl.SSLContext, host: str) -> None:
        """Start TLS on the connection, and check that the certificate is valid for `host`."""
        assert self._socket is not None
        with gate:
            secure = context.wrap_socket(self._socket, do_handshake_on_connect=False, server_hostname=host)
            self._socket = secure
        self._is_secure = True
        self._run(secure.do_handshake, to_write=False)

    # --- what http.client calls ---

    def sendall(self, data: bytes) -> None:
        """Send all of `data`. Each part that was sent sets the deadline again, so that a slow link does not fail."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._run(functools.partial(self._send, rest), to_write=True) :]
            self.allow(self._patience_s)

    def makefile(self, mode: str) -> io.BufferedReader:  # noqa: ARG002 - of the socket's interface: always "rb"
        """Return a reader of what the endpoint sends."""
        self._files += 1
        return io.BufferedReader(_Reader(self), 16_384)

    def close(self) -> None:
        """Close the connection, once the last reader is closed too."""
        self._is_closed = True
        if not self._files:
            self._drop_socket()

    # --- internal ---

    def receive_into(self, buffer: Any) -> int:
        """Read at least one byte into `buffer`. Return the number of bytes, 0 at the end."""
        return self._run(functools.partial(self._receive, buffer), to_write=False)

    def reader_closed(self) -> None:
        """Note that a reader from `makefile` was closed."""
        self._files -= 1
        if self._is_closed and not self._files:
            self._drop_socket()

    def _send(self, data: memoryview) -> int:
        if self._socket is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._socket.send(data)

    def _receive(self, buffer: Any) -> int:
        return 0 if self._socket is None else self._socket.recv_into(buffer)

    def _run(self, step: Callable[[], T], *, to_write: bool) -> T:
        """Run a socket operation, and repeat it after each wait that it needs."""
        while True:
            try:
                if not self._is_secure:
                    return step()
                with gate:
                    return step()
            except BlockingIOError:
                pass
            except OSError as error:
                name = type(error).__name__  # by name: ssl is imported only for https
                if name not in ("SSLWantReadError", "SSLWantWriteError"):
                    raise
                to_write = name == "SSLWantWriteError"
            self._wait(self._deadline, to_write=to_write)

    def _wait(self, until: float, *, to_write: bool) -> None:
        assert self._socket is not None
        while not self._is_cancelled():
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
            if _is_ready(self._socket, min(left_s, _SLICE_S), to_write=to_write):
                return
        raise ConnectionAbortedError(errno.ECONNABORTED, "the program is ending")

    def _drop_socket(self) -> None:
        with gate:
            sock, self._socket = self._socket, None
            if sock is not None:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)  # a forked child may hold a copy: without this it stays open
                sock.close()

    def release_in_child(self) -> None:
        """In a forked child: close this process's copy, and leave the parent's connection as it is."""
        sock, self._socket = self._socket, None
        if sock is not None:
            os.close(sock.detach())


class _Reader(io.RawIOBase):
    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self._stream: Stream | None = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return 0 if self._stream is None else self._stream.receive_into(buffer)

    def close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.reader_closed()
        super().close()


def _is_ready(sock: socket.socket, timeout_s: float, *, to_write: bool) -> bool:
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(sock, select.POLLOUT if to_write else select.POLLIN)
        return bool(poll.poll(timeout_s * 1_000))
    sockets = [sock]
    return any(select.select(*(([], sockets, sockets) if to_write else (sockets, [], [])), timeout_s))


class Connection(http.client.HTTPConnection):
    """One connection to an endpoint, kept alive between requests; through a proxy if `set_tunnel` was called."""

    auto_open = 0  # never reconnect: the process that listens then has not proved itself

    def __init__(
        self, host: str, port: int, stream: Stream, context: ssl.SSLContext | None, server_hostname: str
    ) -> None:
        super().__init__(host, port)
        self.stream = stream
        self._context = context
        self._server_hostname = server_hostname
        if context is not None:
            self.default_port = http.client.HTTPS_PORT

    def connect(self) -> None:
        """Open the connection, with TLS if there is a context."""
        self.stream.allow(limits.CONNECT_TIMEOUT_S)
        self.stream.connect(self.host, self.port)
        self.sock: Any = self.stream
        if getattr(self, "_tunnel_host", None):
            self._tunnel()  # type: ignore[attr-defined]
        if self._context is not None:
            self.stream.allow(limits.CONNECT_TIMEOUT_S)
            self.stream.start_tls(self._context, self._server_hostname)
