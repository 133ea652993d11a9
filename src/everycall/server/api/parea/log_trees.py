"""Records as Parea's clients read them: a log with its children nested in it. Used by the routes that return logs.

Those clients cannot read back what they send: a null where they want a list, an object where they want text or a role
they do not know makes them fail. So every log leaves here in the one form that they all can read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from everycall import limits
from everycall.record import Record, to_json
from everycall.server.api.parea.log_fields import KEPT_PREFIX
from everycall.server.problems import problem
from everycall.server.projects import Projects
from everycall.server.store.base import Store
from everycall.server.store.values import Feedback

__all__ = ["Forest", "iso_time", "root_of", "scores_of"]

ROLES = {"developer": "system", "function": "tool", "human": "user", "ai": "assistant", "model": "assistant"}
KNOWN_ROLES = frozenset({"user", "assistant", "system", "example_user", "example_assistant", "tool"})
_KEPT_AS_IT_IS = (
    "evaluation_metric_names", "apply_eval_frac", "log_sample_rate", "experiment_uuid", "output_for_eval_metrics",
)  # fmt: skip
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Forest:
    """The records of some traces, and the trees they make."""

    def __init__(self, records: Iterable[Record], feedback: Mapping[str, Sequence[Feedback]] | None = None) -> None:
        self._feedback = feedback or {}
        self.records = {record.inference_id: record for record in records}
        self._below: dict[str, list[Record]] = {}
        self.roots: list[Record] = []
        for record in self.records.values():
            if record.parent_id in self.records and record.parent_id != record.inference_id:
                self._below.setdefault(record.parent_id, []).append(record)
            else:
                self.roots.append(record)

    @classmethod
    async def read(cls, store: Store, project: str, trace_ids: Sequence[str]) -> Forest:
        """Return the forest of these traces. Raises `ProblemError` 413 for more than `limits.TRACE_RECORDS_MAX`."""
        page = await store.trees(project, trace_ids)
        if page.next_cursor is not None:
            raise problem(
                "too_many_logs",
                413,
                "Too many logs for one answer",
                f"The logs asked for have more than {limits.TRACE_RECORDS_MAX} logs below them. Ask for a smaller "
                "page_size, or read the trace page by page with GET /api/traces/{trace_id}.",
                records_max=limits.TRACE_RECORDS_MAX,
            )
        ids = [record.inference_id for record in page.records]
        return cls(page.records, await store.feedback(project, ids))

    def tree(self, root: Record, *, whole: bool = False) -> dict[str, Any]:
        """Return a log with the logs below it; with `whole`, further roots of its trace are among its children.

        Logs below `limits.TREE_DEPTH_MAX` levels are listed beside those of the last level: clients recurse.
        """
        top = self._log(root, 0)
        seen = {root.inference_id}
        waiting = [(top, record, 1) for record in self._under(root, whole)]
        while waiting:
            above, record, depth = waiting.pop(0)
            if record.inference_id in seen:
                continue
            seen.add(record.inference_id)
            log = self._log(record, depth)
            log["execution_order"] = log["execution_order"] or len(seen) - 1
            above["children"].append(record.inference_id)
            above["children_logs"].append(log)
            into = log if depth < limits.TREE_DEPTH_MAX else above
            waiting.extend((into, below, min(depth + 1, limits.TREE_DEPTH_MAX)) for below in self._under(record, False))
        return top

    def below(self, root: Record) -> list[Record]:
        """Return a record and all records below it."""
        found = {root.inference_id: root}
        waiting = [root]
        while waiting:
            for record in self._below.get(waiting.pop().inference_id, ()):
                if record.inference_id not in found:
                    found[record.inference_id] = record
                    waiting.append(record)
        return list(found.values())

    def _under(self, record: Record, whole: bool) -> list[Record]:
        under = list(self._below.get(record.inference_id, ()))
        if whole:
            under += [one for one in self.roots if one.trace_id == record.trace_id and one is not record]
        return sorted(under, key=lambda one: one.start_time_unix_nano)

    def _log(self, record: Record, depth: int) -> dict[str, Any]:
        attributes = _object(to_json(record.attributes))
        kept = {name.removeprefix(KEPT_PREFIX): value for name, value in attributes.items() if name[:6] == KEPT_PREFIX}
        given = self._feedback.get(record.inference_id, ())
        target = _text(to_json(record.target))
        output = record.content if record.content is not None else _text(to_json(record.output))
        return {
            "trace_id": record.inference_id,
            "parent_trace_id": record.parent_id or record.inference_id,
            "root_trace_id": record.trace_id,
            "trace_name": record.name or record.trace_name,
            "start_timestamp": iso_time(record.start_time_unix_nano),
            "end_timestamp": iso_time(record.end_time_unix_nano) if record.end_time_unix_nano else None,
            "latency": record.latency,
            "time_to_first_token": record.time_to_first_token,
            "inputs": _inputs(record),
            "output": output,
            "target": target or next((one.target for one in reversed(given) if one.target), None),
            "configuration": _configuration(record),
            "input_tokens": record.input_tokens,
            "output_tokens": record.output_tokens,
            "total_tokens": record.total_tokens,
            "cost": record.cost,
            "status": record.status,
            "error": record.error,
            "cache_hit": bool(record.cache_hit),
            "deployment_id": record.deployment_id,
            "end_user_identifier": record.end_user_identifier,
            "session_id": record.session_id,
            "metadata": {name: _text(value) for name, value in _object(to_json(record.metadata)).items()},
            "tags": record.tags,
            "project_uuid": Projects.uuid(record.project_name),
            "project_name": record.project_name,
            "scores": scores_of(record),
            "feedback_score": given[-1].score if given else kept.get("feedback_score"),
            "images": [one for one in _objects(kept.get("images")) if isinstance(one.get("url"), str)],
            "comments": [*_comments(kept.get("comments")), *_said(given)],
            "annotations": _annotations(kept.get("annotations")),
            "depth": _whole(kept.get("depth"), depth),
            "execution_order": _whole(kept.get("execution_order"), 0),
            **{name: kept[name] for name in _KEPT_AS_IT_IS if name in kept},
            "children": [],
            "children_logs": [],
        }


def root_of(records: Sequence[Record]) -> Record | None:
    """Return the root of a trace: the first of its records without a stored parent."""
    forest = Forest(records)
    return min(forest.roots or records, key=lambda record: record.start_time_unix_nano, default=None)


def scores_of(record: Record) -> list[dict[str, Any]]:
    """Return the scores kept with a record: name, score and reason each."""
    found = _object(to_json(record.attributes)).get(KEPT_PREFIX + "scores")
    return [
        {"name": one["name"], "score": float(one["score"]), "reason": one.get("reason")}
        for one in _objects(found)
        if isinstance(one.get("name"), str) and _is_number(one.get("score"))
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
    given = _object(to_json(record.llm_configuration))
    configuration: dict[str, Any] = {
        "model": given.get("model") or record.model,
        "provider": given.get("provider") or record.provider,
        "model_params": _object(given.get("model_params")),
        "messages": [_message(one) for one in given.get("messages") or () if one is not None],
        "functions": given.get("functions"),
        "function_call": given.get("function_call"),
    }
    if isinstance(given.get("history"), list):
        configuration["history"] = [_message(one) for one in given["history"]]
    return configuration


def _message(message: Any) -> dict[str, Any]:
    if not isinstance(message, dict):
        return {"role": "user", "content": _text(message) or ""}
    role = str(message.get("role") or "user").removeprefix("Role.")
    role = ROLES.get(role, role)
    return {**message, "role": role if role in KNOWN_ROLES else "user", "content": _text(message.get("content")) or ""}


def _comments(comments: Any) -> list[dict[str, Any]]:
    names = ("comment", "user_id", "created_at")
    return [one for one in _objects(comments) if all(isinstance(one.get(name), str) for name in names)]


def _said(feedback: Iterable[Feedback]) -> list[dict[str, Any]]:
    return [
        {"comment": one.comment, "user_id": "", "created_at": iso_time(one.created_unix_nano)}
        for one in feedback
        if one.comment
    ]


def _annotations(annotations: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for number, by_user in _object(annotations).items():
        kept = {
            user: one
            for user, one in _object(by_user).items()
            if isinstance(one, dict)
            and isinstance(one.get("created_at"), str)
            and isinstance(one.get("user_id"), str)
            and _is_number(one.get("score"))
        }
        if kept and number.isascii() and number.isdigit():
            found[number] = kept
    return found


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode()


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: Any, otherwise: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else otherwise
