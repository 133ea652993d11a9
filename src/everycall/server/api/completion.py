"""`POST /api/parea/v1/completion`, the seed's endpoint, and `DELETE /api/cache`. The work is done in `gateway/`."""

from __future__ import annotations

import msgspec
from litestar import Response, delete, post
from litestar.openapi.spec import Schema
from litestar.openapi.spec.enums import OpenAPIType

from everycall.server.api.http import ApiRequest, json_response, read_json
from everycall.server.api.openapi import operation, query_text, schema_of
from everycall.server.api.parea.projects import project_of_body
from everycall.server.auth import project_of, require
from everycall.server.gateway.gateway import Gateway
from everycall.server.gateway.request import CompletionRequest, CompletionResponse
from everycall.server.store.base import Store

__all__ = ["handlers", "request_decoder"]

_encoder = msgspec.json.Encoder()

request_decoder = msgspec.json.Decoder(CompletionRequest)


@post(
    "/api/parea/v1/completion",
    status_code=200,
    operation_class=operation(
        body=schema_of(CompletionRequest),
        answer=schema_of(CompletionResponse, answer=True),
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
async def post_completion(request: ApiRequest) -> Response[bytes]:
    """Run a deployed prompt, or the configuration given, on its provider; record it and answer.

    A provider's failure is an answer too: status 200 here, "status": "error" in it, and one record.
    """
    require(request.user, "write")
    gateway: Gateway = request.app.state.gateway
    gateway.rates.enter(request.user.key)
    asked = await read_json(request, request_decoder)
    answer = await gateway.complete(
        await project_of_body(request, asked.project_name, asked.project_uuid), asked, request.user.key
    )
    return json_response(answer)


@delete(
    "/api/cache",
    status_code=200,
    operation_class=operation(
        parameters=[query_text("project", "The project, for keys of all projects.")],
        answer=Schema(
            type=OpenAPIType.OBJECT,
            properties={"cleared": Schema(type=OpenAPIType.INTEGER, description="Responses forgotten.")},
            required=["cleared"],
        ),
    ),
)
async def delete_cache(request: ApiRequest) -> Response[bytes]:
    """Forget all cached responses of the project."""
    require(request.user, "write")
    store: Store = request.app.state.store
    cleared = await store.clear_cache(project_of(request.user, request.query_params.get("project")))
    return json_response({"cleared": cleared})


handlers = [post_completion, delete_cache]
