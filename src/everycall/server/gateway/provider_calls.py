"""One provider's turn to answer: from the cache, from an identical call under way, or by asking it now.

Called by `executor.py`. Identical requests at the same time are one call, which all of them follow.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import msgspec

from everycall import limits
from everycall.semconv import COST_OF_PROVIDER
from everycall.server.gateway.budgets import Account, price_of
from everycall.server.gateway.cache import CacheUse, ResponseCache, cache_key
from everycall.server.gateway.idempotency import CompletionRun
from everycall.server.gateway.provider_response import ProviderError, ProviderResponse, TokenCounts, stream_texts
from everycall.server.gateway.provider_stream import ProviderStream
from everycall.server.gateway.providers import Providers
from everycall.server.gateway.recording import Outcome
from everycall.server.gateway.retry import with_retries
from everycall.server.gateway.routing import Candidate
from everycall.server.gateway.streaming import Abandoned, Broadcast, Follower
from everycall.server.problems import ProblemError
from everycall.server.provider_settings import ProviderSettings
from everycall.server.store.errors import StoreBusy

__all__ = ["ProviderCalls", "Turn"]


@dataclass(frozen=True, slots=True)
class CallKey:
    """What requests have in common that share a call. The caller's own key is hashed."""

    project: str
    cache_key: str
    caller_key: str | None
    is_stream: bool


@dataclass(frozen=True, slots=True)
class Turn:
    """One candidate's turn to answer a completion, paid by `account`."""

    run: CompletionRun
    candidate: Candidate
    account: Account
    cache_key: str
    cache_use: CacheUse
    wait_max_s: float
    """How long a provider's Retry-After is waited for."""

    @property
    def caller_key(self) -> str | None:
        """The provider's API key that the request brought."""
        return self.run.request.provider_api_key or None

    @property
    def call_key(self) -> CallKey | None:
        """What requests have in common that share a call, or None if this one shares none.

        The key that a call is paid with belongs to it: an error of another caller's key says nothing here.
        """
        if not self.cache_use.write:
            return None
        hashed = hashlib.sha256(self.caller_key.encode()).hexdigest() if self.caller_key else None
        return CallKey(self.run.project, self.cache_key, hashed, self.run.is_stream)


class _Call(Broadcast[ProviderResponse]):
    """One call of a provider, followed by all completions that ask the same at once.

    The earliest completion that is still there at the end pays for it: the one that began it may have gone away.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hit = False
        """Whether the response came from the cache."""
        self.response: ProviderResponse | None = None
        self.stream: ProviderStream | None = None
        self._payer: Follower[ProviderResponse] | None = None
        self._numbers: dict[Follower[ProviderResponse], int] = {}

    def follow_for(self, run: CompletionRun) -> Follower[ProviderResponse]:
        """Return a new follower for a completion."""
        follower = self.follow()
        self._numbers[follower] = run.number
        return follower

    def end(self, result: ProviderResponse | None, error: BaseException | None = None) -> None:
        """See `Broadcast.end`."""
        if not self.hit and self.so_far() is not None:
            self._payer = min(self.followers, key=self._numbers.__getitem__, default=None)
        super().end(result, error)

    def so_far(self) -> ProviderResponse | None:
        """Return what has arrived, or None if no provider was asked."""
        return self.result or self.response or (self.stream.response() if self.stream is not None else None)

    def is_paid_by(self, follower: Follower[ProviderResponse]) -> bool:
        """Return whether this follower pays, also if it goes away now."""
        return self._payer is follower if self.ended else len(self.followers) == 1


class ProviderCalls:
    """Makes and shares calls. For the tasks of one event loop."""

    def __init__(self, providers: Providers, cache: ResponseCache) -> None:
        self._providers = providers
        self._cache = cache
        self._calls: dict[CallKey, _Call] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def outcome(
        self, run: CompletionRun, candidate: Candidate, account: Account, *, wait_max_s: float
    ) -> Outcome:
        """Return the outcome of asking one candidate. A stream's texts are added to `run` as they arrive.

        A Retry-After longer than `wait_max_s` is not waited for. Raise `ProblemError` if the key may not ask, or if
        the request cannot be sent to this provider.
        """
        use = CacheUse.of(run.request)
        key = cache_key(run.project, candidate.settings, candidate.request) if use.read or use.write else ""
        turn = Turn(run, candidate, account, key, use, wait_max_s)
        while True:
            call, is_own = self._join(turn.call_key)
            try:
                return await self._follow(turn, call, is_own=is_own)
            except ProblemError:
                if is_own:
                    raise
                # The completion that began the call may not ask. That does not concern this one: try again.

    async def close(self) -> None:
        """Cancel the calls under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _join(self, key: CallKey | None) -> tuple[_Call, bool]:
        """Return the call under way with this key, or a new one; and whether it is new."""
        call = self._calls.get(key) if key else None
        if call is not None and not call.abandoned and not call.ended:
            return call, False
        return _Call(), True

    def _share(self, key: CallKey | None, call: _Call) -> None:
        """Let others join a call."""
        if key:
            self._calls[key] = call

    def _end_sharing(self, key: CallKey | None, call: _Call) -> None:
        if key and self._calls.get(key) is call:
            del self._calls[key]

    def _start(self, key: CallKey | None, call: _Call, work: Coroutine[Any, Any, None]) -> None:
        """Do the work of a new call in a task of its own, and let others join it until it is done."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        self._share(key, call)

        def done(_: object) -> None:
            self._tasks.discard(task)
            self._end_sharing(key, call)

        task.add_done_callback(done)

    async def _follow(self, turn: Turn, call: _Call, *, is_own: bool) -> Outcome:
        """Return what a call gave to this completion. Raise `ProblemError` if the call could not be made."""
        run = turn.run
        follower = call.follow_for(run)
        error: ProviderError | None = None
        abandoned = False
        try:
            if run.is_stream:
                if is_own:  # in a task of its own: this caller may go away before others who follow the call
                    self._start(turn.call_key, call, self._make(turn, call))
                await run.run_until_abandoned(_pass_on(follower, run))
            else:
                if is_own:
                    self._share(turn.call_key, call)
                    await self._make(turn, call)
                await follower.finished()
        except Abandoned:
            abandoned = True
        except ProviderError as failure:
            error = failure
        finally:
            if is_own and not run.is_stream:
                self._end_sharing(turn.call_key, call)
            pays = call.is_paid_by(follower)
            follower.close()
        outcome = _outcome(turn, call, error, abandoned=abandoned, pays=pays)
        if outcome.pays and outcome.response is not None:
            request, settings = turn.candidate.request, turn.candidate.settings
            turn.account.charge(request, settings, outcome.response.cost, outcome.response.content)
        return outcome

    async def _make(self, turn: Turn, call: _Call) -> None:
        """Make a call: look into the cache, ask the provider, price the response and store it."""
        project, key, use = turn.run.project, turn.cache_key, turn.cache_use
        try:
            if use.read and (cached := await self._cache.find(project, key)) is not None:
                call.hit = True
                for text in stream_texts(cached):
                    call.add(text)
                call.end(cached)
                return
            turn.account.reserve(turn.candidate.request, turn.candidate.settings)
            if turn.run.is_stream:
                await call.run_until_abandoned(self._stream(turn, call))
            else:
                call.response = await self._whole(turn)
            response, has_limit = call.so_far(), "max_length" in turn.candidate.request.params
            if response is not None:
                response = _priced(response, turn.candidate.settings)
                if use.write and response.is_complete(has_limit=has_limit):
                    await self._cache.keep(project, key, response)
            call.end(response)
        except asyncio.CancelledError:
            call.end(None, StoreBusy("The server is stopping. Send the request again after its restart."))
            raise
        except Exception as error:  # noqa: BLE001 - the task's one guard: raised to the followers
            call.end(None, error)

    async def _whole(self, turn: Turn) -> ProviderResponse:
        client = await self._providers.client(turn.candidate.settings)
        return await with_retries(
            lambda _: client.ask(turn.candidate.request, turn.caller_key),
            turn.run.deadline,
            wait_max_s=turn.wait_max_s,
        )

    async def _stream(self, turn: Turn, call: _Call) -> None:
        """Pass on a provider's texts, then the tool calls as the text that a whole response has."""
        client = await self._providers.client(turn.candidate.settings)

        async def once(until_first_text: asyncio.Timeout) -> None:
            stream = call.stream = client.stream(turn.candidate.request, turn.caller_key)
            async with aclosing(stream.texts()) as texts:
                async for text in texts:
                    if not call.texts:
                        until_first_text.reschedule(None)
                    call.add(text)

        try:
            async with asyncio.timeout(limits.STREAM_TIME_MAX_S):
                await with_retries(
                    once,
                    turn.run.deadline,
                    wait_max_s=turn.wait_max_s,
                    may_retry=lambda: not call.texts,
                )
        except TimeoutError:
            detail = f"no end within {limits.STREAM_TIME_MAX_S:g} s"
            raise ProviderError("TimeoutError", None, detail, is_transient=True) from None
        response = call.so_far()
        if response is not None and response.has_tool_calls:
            call.add(response.content)


async def _pass_on(follower: Follower[ProviderResponse], run: CompletionRun) -> None:
    async for text in follower:
        run.add(text)


def _outcome(turn: Turn, call: _Call, error: ProviderError | None, *, abandoned: bool, pays: bool) -> Outcome:
    """Return the outcome of one of the completions that share a call."""
    run, request = turn.run, turn.candidate.request
    response = call.so_far()
    if error is not None:
        partial = response if run.texts else None
        pays = pays and bool(run.texts)
        return Outcome(error, request, partial=partial, pays=pays, first_text_s=run.first_text_s)
    if response is None:  # the caller went away before a provider was asked
        response = ProviderResponse(content="", model=request.model, tokens=TokenCounts())
        pays = False
    hit = call.hit or (call.ended and not pays)
    return Outcome(response, request, hit=hit, pays=pays, abandoned=abandoned, first_text_s=run.first_text_s)


def _priced(response: ProviderResponse, settings: ProviderSettings) -> ProviderResponse:
    """Return the response with its cost: what the provider says it charged, or else the price of its tokens."""
    tokens = response.tokens
    if tokens.charge is not None:
        return msgspec.structs.replace(response, cost=tokens.charge, cost_source=COST_OF_PROVIDER)
    if tokens.input is None or tokens.output is None:
        return response
    price = price_of(settings, response.model, tokens.input, tokens.output, tokens.parts, tokens.tier)
    if price is None:
        return response
    return msgspec.structs.replace(response, cost=price.cost, cost_source=price.source, price_version=price.version)
