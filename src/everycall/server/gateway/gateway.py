"""A completion, from request to answer: deployment, provider, cache, price, record. Called by `api/completion.py`.

Guarantees: one record per completion, committed before the answer is given (of a stream: before it ends); a repeated
`inference_id` is answered without asking the provider again; a caller that goes away does not stop a completion that is
under way, but stops a stream, whose record then says so. Their limit: under `log_omit` (and for content left out) the
answer for a repeat is in memory only, and gone with the process.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import secrets
import time
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import msgspec

from everycall import _price, limits
from everycall.record import Record
from everycall.semconv import ABANDONED
from everycall.server.gateway.answering import ProviderAnswer, ProviderFailure, streamed_texts
from everycall.server.gateway.asking import Asked, ask
from everycall.server.gateway.cache import CacheUse, ResponseCache, cache_key
from everycall.server.gateway.events import ProviderStream
from everycall.server.gateway.providers import Providers
from everycall.server.gateway.recording import (
    SCOPE,
    Identifiers,
    Outcome,
    Timing,
    answer_of,
    asked_before,
    make_record,
    repeat_of,
)
from everycall.server.gateway.repeats import Kept, KeptAnswers
from everycall.server.gateway.request import CompletionAnswer, CompletionRequest
from everycall.server.gateway.settings import ProviderSettings
from everycall.server.gateway.streaming import Abandoned, Follower, StreamRun
from everycall.server.problems import problem
from everycall.server.store.base import Deployment, Store, StoreBusy, StoreError

__all__ = ["Gateway", "unknown_deployment"]

_OWN_ID = re.compile(r"[0-9a-f]{32}-[0-9a-f]{16}\Z")

logger = logging.getLogger("everycall.server.gateway")


class Gateway:
    """Runs completions on the configured providers. For one event loop; `close` it before the store."""

    def __init__(self, store: Store, settings: Mapping[str, ProviderSettings]) -> None:
        self._store = store
        self._providers = Providers(settings)
        self._cache = ResponseCache(store)
        self._kept = KeptAnswers()
        self._running: dict[tuple[str, str], tuple[str, asyncio.Task[CompletionAnswer]]] = {}
        self._streams: dict[tuple[str, str], tuple[StreamRun, asyncio.Task[None]]] = {}

    async def complete(self, project: str, request: CompletionRequest) -> CompletionAnswer:
        """Answer one request, with its record committed; a provider's failure is an answer with status "error".

        Raises `ProblemError` when nothing can be asked (404 `unknown_deployment`, 422), or when the `inference_id`
        is taken by another request or its answer was not kept (409); `StoreBusy` when the record cannot be stored in
        `limits.COMMIT_PATIENCE_S` (the same `inference_id` then gets the paid answer without a further call).
        """
        ids = _identifiers(request)
        key = (project, ids.inference_id)
        digest = request.digest()
        under_way = self._running.get(key)
        if under_way is None and key in self._streams:
            return await self._streamed(self._streams[key][0], digest)
        if under_way is None:
            task = asyncio.create_task(self._complete(project, request, ids, digest))
            self._running[key] = (digest, task)
            task.add_done_callback(lambda done: self._finished(key, done))
        else:
            _same(under_way[0], digest)
            task = under_way[1]
        return await asyncio.shield(task)

    def stream(self, project: str, request: CompletionRequest) -> Follower:
        """Begin to answer one request text by text; close what is returned in any case.

        It raises as `complete` does, before the first text. An identical request under the same `inference_id` follows
        the stream under way, from its start; one that comes later gets the answer that was recorded, and 409
        `answer_not_kept` for a stream that was abandoned. Identical streams do not share one call of the provider.
        """
        ids = _identifiers(request)
        key = (project, ids.inference_id)
        digest = request.digest()
        if key in self._streams:
            return _joined(self._streams[key][0], digest)
        run = StreamRun(digest)
        follower = run.follow()
        under_way = self._running.get(key)
        task = asyncio.create_task(
            self._stream(project, request, ids, run) if under_way is None else self._replay(run, *under_way)
        )
        self._streams[key] = (run, task)
        task.add_done_callback(lambda _: self._streams.pop(key, None))
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
        await self._providers.close()

    def _finished(self, key: tuple[str, str], task: asyncio.Task[CompletionAnswer]) -> None:
        self._running.pop(key, None)
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not report it when the caller has gone

    async def _complete(
        self, project: str, request: CompletionRequest, ids: Identifiers, digest: str
    ) -> CompletionAnswer:
        if request.inference_id and (again := await self._again(project, ids.inference_id, digest)):
            return again
        asked = ask(request, await self._deployment(project, request))
        settings, asked = self._providers.route(asked, request.provider_api_key or None)
        await self._providers.prepare(settings)
        start, begun = time.time_ns(), time.perf_counter()
        outcome = await self._outcome(project, request, settings, asked)
        return await self._settle(project, request, ids, asked, outcome, Timing(start, time.perf_counter() - begun))

    async def _stream(self, project: str, request: CompletionRequest, ids: Identifiers, run: StreamRun) -> None:
        try:
            again = await self._again(project, ids.inference_id, run.digest) if request.inference_id else None
            if again is not None:
                if again.content:
                    run.add(again.content)
                run.end(again)
                return
            asked = ask(request, await self._deployment(project, request))
            settings, asked = self._providers.route(asked, request.provider_api_key or None)
            await self._providers.prepare(settings)
            start, run.begun = time.time_ns(), time.perf_counter()
            outcome = await self._stream_outcome(project, request, settings, asked, run)
            timing = Timing(start, time.perf_counter() - run.begun)
            run.end(await self._settle(project, request, ids, asked, outcome, timing))
        except asyncio.CancelledError:
            run.end(None, StoreBusy("The server is stopping"))
            raise
        except Exception as error:  # noqa: BLE001 - the task's one guard: raised to who follows the run
            run.end(None, error)

    async def _replay(self, run: StreamRun, digest: str, task: asyncio.Task[CompletionAnswer]) -> None:
        """Stream the answer of a plain completion under way with the same `inference_id`."""
        try:
            _same(digest, run.digest)
            answer = await asyncio.shield(task)
            if answer.content:
                run.add(answer.content)
            run.end(answer)
        except Exception as error:  # noqa: BLE001 - the task's one guard: raised to who follows the run
            run.end(None, error)

    async def _streamed(self, run: StreamRun, digest: str) -> CompletionAnswer:
        """Return the whole answer of a stream under way with the same `inference_id`."""
        follower = _joined(run, digest)
        try:
            async for _ in follower:
                pass
        finally:
            follower.close()
        if follower.answer is None or run.left:
            raise _not_kept(abandoned=True)
        return follower.answer

    async def _settle(
        self,
        project: str,
        request: CompletionRequest,
        ids: Identifiers,
        asked: Asked,
        outcome: Outcome,
        timing: Timing,
    ) -> CompletionAnswer:
        """Store the record of what became of a request, and return the answer."""
        answer = answer_of(ids, asked, outcome, timing)
        key = (project, ids.inference_id)
        digest = request.digest()
        if request.log_omit or not _sampled(ids.trace_id, request.log_sample_rate):
            if not outcome.abandoned:
                self._kept.put(key, Kept(answer, digest))
            return answer
        record = make_record(project, request, ids, asked, outcome, timing)
        if not outcome.abandoned:
            self._kept.put(key, Kept(answer, digest, unstored=record))
        await self._commit(project, record)
        if not outcome.abandoned and (repeat_of(record) is None or record.omitted):
            self._kept.put(key, Kept(answer, digest))
        else:
            self._kept.drop(key)
        return answer

    async def _again(self, project: str, inference_id: str, digest: str) -> CompletionAnswer | None:
        """Return the answer already given under this id, or None when it is new."""
        if kept := self._kept.get((project, inference_id)):
            _same(kept.digest, digest)
            if kept.unstored is not None:
                await self._commit(project, kept.unstored)
                self._kept.put((project, inference_id), Kept(kept.answer, digest))
            return kept.answer
        record = await self._store.record(project, inference_id)
        if record is None or record.scope != SCOPE:
            return None
        if before := asked_before(record):
            _same(before, digest)
        answer = repeat_of(record)
        if answer is None:
            raise _not_kept(abandoned=record.error_type == ABANDONED)
        return answer

    async def _deployment(self, project: str, request: CompletionRequest) -> Deployment | None:
        if not request.deployment_id:
            return None
        deployment = await self._store.deployment(project, request.deployment_id)
        if deployment is None:
            raise unknown_deployment()
        return deployment

    async def _outcome(
        self, project: str, request: CompletionRequest, settings: ProviderSettings, asked: Asked
    ) -> Outcome:
        own_key = request.provider_api_key or None

        async def pay() -> ProviderAnswer:
            return _priced(await self._providers.ask(settings, asked, own_key), settings.name, time.time_ns())

        use = _cache_use(request)
        try:
            if not (use.read or use.write):
                return Outcome(await pay())
            result, hit = await self._cache.answer(project, cache_key(project, settings, asked), use, own_key, pay)
        except ProviderFailure as failure:
            return Outcome(failure)
        return Outcome(result, hit)

    async def _stream_outcome(
        self, project: str, request: CompletionRequest, settings: ProviderSettings, asked: Asked, run: StreamRun
    ) -> Outcome:
        use = _cache_use(request)
        key = cache_key(project, settings, asked)
        if use.read and (found := await self._cache.find(project, key)) is not None:
            for text in streamed_texts(found):
                run.add(text)
            return Outcome(found, hit=True, first_text_s=run.first_text_s)
        stream = self._providers.stream(settings, asked, request.provider_api_key or None)
        try:
            async with asyncio.timeout(limits.STREAM_TIME_MAX_S):
                await run.until_left(_pump(stream, run))
        except Abandoned:
            return Outcome(stream.so_far(), abandoned=True, first_text_s=run.first_text_s)
        except ProviderFailure as error:
            failure = error
        except TimeoutError:
            failure = ProviderFailure("TimeoutError", None, f"no end within {limits.STREAM_TIME_MAX_S:g} s")
        else:
            answer = _priced(stream.so_far(), settings.name, time.time_ns())
            if use.write:
                await self._cache.keep(project, key, answer)
            return Outcome(answer, first_text_s=run.first_text_s)
        partial = stream.so_far() if run.texts else None
        return Outcome(failure, partial=partial, first_text_s=run.first_text_s)

    async def _commit(self, project: str, record: Record) -> None:
        """Store the record, patiently: its answer is paid for. Raises `StoreBusy` when it is not to be done."""
        until, wait_s = time.monotonic() + limits.COMMIT_PATIENCE_S, 0.05
        while True:
            try:
                commit = await self._store.commit(project, [record])
            except StoreError as error:
                if time.monotonic() + wait_s > until:
                    raise StoreBusy(f"The completion was made, and its record could not be stored: {error}") from error
                await asyncio.sleep(wait_s)
                wait_s *= 2
                continue
            for refusal in commit.refused:
                logger.error("the record of a completion was refused: %s", refusal.reason)
            return


def _joined(run: StreamRun, digest: str) -> Follower:
    _same(run.digest, digest)
    if run.left:
        raise _not_kept(abandoned=True)
    return run.follow()


def unknown_deployment() -> Exception:
    """Return the 404 to raise for a deployment that the project does not have."""
    return problem(
        "unknown_deployment",
        404,
        "No such deployment",
        "There is no deployment with this deployment_id in this project. GET /api/deployments lists those that are; "
        "POST /api/deployments makes one.",
        field="deployment_id",
    )


async def _pump(stream: ProviderStream, run: StreamRun) -> None:
    """Pass on a provider's texts, then the tool calls: as text, as a plain completion gives them."""
    async with aclosing(stream.texts()) as texts:
        async for text in texts:
            run.add(text)
    whole = stream.so_far()
    if whole.output:
        run.add(whole.content)


def _cache_use(request: CompletionRequest) -> CacheUse:
    if request.cache is False:
        return CacheUse(read=False, write=False)
    omits = bool(request.log_omit or request.log_omit_inputs or request.log_omit_outputs)
    return CacheUse(read=not request.log_omit, write=not omits)


def _priced(answer: ProviderAnswer, provider: str, at_unix_nano: int) -> ProviderAnswer:
    tokens = answer.tokens
    if tokens.input is None or tokens.output is None:
        return answer
    found = _price.price(answer.model, provider, tokens.input, tokens.output, tokens.parts, at_unix_nano)
    if found is None:
        return answer
    return msgspec.structs.replace(answer, cost=found.cost, price_version=found.version)


def _identifiers(request: CompletionRequest) -> Identifiers:
    """Return the ids: those given, else `<32 hex>-<16 hex>`. A parent that is the record itself (Parea) is none."""
    parent = request.parent_trace_id or None
    if parent is not None and parent == request.inference_id:
        parent = None
    inference_id = request.inference_id or f"{secrets.token_hex(16)}-{secrets.token_hex(8)}"
    own = inference_id[:32] if _OWN_ID.match(inference_id) else inference_id
    return Identifiers(inference_id, request.trace_id or request.root_trace_id or parent or own, parent)


def _same(before: str, now: str) -> None:
    if before != now:
        raise problem(
            "inference_id_taken",
            409,
            "Another completion has this inference_id",
            "The same inference_id came before with another request. Use a new one for each completion.",
            field="inference_id",
        )


def _not_kept(*, abandoned: bool) -> Exception:
    why = "Its caller went away before the end" if abandoned else "The log left its output out"
    return problem(
        "answer_not_kept",
        409,
        "This completion was made, and its answer was not kept",
        f"{why}, so it cannot be given again. Use a new inference_id to ask again.",
    )


def _sampled(trace_id: str, rate: float | None) -> bool:
    """Return whether a trace is kept: all of its records or none, whichever server answers."""
    if rate is None or rate >= 1:
        return True
    return int.from_bytes(hashlib.sha256(trace_id.encode()).digest()[:8], "big") < rate * 2**64
