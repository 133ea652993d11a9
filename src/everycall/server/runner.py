"""Running the server: in a thread (`Server`, for tests and `everycall demo`), or as the whole process (`run`)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import TracebackType
from typing import Self
from urllib.parse import quote

import uvicorn

from everycall import limits, paths
from everycall._pricing import price_book as _price
from everycall.errors import ConfigurationError
from everycall.server.app import create_app
from everycall.server.auth import Access
from everycall.server.base_path import BelowPath
from everycall.server.connections import Connections, Listener, raise_descriptor_limit
from everycall.server.gateway import Gateway
from everycall.server.http_protocol import Connection
from everycall.server.keys import local_key
from everycall.server.options import DATABASE, ServerOptions, price_book
from everycall.server.security import TrustedProxies
from everycall.server.services import Services
from everycall.server.store.base import Store
from everycall.server.store.errors import StoreError
from everycall.server.store.sqlite import SqliteStore

__all__ = ["Server", "run"]


class _Uvicorn(uvicorn.Server):
    """uvicorn with our listeners and without its signal handling, which would end the process too early."""

    def __init__(
        self,
        config: uvicorn.Config,
        connections: Connections,
        started: Callable[[_Uvicorn], None],
        stopping: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._connections = connections
        self._on_started = started
        self._on_stopping = stopping
        self._listeners: list[Listener] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections on the sockets, then call `started`."""
        await super().startup([])  # our listeners accept, instead of asyncio's servers
        self._listeners = [Listener(one, self._connections, self._connection) for one in sockets or ()]
        self._on_started(self)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, cancel pending reads of bodies, and finish the requests in progress."""
        for listener in self._listeners:
            listener.close()
        self._on_stopping()
        await super().shutdown(sockets)

    def _connection(self) -> Connection:
        return Connection(
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            connections=self._connections,
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no signal handlers."""
        yield


class Server:
    """A server in a thread of its own, with its own event loop. Also a context manager.

    `start` returns when requests are accepted. `stop` returns when the requests in progress are finished (after at most
    `limits.SHUTDOWN_TIMEOUT_S`) and the store is closed.
    """

    def __init__(self, options: ServerOptions) -> None:
        self.options = options
        self.key = options.local_key or local_key(paths.local_key_path())
        self.address = ""
        self._access: Access | None = None
        self._uvicorn: _Uvicorn | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self) -> Self:
        """Start serving. Raise `ConfigurationError` if another server uses the port or the data directory."""
        if self._thread is not None:
            raise ConfigurationError("this server was started already")
        listening = listen(self.options)
        ready = threading.Event()
        self._thread = threading.Thread(
            target=self._serve, args=(listening, ready), name="everycall-server", daemon=True
        )
        self._thread.start()
        ready.wait()
        if self._error is not None:
            self._thread.join()
            raise self._error
        return self

    def login_url(self, path: str = "/") -> str:
        """Return a URL that logs a browser in, once, and then shows `path`."""
        if self._access is None:
            raise ConfigurationError("the server is not running")
        return f"{self.address}/login?token={self._access.sessions.token()}&next={quote(path, safe='')}"

    def stop(self) -> None:
        """Finish the commits in progress, stop serving and close the store. May be called again."""
        if self._uvicorn is not None:
            self._uvicorn.should_exit = True
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _serve(self, listening: socket.socket, ready: threading.Event) -> None:
        def started(server: _Uvicorn, access: Access, address: str) -> None:
            self._uvicorn, self._access, self.address = server, access, address
            ready.set()

        try:
            asyncio.run(_serve(self.options, self.key, listening, started))
        except BaseException as error:  # noqa: BLE001 - the thread's only guard; `start` raises the error
            self._error = error
        finally:
            ready.set()


def run(options: ServerOptions, started: Callable[[str, str], None] | None = None) -> None:
    """Serve until SIGINT or SIGTERM, then finish the requests in progress and return, within 5 s.

    `started` is called when requests are accepted, with the server's URL and one that logs a browser in. Raise
    `ConfigurationError` if another server uses the port or the data directory. Must run in the main thread.
    """
    key = options.local_key or local_key(paths.local_key_path())
    listening = listen(options)
    raise_descriptor_limit()
    # this process does nothing else: the store's threads should not wait 5 ms for the lock of a busy event loop
    sys.setswitchinterval(0.0005)

    def ready(server: _Uvicorn, access: Access, address: str) -> None:
        loop = asyncio.get_running_loop()

        def stop() -> None:
            server.force_exit = server.should_exit  # the second signal: do not wait for requests in progress
            server.should_exit = True

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
        gc.collect()
        gc.freeze()  # what the imports made stays for good: full collections need not visit it
        if started is not None:
            login = address if options.no_auth else f"{address}/login?token={access.sessions.token()}"
            started(address, login)

    asyncio.run(_serve(options, key, listening, ready))


def listen(options: ServerOptions) -> socket.socket:
    """Return a listening socket. Raise `ConfigurationError` if the address cannot be used."""
    where = f"{options.host}:{options.port}"
    try:
        family, _, _, _, address = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0]
        # asyncio sets TCP_NODELAY only if the protocol is named; without it, responses wait for delayed ACKs
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise ConfigurationError(f"cannot listen on {where}: {error.strerror}; use another --host") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(1024)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigurationError(
                f"{where} is in use, perhaps by another everycall server: use another port with --port "
                "(0 for any free one)"
            ) from error
        raise ConfigurationError(f"cannot listen on {where}: {error.strerror}; use another --host or --port") from error
    listening.setblocking(False)
    return listening


async def _serve(
    options: ServerOptions,
    key: str,
    listening: socket.socket,
    started: Callable[[_Uvicorn, Access, str], None],
) -> None:
    with listening:
        prices = price_book(options)
        _price.use(prices)
        store: Store = SqliteStore(options.data_dir / DATABASE, prices)
        app = create_app(replace(options, local_key=key), store, Gateway(store, options.providers))
        config = uvicorn.Config(
            BelowPath(app, options.root_path, TrustedProxies(options.trusted_proxies)),
            http=Connection,  # not used by uvicorn itself: the listeners create connections
            ws="none",
            lifespan="off",  # entered below, so its errors arrive here unchanged
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=int(limits.KEEP_ALIVE_S),
            timeout_graceful_shutdown=int(limits.SHUTDOWN_TIMEOUT_S),
        )
        services: Services = app.state.services
        server = _Uvicorn(
            config,
            services.connections,
            lambda own: started(own, services.access, _address(options, listening)),
            services.bodies.close,
        )
        try:
            async with app.lifespan():
                await server.serve(sockets=[listening])
        except StoreError as error:
            raise ConfigurationError(f"cannot use the data directory {options.data_dir}: {error}") from error


def _address(options: ServerOptions, listening: socket.socket) -> str:
    port = listening.getsockname()[1]
    host = options.host.strip("[]")
    if host in ("0.0.0.0", "::", ""):  # noqa: S104 - clients cannot connect to the wildcard address
        host = "127.0.0.1"
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}{options.root_path}"
