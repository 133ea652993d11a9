"""`POST /api/reprice`, for admins: compute the cost of stored records again, a page at a time."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import Response, post
from litestar.di import NamedDependency
from msgspec import Meta

from everycall import limits
from everycall._pricing import price_book
from everycall.errors import ConfigurationError
from everycall.server.api.http import ApiRequest, json_response, read_json
from everycall.server.api.openapi import operation
from everycall.server.api.query import parse_time
from everycall.server.auth import project_of, require
from everycall.server.problems import problem, sentence
from everycall.server.repricing import RepricePage, reprice_page
from everycall.server.services import Services
from everycall.server.store.values import RecordQuery

__all__ = ["handlers"]

Time = Annotated[str, Meta(description="RFC 3339, or nanoseconds since 1970.")]


class RepriceRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Which records to price again."""

    since: Time
    until: Time | None = None
    model: str | None = None
    project: str | None = None
    dry_run: Annotated[bool, Meta(description="true, which is the default: nothing is changed.")] = True
    cursor: Annotated[str, Meta(description="next_cursor of the response before.")] | None = None


_decoder = msgspec.json.Decoder(RepriceRequest)


@post(
    "/api/reprice",
    status_code=200,
    operation_class=operation(
        body=RepriceRequest,
        response=RepricePage,
        problems={413: "Too large.", 422: "Not as documented, or the server's own prices cannot be used."},
    ),
)
async def reprice(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """Price a page of records again, and return what changes for each model.

    The first page reads the server's own prices anew. With `dry_run`, the default, nothing is written. Records that
    were sent with their cost keep it.
    """
    require(request.user, "admin")
    body = await read_json(request, services.bodies, _decoder, limits.SMALL_BODY_BYTES_MAX, repeat_names=True)
    prices = price_book.in_use()
    if body.cursor is None:
        try:
            prices.reload()
        except ConfigurationError as error:
            raise problem("unusable_prices", 422, "The server's own prices cannot be used", sentence(error)) from error
    query = RecordQuery(
        since=parse_time("since", body.since),
        until=None if body.until is None else parse_time("until", body.until),
        model=body.model,
        cursor=body.cursor,
    )
    project = project_of(request.user, body.project)
    page = await reprice_page(services.store, prices, project, query, write=not body.dry_run)
    return json_response(page)


handlers = [reprice]
