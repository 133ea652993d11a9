"""`POST /api/parea/v1/completion`, the seed's endpoint, and `DELETE /api/cache`. The work is done in `gateway/`."""

from __future__ import annotations

from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec
from litestar import Request, Response, delete, post
from litestar.openapi.spec import Schema
from litestar.openapi.spec.enums import OpenAPIType

from everycall import limits
from everycall.semconv import DEFAULT_PROJECT
from everycall.server.api.openapi import operation, query_text
from everycall.server.api.parea.trace_logs import Projects
from everycall.server.auth import Identity, project_of, require
from everycall.server.gateway.gateway import Gateway
from everycall.server.gateway.request import CompletionRequest, CompletionResponse
from everycall.server.problems import problem
from everycall.server.projects import Projects
from everycall.server.request_bodies import Bodies
from everycall.server.store.base import Store

__all__ = [
    "check_nesting",
    "handlers",
    "project_in",
    "project_with",
    "read_body",
    "request_decoder",
    "schema_of",
]

_encoder = msgspec.json.Encoder()

_KINDS = {
    str: OpenAPIType.STRING,
    int: OpenAPIType.INTEGER,
    float: OpenAPIType.NUMBER,
    bool: OpenAPIType.BOOLEAN,
    dict: OpenAPIType.OBJECT,
    list: OpenAPIType.ARRAY,
    tuple: OpenAPIType.ARRAY,
    type(None): OpenAPIType.NULL,
}


def schema_of(struct: type[msgspec.Struct], *, answer: bool = False) -> Schema:
    """Return the OpenAPI schema of a struct's fields with their bounds; of an answer, every field is required."""
    properties = {name: _field(hint) for name, hint in get_type_hints(struct, include_extras=True).items()}
    required = [one.name for one in msgspec.structs.fields(struct) if answer or one.required]
    return Schema(type=OpenAPIType.OBJECT, properties=dict(properties), required=required or None)


def _field(hint: Any) -> Schema:
    kinds: list[OpenAPIType] = []
    schema = Schema()
    for one in get_args(hint) if get_origin(hint) in (UnionType, Union) else (hint,):
        bare, *metas = get_args(one) if get_origin(one) is Annotated else (one,)
        plain = get_origin(bare) or bare
        if isinstance(plain, type) and issubclass(plain, msgspec.Struct):
            schema = schema_of(plain)
            kinds.append(OpenAPIType.OBJECT)
        elif plain in _KINDS:
            kinds.append(_KINDS[plain])
        if plain is list:
            schema.items = _field(*get_args(bare))
        for meta in metas:
            schema.minimum, schema.maximum = meta.ge, meta.le
            bounds = ("min_items", "max_items") if plain is list else ("min_length", "max_length")
            for name, bound in zip(bounds, (meta.min_length, meta.max_length), strict=True):
                setattr(schema, name, bound)
    if kinds:
        schema.type = kinds[0] if len(kinds) == 1 else kinds
    return schema


def read_body(data: bytes, decoder: msgspec.json.Decoder[Any]) -> Any:
    """Return the decoded body. Raises `ProblemError` 422 that names the field, or 400 for what is not JSON."""
    try:
        body = decoder.decode(data)
        check_nesting(data)
    except msgspec.ValidationError as error:
        message = str(error)
        field = message.rpartition("`$")[2].strip("`.") if "`$" in message else ""
        raise problem("invalid", 422, "Not as documented", f"{message}.", field=field) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise problem("bad_request", 400, "Bad request", f"The body is not JSON: {error}.") from None
    except RecursionError:
        raise _too_deep() from None
    return body


def check_nesting(data: bytes) -> None:
    """Raise `ProblemError` 422 when JSON is nested deeper than `limits.NESTING_MAX`; its readers recurse."""
    if data.count(b"[") + data.count(b"{") <= limits.NESTING_MAX:
        return
    level = [msgspec.json.decode(data)]
    for _ in range(limits.NESTING_MAX):
        below: list[Any] = []
        for item in level:
            children = item.values() if isinstance(item, dict) else item
            below.extend(child for child in children if isinstance(child, dict | list))
        if not below:
            return
        level = below
    raise _too_deep()


def _too_deep() -> Exception:
    return problem("invalid", 422, "Nested too deep", f"JSON may have {limits.NESTING_MAX} levels; flatten it.")


def project_in(identity: Identity, name: str | None) -> str:
    """Return the project to work in. Clients write "default" when they were told nothing, so it names no project."""
    return project_of(identity, None if name == DEFAULT_PROJECT else name)


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
async def post_completion(request: Request[Identity, Any, Any]) -> Response[bytes]:
    """Run a deployed prompt, or the configuration given, on its provider; record it and answer.

    A provider's failure is an answer too: status 200 here, "status": "error" in it, and one record.
    """
    require(request.user, "write")
    bodies: Bodies = request.app.state.bodies
    gateway: Gateway = request.app.state.gateway
    gateway.rates.enter(request.user.key)
    async with bodies.body(request.scope, request.receive) as data:
        asked: CompletionRequest = read_body(data, request_decoder)
    answer = await gateway.complete(await project_with(request, asked), asked, request.user.key)
    return Response(_encoder.encode(answer), media_type="application/json")


async def project_with(request: Request[Identity, Any, Any], asked: CompletionRequest) -> str:
    """Return the project of a completion: the one it names, by name or by Parea's UUID, else the caller's own."""
    return project_in(request.user, asked.project_name or await _project_with(request, asked.project_uuid))


async def _project_with(request: Request[Identity, Any, Any], uuid: str | None) -> str | None:
    """Return the name of the project whose UUID Parea's client was given, or None when it was given none."""
    if not uuid or uuid == DEFAULT_PROJECT:
        return None
    own = request.user.project
    if own is not None:
        return own if uuid == Projects.uuid(own) else uuid
    projects: Projects = request.app.state.projects
    return await projects.name_of(uuid)


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
async def delete_cache(request: Request[Identity, Any, Any]) -> Response[bytes]:
    """Forget all cached responses of the project."""
    require(request.user, "write")
    store: Store = request.app.state.store
    cleared = await store.clear_cache(project_of(request.user, request.query_params.get("project")))
    return Response(_encoder.encode({"cleared": cleared}), media_type="application/json")


handlers = [post_completion, delete_cache]
