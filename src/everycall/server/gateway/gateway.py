"""A completion, from request to answer: deployment, provider, cache, price, record. Called by `api/completion.py`.

Guarantees: one record per completion, committed before the answer is given (of a stream: before it ends); a repeated
`inference_id` is answered without asking the provider again; a caller that goes away does not stop a completion that is
under way, but stops a stream that nobody else follows, whose record then says so. Their limit: under `log_omit` (and
for content left out) the answer for a repeat is in memory only, and gone with the process.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

from everycall import limits
from everycall.record import Record
from everycall.semconv import ABANDONED
from everycall.server.gateway.budgets import Account, Budgets
from everycall.server.gateway.cache import ResponseCache
from everycall.server.gateway.executor import Executor, PreparedRequest
from everycall.server.gateway.idempotency import RecentResponse, RecentResponses
from everycall.server.gateway.identifiers import check_same, identifiers, is_sampled, not_kept
from everycall.server.gateway.provider_request import ask, missing_deployment
from everycall.server.gateway.providers import Providers
from everycall.server.gateway.rates import Rates
from everycall.server.gateway.recording import (
    SCOPE,
    Identifiers,
    Outcome,
    Timing,
    completion_response,
    make_record,
    request_digest,
    response_from_record,
)
from everycall.server.gateway.request import CompletionRequest, CompletionResponse
from everycall.server.gateway.retry import Deadline
from everycall.server.gateway.streaming import Follower, StreamRun
from everycall.server.provider_settings import Fallback, ProviderSettings
from everycall.server.store.base import Store
from everycall.server.store.errors import StoreBusy, StoreError
from everycall.server.store.values import ApiKey, Deployment, Expense

__all__ = ["Gateway"]

logger = logging.getLogger("everycall.server.gateway")


class Gateway:
    """Runs completions on the configured providers. For one event loop; `close` it before the store.

    `budgets` has what each key has spent, `rates` the requests of the last minute.
    """

    def __init__(self, store: Store, settings: Mapping[str, ProviderSettings]) -> None:
        self.budgets = Budgets(store)
        self.rates = Rates()
        self._store = store
        self._providers = Providers(settings)
        self._outcomes = Executor(self._providers, ResponseCache(store))
        self._kept = RecentResponses()
        self._running: dict[tuple[str, str], tuple[str, asyncio.Task[CompletionResponse]]] = {}
        self._streams: dict[tuple[str, str], tuple[StreamRun, asyncio.Task[None]]] = {}

    async def complete(self, project: str, request: CompletionRequest, key: ApiKey | None = None) -> CompletionResponse:
        """Answer one request, with its record committed; a provider's failure is an answer with status "error".

        `key` pays, within its budget. Raises `ProblemError` when nothing can be asked (404 `unknown_deployment`, 422),
        or may be (429 `budget_exceeded`, 403 `unpriced_model`), or when the `inference_id` is taken by another request
        or its answer was not kept (409); `StoreBusy` when the record cannot be stored in `limits.COMMIT_PATIENCE_S`
        (the same `inference_id` then gets the paid answer without a further call).
        """
        ids = identifiers(request)
        place = (project, ids.inference_id)
        digest = request.digest()
        under_way = self._running.get(place)
        if under_way is None and place in self._streams:
            return await self._streamed(self._streams[place][0], digest)
        if under_way is None:
            account = self.budgets.account(key)
            task = asyncio.create_task(self._complete(project, request, ids, digest, account))
            self._running[place] = (digest, task)
            task.add_done_callback(lambda done: self._finished(place, done))
        else:
            check_same(under_way[0], digest)
            task = under_way[1]
        return await asyncio.shield(task)

    def stream(
        self, project: str, request: CompletionRequest, key: ApiKey | None = None
    ) -> Follower[CompletionResponse]:
        """Begin to answer one request text by text; close what is returned in any case.

        It raises as `complete` does, before the first text. An identical request under the same `inference_id` follows
        the stream under way, from its start; one that comes later gets the answer that was recorded, and 409
        `answer_not_kept` for a stream that was abandoned. Identical streams under other ids share one call of the
        provider, which goes on while one of them has a caller.
        """
        ids = identifiers(request)
        place = (project, ids.inference_id)
        digest = request.digest()
        if place in self._streams:
            return _joined(self._streams[place][0], digest)
        run = StreamRun(digest)
        follower = run.follow()
        under_way = self._running.get(place)
        task = asyncio.create_task(
            self._stream(project, request, ids, run, self.budgets.account(key))
            if under_way is None
            else self._replay(run, *under_way)
        )
        self._streams[place] = (run, task)
        task.add_done_callback(lambda _: self._streams.pop(place, None))
        return follower

    async def close(self) -> None:
        """Wait for what is under way, at most `limits.GATEWAY_CLOSE_S`; then stop it and close the clients.

        A stream that is stopped has its record, as abandoned.
        """
        tasks: list[asyncio.Task[Any]] = [task for _, task in self._running.values()]
        tasks += [task for _, task in self._streams.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=limits.GATEWAY_CLOSE_S)
            for run, _ in list(self._streams.values()):
                run.leave()
            streams = [task for _, task in self._streams.values()]
            if streams:
                await asyncio.wait(streams, timeout=limits.GATEWAY_CLOSE_S / 2)
            late = [task for task in tasks if not task.done()]
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._outcomes.close()
        for expense in self.budgets.all_unsaved():
            await self._spend(expense)
        await self._providers.close()

    def _finished(self, key: tuple[str, str], task: asyncio.Task[CompletionResponse]) -> None:
        self._running.pop(key, None)
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not report it when the caller has gone

    async def _complete(
        self, project: str, request: CompletionRequest, ids: Identifiers, digest: str, account: Account
    ) -> CompletionResponse:
        if request.inference_id and (again := await self._again(project, ids.inference_id, digest)):
            return again
        try:
            question = await self._question(project, request, account)
            start, begun = time.time_ns(), time.perf_counter()
            outcome = await self._outcomes.whole(question)
            return await self._settle(question, ids, outcome, Timing(start, time.perf_counter() - begun))
        finally:
            account.release()

    async def _stream(
        self, project: str, request: CompletionRequest, ids: Identifiers, run: StreamRun, account: Account
    ) -> None:
        try:
            again = await self._again(project, ids.inference_id, run.digest) if request.inference_id else None
            if again is not None:
                if again.content:
                    run.add(again.content)
                run.end(again)
                return
            question = await self._question(project, request, account)
            start, run.begun = time.time_ns(), time.perf_counter()
            outcome = await self._outcomes.streamed(question, run)
            run.end(await self._settle(question, ids, outcome, Timing(start, time.perf_counter() - run.begun)))
        except asyncio.CancelledError:
            run.end(None, StoreBusy("The server is stopping. Send the request again after its restart."))
            raise
        except Exception as error:  # noqa: BLE001 - the task's one guard: raised to who follows the run
            run.end(None, error)
        finally:
            account.release()

    async def _replay(self, run: StreamRun, digest: str, task: asyncio.Task[CompletionResponse]) -> None:
        """Stream the answer of a plain completion under way with the same `inference_id`."""
        try:
            check_same(digest, run.digest)
            answer = await asyncio.shield(task)
            if answer.content:
                run.add(answer.content)
            run.end(answer)
        except Exception as error:  # noqa: BLE001 - the task's one guard: raised to who follows the run
            run.end(None, error)

    async def _streamed(self, run: StreamRun, digest: str) -> CompletionResponse:
        """Return the whole answer of a stream under way with the same `inference_id`."""
        follower = _joined(run, digest)
        try:
            async for _ in follower:
                pass
        finally:
            follower.close()
        if follower.answer is None or run.left:
            raise not_kept(abandoned=True)
        return follower.answer

    async def _question(self, project: str, request: CompletionRequest, account: Account) -> PreparedRequest:
        """Return what is to be asked, with its provider ready. Raises `ProblemError` when nothing can be."""
        await self.budgets.load()
        deployment = await self._deployment(project, request)
        settings, asked = self._providers.route(ask(request, deployment), request.provider_api_key or None)
        await self._providers.prepare(settings)
        deadline = Deadline(max(limits.PROVIDER_TIMEOUT_S, settings.timeout_s))
        fallbacks = _fallbacks(deployment) or settings.fallbacks_of(asked.model)
        return PreparedRequest(project, request, settings, asked, fallbacks, account, deadline)

    async def _settle(
        self, question: PreparedRequest, ids: Identifiers, outcome: Outcome, timing: Timing
    ) -> CompletionResponse:
        """Store the record of what became of a request and what it cost, and return the answer."""
        project, request = question.project, question.request
        answer = completion_response(ids, outcome, timing)
        place = (project, ids.inference_id)
        digest = request.digest()
        if outcome.pays and outcome.answer is not None:
            question.account.charge(outcome.answer.cost, outcome.answer.content)
        expense = question.account.unsaved()
        if request.log_omit or not is_sampled(ids.trace_id, request.log_sample_rate):
            if not outcome.abandoned:
                self._kept.put(place, RecentResponse(answer, digest))
            if expense is not None:
                await self._spend(expense)
            return answer
        record = make_record(project, request, ids, question.asked, outcome, timing)
        if not outcome.abandoned:
            self._kept.put(place, RecentResponse(answer, digest, unstored=record))
        await self._commit(project, record, expense)
        if not outcome.abandoned and (response_from_record(record) is None or record.omitted):
            self._kept.put(place, RecentResponse(answer, digest))
        else:
            self._kept.drop(place)
        return answer

    async def _again(self, project: str, inference_id: str, digest: str) -> CompletionResponse | None:
        """Return the answer already given under this id, or None when it is new."""
        if kept := self._kept.get((project, inference_id)):
            check_same(kept.digest, digest)
            if kept.unstored is not None:
                await self._commit(project, kept.unstored)
                self._kept.put((project, inference_id), RecentResponse(kept.answer, digest))
            return kept.answer
        record = await self._store.record(project, inference_id)
        if record is None or record.scope != SCOPE:
            return None
        if before := request_digest(record):
            check_same(before, digest)
        answer = response_from_record(record)
        if answer is None:
            raise not_kept(abandoned=record.error_type == ABANDONED)
        return answer

    async def _deployment(self, project: str, request: CompletionRequest) -> Deployment | None:
        if not request.deployment_id:
            return None
        deployment = await self._store.deployment(project, request.deployment_id)
        if deployment is None:
            raise await missing_deployment(self._store, project, request.deployment_id)
        return deployment

    async def _spend(self, expense: Expense) -> None:
        """Store what was spent on a completion that has no record; now, or with the key's next one."""
        try:
            await self._store.spend(expense)
        except StoreError as error:
            self.budgets.put_back(expense)
            logger.warning("what a key spent could not be stored yet: %s", error)

    async def _commit(self, project: str, record: Record, expense: Expense | None = None) -> None:
        """Store the record and what was spent, patiently: its answer is paid for.

        Raises `StoreBusy` when it is not to be done; the expense is then stored with the key's next one.
        """
        until, wait_s = time.monotonic() + limits.COMMIT_PATIENCE_S, 0.05
        while True:
            try:
                commit = await self._store.commit(project, [record], expense=expense)
            except StoreError as error:
                if time.monotonic() + wait_s > until:
                    if expense is not None:
                        self.budgets.put_back(expense)
                    raise StoreBusy(f"The completion succeeded, but its record could not be stored. {error}") from error
                await asyncio.sleep(wait_s)
                wait_s *= 2
                continue
            for refusal in commit.refused:
                logger.error("the record of a completion was refused: %s", refusal.reason)
            return


def _joined(run: StreamRun, digest: str) -> Follower[CompletionResponse]:
    check_same(run.digest, digest)
    if run.left:
        raise not_kept(abandoned=True)
    return run.follow()


def _fallbacks(deployment: Deployment | None) -> tuple[Fallback, ...]:
    """Return those stored with a deployment: objects with `model`, `provider` or both."""
    if deployment is None:
        return ()
    given = [(one.get("provider"), one.get("model")) for one in deployment.fallbacks]
    return tuple(Fallback(provider or None, model or None) for provider, model in given[: limits.FALLBACKS_MAX])
