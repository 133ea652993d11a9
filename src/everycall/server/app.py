"""The server's ASGI app: its routes, the middleware before them, and the services they use."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from litestar import Litestar, Request, Response
from litestar.datastructures import State
from litestar.di import Provide
from litestar.events import BaseEventEmitterBackend
from litestar.middleware import DefineMiddleware
from litestar.types import ASGIApp, ExceptionHandlersMap, Receive, Scope, Send

from everycall import limits, paths
from everycall.server import login, pages
from everycall.server.api import (
    completion,
    deployment_versions,
    deployments,
    health,
    keys,
    openapi,
    otlp,
    proof,
    query,
    records,
    repricing,
    streaming,
)
from everycall.server.api.parea import (
    datasets,
    experiments,
    feedback,
    langchain_runs,
    log_queries,
    prompts,
    trace_logs,
)
from everycall.server.auth import Access, Guard
from everycall.server.connections import Connections
from everycall.server.gateway import Gateway
from everycall.server.keys import local_key
from everycall.server.options import ServerOptions
from everycall.server.pages.layout import problem_page
from everycall.server.problems import ProblemError, exception_handlers
from everycall.server.projects import Projects
from everycall.server.request_bodies import Bodies
from everycall.server.security import TrustedProxies, secure
from everycall.server.services import Services
from everycall.server.store.base import Store

__all__ = ["create_app"]


class _NoEvents(BaseEventEmitterBackend):
    """Replaces Litestar's event emitter, which runs in a task group: errors of the store would arrive in a group."""

    def emit(self, event_id: str, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""

    async def __aexit__(self, *error: object) -> None:
        """Let errors pass unchanged."""


def create_app(options: ServerOptions, store: Store, gateway: Gateway) -> Litestar:
    """Return the ASGI app. Its lifespan opens the store, and closes the gateway and the store.

    Raise `ConfigurationError` if the local key cannot be stored. Litestar's own logging and debugging are off, whatever
    the environment says.
    """
    access = Access(options, store, options.local_key or local_key(paths.local_key_path()))

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        await store.open()
        try:
            await access.keyring.load()
            access.sessions.load(await store.ended_sessions())
            yield
        finally:
            try:
                await gateway.close()
            finally:
                await store.close()

    services = Services(
        options=options,
        store=store,
        gateway=gateway,
        access=access,
        bodies=Bodies(),
        projects=Projects(store),
        connections=Connections(is_exempt=TrustedProxies(options.trusted_proxies).trust),
    )
    handlers = exception_handlers(problem_page, _of_protocol)
    return _App(
        completion.CompletionRoute(services, lambda inner: Guard(inner, access), lambda *of: _fail(handlers, *of)),
        route_handlers=[
            *records.handlers,
            *otlp.handlers(options.otlp_prefixes),
            *query.handlers,
            *trace_logs.handlers,
            *completion.handlers,
            *streaming.handlers,
            *prompts.handlers,
            *feedback.handlers,
            *langchain_runs.handlers,
            *log_queries.handlers,
            *experiments.handlers,
            *datasets.handlers,
            *deployments.handlers,
            *deployment_versions.handlers,
            *repricing.handlers,
            *keys.handlers,
            *health.handlers,
            *proof.handlers,
            *login.handlers,
            *pages.handlers,
        ],
        dependencies={"services": Provide(lambda: services, sync_to_thread=False)},
        state=State({"services": services}),
        lifespan=[lifespan],
        event_emitter_backend=_NoEvents,
        middleware=[DefineMiddleware(Guard, access=access)],
        before_send=[secure],
        exception_handlers=handlers,
        openapi_config=openapi.configuration(),
        request_max_body_size=limits.BODY_BYTES_MAX,
        logging_config=None,
        debug=False,
        pdb_on_exception=False,
    )


class _App(Litestar):
    """The app, with one route that is answered before the framework sees the request."""

    def __init__(self, completion_route: ASGIApp, **options: Any) -> None:
        self._completion_route = completion_route
        super().__init__(**options)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] == completion.COMPLETION_PATH:
            await self._completion_route(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


async def _fail(handlers: ExceptionHandlersMap, error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer an exception as Litestar does, by the handler of its most derived class."""
    handler = next(handlers[kind] for kind in type(error).__mro__ if kind in handlers)
    request: Request[Any, Any, Any] = Request(scope, receive, send)
    await handler(request, error).to_asgi_response(None, request)(scope, receive, send)


def _of_protocol(scope: Scope, error: ProblemError) -> Response[Any] | None:
    """Return an error in the shape of the protocol that a request speaks; None for the usual one."""
    return otlp.status_response(scope, error) if otlp.is_otlp(scope["path"]) else None
