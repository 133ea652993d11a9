"""What the routes work with: the services of one running server, as one typed value.

`create_app` builds it. A route names it as a parameter, and Litestar passes it in:

    async def get_record(request: Request[Identity, Any, Any], services: NamedDependency[Services]) -> Response[bytes]:
        page = await services.store.records(...)
"""

from __future__ import annotations

from dataclasses import dataclass, field

from everycall.server.auth import Access
from everycall.server.connections import Connections
from everycall.server.gateway import Gateway
from everycall.server.options import ServerOptions
from everycall.server.otlp.load import OtlpLoad
from everycall.server.projects import Projects
from everycall.server.request_bodies import Bodies
from everycall.server.store.base import Store

__all__ = ["Services"]


@dataclass(frozen=True, slots=True)
class Services:
    """The services of one server. They live as long as its app."""

    options: ServerOptions
    store: Store
    gateway: Gateway
    access: Access
    bodies: Bodies
    projects: Projects
    connections: Connections
    otlp: OtlpLoad = field(default_factory=OtlpLoad)
