"""From what is asked to what became of it: the cache, one call for identical requests at once, and the fallback list.

Called by `gateway.py`, whole or as a stream. Budgets are asked here, at the moment before a provider is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace

import msgspec

from everycall import limits
from everycall.server.gateway.budgets import Account, price_of
from everycall.server.gateway.cache import CacheUse, FlightKey, ResponseCache, cache_key, flight_key
from everycall.server.gateway.provider_request import ProviderRequest
from everycall.server.gateway.provider_response import ProviderError, ProviderResponse, TokenCounts, stream_texts
from everycall.server.gateway.providers import Providers
from everycall.server.gateway.recording import Outcome
from everycall.server.gateway.request import CompletionRequest
from everycall.server.gateway.retry import Attempt, Deadline, with_retries
from everycall.server.gateway.sse import ProviderStream
from everycall.server.gateway.streaming import Abandoned, Broadcast, Follower, StreamRun
from everycall.server.problems import ProblemError
from everycall.server.provider_settings import Fallback, ProviderSettings
from everycall.server.store.errors import StoreBusy

__all__ = ["Executor", "PreparedRequest"]


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """One request that is ready to be asked: of which provider first, of which others then, at whose expense."""

    project: str
    request: CompletionRequest
    settings: ProviderSettings
    asked: ProviderRequest
    fallbacks: tuple[Fallback, ...]
    account: Account
    deadline: Deadline

    @property
    def caller_key(self) -> str | None:
        """The key that the request brought."""
        return self.request.provider_api_key or None

    @property
    def cache_use(self) -> CacheUse:
        """What this request may do with the cache."""
        request = self.request
        if request.cache is False:
            return CacheUse(read=False, write=False)
        omits = bool(request.log_omit or request.log_omit_inputs or request.log_omit_outputs)
        return CacheUse(read=not request.log_omit, write=not omits)

    @property
    def key(self) -> str:
        """The cache key of what is asked."""
        return cache_key(self.project, self.settings, self.asked)

    @property
    def wait_max_s(self) -> float:
        """How long a provider's Retry-After is waited for: less where another one can be asked."""
        return limits.FALLBACK_WAIT_MAX_S if self.fallbacks else limits.RETRY_AFTER_MAX_S


class SharedAnswer(Broadcast[ProviderResponse]):
    """One provider's answer as it comes, for all streams that ask the same at once.

    The first of those that are there at the end pays: whoever began it may have gone away.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hit = False
        self.stream: ProviderStream | None = None
        self.payer: Follower[ProviderResponse] | None = None

    def end(self, result: ProviderResponse | None, error: BaseException | None = None) -> None:
        """See `Broadcast.end`."""
        self.payer = self.followers[0] if self.followers and self.stream is not None else None
        super().end(result, error)

    def so_far(self) -> ProviderResponse | None:
        """Return what has come, None when no provider was asked."""
        return self.result or (self.stream.so_far() if self.stream is not None else None)


class Executor:
    """Asks providers for completions. For the tasks of one event loop."""

    def __init__(self, providers: Providers, cache: ResponseCache) -> None:
        self._providers = providers
        self._cache = cache
        self._shared: dict[FlightKey, SharedAnswer] = {}
        self._feeding: set[asyncio.Task[None]] = set()

    async def whole(self, question: PreparedRequest) -> Outcome:
        """Return what became of a question. Raises `ProblemError` when nothing can or may be asked."""
        return await self._in_turn(question, self._whole)

    async def streamed(self, question: PreparedRequest, run: StreamRun) -> Outcome:
        """Do as `whole`, and add the texts to `run` as they come. No other provider is asked after the first text."""
        return await self._in_turn(question, lambda one: self._streamed(one, run))

    async def close(self) -> None:
        """Stop the streams of providers."""
        for task in list(self._feeding):
            task.cancel()
        await asyncio.gather(*self._feeding, return_exceptions=True)

    async def _in_turn(
        self, question: PreparedRequest, ask: Callable[[PreparedRequest], Awaitable[Outcome]]
    ) -> Outcome:
        """Ask the provider named, then its fallbacks, until one answers or fails in a way that will not pass."""
        begun = time.perf_counter()
        outcome = await ask(question)
        attempts: list[Attempt] = []
        noted = None
        for place, fallback in enumerate(question.fallbacks, start=1):
            failure = outcome.result
            if not isinstance(failure, ProviderError) or not failure.passing or outcome.partial is not None:
                break
            if failure is not noted:
                noted, by, seconds = failure, outcome.by, time.perf_counter() - begun
                attempts.append(Attempt(by.provider or "", by.model, failure.brief, failure.tries, seconds))
            if not question.deadline.left_s:
                break
            begun = time.perf_counter()
            try:
                settings, asked = self._providers.fallback(question.asked, fallback, question.caller_key)
                await self._providers.prepare(settings)
                rest = question.fallbacks[place:]
                outcome = await ask(replace(question, settings=settings, asked=asked, fallbacks=rest))
            except ProblemError as error:
                named = fallback.provider or "", fallback.model or question.asked.model
                attempts.append(Attempt(*named, error.problem.code, 0, time.perf_counter() - begun))
        return replace(outcome, attempts=tuple(attempts))

    async def _whole(self, question: PreparedRequest) -> Outcome:
        settings, asked, caller_key = question.settings, question.asked, question.caller_key
        question.account.asks(asked, settings)

        async def pay() -> ProviderResponse:
            question.account.reserve()
            answer = await with_retries(
                lambda _: self._providers.ask(settings, asked, caller_key),
                question.deadline,
                wait_max_s=question.wait_max_s,
            )
            return _priced(answer, settings)

        try:
            answer, hit = await self._cache.answer(question.project, question.key, question.cache_use, caller_key, pay)
        except ProviderError as failure:
            return Outcome(failure, asked)
        return Outcome(answer, asked, hit=hit, pays=not hit)

    async def _streamed(self, question: PreparedRequest, run: StreamRun) -> Outcome:
        question.account.asks(question.asked, question.settings)
        while True:
            shared, is_own = self._join(question)
            follower = shared.follow()
            failure: ProviderError | None = None
            abandoned = False
            try:
                await run.until_left(_pass_on(follower, run))
            except Abandoned:
                abandoned = True
            except ProviderError as error:
                failure = error
            except ProblemError:
                if is_own:
                    raise
                continue  # who began it may not ask: that says nothing about this caller
            finally:
                pays = shared.payer is follower if shared.ended else len(shared.followers) == 1
                follower.close()
            return _outcome(question.asked, shared, run, failure, abandoned=abandoned, pays=pays)

    def _join(self, question: PreparedRequest) -> tuple[SharedAnswer, bool]:
        """Return the answer under way to the same question, or a new one; and whether it is a new one."""
        flight = flight_key(question.project, question.key, question.caller_key) if question.cache_use.write else None
        shared = self._shared.get(flight) if flight else None
        if shared is not None and not shared.left and not shared.ended:
            return shared, False
        shared = SharedAnswer()
        if flight:
            self._shared[flight] = shared
        task = asyncio.create_task(self._feed(question, shared))
        self._feeding.add(task)

        def done(_: object) -> None:
            self._feeding.discard(task)
            if flight and self._shared.get(flight) is shared:
                del self._shared[flight]

        task.add_done_callback(done)
        return shared, True

    async def _feed(self, question: PreparedRequest, shared: SharedAnswer) -> None:
        project, key, use = question.project, question.key, question.cache_use
        try:
            if use.read and (found := await self._cache.find(project, key)) is not None:
                for text in stream_texts(found):
                    shared.add(text)
                shared.hit = True
                shared.end(found)
                return
            question.account.reserve()
            await shared.until_left(self._pump(question, shared))
            answer = shared.so_far()
            if answer is not None:
                answer = _priced(answer, question.settings)
                if use.write:
                    await self._cache.keep(project, key, answer)
            shared.end(answer)
        except asyncio.CancelledError:
            shared.end(None, StoreBusy("The server is stopping. Send the request again after its restart."))
            raise
        except Exception as error:  # noqa: BLE001 - the task's one guard: raised to who follows
            shared.end(None, error)

    async def _pump(self, question: PreparedRequest, shared: SharedAnswer) -> None:
        """Pass on a provider's texts, then the tool calls: as text, as a plain completion gives them."""

        async def once(until_first_text: asyncio.Timeout) -> None:
            stream = shared.stream = self._providers.stream(question.settings, question.asked, question.caller_key)
            async with aclosing(stream.texts()) as texts:
                async for text in texts:
                    if not shared.texts:
                        until_first_text.reschedule(None)
                    shared.add(text)

        try:
            async with asyncio.timeout(limits.STREAM_TIME_MAX_S):
                await with_retries(
                    once, question.deadline, wait_max_s=question.wait_max_s, may_retry=lambda: not shared.texts
                )
        except TimeoutError:
            detail = f"no end within {limits.STREAM_TIME_MAX_S:g} s"
            raise ProviderError("TimeoutError", None, detail, passing=True) from None
        whole = shared.so_far()
        if whole is not None and whole.output:
            shared.add(whole.content)


async def _pass_on(follower: Follower[ProviderResponse], run: StreamRun) -> None:
    async for text in follower:
        run.add(text)


def _outcome(
    asked: ProviderRequest,
    shared: SharedAnswer,
    run: StreamRun,
    failure: ProviderError | None,
    *,
    abandoned: bool,
    pays: bool,
) -> Outcome:
    """Return what became of one of the streams that share an answer."""
    answer = shared.so_far()
    first_text_s = run.first_text_s
    if failure is not None:
        partial = answer if run.texts else None
        return Outcome(failure, asked, partial=partial, pays=pays and bool(run.texts), first_text_s=first_text_s)
    if answer is None:  # its caller had gone before a provider was asked
        answer = ProviderResponse(content="", model=asked.model, tokens=TokenCounts())
        pays = False
    hit = shared.hit or (shared.ended and not pays)
    return Outcome(answer, asked, hit=hit, pays=pays, abandoned=abandoned, first_text_s=first_text_s)


def _priced(answer: ProviderResponse, settings: ProviderSettings) -> ProviderResponse:
    tokens = answer.tokens
    if tokens.input is None or tokens.output is None:
        return answer
    found = price_of(settings, answer.model, tokens.input, tokens.output, tokens.parts, tokens.tier)
    if found is None:
        return answer
    return msgspec.structs.replace(answer, cost=found.cost, cost_source=found.source, price_version=found.version)
