"""What all routes of the API share: the request type, reading JSON bodies and parameters, and JSON responses."""

from __future__ import annotations

from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote, unquote

import msgspec
from litestar import Request, Response
from litestar.datastructures import State
from msgspec import UNSET

from everycall import limits
from everycall.server.auth import Identity, project_of, require
from everycall.server.keys import Role
from everycall.server.problems import ProblemError, bad_request, invalid_body, problem
from everycall.server.request_bodies import Bodies

__all__ = [
    "PAREA_PREFIX",
    "ApiRequest",
    "boolean_parameter",
    "decode_json",
    "encode_json",
    "integer_parameter",
    "invalid_field",
    "is_nested_too_deep",
    "json_response",
    "path_tail",
    "project_for",
    "query_values",
    "read_json",
    "read_object",
]

ApiRequest: TypeAlias = Request[Identity, Any, State]
"""A request to any route: `request.user` is the caller, set by `auth.Guard`."""

PAREA_PREFIX = "/api/parea/v1"
"""The path below which Parea's clients find their routes."""

T = TypeVar("T")

_encoder = msgspec.json.Encoder()


def encode_json(value: Any) -> bytes:
    """Return a value as JSON. Structs and dataclasses become objects."""
    return _encoder.encode(value)


def json_response(value: Any, status_code: int = 200) -> Response[bytes]:
    """Return a response with a value as JSON; bytes are sent as they are, as JSON that is already encoded."""
    body = value if isinstance(value, bytes) else _encoder.encode(value)
    return Response(body, status_code=status_code, media_type="application/json")


def project_for(request: ApiRequest, role: Role) -> str:
    """Return the project that the query names, else the caller's. Raise 403 unless the caller has the role there."""
    require(request.user, role)
    return project_of(request.user, request.query_params.get("project"))


async def read_json(
    request: ApiRequest,
    bodies: Bodies,
    decoder: msgspec.json.Decoder[T],
    bytes_max: int | None = None,
    *,
    repeat_names: bool = False,
) -> T:
    """Return the decoded body, bounded as by `Bodies.body`. Raise what that and `decode_json` raise."""
    async with bodies.body(request.scope, request.receive, bytes_max) as data:
        return decode_json(data, decoder, repeat_names=repeat_names)


def decode_json(data: bytes, decoder: msgspec.json.Decoder[T], *, repeat_names: bool = False) -> T:
    """Return a decoded body. Raise `ProblemError`: 422 that names the wrong field, 400 for a body that is not JSON.

    `repeat_names` lets the error repeat the name of an unknown field, as `invalid_body` has it.
    """
    try:
        value = decoder.decode(data)
        too_deep = is_nested_too_deep(data)
    except msgspec.ValidationError as error:
        raise invalid_body(error, repeat_names=repeat_names) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise bad_request(f"The body is not JSON: {error}.") from None
    except RecursionError:
        too_deep = True
    if too_deep:
        detail = f"JSON may have {limits.NESTING_MAX} levels; flatten it."
        raise problem("invalid", 422, "Nested too deep", detail)
    return value


async def read_object(request: ApiRequest, bodies: Bodies) -> dict[str, Any]:
    """Return the body of one of Parea's requests, a JSON object. Raise `ProblemError` 422 with `errors`."""
    async with bodies.body(request.scope, request.receive) as data:
        try:
            body = msgspec.json.decode(data)
        except (ValueError, RecursionError) as error:
            raise invalid_field("body", f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise invalid_field("body", "the body must be a JSON object")
    return body


def is_nested_too_deep(data: bytes, value: Any = UNSET) -> bool:
    """Return whether valid JSON has more than `limits.NESTING_MAX` levels; code that reads it later may recurse.

    `value` is the decoded `data` where the caller has it. Raise `RecursionError` where even the decoder gives up.
    """
    if data.count(b"[") + data.count(b"{") <= limits.NESTING_MAX:
        return False  # not enough brackets for so many levels, which is nearly always so
    level = [msgspec.json.decode(data) if value is UNSET else value]
    for _ in range(limits.NESTING_MAX):
        below: list[Any] = []
        for item in level:
            children = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
            below.extend(child for child in children if isinstance(child, dict | list))
        if not below:
            return False
        level = below
    return True


def invalid_field(field: str, message: str) -> ProblemError:
    """Return a 422 about a field of a body (`body`: all of it), with `errors` in the form Parea's clients read."""
    location = ["body"] if field == "body" else ["body", field]
    errors = [{"loc": location, "msg": message, "type": "value_error"}]
    return problem("invalid", 422, "Not as documented", f"{message[:1].upper()}{message[1:]}.", errors=errors)


def path_tail(request: Request[Any, Any, Any], prefix: str) -> str:
    """Return the rest of the path after `prefix`, percent-decoded once: an id with any characters.

    It is read from the path as it was sent. The router decodes the path before it splits it at slashes, so an id with
    a slash would be cut there.
    """
    raw = request.scope["raw_path"] or quote(request.scope["path"]).encode()
    return unquote(raw.partition(b"?")[0].decode("latin-1").removeprefix(prefix))


def query_values(request: Request[Any, Any, Any]) -> dict[str, list[str]]:
    """Return all values of each query parameter."""
    parameters = request.query_params
    return {name: parameters.getall(name) for name in parameters}


def integer_parameter(request: ApiRequest, name: str, *, minimum: int = 1, maximum: int = 10**9 - 1) -> int | None:
    """Return a whole number from the query, or None when it is missing or empty. Raise 400 with the allowed range."""
    text: str | None = request.query_params.get(name)
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10 and minimum <= int(text) <= maximum):
        upper = f" to {maximum}" if maximum < 10**8 else ""
        raise bad_request(f"{name} must be a whole number from {minimum}{upper}.", field=name)
    return int(text)


def boolean_parameter(request: ApiRequest, name: str, *, default: bool) -> bool:
    """Return `true` or `false` from the query; `default` when it is missing or empty. Raise 400 for anything else."""
    text: str | None = request.query_params.get(name)
    if not text:
        return default
    if text not in ("true", "false"):
        raise bad_request(f"{name} must be true or false.", field=name)
    return text == "true"
