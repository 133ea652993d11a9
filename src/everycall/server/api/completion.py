"""`POST /api/parea/v1/completion`, the seed's endpoint, and `DELETE /api/cache`. The work is done in `gateway/`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

import msgspec
from litestar import Response, delete, post
from litestar.di import NamedDependency
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from msgspec import Meta

from everycall.server.api.http import ApiRequest, decode_json, encode_json, json_response, project_for
from everycall.server.api.openapi import operation, query_parameter
from everycall.server.api.parea.projects import project_of_body
from everycall.server.auth import Identity, require
from everycall.server.gateway.request import (
    CompletionRequest,
    CompletionResponse,
    UnstoredResponse,
    check_places,
    without_unknown_fields,
)
from everycall.server.problems import ProblemError
from everycall.server.request_bodies import Bodies
from everycall.server.security import header, secure
from everycall.server.services import Services

__all__ = ["COMPLETION_PATH", "CompletionRoute", "handlers", "is_parea", "read_completion", "run_completion"]

_decoder = msgspec.json.Decoder(CompletionRequest)
COMPLETION_PATH = "/api/parea/v1/completion"
UNSTORED_HEADER = "x-everycall-record"
_PAREA_HEADER = b"x-sdk-language"
"""What Parea's own clients send with every request."""


def is_parea(scope: Scope) -> bool:
    """Return whether a request comes from one of Parea's own clients."""
    return header(scope, _PAREA_HEADER) is not None


async def read_completion(scope: Scope, receive: Receive, bodies: Bodies) -> CompletionRequest:
    """Return the decoded body of a completion, bounded as by `Bodies.body`.

    Raise `ProblemError` as `decode_json` does. An unknown field of a message or of the model's parameters is refused by
    name, because it would shape the answer; from Parea's own clients it is ignored.
    """
    async with bodies.body(scope, receive) as data:
        try:
            request = decode_json(data, _decoder, repeat_names=True)
            if not is_parea(scope):
                check_places(data)
        except ProblemError as error:
            if error.problem.status != 422 or not is_parea(scope):
                raise
        else:
            return request
        data = encode_json(without_unknown_fields(msgspec.json.decode(data)))
        return decode_json(data, _decoder, repeat_names=True)


async def run_completion(identity: Identity, scope: Scope, receive: Receive, services: Services) -> CompletionResponse:
    """Run the completion that a request asks for. Raise what the key, the body or the gateway is refused for."""
    require(identity, "write")
    services.gateway.rates.enter(identity.key)
    body = await read_completion(scope, receive, services.bodies)
    project = await project_of_body(identity, services.projects, body.project_name, body.project_uuid)
    return await services.gateway.complete(project, body, identity.key)


class CompletionRoute:
    """Answers `POST /api/parea/v1/completion` without the framework, which costs as much as the gateway itself.

    It does what the framework's route does: `guard` checks the request, and `fail` answers an exception.
    """

    def __init__(
        self,
        services: Services,
        guard: Callable[[ASGIApp], ASGIApp],
        fail: Callable[[Exception, Scope, Receive, Send], Awaitable[None]],
    ) -> None:
        self._services = services
        self._guarded = guard(self._answer)
        self._fail = fail

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        scope["path_template"] = COMPLETION_PATH

        async def send_secured(message: Message) -> None:
            await secure(message, scope)
            await send(message)

        try:
            await self._guarded(scope, receive, send_secured)
        except Exception as error:  # noqa: BLE001 - the route's one guard: answered as the framework would
            await self._fail(error, scope, receive, send_secured)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        completion = await run_completion(scope["user"], scope, receive, self._services)
        body = encode_json(completion)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if isinstance(completion, UnstoredResponse):
            headers.append((UNSTORED_HEADER.encode(), b"not-stored"))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})


class ClearedCache(msgspec.Struct):
    """What was deleted from a project's cache."""

    cleared: Annotated[int, Meta(description="Number of cached responses deleted.")]


@post(
    COMPLETION_PATH,
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

    If the record cannot be stored (a full disk), a request without an `inference_id` is answered with the header
    `x-everycall-record: not-stored`, and its record is stored later. One with an `inference_id` gets 503, and the same
    answer once it is asked again.
    """
    completion = await run_completion(request.user, request.scope, request.receive, services)
    response = json_response(completion)
    if isinstance(completion, UnstoredResponse):
        response.headers[UNSTORED_HEADER] = "not-stored"
    return response


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
