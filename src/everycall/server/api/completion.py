"""`POST /api/parea/v1/completion`, the seed's endpoint, and `DELETE /api/cache`. The work is done in `gateway/`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import Response, delete, post
from litestar.di import NamedDependency
from msgspec import Meta

from everycall.server.api.http import ApiRequest, json_response, project_for, read_json
from everycall.server.api.openapi import operation, query_parameter
from everycall.server.api.parea.projects import project_of_body
from everycall.server.auth import require
from everycall.server.gateway.request import CompletionRequest, CompletionResponse
from everycall.server.services import Services

__all__ = ["handlers", "request_decoder"]

request_decoder = msgspec.json.Decoder(CompletionRequest)


class ClearedCache(msgspec.Struct):
    """What was deleted from a project's cache."""

    cleared: Annotated[int, Meta(description="Number of cached responses deleted.")]


@post(
    "/api/parea/v1/completion",
    status_code=200,
    operation_class=operation(
        body=CompletionRequest,
        response=CompletionResponse,
        problems={
            403: "The key may not use models without a known price.",
            404: "No such deployment in this project.",
            409: "The inference_id is taken, or its answer was not kept.",
            413: "Too many bytes.",
            422: "A field is wrong (`field` names it), or there is nothing to ask.",
            429: "The key's budget is spent, or its rate limit reached.",
        },
    ),
)
async def post_completion(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """Run a deployed prompt, or the configuration given, on its provider; record it and answer.

    A provider's failure is an answer too: status 200 here, "status": "error" in it, and one record.
    """
    require(request.user, "write")
    services.gateway.rates.enter(request.user.key)
    body = await read_json(request, services.bodies, request_decoder)
    project = await project_of_body(request.user, services.projects, body.project_name, body.project_uuid)
    return json_response(await services.gateway.complete(project, body, request.user.key))


@delete(
    "/api/cache",
    status_code=200,
    operation_class=operation(
        parameters=[query_parameter("project", "The project, for keys of all projects.")], response=ClearedCache
    ),
)
async def delete_cache(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """Delete all cached responses of the project."""
    project = project_for(request, "write")
    return json_response(ClearedCache(await services.store.clear_cache(project)))


handlers = [post_completion, delete_cache]
