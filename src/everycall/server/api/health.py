"""`/healthz`, which needs no key, and `/metrics` for Prometheus."""

from __future__ import annotations

from litestar import Response, get
from litestar.di import NamedDependency

from everycall.server.api.http import ApiRequest
from everycall.server.api.openapi import operation
from everycall.server.auth import require
from everycall.server.health import Health, health_of, metrics
from everycall.server.services import Services

__all__ = ["handlers"]


@get("/healthz", operation_class=operation(response=Health))
async def healthz(services: NamedDependency[Services]) -> Health:
    """Say whether the server works. Needs no key.

    The status is 200 as long as the server answers, also when it is degraded: to restart it would not help.
    """
    return health_of(services)


@get("/metrics", include_in_schema=False)
async def read_metrics(request: ApiRequest, services: NamedDependency[Services]) -> Response[str]:
    """Return the metrics of this process in the text format of Prometheus."""
    require(request.user, "read")
    return Response(metrics(services), media_type="text/plain; version=0.0.4; charset=utf-8")


handlers = [healthz, read_metrics]
