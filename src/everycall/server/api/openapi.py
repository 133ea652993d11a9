"""`/openapi.json`: how a route describes itself, and the document made of all these descriptions.

Routes read requests and write responses themselves, so Litestar cannot see their types. Each route names them with
`operation(...)` as its `operation_class`; the JSON schemas come from the msgspec structs and dataclasses themselves.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec
from litestar import Litestar, Request, Router
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import OpenAPIRenderPlugin
from litestar.openapi.spec import Components, Operation, SecurityScheme
from msgspec import UNSET, UnsetType

from everycall import semconv
from everycall.record import Record
from everycall.server.auth import OPEN_ROUTES
from everycall.server.base_path import base_path

__all__ = ["RecordJson", "components_of", "configuration", "operation", "path_parameter", "query_parameter"]

VERSION = "1"
JSON = "application/json"

SHARED_PROBLEMS = {
    "400": "The request is not as documented; `detail` says what to change.",
    "401": "No key, or a wrong one.",
    "403": "The key may not do this, or belongs to another project.",
    "421": "The Host header does not name this server.",
    "429": "Too many wrong keys from this address; wait for `Retry-After` seconds.",
    "500": "An unexpected error of the server.",
    "503": "Busy: nothing was stored; wait for `Retry-After` seconds.",
}
"""Every operation may answer with these."""

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

BODY_PROBLEMS = {415: "The content-encoding of the body is unknown."}
"""Every operation with a body may answer with these."""

Json = dict[str, Any]


def query_parameter(name: str, description: str, kind: Any = str) -> Json:
    """Return the description of an optional query parameter; `kind` is its type, as msgspec understands it."""
    return {"name": name, "in": "query", "required": False, "description": description, "schema": _schemas(kind)[0][0]}


def path_parameter(name: str, description: str) -> Json:
    """Return the description of a path parameter."""
    return {"name": name, "in": "path", "required": True, "description": description, "schema": {"type": "string"}}


def operation(
    *,
    response: Any,
    body: Any = None,
    parameters: Sequence[Json] = (),
    problems: Mapping[int, str] | None = None,
    response_type: str = JSON,
    body_type: str = JSON,
) -> type[Operation]:
    """Return an operation class that says what a route takes and answers, beside what every route does.

    `body` and `response` are the types of the decoded body and of the encoded response; `problems` maps the statuses
    of errors that only this route has to what they mean.
    """
    (response_schema,), response_components = _schemas(response)
    for component in (response_schema, *response_components.values()):
        _require_all(component)
    (body_schema,), body_components = _schemas(body)

    @dataclass
    class Described(Operation):
        components: ClassVar[Json] = {**response_components, **body_components}

        def to_schema(self) -> Json:
            """Return the operation with its parameters, body and responses."""
            described = super().to_schema()
            described.pop("parameters", None)
            if parameters:
                described["parameters"] = list(parameters)
            if body is not None:
                described["requestBody"] = {"required": True, "content": {body_type: {"schema": body_schema}}}
            expected = {**(BODY_PROBLEMS if body is not None else {}), **(problems or {})}
            success = next(status for status in described["responses"] if status < "300")
            description = described["responses"][success]["description"]
            described["responses"] = {
                success: {"description": description, "content": {response_type: {"schema": response_schema}}},
                **{str(status): {"description": text} for status, text in expected.items()},
            }
            return described

    return Described


def _schemas(*types: Any) -> tuple[Sequence[Json], dict[str, Json]]:
    """Return the JSON schemas of types, and of the structs and dataclasses that they refer to, by name."""
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    for component in components.values():
        if "description" in component:
            component["description"] = inspect.cleandoc(component["description"])
        if not component.get("required", True):
            del component["required"]
    return list(schemas), components


def _require_all(schema: Json) -> None:
    """Mark all properties with a default as required: a response always has them. An unset field stays optional."""
    properties = schema.get("properties")
    if not properties:
        return
    required = set(schema.get("required", ()))
    for name, described in properties.items():
        if "default" in described:
            del described["default"]
            required.add(name)
    schema["required"] = [name for name in properties if name in required]


def _record_json() -> type[msgspec.Struct]:
    """Return `Record` as it is in a response: raw JSON is any value, and fields at their default are left out."""
    described = []
    for field in msgspec.structs.fields(Record):
        kind: Any = Any if field.type is msgspec.Raw else field.type
        described.append((field.name, kind) if field.required else (field.name, kind | UnsetType, UNSET))
    namespace = {"__doc__": Record.__doc__}
    return msgspec.defstruct("Record", described, kw_only=True, namespace=namespace)


RecordJson = _record_json()
"""The type that describes records in responses."""


class Document(OpenAPIRenderPlugin):
    """`/openapi.json`: the operations, the schemas they refer to, and the problems and keys that all of them share."""

    def __init__(self) -> None:
        super().__init__(path="/", media_type="application/vnd.oai.openapi+json")  # type: ignore[arg-type]

    def render(self, request: Request[Any, Any, Any], openapi_schema: Json) -> bytes:
        """Return the document as JSON."""
        document = copy.deepcopy(openapi_schema)
        document["servers"] = [{"url": base_path() or "/"}]
        document["components"]["schemas"] = {"Problem": PROBLEM_SCHEMA, **components_of(request.app)}
        for path, item in document["paths"].items():
            for described in item.values():
                if isinstance(described, dict) and "responses" in described:
                    _share(path, described)
        return msgspec.json.encode(document)


def components_of(app: Litestar) -> dict[str, Json]:
    """Return the schemas that the app's operations refer to. Raise `ValueError` if two of them share a name."""
    components: dict[str, Json] = {}
    for name, schema in _all_components(app):
        if components.setdefault(name, schema) != schema:
            raise ValueError(f"two types of the API are named {name}: rename one, or use it in one direction only")
    return dict(sorted(components.items()))


def _all_components(app: Litestar) -> Iterator[tuple[str, Json]]:
    for route in app.routes:
        for handler in getattr(route, "route_handlers", ()):
            if handler.resolve_include_in_schema():
                yield from getattr(handler.operation_class, "components", {}).items()


def _share(path: str, described: Json) -> None:
    """Add to an operation what all operations share."""
    responses = described["responses"]
    if path in OPEN_ROUTES:
        described["security"] = []
    else:
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
    """Return the configuration that serves the document at `/openapi.json`, without viewers that load foreign files."""
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
