"""What each page shows, as values: the JSON twin is their encoding, the HTML draws them. Called by `routes`.

Every view comes from bounded reads of the store; nothing is counted by reading rows that a page does not show.
"""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from everycall import limits
from everycall.record import Record
from everycall.server.health import Health, health_of
from everycall.server.pages.copies import request_of
from everycall.server.pages.filters import Filters
from everycall.server.pages.origin import Origin, origin_of
from everycall.server.pages.tree import Axis, Row, axis_of, fold_steps, rows_of
from everycall.server.services import Services
from everycall.server.store.base import Store
from everycall.server.store.values import ClientReport, StoreState, TraceSummary

__all__ = [
    "ClientSheet",
    "StatusView",
    "Totals",
    "TraceView",
    "TracesView",
    "server_version",
    "status_view",
    "trace_view",
    "traces_view",
]


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over the traces of one page. A sum is None when no trace has the figure.

    `unpriced` and `uncounted` count the inference calls without a cost and without tokens (see `TraceSummary`).
    `counted_elsewhere` counts the calls that are in no sum, because another record counts the same answer.
    """

    traces: int
    calls: int
    errors: int
    cache_hits: int
    input_tokens: int | None
    output_tokens: int | None
    uncounted: int
    cost: float | None
    unpriced: int
    saved_cost: float | None
    counted_elsewhere: int


@dataclass(frozen=True, slots=True)
class TracesView:
    """The list of traces: its filters, the sums of this page, its rows, and the cursor of the next page."""

    project: str
    filters: dict[str, str]
    totals: Totals
    traces: tuple[TraceSummary, ...]
    next_cursor: str | None

    @classmethod
    def empty(cls, project: str, filters: Filters) -> TracesView:
        """Return a list without traces, for filters that are not valid."""
        return cls(project, filters.values, _totals(()), (), None)


@dataclass(frozen=True, slots=True)
class TraceView:
    """One trace: its sums, a slice of the rows of its tree, and the selected record whole.

    The tree is made of one page of the store (`cursor` to `next_cursor`, `tree_rows` records). The rows drawn are
    `first_row` to `first_row + len(rows)` of it. `whole` says that this page has the entire trace.
    `steps` counts the records that are no calls (see `origin.is_step`); with `steps_folded` they have no rows, and
    `tree_rows` does not count them. `origin` says who sent the selected record, None for everycall itself.
    `request` is the body of `POST /api/parea/v1/completion` that runs it again, None if it is no model call.
    """

    project: str
    trace: TraceSummary
    axis: Axis
    rows: tuple[Row, ...]
    first_row: int
    tree_rows: int
    cursor: str | None
    next_cursor: str | None
    whole: bool
    steps: int
    steps_folded: bool
    record: Record | None
    origin: Origin | None
    request: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class ClientSheet:
    """A client process's balance sheet. A figure is None when the client did not give it as a whole number.

    `missing` is recorded - delivered - spooled - dropped: 0 when the sheet adds up, None when a figure is not known.
    """

    client: str
    seen_unix_nano: int
    recorded: int | None
    delivered: int | None
    spooled: int | None
    dropped: dict[str, int] | None
    missing: int | None


@dataclass(frozen=True, slots=True)
class StatusView:
    """The server's health and store, and the client processes: the latest in `clients`; `clients_known` counts all.

    `store` is None for a key of one project.
    """

    project: str
    version: str
    clients: tuple[ClientSheet, ...]
    clients_known: int
    limits: tuple[limits.Limit, ...]
    health: Health
    store: StoreState | None


def server_version() -> str:
    """Return the installed version."""
    return importlib.metadata.version("everycall")


async def traces_view(store: Store, project: str, filters: Filters) -> TracesView:
    """Read one page of traces. Raise `StoreError` for a cursor that the store did not make."""
    page = await store.traces(project, filters.query)
    return TracesView(project, filters.values, _totals(page.traces), page.traces, page.next_cursor)


async def trace_view(
    store: Store,
    project: str,
    trace_id: str,
    *,
    selected: str | None = None,
    cursor: str | None = None,
    first_row: int | None = None,
    steps_folded: bool = False,
) -> TraceView | None:
    """Read one trace, or None when the project has no record of it.

    `selected` is the inference_id of the record to show; without it, the record of the first row is shown. Without
    `first_row`, the slice of rows with the selected record is drawn. `steps_folded`: leave out the rows of records that
    are no calls. Raise `StoreError` for a cursor that the store did not make.
    """
    trace = await store.trace_summary(project, trace_id)
    if trace is None:
        return None
    page = await store.trace(project, trace_id, cursor)
    axis = axis_of(page.records)
    rows = rows_of(page.records, axis)
    steps = sum(row.step for row in rows)
    if steps_folded and steps:
        rows = fold_steps(rows)
    if first_row is None:
        selected_row = next((index for index, row in enumerate(rows) if row.inference_id == selected), 0)
        first_row = selected_row // limits.TREE_ROWS * limits.TREE_ROWS
    visible = tuple(rows[first_row : first_row + limits.TREE_ROWS])
    if selected is None and visible:
        selected = visible[0].inference_id
    record = next((record for record in page.records if record.inference_id == selected), None)
    if record is None and selected is not None:
        record = await record_view(store, project, trace_id, selected)
    return TraceView(
        project=project,
        trace=trace,
        axis=axis,
        rows=visible,
        first_row=first_row,
        tree_rows=len(rows),
        cursor=cursor,
        next_cursor=page.next_cursor,
        whole=cursor is None and page.next_cursor is None,
        steps=steps,
        steps_folded=steps_folded,
        record=record,
        origin=None if record is None else origin_of(record),
        request=None if record is None else request_of(record),
    )


async def record_view(store: Store, project: str, trace_id: str, inference_id: str) -> Record | None:
    """Read one record of a trace, or None when the trace has no such record."""
    record = await store.record(project, inference_id)
    return record if record is not None and record.trace_id == trace_id else None


async def status_view(services: Services, project: str, *, is_operator: bool) -> StatusView:
    """Read the state of the server and the balance sheets of the project's client processes.

    `is_operator`: include the store's state, which says something about all projects.
    """
    reports = await services.store.clients(project)
    sheets = tuple(_sheet(report) for report in reports[: limits.PAGE_ROWS_MAX])
    bounds = tuple(limits.LIMITS.values())
    state = await services.store.state() if is_operator else None
    return StatusView(project, server_version(), sheets, len(reports), bounds, health_of(services), state)


def _totals(traces: Sequence[TraceSummary]) -> Totals:
    costs = [trace.cost for trace in traces if trace.cost is not None]
    saved = [trace.saved_cost for trace in traces if trace.saved_cost is not None]
    tokens_in = [trace.input_tokens for trace in traces if trace.input_tokens is not None]
    tokens_out = [trace.output_tokens for trace in traces if trace.output_tokens is not None]
    return Totals(
        traces=len(traces),
        calls=sum(trace.records for trace in traces),
        errors=sum(trace.errors for trace in traces),
        cache_hits=sum(trace.cache_hits for trace in traces),
        input_tokens=sum(tokens_in) if tokens_in else None,
        output_tokens=sum(tokens_out) if tokens_out else None,
        uncounted=sum(trace.uncounted for trace in traces),
        cost=math.fsum(costs) if costs else None,
        unpriced=sum(trace.unpriced for trace in traces),
        saved_cost=math.fsum(saved) if saved else None,
        counted_elsewhere=sum(trace.counted_elsewhere for trace in traces),
    )


def _sheet(report: ClientReport) -> ClientSheet:
    balance = report.balance
    recorded, delivered, spooled = (_whole(balance.get(name)) for name in ("recorded", "delivered", "spooled"))
    dropped = _dropped(balance.get("dropped"))
    missing = None
    if recorded is not None and delivered is not None and spooled is not None and dropped is not None:
        missing = recorded - delivered - spooled - sum(dropped.values())
    return ClientSheet(report.client, report.seen_unix_nano, recorded, delivered, spooled, dropped, missing)


def _dropped(value: Any) -> dict[str, int] | None:
    """Return the numbers of dropped records by reason, without zeros; None if any of them is not readable."""
    if not isinstance(value, Mapping):
        return None
    numbers = {str(reason): _whole(number) for reason, number in value.items()}
    if None in numbers.values():
        return None
    return {reason: number for reason, number in numbers.items() if number}


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
