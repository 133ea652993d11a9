"""A completion, from its request to its response: each step is one module, and each module is entered once.

Called by `api/completion.py` and `api/streaming.py`.

Guarantees: one record for each completion, stored before its response is given (of a stream: before it ends); a
repeated `inference_id` is answered without asking the provider again; a completion goes on when its caller goes away,
but a stream that nobody follows is cancelled, and its record says so. Their limit: with `log_omit` (and for content
that is left out) the response for a repeated request is in memory only, and lost with the process.
"""

from __future__ import annotations

from collections.abc import Mapping

from everycall.server.gateway.budgets import Budgets
from everycall.server.gateway.cache import ResponseCache
from everycall.server.gateway.completion_log import CompletionLog
from everycall.server.gateway.executor import Executor
from everycall.server.gateway.idempotency import CompletionRun, Idempotency, not_kept
from everycall.server.gateway.preparation import Preparation
from everycall.server.gateway.providers import Providers
from everycall.server.gateway.rates import Rates
from everycall.server.gateway.recent_responses import RecentResponses
from everycall.server.gateway.request import CompletionRequest, CompletionResponse
from everycall.server.gateway.routing import Routes
from everycall.server.gateway.streaming import Follower
from everycall.server.provider_settings import ProviderSettings
from everycall.server.store.base import Store
from everycall.server.store.values import ApiKey

__all__ = ["Gateway"]


class Gateway:
    """Runs completions on the configured providers. For one event loop; `close` it before the store.

    `budgets` has what each key has spent, `rates` the requests of the last minute.
    """

    def __init__(self, store: Store, settings: Mapping[str, ProviderSettings]) -> None:
        recent = RecentResponses()
        self.budgets = Budgets(store)
        self.rates = Rates()
        self._providers = Providers()
        self._log = CompletionLog(store, self.budgets, recent)
        self._idempotency = Idempotency(store, recent, self._log, self._complete)
        self._preparation = Preparation(store, Routes(settings))
        self._executor = Executor(self._providers, ResponseCache(store), self.budgets)

    async def complete(self, project: str, request: CompletionRequest, key: ApiKey | None = None) -> CompletionResponse:
        """Answer one request, with its record stored. A provider's failure is a response with status "error".

        `key` pays, within its budget. Raise `ProblemError` if nothing can be asked (404 `unknown_deployment`, 422) or
        may be asked (429 `budget_exceeded`, 403 `unpriced_model`), or if the `inference_id` belongs to another request
        or its response was not kept (409); `StoreBusy` if the record cannot be stored within
        `limits.COMMIT_PATIENCE_S`: the same `inference_id` then gets the paid response without a further call. A
        request without an `inference_id` gets it at once, as `UnstoredResponse`.
        """
        follower = self._idempotency.follow_run(project, request, key, is_stream=False)
        try:
            response = await follower.finished()
        finally:
            follower.close()
        if response is None or follower.is_abandoned:
            raise not_kept(abandoned=True)
        return response

    def stream(
        self, project: str, request: CompletionRequest, key: ApiKey | None = None
    ) -> Follower[CompletionResponse]:
        """Start to answer one request text by text. Always close what is returned.

        It raises as `complete` does, before the first text. An identical request under the same `inference_id` follows
        the stream under way from its start. One that comes later gets the recorded response, and 409 `answer_not_kept`
        for a stream that was abandoned. Identical streams under other ids share one call of the provider, which goes on
        while one of them has a caller.
        """
        return self._idempotency.follow_run(project, request, key, is_stream=True)

    async def close(self) -> None:
        """Wait for completions under way, at most `limits.GATEWAY_CLOSE_S`; then stop them and close the clients.

        A stream that is stopped has its record, as abandoned.
        """
        await self._idempotency.close()
        await self._executor.close()
        for expense in self.budgets.all_unsaved():
            await self._log.spend(expense)
        await self._log.close()
        await self._providers.close()

    async def _complete(self, run: CompletionRun) -> CompletionResponse:
        """Take a new completion through its steps."""
        prepared = await self._preparation.prepare(run.project, run.request)
        outcome = await self._executor.execute(prepared, run)
        return await self._log.record(prepared, run.ids, outcome)
