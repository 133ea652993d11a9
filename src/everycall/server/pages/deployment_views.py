"""What the pages of deployments show, as values: the JSON twin is their encoding, the HTML draws them.

Called by `deployments`. Every view comes from bounded reads of the store.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from everycall import limits
from everycall.errors import Problem
from everycall.semconv import ERROR
from everycall.server import deployments as rules
from everycall.server.api.deployments import next_cursor
from everycall.server.diff import Change, Line, changes, lines
from everycall.server.gateway.preparation import missing_deployment
from everycall.server.gateway.templates import variables_of
from everycall.server.problems import not_found
from everycall.server.store.base import Store
from everycall.server.store.values import Activation, Deployment, DeploymentUse, DeploymentVersion

__all__ = [
    "DAYS",
    "DeploymentRow",
    "DeploymentView",
    "DeploymentsView",
    "DiffView",
    "RunView",
    "deployment_view",
    "deployments_view",
    "diff_view",
    "run_view",
]

DAYS = 7
"""The days for which the use of a deployment is shown."""
_DAY_NANOS = 86_400 * 10**9


@dataclass(frozen=True, slots=True)
class DeploymentRow:
    """One deployment of the list: the served version (or the newest where none is served), and its use."""

    deployment: Deployment
    use: DeploymentUse


@dataclass(frozen=True, slots=True)
class DeploymentsView:
    """A page of the list. With `active` False, those of which no version is served. `cut`: some figures are partial."""

    project: str
    active: bool
    days: int
    deployments: tuple[DeploymentRow, ...]
    cut: bool
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class DeploymentView:
    """One deployment: the version shown, the number of the served version (0: none), and its history.

    `roll_back_to` is the version that a roll-back would serve, or None. `versions` and `activations` are the latest
    `limits.PAGE_ROWS`.
    """

    project: str
    deployment: Deployment
    served: int
    newest: int
    roll_back_to: int | None
    variables: tuple[str, ...]
    versions: tuple[DeploymentVersion, ...]
    activations: tuple[Activation, ...]
    days: int
    use: DeploymentUse


@dataclass(frozen=True, slots=True)
class DiffView:
    """Two versions compared; `before` 0 is no content. `lines_left` counts lines beyond `limits.DIFF_ROWS_MAX`."""

    project: str
    deployment_id: str
    name: str
    before: int
    after: int
    served: int
    newest: int
    changes: tuple[Change, ...]
    lines: tuple[Line, ...]
    lines_left: int


@dataclass(frozen=True, slots=True)
class RunView:
    """The result of running a deployment, from its record; or `problem`, which says why it was not run.

    Unknown figures are None.
    """

    status: str = ERROR
    content: str = ""
    error: str | None = None
    model: str | None = None
    provider: str | None = None
    cache_hit: bool = False
    latency: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost: float | None = None
    saved_cost: float | None = None
    trace_id: str | None = None
    inference_id: str | None = None
    problem: Problem | None = None


async def run_view(store: Store, project: str, inference_id: str) -> RunView:
    """Read the result of a completion. Raise 404 when it has no record in this project."""
    record = await store.record(project, inference_id)
    if record is None:
        raise not_found("record")
    return RunView(
        status=record.status,
        content=record.content or "",
        error=record.error or record.error_type,
        model=record.model,
        provider=record.provider,
        cache_hit=bool(record.cache_hit),
        latency=record.latency,
        input_tokens=record.input_tokens,
        output_tokens=record.output_tokens,
        cost=record.cost,
        saved_cost=record.saved_cost,
        trace_id=record.trace_id,
        inference_id=record.inference_id,
    )


async def deployments_view(
    store: Store, project: str, *, active: bool, after: tuple[str, str] | None
) -> DeploymentsView:
    """Read a page of the list, with the use of each deployment in the last days."""
    deployments = await store.deployments(project, active=active, after=after, limit=limits.PAGE_ROWS + 1)
    page = deployments[: limits.PAGE_ROWS]
    since = time.time_ns() - DAYS * _DAY_NANOS
    uses = await store.deployment_uses(project, [deployment.deployment_id for deployment in page], since)
    rows = tuple(DeploymentRow(deployment, uses[deployment.deployment_id]) for deployment in page)
    cut = any(not row.use.whole or row.use.costed < row.use.completions for row in rows)
    return DeploymentsView(project, active, DAYS, rows, cut, next_cursor(deployments, limits.PAGE_ROWS))


async def deployment_view(store: Store, project: str, deployment_id: str, version: int | None) -> DeploymentView:
    """Read one deployment: the given version, else the served one, else the newest. Raise 404."""
    versions = tuple(await store.deployment_versions(project, deployment_id))
    if not versions:
        raise await missing_deployment(store, project, deployment_id)
    served = await store.deployment(project, deployment_id)
    version_shown = served
    if version is not None or served is None:
        version_shown = await rules.version_of(store, project, deployment_id, version or versions[0].version)
    assert version_shown is not None
    activations = tuple(await store.deployment_activations(project, deployment_id))
    uses = await store.deployment_uses(project, [deployment_id], time.time_ns() - DAYS * _DAY_NANOS)
    return DeploymentView(
        project=project,
        deployment=version_shown,
        served=served.version if served else 0,
        newest=versions[0].version,
        roll_back_to=activations[0].roll_back_to if activations else None,
        variables=tuple(variables_of(version_shown.messages)),
        versions=versions,
        activations=activations,
        days=DAYS,
        use=uses[deployment_id],
    )


async def diff_view(store: Store, project: str, deployment_id: str, older: int | None, newer: int | None) -> DiffView:
    """Read and compare the two versions that `rules.both_versions` chooses. Raise what it raises."""
    before, after = await rules.both_versions(store, project, deployment_id, older, newer)
    served = await store.deployment(project, deployment_id)
    all_lines = await asyncio.to_thread(lines, before, after)
    return DiffView(
        project=project,
        deployment_id=deployment_id,
        name=after.name,
        before=before.version if before else 0,
        after=after.version,
        served=served.version if served else 0,
        newest=await rules.newest_of(store, project, deployment_id),
        changes=tuple(changes(before, after)),
        lines=tuple(all_lines[: limits.DIFF_ROWS_MAX]),
        lines_left=max(0, len(all_lines) - limits.DIFF_ROWS_MAX),
    )
