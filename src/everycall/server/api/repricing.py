"""`POST /api/reprice`: finding the cost of stored records again, a page at a time. For admins; dry unless told."""

from __future__ import annotations

from dataclasses import asdict

import msgspec
from litestar import Response, post
from litestar.openapi.spec import Schema
from litestar.openapi.spec.enums import OpenAPIType

from everycall import limits
from everycall._pricing import price_book
from everycall.errors import ConfigurationError
from everycall.server.api.http import ApiRequest, json_response, read_json
from everycall.server.api.openapi import operation
from everycall.server.api.query import parse_time
from everycall.server.auth import project_of, require
from everycall.server.problems import problem
from everycall.server.repricing import reprice_page
from everycall.server.store.base import Store
from everycall.server.store.values import RecordQuery

__all__ = ["handlers"]

_COUNT = Schema(type=OpenAPIType.INTEGER)
_DOLLARS = Schema(type=[OpenAPIType.NUMBER, OpenAPIType.NULL], description="US dollars; null: not known.")
_TEXT = Schema(type=[OpenAPIType.STRING, OpenAPIType.NULL])
_TIME = Schema(type=OpenAPIType.STRING, description="RFC 3339, or nanoseconds since 1970.")
_COUNTED = ("records", "changed", "kept", "newly_priced", "now_unpriced", "unpriced")


class _Asked(msgspec.Struct, forbid_unknown_fields=True):
    since: str
    until: str | None = None
    model: str | None = None
    project: str | None = None
    dry_run: bool = True
    cursor: str | None = None


_decoder = msgspec.json.Decoder(_Asked)


@post(
    "/api/reprice",
    status_code=200,
    operation_class=operation(
        body=Schema(
            type=OpenAPIType.OBJECT,
            required=["since"],
            properties={
                "since": _TIME,
                "until": _TIME,
                "model": Schema(type=OpenAPIType.STRING),
                "project": Schema(type=OpenAPIType.STRING),
                "dry_run": Schema(type=OpenAPIType.BOOLEAN, description="true, unless said otherwise: nothing changes"),
                "cursor": Schema(type=OpenAPIType.STRING, description="next_cursor of the answer before."),
            },
        ),
        answer=Schema(
            type=OpenAPIType.OBJECT,
            required=["models", "written", "next_cursor"],
            properties={
                "models": Schema(
                    type=OpenAPIType.ARRAY,
                    items=Schema(
                        type=OpenAPIType.OBJECT,
                        properties={
                            **dict.fromkeys(("model", "provider"), _TEXT),
                            **dict.fromkeys(_COUNTED, _COUNT),
                            **dict.fromkeys(("old_cost", "new_cost"), _DOLLARS),
                        },
                    ),
                ),
                "written": _COUNT,
                "next_cursor": _TEXT,
            },
        ),
        problems={413: "Too large.", 422: "Not as documented, or the server's own prices cannot be used."},
    ),
)
async def reprice(request: ApiRequest) -> Response[bytes]:
    """Price a page of records again, and say by model what changes. The first page reads the server's own prices anew.

    With `dry_run`, which is the default, nothing is written. Records whose cost came with them are left alone.
    """
    require(request.user, "admin")
    asked = await read_json(request, _decoder, limits.SMALL_BODY_BYTES_MAX, repeat_names=True)
    store: Store = request.app.state.store
    prices = price_book.in_use()
    if asked.cursor is None:
        try:
            prices.reload()
        except ConfigurationError as error:
            raise problem("unusable_prices", 422, "The server's own prices cannot be used", str(error)) from error
    query = RecordQuery(
        since=parse_time("since", asked.since),
        until=None if asked.until is None else parse_time("until", asked.until),
        model=asked.model,
        cursor=asked.cursor,
    )
    page = await reprice_page(store, prices, project_of(request.user, asked.project), query, write=not asked.dry_run)
    return json_response(asdict(page))


handlers = [reprice]
