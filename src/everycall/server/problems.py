"""The one shape of every error response: RFC 9457 problem+json. Routes raise `ProblemError`.

`create_app` passes `exception_handlers` to Litestar. They turn the store's errors, Litestar's own errors and unexpected
exceptions into the same shape.
"""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.types import ExceptionHandlersMap, Scope

from everycall.errors import Problem
from everycall.semconv import PROBLEM_JSON
from everycall.server.security import wants_page
from everycall.server.store.errors import StoreBusy, StoreError

__all__ = [
    "ProblemError",
    "bad_request",
    "exception_handlers",
    "invalid_body",
    "not_found",
    "problem",
    "sentence",
    "with_full_stop",
]

logger = logging.getLogger("everycall.server")

CODES = {
    400: "bad_request",
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    415: "unsupported_encoding",
    422: "invalid",
    429: "too_many_requests",
    503: "busy",
}


class ProblemError(Exception):
    """An error response: its `problem`, and `headers` to send with it."""

    def __init__(self, problem: Problem, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(f"{problem.status} {problem.code}: {problem.detail}")
        self.problem = problem
        self.headers = dict(headers or {})


def problem(
    code: str, status: int, title: str, detail: str, *, headers: Mapping[str, str] | None = None, **extensions: Any
) -> ProblemError:
    """Return the error to raise. `detail` says what to do; `extensions` become further members of the body."""
    return ProblemError(Problem(code, status, title, detail, extensions or None), headers)


def bad_request(detail: str, **extensions: Any) -> ProblemError:
    """Return a 400 to raise."""
    return problem("bad_request", 400, "Bad request", detail, **extensions)


def sentence(error: Exception) -> str:
    """Return the text of an error, which may be written as a part of one, as a sentence."""
    text = str(error)
    return with_full_stop(text[:1].upper() + text[1:])


def with_full_stop(text: str) -> str:
    """Return the text with a full stop at its end, unless it ends a sentence already."""
    return text if text.endswith((".", "?")) else f"{text}."


_PARAMETER_NAME: Final = re.compile(r"`[a-z][a-z0-9_]{0,39}`$")
"""The end of a decoder's message about an unknown field that has a name in snake case, such as `top_logprobs`."""


def invalid_body(error: msgspec.ValidationError, *, repeat_names: bool = False) -> ProblemError:
    """Return the 422 to raise for a body that does not fit its struct; its `field` says where.

    The name of an unknown field is repeated only with `repeat_names`, and only if it looks like the name of a
    parameter: in a body with prompts, anything else may be content.
    """
    message, _, location = str(error).partition(" - at ")
    field = location.strip("`").removeprefix("$").removeprefix(".")
    if "unknown field" in message and not (repeat_names and _PARAMETER_NAME.search(message)):
        message = "There is an unknown field; check its spelling, or leave it out"
    message = message.replace("`", "'")
    return problem("invalid", 422, "Not as documented", f"{message}{f' (in {field})' if field else ''}.", field=field)


def not_found(what: str) -> ProblemError:
    """Return the 404 to raise for `what` ("record", "key").

    The response does not contain the requested id, and is the same byte for byte whether the object does not exist or
    belongs to another project.
    """
    return problem("not_found", 404, "Not found", f"No such {what} in this project.")


def exception_handlers(
    page: Callable[[Request[Any, Any, Any], Problem], Response[Any]],
    answer_as: Callable[[Scope, ProblemError], Response[Any] | None] | None = None,
) -> ExceptionHandlersMap:
    """Return the handlers that turn every exception of a route into a problem response.

    `page` renders a problem for a browser. `answer_as` may return the response in the shape of another protocol, such
    as OTLP's, or None. Litestar looks up the most derived class first, so `StoreBusy` is not treated as a `StoreError`.
    """

    def handler(as_problem: Callable[[Any], ProblemError]) -> Callable[[Request[Any, Any, Any], Any], Response[Any]]:
        def respond(request: Request[Any, Any, Any], error: Any) -> Response[Any]:
            failure = as_problem(error)
            if failure.problem.status >= 500 and not isinstance(error, StoreError | ProblemError):
                _log(request, error)
            if answer_as is not None and (other := answer_as(request.scope, failure)) is not None:
                return other
            if wants_page(request.scope):
                response = page(request, failure.problem)
                response.headers.update(failure.headers)
                return response
            body = msgspec.json.encode(failure.problem.as_json())
            status = failure.problem.status
            return Response(body, status_code=status, media_type=PROBLEM_JSON, headers=failure.headers)

        return respond

    return {
        ProblemError: handler(lambda error: error),
        StoreBusy: handler(_from_busy_store),
        StoreError: handler(lambda error: problem("store", 400, "Not possible", str(error))),
        msgspec.ValidationError: handler(_from_validation),
        HTTPException: handler(_from_http),
        Exception: handler(_unexpected),
    }


def _log(request: Request[Any, Any, Any], error: Exception) -> None:
    """Log where an unexpected exception was raised, without its text, which may repeat omitted content."""
    route = request.scope.get("path_template") or request.scope["path"]
    where = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s %s failed: %s\n%s", request.method, route, type(error).__name__, where)


def _from_busy_store(error: StoreBusy) -> ProblemError:
    return problem("busy", 503, "Busy", str(error), headers={"retry-after": str(error.retry_after_s)})


def _from_validation(error: msgspec.ValidationError) -> ProblemError:
    """Return the 422 for msgspec's error, such as "Expected `int`, got `str` - at `$.limit`", as a sentence."""
    message, _, path = str(error).replace("`", "'").partition(" - at ")
    field = path.strip("'").removeprefix("$").removeprefix(".")
    return problem("invalid", 422, "Not as documented", f"{message} (in {field})." if field else f"{message}.")


def _from_http(error: HTTPException) -> ProblemError:
    status = error.status_code
    if status >= 500:
        return _unexpected(error)
    extensions = {"errors": error.extra} if isinstance(error, ValidationException) and error.extra else {}
    detail = error.detail
    if status == 404:
        detail = "There is nothing at this URL."
    elif status == 405:
        detail = "This URL does not accept this method. The Allow header lists those it accepts."
    return problem(
        CODES.get(status, "error"), status, HTTPStatus(status).phrase, detail, headers=error.headers, **extensions
    )


def _unexpected(_: Exception) -> ProblemError:
    detail = "Unexpected error in the server. Its log has the details; you may send the request again."
    return problem("internal", 500, "Internal error", detail)
