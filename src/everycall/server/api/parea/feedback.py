"""`POST /api/parea/v1/feedback`: what somebody thinks of an answer, also before the log of it has come."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import post
from litestar.openapi.spec import Schema
from litestar.openapi.spec.enums import OpenAPIType
from msgspec import Meta

from everycall import limits
from everycall.server.api.http import PAREA_PREFIX, ApiRequest, invalid_field, read_json
from everycall.server.api.openapi import operation, schema_of
from everycall.server.api.parea.log_trees import root_of
from everycall.server.api.parea.projects import find_project
from everycall.server.auth import require
from everycall.server.store.base import Store
from everycall.server.store.values import Feedback

__all__ = ["handlers"]

Id = Annotated[str, Meta(max_length=limits.ID_CHARS_MAX)]


class FeedbackRequest(msgspec.Struct, kw_only=True):
    """One feedback. `score` is from 0 to 1; `inference_id` wins over `trace_id`, which may also name a chain."""

    score: Annotated[float, Meta(ge=0, le=1)]
    trace_id: Id | None = None
    inference_id: Id | None = None
    name: Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX)] | None = None
    target: str | None = None
    comment: str | None = None


_decoder = msgspec.json.Decoder(FeedbackRequest)


@post(
    f"{PAREA_PREFIX}/feedback",
    status_code=200,
    operation_class=operation(
        body=schema_of(FeedbackRequest),
        answer=Schema(type=OpenAPIType.OBJECT, properties={"trace_id": Schema(type=OpenAPIType.STRING)}),
        problems={413: "Too large.", 422: "A field is wrong; `field` names it."},
    ),
)
async def post_feedback(request: ApiRequest) -> dict[str, str]:
    """Keep a feedback; it is shown with its log as soon as both are there.

    A `trace_id` that is no log's but a chain's means the chain's first log. The same feedback again, when it is the
    log's latest, is kept once.
    """
    require(request.user, "write")
    store: Store = request.app.state.store
    given = await read_json(request, _decoder, limits.FIELD_BYTES_MAX)
    about = given.inference_id or given.trace_id or ""
    if not about:
        raise invalid_field("trace_id", "trace_id is required: the id of the log that this is about")

    async def has_log(project: str) -> bool:
        return await store.record(project, about) is not None

    async def has_trace(project: str) -> bool:
        return await store.trace_summary(project, about) is not None

    project = await find_project(request, has_log, has_trace)
    if not await has_log(project):
        root = root_of((await store.trace(project, about)).records)
        about = about if root is None else root.inference_id
    await store.put_feedback(
        project, Feedback(about, given.score, name=given.name, target=given.target, comment=given.comment)
    )
    return {"trace_id": about}


handlers = [post_feedback]
