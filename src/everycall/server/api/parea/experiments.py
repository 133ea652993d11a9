"""Parea's experiments: creating, finishing and listing them, and the statistics and logs of one.

The logs of an experiment are those that carry its uuid, and all other logs of their traces. Statistics are per trace:
sums over the calls that cost money, and the scores of all its logs.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency
from msgspec import Meta

from everycall import limits
from everycall.record import Record
from everycall.semconv import PRICED_KINDS
from everycall.server.api.http import (
    PAREA_PREFIX,
    ApiRequest,
    encode_json,
    invalid_field,
    json_response,
    read_json,
)
from everycall.server.api.openapi import operation, path_parameter
from everycall.server.api.parea.log_queries import LogFilter, condition_of
from everycall.server.api.parea.log_trees import Forest, LogTree, iso_time, scores_of
from everycall.server.api.parea.projects import find_project, project_named, project_of_body
from everycall.server.auth import Identity, require
from everycall.server.problems import not_found, problem
from everycall.server.projects import Projects
from everycall.server.services import Services
from everycall.server.store.base import Store
from everycall.server.store.values import Experiment, LogQuery

__all__ = ["handlers"]

Name = Annotated[str, Meta(min_length=1, max_length=limits.NAME_CHARS_MAX)]
STATUSES = ("pending", "running", "completed", "failed")
TRACES_AT_ONCE = 100
"""Traces whose records are read together for the statistics."""


class NewExperiment(msgspec.Struct, kw_only=True):
    """An experiment to create. Without `run_name`, the run is named by the experiment's uuid."""

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


class ExperimentFilter(msgspec.Struct, kw_only=True):
    """Which experiments to list; all conditions must hold. Names match where they contain the text."""

    project_name: Annotated[str, Meta(max_length=256)] | None = None
    metadata_filter: dict[str, Any] | None = None
    experiment_name_filter: str | None = None
    run_name_filter: str | None = None
    experiment_uuids: list[str] | None = None


class ExperimentResponse(msgspec.Struct, kw_only=True):
    """An experiment. `num_samples` and `pinned_stats` are set once it is finished."""

    name: str
    uuid: str
    created_at: str
    run_name: str
    project_uuid: str
    status: str
    is_public: bool
    metadata: dict[str, str] | None
    num_samples: int | None
    pinned_stats: list[dict[str, Any]]


class TraceStatistics(msgspec.Struct, kw_only=True):
    """The sums of one trace. A sum is null when none of its calls has the value."""

    trace_id: str
    latency: float | None
    input_tokens: float | None
    output_tokens: float | None
    total_tokens: float | None
    cost: float | None
    scores: list[dict[str, Any]]


class Statistics(msgspec.Struct):
    """The statistics of an experiment, trace by trace."""

    parent_trace_stats: list[TraceStatistics]


_new_decoder = msgspec.json.Decoder(NewExperiment)
_finish_decoder = msgspec.json.Decoder(Finish)
_list_decoder = msgspec.json.Decoder(ExperimentFilter)
_filter_decoder = msgspec.json.Decoder(LogFilter)
_UUID = path_parameter("experiment_uuid", "The experiment.")
_INVALID = {422: "A field is wrong; `field` names it."}
_MISSING = {404: "No such experiment in this project.", **_INVALID}


@post(
    f"{PAREA_PREFIX}/experiment",
    status_code=200,
    operation_class=operation(
        body=NewExperiment, response=ExperimentResponse, problems={400: "The run name is taken.", **_INVALID}
    ),
)
async def post_experiment(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """Create an experiment. Runs of the same experiment have different names."""
    require(request.user, "write")
    body = await read_json(request, services.bodies, _new_decoder, limits.FIELD_BYTES_MAX)
    experiment_uuid = str(uuid.uuid4())
    experiment = Experiment(
        experiment_uuid,
        await project_of_body(request.user, services.projects, body.project_name, body.project_uuid),
        body.name,
        body.run_name or experiment_uuid,
        metadata=body.metadata,
        is_public=body.is_public,
        created_unix_nano=time.time_ns(),
    )
    if not await services.store.put_experiment(experiment):
        detail = f"A run of this experiment is already named {experiment.run_name!r}. Give another run_name."
        raise problem("run_name_taken", 400, "The run name is taken", detail, field="run_name")
    return json_response(_response(experiment))


@post(
    f"{PAREA_PREFIX}/experiments",
    status_code=200,
    operation_class=operation(body=ExperimentFilter, response=list[ExperimentResponse], problems=_INVALID),
)
async def list_experiments(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """List the experiments that meet all conditions, the latest first.

    A key of all projects that names no project searches all of them.
    """
    require(request.user, "read")
    conditions = await read_json(request, services.bodies, _list_decoder, limits.FIELD_BYTES_MAX)
    store = services.store
    projects: Sequence[str] = [project_named(request.user, conditions.project_name)]
    if request.user.project is None and not conditions.project_name:
        projects = list(dict.fromkeys([*projects, *await store.projects()]))
    experiments: list[Experiment] = []
    for project in projects:
        if conditions.experiment_uuids is None:
            experiments += await store.experiments(project)
            continue
        for experiment_uuid in conditions.experiment_uuids[: limits.EXPERIMENTS_MAX]:
            experiment = await store.experiment(project, experiment_uuid)
            if experiment is not None:
                experiments.append(experiment)
    experiments = [experiment for experiment in experiments if _meets(experiment, conditions)]
    experiments.sort(key=lambda experiment: -experiment.created_unix_nano)
    return json_response([_response(experiment) for experiment in experiments[: limits.EXPERIMENTS_MAX]])


@get(
    f"{PAREA_PREFIX}/experiment/{{experiment_uuid:str}}/stats",
    operation_class=operation(parameters=[_UUID], response=Statistics, problems=_MISSING),
)
async def get_stats(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """Return the statistics of each trace of an experiment."""
    require(request.user, "read")
    experiment = await _experiment(request, services.store)
    return json_response(_statistics(await _traces(services.store, experiment)))


@post(
    f"{PAREA_PREFIX}/experiment/{{experiment_uuid:str}}/finished",
    status_code=200,
    operation_class=operation(parameters=[_UUID], body=Finish, response=Statistics, problems=_MISSING),
)
async def post_finished(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """Store how an experiment ended, with results over all of it, and return its statistics."""
    require(request.user, "write")
    body = await read_json(request, services.bodies, _finish_decoder, limits.FIELD_BYTES_MAX)
    if body.status not in STATUSES:
        raise invalid_field("status", f"status must be one of {', '.join(STATUSES)}")
    experiment = await _experiment(request, services.store)
    traces = await _traces(services.store, experiment)
    finished = replace(
        experiment,
        status=body.status,
        statistics=(*_means(traces), *_custom_statistics(body.dataset_level_stats or ())),
        samples=len(traces),
    )
    await services.store.put_experiment(finished)
    return json_response(_statistics(traces))


@post(
    f"{PAREA_PREFIX}/experiment/{{experiment_uuid:str}}/trace_logs",
    status_code=200,
    operation_class=operation(
        parameters=[_UUID],
        body=LogFilter,
        response=list[LogTree],
        problems={**_MISSING, 413: "More logs than one response holds."},
    ),
)
async def post_trace_logs(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """Return the logs of an experiment, each with the logs below it.

    Without a condition these are the roots of its trees, with one all logs that meet it.
    """
    require(request.user, "read")
    condition = condition_of(await read_json(request, services.bodies, _filter_decoder, limits.FIELD_BYTES_MAX))
    store = services.store
    experiment = await _experiment(request, store)
    trace_ids = [trace_id async for trace_id in _trace_ids(store, experiment)]
    forest = await Forest.read(store, experiment.project_name, trace_ids)
    records = forest.roots
    if condition is not None:
        query = LogQuery(condition=condition, trace_ids=tuple(trace_ids), limit=limits.PAGE_ROWS_MAX)
        records = list((await store.logs(experiment.project_name, query)).records)
    records = sorted(records, key=lambda record: record.start_time_unix_nano)
    return json_response([forest.tree(record) for record in records])


@dataclass(slots=True)
class _Trace:
    """The sums of one trace of an experiment. Unknown is None."""

    root: Record
    sums: dict[str, float | None] = field(default_factory=dict)
    scores: list[dict[str, Any]] = field(default_factory=list)


async def _experiment(request: ApiRequest, store: Store) -> Experiment:
    """Return the experiment that the path names. Raise 404."""
    identity: Identity = request.user
    experiment_uuid = str(request.path_params["experiment_uuid"])

    async def exists(project: str) -> bool:
        return await store.experiment(project, experiment_uuid) is not None

    experiment = await store.experiment(await find_project(identity, store, exists), experiment_uuid)
    if experiment is None:
        raise not_found("experiment")
    return experiment


async def _trace_ids(store: Store, experiment: Experiment) -> AsyncIterator[str]:
    after = ""
    while trace_ids := await store.experiment_traces(experiment.project_name, experiment.uuid, after):
        for trace_id in trace_ids:
            yield trace_id
        after = trace_ids[-1]


async def _traces(store: Store, experiment: Experiment) -> list[_Trace]:
    """Return the sums of all traces, the oldest first, from at most `limits.EXPERIMENT_RECORDS_MAX` records."""
    trace_ids = [trace_id async for trace_id in _trace_ids(store, experiment)]
    traces: list[_Trace] = []
    records_left = limits.EXPERIMENT_RECORDS_MAX
    for start in range(0, len(trace_ids), TRACES_AT_ONCE):
        records: list[Record] = []
        cursor: str | None = None
        while records_left > 0:
            page = await store.trees(experiment.project_name, trace_ids[start : start + TRACES_AT_ONCE], cursor)
            records += page.records
            records_left -= len(page.records)
            cursor = page.next_cursor
            if cursor is None:
                break
        forest = Forest(records)
        traces += [_trace(root, forest.below(root)) for root in forest.roots]
    return sorted(traces, key=lambda trace: trace.root.start_time_unix_nano)


def _trace(root: Record, records: Sequence[Record]) -> _Trace:
    leaves = [record for record in records if record.kind in PRICED_KINDS and record.counted_in is None] or records
    sums: dict[str, float | None] = {"latency": root.latency}
    for name in ("input_tokens", "output_tokens", "total_tokens", "cost"):
        values = [value for leaf in leaves if (value := getattr(leaf, name)) is not None]
        sums[name] = sum(values) if values else None
    return _Trace(root, sums, [score for record in records for score in scores_of(record)])


def _statistics(traces: Sequence[_Trace]) -> Statistics:
    return Statistics(
        [TraceStatistics(trace_id=trace.root.inference_id, **trace.sums, scores=trace.scores) for trace in traces]
    )


def _means(traces: Sequence[_Trace]) -> list[Mapping[str, Any]]:
    values: dict[str, list[float]] = {}
    for trace in traces:
        for name, value in trace.sums.items():
            if value is not None:
                values.setdefault(name, []).append(value)
        for score in trace.scores:
            values.setdefault(score["name"], []).append(score["score"])
    return [
        {"var1": name, "var2": None, "operation": "mean", "value": sum(numbers) / len(numbers)}
        for name, numbers in values.items()
    ]


def _custom_statistics(scores: Sequence[Score]) -> list[Mapping[str, Any]]:
    return [{"var1": score.name, "var2": None, "operation": "custom", "value": score.score} for score in scores]


def _meets(experiment: Experiment, conditions: ExperimentFilter) -> bool:
    metadata = experiment.metadata or {}
    return (
        (conditions.experiment_name_filter or "") in experiment.name
        and (conditions.run_name_filter or "") in experiment.run_name
        and all(
            metadata.get(name) == (value if isinstance(value, str) else encode_json(value).decode())
            for name, value in (conditions.metadata_filter or {}).items()
        )
    )


def _response(experiment: Experiment) -> ExperimentResponse:
    return ExperimentResponse(
        name=experiment.name,
        uuid=experiment.uuid,
        created_at=iso_time(experiment.created_unix_nano),
        run_name=experiment.run_name,
        project_uuid=Projects.uuid(experiment.project_name),
        status=experiment.status,
        is_public=experiment.is_public,
        metadata=None if experiment.metadata is None else dict(experiment.metadata),
        num_samples=experiment.samples,
        pinned_stats=[dict(statistic) for statistic in experiment.statistics],
    )


handlers = [post_experiment, list_experiments, get_stats, post_finished, post_trace_logs]
