"""How routes that read requests by hand describe themselves in `/openapi.json`, and that document itself.

A route takes `operation(...)` as its `operation_class`; `Document` renders the whole and adds what all routes share.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec
from litestar import Request, Router
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import OpenAPIRenderPlugin
from litestar.openapi.spec import (
    Components,
    OpenAPIMediaType,
    OpenAPIResponse,
    Operation,
    Parameter,
    RequestBody,
    Schema,
    SecurityScheme,
)
from litestar.openapi.spec.enums import OpenAPIType

from everycall import semconv
from everycall.server.auth import OPEN_ROUTES

__all__ = ["configuration", "operation", "path_text", "query_text", "schema_of"]

VERSION = "1"

SHARED_PROBLEMS = {
    "400": "The request is not as documented; `detail` says what to change.",
    "401": "No key, or a wrong one.",
    "403": "The key may not do this, or belongs to another project.",
    "421": "The Host header does not name this server.",
    "429": "Too many wrong keys from this address; wait for `Retry-After` seconds.",
    "500": "The server failed in a way it does not know.",
    "503": "Busy: nothing was stored; wait for `Retry-After` seconds.",
}
PROBLEM_SCHEMA = {
    "type": "object",
    "description": "RFC 9457 problem details. Further members depend on `type`.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "description": "urn:everycall:error: and the error's code"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What to do about it"},
    },
}


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


def query_text(
    name: str, description: str, kind: OpenAPIType = OpenAPIType.STRING, schema: Schema | None = None
) -> Parameter:
    """Return the description of one optional query parameter; `schema` says more than its kind."""
    return Parameter(
        name=name, param_in="query", required=False, description=description, schema=schema or Schema(type=kind)
    )


def path_text(name: str, description: str) -> Parameter:
    """Return the description of one path parameter."""
    return Parameter(
        name=name, param_in="path", required=True, description=description, schema=Schema(type=OpenAPIType.STRING)
    )


def operation(
    *,
    answer: Schema,
    parameters: Sequence[Parameter] = (),
    body: Schema | None = None,
    body_type: str = "application/json",
    answer_type: str = "application/json",
    problems: dict[int, str] | None = None,
) -> type[Operation]:
    """Return an operation class that says what a route takes and answers, beside what every route does."""

    @dataclass
    class Described(Operation):
        def __post_init__(self) -> None:
            self.parameters = list(parameters) or None
            if body is not None:
                self.request_body = RequestBody(required=True, content={body_type: OpenAPIMediaType(schema=body)})
            kept = {status: text for status, text in (self.responses or {}).items() if not status.startswith("4")}
            for response in kept.values():
                if isinstance(response, OpenAPIResponse):
                    response.content = {answer_type: OpenAPIMediaType(schema=answer)}
            for status, text in (problems or {}).items():
                kept[str(status)] = OpenAPIResponse(description=text)
            self.responses = kept

    return Described


class Document(OpenAPIRenderPlugin):
    """`/openapi.json`: the routes' descriptions, with the problems and the keys that all of them share."""

    def __init__(self) -> None:
        super().__init__(path="/", media_type="application/vnd.oai.openapi+json")  # type: ignore[arg-type]

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:  # noqa: ARG002
        """Return the document as JSON."""
        document = copy.deepcopy(openapi_schema)
        document["components"].setdefault("schemas", {})["Problem"] = PROBLEM_SCHEMA
        for path, item in document["paths"].items():
            for described in item.values():
                if isinstance(described, dict) and "responses" in described:
                    _share(path, described)
        return msgspec.json.encode(document)


def _share(path: str, described: dict[str, Any]) -> None:
    responses = described["responses"]
    if path in OPEN_ROUTES:
        described["security"] = []
        return
    for status, text in SHARED_PROBLEMS.items():
        responses.setdefault(status, {"description": text})
    for status, response in responses.items():
        if status >= "400":
            schema = {"$ref": "#/components/schemas/Problem"}
            response["content"] = {semconv.PROBLEM_JSON: {"schema": schema}}


class _OneRoute(Router):
    """Takes the document's own route and none of the further ones Litestar adds (viewers, a catch-all 404)."""

    def register(self, value: Any) -> list[Any]:
        return [] if self.routes else super().register(value)


def configuration() -> OpenAPIConfig:
    """Return the configuration that serves the document at `/openapi.json`, without any viewer from elsewhere."""
    schemes = {
        "key": SecurityScheme(type="apiKey", name=semconv.API_KEY_HEADER, security_scheme_in="header"),
        "bearer": SecurityScheme(type="http", scheme="bearer"),
        "session": SecurityScheme(type="apiKey", name="everycall_session", security_scheme_in="cookie"),
    }
    return OpenAPIConfig(
        title="everycall",
        version=VERSION,
        description="The endpoint that keeps the record of every LLM call.",
        components=Components(security_schemes=schemes),  # type: ignore[arg-type]
        security=[{name: []} for name in schemes],
        use_handler_docstrings=True,
        openapi_router=_OneRoute("/openapi.json", route_handlers=[], include_in_schema=False),
        render_plugins=[Document()],
    )
