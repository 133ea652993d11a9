"""Records as Parea's clients read them: a log with the logs below it nested in it. Used by the routes that return logs.

Those clients cannot read back all that they send: a null in place of a list, an object in place of text or an unknown
role makes them fail. So every log is returned in the one form that all of them can read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from everycall import limits
from everycall.record import Record, to_json
from everycall.server.api.parea.log_fields import KEPT_PREFIX
from everycall.server.problems import problem
from everycall.server.projects import Projects
from everycall.server.store.base import Store
from everycall.server.store.values import Feedback

__all__ = ["Forest", "LogTree", "iso_time", "root_of", "scores_of"]

ROLES = {"developer": "system", "function": "tool", "human": "user", "ai": "assistant", "model": "assistant"}
KNOWN_ROLES = frozenset({"user", "assistant", "system", "example_user", "example_assistant", "tool"})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class LogTree(msgspec.Struct, kw_only=True):
    """Parea's TraceLogTree: a log, and in `children_logs` the logs below it."""

    trace_id: str
    parent_trace_id: str
    root_trace_id: str
    trace_name: str | None
    start_timestamp: str
    end_timestamp: str | None
    latency: float | None
    time_to_first_token: float | None
    inputs: dict[str, str]
    output: str | None
    target: str | None
    configuration: dict[str, Any]
    input_tokens: int | None
    output_tokens: int | None
    total_tokens: int | None
    cost: float | None
    status: str
    error: str | None
    cache_hit: bool
    deployment_id: str | None
    end_user_identifier: str | None
    session_id: str | None
    metadata: dict[str, str | None]
    tags: list[str]
    project_uuid: str
    project_name: str
    scores: list[dict[str, Any]]
    feedback_score: Any
    images: list[dict[str, Any]]
    comments: list[dict[str, Any]]
    annotations: dict[str, Any]
    depth: int
    execution_order: int
    evaluation_metric_names: Any | UnsetType = UNSET
    apply_eval_frac: Any | UnsetType = UNSET
    log_sample_rate: Any | UnsetType = UNSET
    experiment_uuid: Any | UnsetType = UNSET
    output_for_eval_metrics: Any | UnsetType = UNSET
    children: list[str]
    children_logs: list[LogTree]


_UNTOUCHED = (
    "evaluation_metric_names", "apply_eval_frac", "log_sample_rate", "experiment_uuid", "output_for_eval_metrics",
)  # fmt: skip
"""Fields that are returned as they were sent, where they were sent."""


class Forest:
    """The records of some traces, and the trees that they form."""

    def __init__(self, records: Iterable[Record], feedback: Mapping[str, Sequence[Feedback]] | None = None) -> None:
        self._feedback = feedback or {}
        self.records = {record.inference_id: record for record in records}
        self._children: dict[str, list[Record]] = {}
        self.roots: list[Record] = []
        for record in self.records.values():
            if record.parent_id in self.records and record.parent_id != record.inference_id:
                self._children.setdefault(record.parent_id, []).append(record)
            else:
                self.roots.append(record)

    @classmethod
    async def read(cls, store: Store, project: str, trace_ids: Sequence[str]) -> Forest:
        """Return the forest of these traces. Raise `ProblemError` 413 for more than `limits.TRACE_RECORDS_MAX`."""
        page = await store.trees(project, trace_ids)
        if page.next_cursor is not None:
            raise problem(
                "too_many_logs",
                413,
                "Too many logs for one answer",
                f"There are more than {limits.TRACE_RECORDS_MAX} logs below these. Ask for a smaller page_size, or "
                "read the trace page by page with GET /api/traces/{trace_id}.",
                records_max=limits.TRACE_RECORDS_MAX,
            )
        ids = [record.inference_id for record in page.records]
        return cls(page.records, await store.feedback(project, ids))

    def tree(self, root: Record, *, whole: bool = False) -> LogTree:
        """Return a log with the logs below it; with `whole`, the other roots of its trace become its children.

        Clients recurse, so logs below `limits.TREE_DEPTH_MAX` levels are put beside those of the last level.
        """
        top = self._log(root, 0)
        visited = {root.inference_id}
        pending = [(top, record, 1) for record in self._children_of(root, whole)]
        while pending:
            parent, record, depth = pending.pop(0)
            if record.inference_id in visited:
                continue
            visited.add(record.inference_id)
            log = self._log(record, depth)
            log.execution_order = log.execution_order or len(visited) - 1
            parent.children.append(record.inference_id)
            parent.children_logs.append(log)
            next_parent = log if depth < limits.TREE_DEPTH_MAX else parent
            next_depth = min(depth + 1, limits.TREE_DEPTH_MAX)
            pending.extend((next_parent, child, next_depth) for child in self._children_of(record, False))
        return top

    def below(self, root: Record) -> list[Record]:
        """Return a record and all records below it."""
        visited = {root.inference_id: root}
        pending = [root]
        while pending:
            for record in self._children.get(pending.pop().inference_id, ()):
                if record.inference_id not in visited:
                    visited[record.inference_id] = record
                    pending.append(record)
        return list(visited.values())

    def _children_of(self, record: Record, whole: bool) -> list[Record]:
        children = list(self._children.get(record.inference_id, ()))
        if whole:
            children += [root for root in self.roots if root.trace_id == record.trace_id and root is not record]
        return sorted(children, key=lambda child: child.start_time_unix_nano)

    def _log(self, record: Record, depth: int) -> LogTree:
        attributes = _object(to_json(record.attributes))
        parea_fields = {
            name.removeprefix(KEPT_PREFIX): value for name, value in attributes.items() if name.startswith(KEPT_PREFIX)
        }
        feedback = self._feedback.get(record.inference_id, ())
        target = _text(to_json(record.target))
        return LogTree(
            trace_id=record.inference_id,
            parent_trace_id=record.parent_id or record.inference_id,
            root_trace_id=record.trace_id,
            trace_name=record.name or record.trace_name,
            start_timestamp=iso_time(record.start_time_unix_nano),
            end_timestamp=iso_time(record.end_time_unix_nano) if record.end_time_unix_nano else None,
            latency=record.latency,
            time_to_first_token=record.time_to_first_token,
            inputs=_inputs(record),
            output=record.content if record.content is not None else _text(to_json(record.output)),
            target=target or next((one.target for one in reversed(feedback) if one.target), None),
            configuration=_configuration(record),
            input_tokens=record.input_tokens,
            output_tokens=record.output_tokens,
            total_tokens=record.total_tokens,
            cost=record.cost,
            status=record.status,
            error=record.error,
            cache_hit=bool(record.cache_hit),
            deployment_id=record.deployment_id,
            end_user_identifier=record.end_user_identifier,
            session_id=record.session_id,
            metadata={name: _text(value) for name, value in _object(to_json(record.metadata)).items()},
            tags=record.tags,
            project_uuid=Projects.uuid(record.project_name),
            project_name=record.project_name,
            scores=scores_of(record),
            feedback_score=feedback[-1].score if feedback else parea_fields.get("feedback_score"),
            images=[image for image in _objects(parea_fields.get("images")) if isinstance(image.get("url"), str)],
            comments=[*_comments(parea_fields.get("comments")), *_comments_of_feedback(feedback)],
            annotations=_annotations(parea_fields.get("annotations")),
            depth=_integer(parea_fields.get("depth"), depth),
            execution_order=_integer(parea_fields.get("execution_order"), 0),
            children=[],
            children_logs=[],
            **{name: parea_fields[name] for name in _UNTOUCHED if name in parea_fields},
        )


def root_of(records: Sequence[Record]) -> Record | None:
    """Return the root of a trace: the first of its records without a stored parent."""
    forest = Forest(records)
    return min(forest.roots or records, key=lambda record: record.start_time_unix_nano, default=None)


def scores_of(record: Record) -> list[dict[str, Any]]:
    """Return the scores kept with a record: name, score and reason of each."""
    scores = _object(to_json(record.attributes)).get(KEPT_PREFIX + "scores")
    return [
        {"name": score["name"], "score": float(score["score"]), "reason": score.get("reason")}
        for score in _objects(scores)
        if isinstance(score.get("name"), str) and _is_number(score.get("score"))
    ]


def iso_time(unix_nano: int) -> str:
    """Return a time as ISO 8601 with microseconds, UTC."""
    return (_EPOCH + timedelta(microseconds=unix_nano // 1_000)).isoformat()


def _inputs(record: Record) -> dict[str, str]:
    inputs = to_json(record.llm_inputs) or to_json(record.inputs)
    if inputs is None:
        return {}
    if not isinstance(inputs, dict):
        inputs = {"input": inputs}
    return {name: _text(value) or "" for name, value in inputs.items()}


def _configuration(record: Record) -> dict[str, Any]:
    stored = _object(to_json(record.llm_configuration))
    configuration: dict[str, Any] = {
        "model": stored.get("model") or record.model,
        "provider": stored.get("provider") or record.provider,
        "model_params": _object(stored.get("model_params")),
        "messages": [_message(message) for message in stored.get("messages") or () if message is not None],
        "functions": stored.get("functions"),
        "function_call": stored.get("function_call"),
    }
    if isinstance(stored.get("history"), list):
        configuration["history"] = [_message(message) for message in stored["history"]]
    return configuration


def _message(message: Any) -> dict[str, Any]:
    if not isinstance(message, dict):
        return {"role": "user", "content": _text(message) or ""}
    role = str(message.get("role") or "user").removeprefix("Role.")
    role = ROLES.get(role, role)
    return {**message, "role": role if role in KNOWN_ROLES else "user", "content": _text(message.get("content")) or ""}


def _comments(comments: Any) -> list[dict[str, Any]]:
    names = ("comment", "user_id", "created_at")
    return [comment for comment in _objects(comments) if all(isinstance(comment.get(name), str) for name in names)]


def _comments_of_feedback(feedback: Iterable[Feedback]) -> list[dict[str, Any]]:
    return [
        {"comment": one.comment, "user_id": "", "created_at": iso_time(one.created_unix_nano)}
        for one in feedback
        if one.comment
    ]


def _annotations(annotations: Any) -> dict[str, Any]:
    """Return the annotations by number and user that have a score, a user and a time."""
    valid: dict[str, Any] = {}
    for number, by_user in _object(annotations).items():
        of_users = {
            user: annotation
            for user, annotation in _object(by_user).items()
            if isinstance(annotation, dict)
            and isinstance(annotation.get("created_at"), str)
            and isinstance(annotation.get("user_id"), str)
            and _is_number(annotation.get("score"))
        }
        if of_users and number.isascii() and number.isdigit():
            valid[number] = of_users
    return valid


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode()


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _integer(value: Any, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else default
