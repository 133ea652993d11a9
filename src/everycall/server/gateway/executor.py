"""The providers of a prepared request, asked in order until one answers, within the key's budget.

Called by `gateway.py`, for whole responses and for streams.
"""

from __future__ import annotations

import time
from dataclasses import replace

from everycall import limits
from everycall.server.gateway.budgets import Account, Budgets
from everycall.server.gateway.cache import ResponseCache
from everycall.server.gateway.idempotency import CompletionRun
from everycall.server.gateway.preparation import PreparedRequest
from everycall.server.gateway.provider_calls import ProviderCalls
from everycall.server.gateway.provider_response import ProviderError
from everycall.server.gateway.providers import Providers
from everycall.server.gateway.recording import Outcome, Timing
from everycall.server.gateway.retry import FailedAttempt
from everycall.server.gateway.routing import Candidate, UnusableFallback
from everycall.server.problems import ProblemError

__all__ = ["Executor"]


class Executor:
    """Asks providers for completions. For the tasks of one event loop."""

    def __init__(self, providers: Providers, cache: ResponseCache, budgets: Budgets) -> None:
        self._providers = providers
        self._budgets = budgets
        self._calls = ProviderCalls(providers, cache)

    async def execute(self, prepared: PreparedRequest, run: CompletionRun) -> Outcome:
        """Return the outcome of a prepared request. A stream's texts are added to `run` as they arrive.

        Raise `ProblemError` if the key may not ask, or if the request cannot be sent to its provider.
        """
        await self._providers.client(prepared.first.settings)
        run.start_clock(prepared.timeout_s)
        async with self._budgets.account(run.key) as account:
            outcome, failed_attempts = await self._in_order(prepared, run, account)
        timing = Timing(run.started_unix_nano, time.perf_counter() - run.started)
        return replace(outcome, failed_attempts=failed_attempts, timing=timing, expense=account.unsaved())

    async def close(self) -> None:
        """Cancel the calls under way."""
        await self._calls.close()

    async def _in_order(
        self, prepared: PreparedRequest, run: CompletionRun, account: Account
    ) -> tuple[Outcome, tuple[FailedAttempt, ...]]:
        """Ask the first provider, then the fallbacks, until one answers or fails for good."""
        started = time.perf_counter()
        wait_max_s = limits.FALLBACK_WAIT_MAX_S if prepared.fallbacks else limits.RETRY_AFTER_MAX_S
        outcome = await self._calls.outcome(run, prepared.first, account, wait_max_s=wait_max_s)
        attempts: list[FailedAttempt] = []
        noted = None
        for index, fallback in enumerate(prepared.fallbacks, start=1):
            error = outcome.result
            if not isinstance(error, ProviderError) or not error.is_transient or outcome.partial is not None:
                break
            if error is not noted:
                noted, failed, seconds = error, outcome.request, time.perf_counter() - started
                attempts.append(FailedAttempt(failed.provider or "", failed.model, error.summary, error.tries, seconds))
            if not run.deadline.left_s:
                break
            started = time.perf_counter()
            if index == len(prepared.fallbacks):
                wait_max_s = limits.RETRY_AFTER_MAX_S
            try:
                if isinstance(fallback, UnusableFallback):
                    raise fallback.error
                outcome = await self._calls.outcome(run, fallback, account, wait_max_s=wait_max_s)
            except ProblemError as unusable:
                attempts.append(_unusable(fallback, unusable, time.perf_counter() - started))
        return outcome, tuple(attempts)


def _unusable(fallback: Candidate | UnusableFallback, error: ProblemError, seconds: float) -> FailedAttempt:
    if isinstance(fallback, Candidate):
        provider, model = fallback.settings.name, fallback.request.model
    else:
        provider, model = fallback.provider, fallback.model
    return FailedAttempt(provider, model, error.problem.code, 0, seconds)
