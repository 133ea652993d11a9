"""The record of each completion and what it cost, stored before the response is given. Called by `gateway.py`."""

from __future__ import annotations

import asyncio
import logging
import time

from everycall import limits
from everycall.record import Record
from everycall.sampling import is_sampled
from everycall.server.gateway.budgets import Budgets
from everycall.server.gateway.identifiers import Identifiers
from everycall.server.gateway.preparation import PreparedRequest
from everycall.server.gateway.recent_responses import RecentResponse, RecentResponses
from everycall.server.gateway.recording import Outcome, completion_response, make_record, response_from_record
from everycall.server.gateway.request import CompletionResponse
from everycall.server.store.base import Store
from everycall.server.store.errors import StoreBusy, StoreError
from everycall.server.store.values import Expense

__all__ = ["CompletionLog"]

logger = logging.getLogger("everycall.server.gateway")


class CompletionLog:
    """Stores completions. For the tasks of one event loop."""

    def __init__(self, store: Store, budgets: Budgets, recent: RecentResponses) -> None:
        self._store = store
        self._budgets = budgets
        self._recent = recent

    async def record(self, prepared: PreparedRequest, ids: Identifiers, outcome: Outcome) -> CompletionResponse:
        """Store the record of a completion and what it cost, and return its response.

        A response that the record cannot give again is kept in memory. Raise `StoreBusy` as `commit` does.
        """
        project, request = prepared.project, prepared.request
        response = completion_response(ids, outcome)
        key = (project, ids.inference_id)
        if request.log_omit or not is_sampled(ids.trace_id, request.log_sample_rate):
            if not outcome.abandoned:
                self._recent.put(key, RecentResponse(response, request.digest()))
            if outcome.expense is not None:
                await self.spend(outcome.expense)
            return response
        record = make_record(prepared, ids, outcome)
        is_repeatable = response_from_record(record) is not None and not record.omitted
        if outcome.abandoned or (is_repeatable and not request.inference_id):
            await self.commit(project, record, outcome.expense)
            return response
        digest = request.digest()
        self._recent.put(key, RecentResponse(response, digest, unstored=record))
        await self.commit(project, record, outcome.expense)
        if is_repeatable:
            self._recent.drop(key)
        else:
            self._recent.put(key, RecentResponse(response, digest))
        return response

    async def commit(self, project: str, record: Record, expense: Expense | None = None) -> None:
        """Store a record and an expense. Try again for a while if the store is busy: the answer is paid for.

        Raise `StoreBusy` after `limits.COMMIT_PATIENCE_S`. The expense is then stored with the key's next one.
        """
        until, wait_s = time.monotonic() + limits.COMMIT_PATIENCE_S, 0.05
        while True:
            try:
                commit = await self._store.commit(project, [record], expense=expense)
            except StoreError as error:
                if time.monotonic() + wait_s > until:
                    if expense is not None:
                        self._budgets.put_back(expense)
                    raise StoreBusy(f"The completion succeeded, but its record could not be stored. {error}") from error
                await asyncio.sleep(wait_s)
                wait_s *= 2
                continue
            for refusal in commit.refused:
                logger.error("the record of a completion was refused: %s", refusal.reason)
            return

    async def spend(self, expense: Expense) -> None:
        """Store what a completion without a record cost, now or with the key's next one."""
        try:
            await self._store.spend(expense)
        except StoreError as error:
            self._budgets.put_back(expense)
            logger.warning("what a key spent could not be stored yet: %s", error)
