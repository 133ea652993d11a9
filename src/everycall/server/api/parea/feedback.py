"""`POST /api/parea/v1/feedback`: what a person thinks of an answer. It may arrive before the log of the answer."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import post
from litestar.di import NamedDependency
from msgspec import Meta

from everycall import limits
from everycall.server.api.http import PAREA_PREFIX, ApiRequest, invalid_field, read_json
from everycall.server.api.openapi import operation
from everycall.server.api.parea.log_trees import root_of
from everycall.server.api.parea.projects import find_project
from everycall.server.api.parea.trace_logs import LogResponse
from everycall.server.auth import require
from everycall.server.services import Services
from everycall.server.store.values import Feedback

__all__ = ["handlers"]

Id = Annotated[str, Meta(max_length=limits.ID_CHARS_MAX)]


class FeedbackRequest(msgspec.Struct, kw_only=True):
    """Feedback about one log, named by `inference_id` or else by `trace_id`, which may also be the id of a trace."""

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
        body=FeedbackRequest,
        response=LogResponse,
        problems={413: "Too large.", 422: "A field is wrong; `field` names it."},
    ),
)
async def post_feedback(request: ApiRequest, services: NamedDependency[Services]) -> LogResponse:
    """Store feedback. It is shown with its log once both are there.

    The id of a trace stands for the first log of the trace. Sending the latest feedback of a log again stores nothing.
    """
    require(request.user, "write")
    feedback = await read_json(request, services.bodies, _decoder, limits.FIELD_BYTES_MAX)
    store = services.store
    log_id = feedback.inference_id or feedback.trace_id or ""
    if not log_id:
        raise invalid_field("trace_id", "trace_id is required: the id of the log that the feedback is about")

    async def has_log(project: str) -> bool:
        return await store.record(project, log_id) is not None

    async def has_trace(project: str) -> bool:
        return await store.trace_summary(project, log_id) is not None

    project = await find_project(request.user, store, has_log, has_trace)
    if not await has_log(project):
        root = root_of((await store.trace(project, log_id)).records)
        log_id = log_id if root is None else root.inference_id
    await store.put_feedback(
        project,
        Feedback(log_id, feedback.score, name=feedback.name, target=feedback.target, comment=feedback.comment),
    )
    return LogResponse(log_id)


handlers = [post_feedback]
