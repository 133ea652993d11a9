"""The record of each completion and what it cost, stored before the response is given. Called by `gateway.py`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque

import msgspec

from everycall import limits
from everycall.record import Record
from everycall.sampling import is_sampled
from everycall.server.gateway.budgets import Budgets
from everycall.server.gateway.identifiers import Identifiers
from everycall.server.gateway.preparation import PreparedRequest
from everycall.server.gateway.recent_responses import RecentResponse, RecentResponses
from everycall.server.gateway.recording import Outcome, completion_response, is_repeatable, make_record
from everycall.server.gateway.request import CompletionResponse, UnstoredResponse
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
        self._unstored: deque[tuple[str, Record]] = deque()

    async def record(self, prepared: PreparedRequest, ids: Identifiers, outcome: Outcome) -> CompletionResponse:
        """Store the record of a completion and what it cost, and return its response.

        A response that the record cannot give again is kept in memory. If the record cannot be stored, a caller with an
        `inference_id` of its own can ask again: raise `StoreBusy` as `commit` does. Any other caller gets the response
        that is paid for, as `UnstoredResponse`, and the record is stored with a later one.
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
        if request.inference_id and not outcome.abandoned:
            self._recent.put(key, RecentResponse(response, request.digest(), unstored=record))
        try:
            await self.commit(project, record, outcome.expense)
        except StoreBusy as error:
            if request.inference_id:
                raise
            self._keep_unstored(project, record, error)
            return UnstoredResponse(**msgspec.structs.asdict(response))
        if outcome.abandoned or (is_repeatable(record) and not record.omitted):
            self._recent.drop(key)
        else:
            self._recent.put(key, RecentResponse(response, request.digest()))
        await self._commit_unstored()
        return response

    async def close(self) -> None:
        """Try once more to store what could not be stored, and log what is lost."""
        await self._commit_unstored()
        if self._unstored:
            logger.error("the records of %d completions could not be stored and are lost", len(self._unstored))
            self._unstored.clear()

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

    def _keep_unstored(self, project: str, record: Record, error: StoreError) -> None:
        """Keep a record for a later commit. The oldest is lost above `limits.UNSTORED_RECORDS_MAX`."""
        logger.warning("a completion was answered without its record, which is stored later: %s", error)
        if len(self._unstored) >= limits.UNSTORED_RECORDS_MAX:
            _, lost = self._unstored.popleft()
            logger.error("the record %s of a completion could not be stored and is lost", lost.inference_id)
        self._unstored.append((project, record))

    async def _commit_unstored(self) -> None:
        """Store what could not be stored before, as far as the store takes it."""
        while self._unstored:
            project, record = self._unstored[0]
            try:
                await self._store.commit(project, [record])
            except StoreError:
                return
            if self._unstored and self._unstored[0][1] is record:
                self._unstored.popleft()
