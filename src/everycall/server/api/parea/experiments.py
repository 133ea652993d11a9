"""Parea's experiments: made, finished, listed, and the statistics and logs of one.

An experiment's logs are those that say its uuid, and all others of their traces. Statistics are of each trace: sums
over the calls where money is spent, and the scores of all its logs.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import msgspec
from litestar import Response, get, post
from litestar.openapi.spec import Schema
from litestar.openapi.spec.enums import OpenAPIType
from msgspec import Meta

from everycall import limits
from everycall.record import Record
from everycall.semconv import PRICED_KINDS
from everycall.server.api.http import PAREA_PREFIX, ApiRequest, invalid_field, json_response, read_json
from everycall.server.api.openapi import operation, path_text, schema_of
from everycall.server.api.parea.log_queries import Filters, condition_of
from everycall.server.api.parea.log_trees import Forest, iso_time, scores_of
from everycall.server.api.parea.projects import find_project, project_named, project_of_body
from everycall.server.auth import require
from everycall.server.problems import not_found, problem
from everycall.server.projects import Projects
from everycall.server.store.base import Store
from everycall.server.store.values import Experiment, LogQuery

__all__ = ["handlers"]

Name = Annotated[str, Meta(min_length=1, max_length=limits.NAME_CHARS_MAX)]
STATUSES = ("pending", "running", "completed", "failed")
TRACES_AT_ONCE = 100

_encoder = msgspec.json.Encoder()


class NewExperiment(msgspec.Struct, kw_only=True):
    """What an experiment is made of. Without a run name it is called by its uuid."""

    name: Name
    run_name: Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX, pattern=r"^[\w.\- ]*$")] | None = None
    metadata: dict[str, str] | None = None
    project_uuid: str | None = None
    project_name: str | None = None
    is_public: bool = False


class Score(msgspec.Struct, kw_only=True):
    """One result of an evaluation."""

    name: Name
    score: float
    reason: str | None = None


class Finish(msgspec.Struct, kw_only=True):
    """How an experiment ended."""

    status: str = "completed"
    dataset_level_stats: list[Score] | None = None


class ExperimentFilters(msgspec.Struct, kw_only=True):
    """Which experiments to list; those given all apply. Names match where they contain the text."""

    project_name: Annotated[str, Meta(max_length=256)] | None = None
    metadata_filter: dict[str, Any] | None = None
    experiment_name_filter: str | None = None
    run_name_filter: str | None = None
    experiment_uuids: list[str] | None = None


_new_decoder = msgspec.json.Decoder(NewExperiment)
_finish_decoder = msgspec.json.Decoder(Finish)
_list_decoder = msgspec.json.Decoder(ExperimentFilters)
_filters_decoder = msgspec.json.Decoder(Filters)

_STRING = Schema(type=OpenAPIType.STRING)
_NUMBER = Schema(type=[OpenAPIType.NUMBER, OpenAPIType.NULL])
_EXPERIMENT = Schema(
    type=OpenAPIType.OBJECT,
    properties={
        **dict.fromkeys(("name", "uuid", "created_at", "run_name", "project_uuid", "status"), _STRING),
        "metadata": Schema(type=[OpenAPIType.OBJECT, OpenAPIType.NULL]),
        "is_public": Schema(type=OpenAPIType.BOOLEAN),
        "num_samples": Schema(type=[OpenAPIType.INTEGER, OpenAPIType.NULL]),
        "pinned_stats": Schema(type=OpenAPIType.ARRAY, items=Schema(type=OpenAPIType.OBJECT)),
    },
)
_STATS = Schema(
    type=OpenAPIType.OBJECT,
    properties={
        "parent_trace_stats": Schema(
            type=OpenAPIType.ARRAY,
            items=Schema(
                type=OpenAPIType.OBJECT,
                properties={
                    "trace_id": _STRING,
                    **dict.fromkeys(("latency", "input_tokens", "output_tokens", "total_tokens", "cost"), _NUMBER),
                    "scores": Schema(type=OpenAPIType.ARRAY, items=Schema(type=OpenAPIType.OBJECT)),
                },
            ),
        )
    },
)
_UUID = path_text("experiment_uuid", "The experiment.")
_MISSING = {404: "No such experiment in this project.", 422: "A field is wrong; `field` names it."}


@post(
    f"{PAREA_PREFIX}/experiment",
    status_code=200,
    operation_class=operation(
        body=schema_of(NewExperiment),
        answer=_EXPERIMENT,
        problems={400: "The run name is taken.", 422: "A field is wrong; `field` names it."},
    ),
)
async def post_experiment(request: ApiRequest) -> Response[bytes]:
    """Make an experiment. Of one name, each run has a name of its own."""
    require(request.user, "write")
    given: NewExperiment = await read_json(request, _new_decoder, limits.FIELD_BYTES_MAX)
    store: Store = request.app.state.store
    project = await project_of_body(request, given.project_name, given.project_uuid)
    own = str(uuid.uuid4())
    made = Experiment(
        own,
        project,
        given.name,
        given.run_name or own,
        metadata=given.metadata,
        is_public=given.is_public,
        created_unix_nano=time.time_ns(),
    )
    if not await store.put_experiment(made):
        detail = f"A run of this experiment has the name {made.run_name!r} already. Give another run_name."
        raise problem("run_name_taken", 400, "The run name is taken", detail, field="run_name")
    return json_response(_shown(made))


@post(
    f"{PAREA_PREFIX}/experiments",
    status_code=200,
    operation_class=operation(
        body=schema_of(ExperimentFilters),
        answer=Schema(type=OpenAPIType.ARRAY, items=_EXPERIMENT),
        problems={422: "A field is wrong; `field` names it."},
    ),
)
async def list_experiments(request: ApiRequest) -> Response[bytes]:
    """List the experiments that meet all filters, the latest first.

    Without a project and with uuids, a key of all projects finds them in any.
    """
    require(request.user, "read")
    asked: ExperimentFilters = await read_json(request, _list_decoder, limits.FIELD_BYTES_MAX)
    store: Store = request.app.state.store
    projects: Sequence[str] = [project_named(request.user, asked.project_name)]
    if request.user.project is None and not asked.project_name:
        projects = list(dict.fromkeys([*projects, *await store.projects()]))
    found: list[Experiment] = []
    for project in projects:
        if asked.experiment_uuids is None:
            found += await store.experiments(project)
        else:
            named = [await store.experiment(project, one) for one in asked.experiment_uuids[: limits.EXPERIMENTS_MAX]]
            found += [one for one in named if one is not None]
    found = [one for one in found if _meets(one, asked)]
    found.sort(key=lambda one: -one.created_unix_nano)
    return json_response([_shown(one) for one in found[: limits.EXPERIMENTS_MAX]])


@get(
    f"{PAREA_PREFIX}/experiment/{{experiment_uuid:str}}/stats",
    operation_class=operation(parameters=[_UUID], answer=_STATS, problems=_MISSING),
)
async def get_stats(request: ApiRequest) -> Response[bytes]:
    """Return the statistics of each trace of an experiment."""
    require(request.user, "read")
    experiment = await _experiment(request)
    return json_response(_stats(await _traces(request.app.state.store, experiment)))


@post(
    f"{PAREA_PREFIX}/experiment/{{experiment_uuid:str}}/finished",
    status_code=200,
    operation_class=operation(parameters=[_UUID], body=schema_of(Finish), answer=_STATS, problems=_MISSING),
)
async def post_finished(request: ApiRequest) -> Response[bytes]:
    """Say how an experiment ended, with the results over all of it; returns its statistics."""
    require(request.user, "write")
    given: Finish = await read_json(request, _finish_decoder, limits.FIELD_BYTES_MAX)
    if given.status not in STATUSES:
        raise invalid_field("status", f"status is one of {', '.join(STATUSES)}")
    store: Store = request.app.state.store
    experiment = await _experiment(request)
    traces = await _traces(store, experiment)
    ended = replace(
        experiment,
        status=given.status,
        statistics=(*_means(traces), *_custom(given.dataset_level_stats or ())),
        samples=len(traces),
    )
    await store.put_experiment(ended)
    return json_response(_stats(traces))


@post(
    f"{PAREA_PREFIX}/experiment/{{experiment_uuid:str}}/trace_logs",
    status_code=200,
    operation_class=operation(
        parameters=[_UUID],
        body=schema_of(Filters),
        answer=Schema(type=OpenAPIType.ARRAY, items=Schema(type=OpenAPIType.OBJECT)),
        problems={**_MISSING, 413: "More logs than one answer holds."},
    ),
)
async def post_trace_logs(request: ApiRequest) -> Response[bytes]:
    """Return the logs of an experiment with those below each: the roots, or with a condition all that meet it."""
    require(request.user, "read")
    condition = condition_of(await read_json(request, _filters_decoder, limits.FIELD_BYTES_MAX))
    store: Store = request.app.state.store
    experiment = await _experiment(request)
    ids = [one async for one in _trace_ids(store, experiment)]
    forest = await Forest.read(store, experiment.project_name, ids)
    shown = forest.roots
    if condition is not None:
        query = LogQuery(condition=condition, trace_ids=tuple(ids), limit=limits.PAGE_ROWS_MAX)
        shown = list((await store.logs(experiment.project_name, query)).records)
    shown = sorted(shown, key=lambda record: record.start_time_unix_nano)
    return json_response([forest.tree(record) for record in shown])


@dataclass(slots=True)
class _Trace:
    """The sums of one trace of an experiment. Unknown is None."""

    root: Record
    sums: dict[str, float | None] = field(default_factory=dict)
    scores: list[dict[str, Any]] = field(default_factory=list)


async def _experiment(request: ApiRequest) -> Experiment:
    store: Store = request.app.state.store
    own = str(request.path_params["experiment_uuid"])

    async def has(project: str) -> bool:
        return await store.experiment(project, own) is not None

    found = await store.experiment(await find_project(request, has), own)
    if found is None:
        raise not_found("experiment")
    return found


async def _trace_ids(store: Store, experiment: Experiment) -> AsyncIterator[str]:
    after = ""
    while ids := await store.experiment_traces(experiment.project_name, experiment.uuid, after):
        for one in ids:
            yield one
        after = ids[-1]


async def _traces(store: Store, experiment: Experiment) -> list[_Trace]:
    """Return the sums of all traces, in order of time; of at most `limits.EXPERIMENT_RECORDS_MAX` records."""
    ids = [one async for one in _trace_ids(store, experiment)]
    found: list[_Trace] = []
    left = limits.EXPERIMENT_RECORDS_MAX
    for start in range(0, len(ids), TRACES_AT_ONCE):
        records: list[Record] = []
        cursor: str | None = None
        while left > 0:
            page = await store.trees(experiment.project_name, ids[start : start + TRACES_AT_ONCE], cursor)
            records += page.records
            left -= len(page.records)
            cursor = page.next_cursor
            if cursor is None:
                break
        forest = Forest(records)
        found += [_trace(root, forest.below(root)) for root in forest.roots]
    return sorted(found, key=lambda one: one.root.start_time_unix_nano)


def _trace(root: Record, records: Sequence[Record]) -> _Trace:
    leaves = [one for one in records if one.kind in PRICED_KINDS and one.counted_in is None] or records
    sums: dict[str, float | None] = {"latency": root.latency}
    for name in ("input_tokens", "output_tokens", "total_tokens", "cost"):
        known = [value for leaf in leaves if (value := getattr(leaf, name)) is not None]
        sums[name] = sum(known) if known else None
    return _Trace(root, sums, [score for record in records for score in scores_of(record)])


def _stats(traces: Sequence[_Trace]) -> dict[str, Any]:
    return {
        "parent_trace_stats": [{"trace_id": one.root.inference_id, **one.sums, "scores": one.scores} for one in traces]
    }


def _means(traces: Sequence[_Trace]) -> list[Mapping[str, Any]]:
    values: dict[str, list[float]] = {}
    for one in traces:
        for name, value in one.sums.items():
            if value is not None:
                values.setdefault(name, []).append(value)
        for score in one.scores:
            values.setdefault(score["name"], []).append(score["score"])
    return [
        {"var1": name, "var2": None, "operation": "mean", "value": sum(known) / len(known)}
        for name, known in values.items()
    ]


def _custom(scores: Sequence[Score]) -> list[Mapping[str, Any]]:
    return [{"var1": one.name, "var2": None, "operation": "custom", "value": one.score} for one in scores]


def _meets(experiment: Experiment, asked: ExperimentFilters) -> bool:
    metadata = experiment.metadata or {}
    return (
        (asked.experiment_name_filter or "") in experiment.name
        and (asked.run_name_filter or "") in experiment.run_name
        and all(
            metadata.get(name) == (value if isinstance(value, str) else _encoder.encode(value).decode())
            for name, value in (asked.metadata_filter or {}).items()
        )
    )


def _shown(experiment: Experiment) -> dict[str, Any]:
    return {
        "name": experiment.name,
        "uuid": experiment.uuid,
        "created_at": iso_time(experiment.created_unix_nano),
        "run_name": experiment.run_name,
        "project_uuid": Projects.uuid(experiment.project_name),
        "status": experiment.status,
        "is_public": experiment.is_public,
        "metadata": experiment.metadata,
        "num_samples": experiment.samples,
        "pinned_stats": list(experiment.statistics),
    }


handlers = [post_experiment, list_experiments, get_stats, post_finished, post_trace_logs]
