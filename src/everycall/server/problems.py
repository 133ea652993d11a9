"""The one shape of every error answer: RFC 9457 problem+json. Routes raise `ProblemError`; nothing else leaves as JSON.

`exception_handlers` is what `create_app` gives to Litestar; it turns the store's errors, Litestar's own and whatever
nobody foresaw into the same shape.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.types import ExceptionHandlersMap, Scope

from everycall.errors import Problem
from everycall.semconv import PROBLEM_JSON
from everycall.server.security import wants_page
from everycall.server.store.errors import StoreBusy, StoreError

__all__ = ["ProblemError", "bad_request", "exception_handlers", "not_found", "problem"]

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
RETRY_AFTER_BUSY_S = 1


class ProblemError(Exception):
    """An answer that is an error: its `problem`, and `headers` to send with it."""

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


def not_found(what: str) -> ProblemError:
    """Return the 404 to raise for `what`.

    It never repeats the id that was asked for nor says whether another project has it: the answer is the same, byte by
    byte, for what does not exist and for what is somebody else's.
    """
    return problem("not_found", 404, "Not found", f"No such {what} in this project.")


def exception_handlers(
    page: Callable[[Problem], Response[Any]],
    answer_as: Callable[[Scope, ProblemError], Response[Any] | None] | None = None,
) -> ExceptionHandlersMap:
    """Return what turns every exception of a route into a problem; `page` renders one for a browser.

    `answer_as` may give the answer in the shape of another protocol, such as OTLP's.

    Litestar looks up the most derived class first, so `StoreBusy` is not taken for a `StoreError`.
    """

    def answering(read: Callable[[Any], ProblemError]) -> Callable[[Request[Any, Any, Any], Any], Response[Any]]:
        def answer(request: Request[Any, Any, Any], error: Any) -> Response[Any]:
            found = read(error)
            if found.problem.status >= 500 and not isinstance(error, StoreError | ProblemError):
                route = request.scope.get("path_template") or request.scope["path"]
                # Where, but not what it says: an exception's text may repeat content that was to be left out.
                where = "".join(traceback.format_tb(error.__traceback__))
                logger.error("%s %s failed: %s\n%s", request.method, route, type(error).__name__, where)
            if answer_as is not None and (other := answer_as(request.scope, found)) is not None:
                return other
            if wants_page(request.scope):
                shown = page(found.problem)
                shown.headers.update(found.headers)
                return shown
            body = msgspec.json.encode(found.problem.as_json())
            return Response(body, status_code=found.problem.status, media_type=PROBLEM_JSON, headers=found.headers)

        return answer

    return {
        ProblemError: answering(lambda error: error),
        StoreBusy: answering(_of_busy),
        StoreError: answering(lambda error: problem("store", 400, "Not possible", str(error))),
        msgspec.ValidationError: answering(lambda error: problem("invalid", 422, "Not as documented", str(error))),
        HTTPException: answering(_of_http),
        Exception: answering(_of_unforeseen),
    }


def _of_busy(error: StoreBusy) -> ProblemError:
    headers = {"retry-after": str(RETRY_AFTER_BUSY_S)}
    return problem("busy", 503, "Busy", f"{error}. Nothing was stored; try again.", headers=headers)


def _of_http(error: HTTPException) -> ProblemError:
    status = error.status_code
    if status >= 500:
        return _of_unforeseen(error)
    extensions = {"errors": error.extra} if isinstance(error, ValidationException) and error.extra else {}
    detail = error.detail
    if status == 404:
        detail = "There is nothing at this address."
    return problem(
        CODES.get(status, "error"), status, HTTPStatus(status).phrase, detail, headers=error.headers, **extensions
    )


def _of_unforeseen(_: Exception) -> ProblemError:
    detail = "The server failed in a way it does not know. Its log says how; the request may be sent again."
    return problem("internal", 500, "Internal error", detail)
