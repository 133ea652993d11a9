"""One `inference_id`, one completion: a repeated request joins the one under way or gets the response already given.

Called by `gateway.py` before anything else is done for a request.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from functools import cached_property

from everycall import limits
from everycall.semconv import ABANDONED, SUCCESS
from everycall.server.gateway.completion_log import CompletionLog
from everycall.server.gateway.identifiers import identifiers
from everycall.server.gateway.recent_responses import RecentResponse, RecentResponses
from everycall.server.gateway.recording import SCOPE, request_digest, response_from_record
from everycall.server.gateway.request import CompletionRequest, CompletionResponse
from everycall.server.gateway.retry import Deadline
from everycall.server.gateway.streaming import Broadcast, Follower
from everycall.server.problems import ProblemError, problem
from everycall.server.store.base import Store
from everycall.server.store.errors import StoreBusy
from everycall.server.store.values import ApiKey

__all__ = ["CompletionRun", "Idempotency", "not_kept"]


_numbers = itertools.count()
"""Of completions, in the order in which they were asked for."""


class CompletionRun(Broadcast[CompletionResponse]):
    """One completion under way, paid by `key`. Everyone who sends its request under its `inference_id` follows it.

    A streamed run is cancelled when its last follower goes away; any other goes on to its end.
    """

    def __init__(self, project: str, request: CompletionRequest, key: ApiKey | None, *, is_stream: bool) -> None:
        super().__init__()
        self.project = project
        self.request = request
        self.key = key
        self.ids = identifiers(request)
        self.is_stream = is_stream
        self.number = next(_numbers)
        self.started_unix_nano = 0
        self.deadline = Deadline(limits.PROVIDER_TIMEOUT_S)

    @cached_property
    def digest(self) -> str:
        """The digest of the request, which a repeated request must have too."""
        return self.request.digest()

    def start_clock(self, timeout_s: float) -> None:
        """Start to measure the latency and the time left."""
        self.started_unix_nano, self.started = time.time_ns(), time.perf_counter()
        self.deadline = Deadline(timeout_s)

    def finish(self, response: CompletionResponse) -> None:
        """End with a response. Followers of a run that had no texts get its content as one text."""
        if not self.texts and response.content and response.status == SUCCESS:
            self.add(response.content)
        self.end(response)

    def abandon(self) -> None:
        """See `Broadcast.abandon`."""
        if self.is_stream:
            super().abandon()


class Idempotency:
    """The completions under way, and the responses of earlier ones. For the tasks of one event loop.

    `complete` is called for a run that is new, and returns its response.
    """

    def __init__(
        self,
        store: Store,
        recent: RecentResponses,
        log: CompletionLog,
        complete: Callable[[CompletionRun], Awaitable[CompletionResponse]],
    ) -> None:
        self._store = store
        self._recent = recent
        self._log = log
        self._complete = complete
        self._runs: dict[tuple[str, str], CompletionRun] = {}
        self._tasks: dict[asyncio.Task[None], CompletionRun] = {}

    def follow_run(
        self, project: str, request: CompletionRequest, key: ApiKey | None, *, is_stream: bool
    ) -> Follower[CompletionResponse]:
        """Return a follower of the run of a request, which is started unless it is under way. Always close it.

        Raise `ProblemError` 409 if the run under way has another request, or was abandoned. What a repeated request
        is refused for later is raised to the follower: see `_replay`.
        """
        run = CompletionRun(project, request, key, is_stream=is_stream)
        under_way = self._runs.get((project, run.ids.inference_id))
        if under_way is not None:
            _check_same(under_way.digest, run.digest)
            if under_way.abandoned:
                raise not_kept(abandoned=True)
            return under_way.follow()
        self._runs[project, run.ids.inference_id] = run
        follower = run.follow()
        task = asyncio.create_task(self._run(run))  # goes on when its caller is cancelled
        self._tasks[task] = run
        task.add_done_callback(lambda done: self._tasks.pop(done))
        return follower

    async def close(self) -> None:
        """Wait for runs under way, at most `limits.GATEWAY_CLOSE_S`; then stop them, streams as abandoned."""
        tasks = list(self._tasks)
        if not tasks:
            return
        await asyncio.wait(tasks, timeout=limits.GATEWAY_CLOSE_S)
        streams = {task: run for task, run in self._tasks.items() if run.is_stream}
        for run in streams.values():
            run.abandon()
        if streams:
            await asyncio.wait(streams, timeout=limits.GATEWAY_CLOSE_S / 2)
        late = [task for task in tasks if not task.done()]
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _run(self, run: CompletionRun) -> None:
        """Give a run its response, or what was raised."""
        try:
            response = await self._replay(run) if run.request.inference_id else None
            run.finish(response or await self._complete(run))
        except asyncio.CancelledError:
            run.end(None, StoreBusy("The server is stopping. Send the request again after its restart."))
            raise
        except Exception as error:  # noqa: BLE001 - the task's one guard: raised to the followers
            run.end(None, error)
        finally:
            del self._runs[run.project, run.ids.inference_id]

    async def _replay(self, run: CompletionRun) -> CompletionResponse | None:
        """Return the response that was given before under the `inference_id` of a run, or None if it is new.

        Raise `ProblemError` 409 if that was another request, or its response was not kept; `StoreBusy` if the record
        of that response could not be stored before and still cannot.
        """
        key = (run.project, run.ids.inference_id)
        if (entry := self._recent.get(key)) is not None:
            _check_same(entry.digest, run.digest)
            if entry.unstored is not None:
                await self._log.commit(run.project, entry.unstored)
                self._recent.put(key, RecentResponse(entry.response, entry.digest))
            return entry.response
        record = await self._store.record(run.project, run.ids.inference_id)
        if record is None or record.scope != SCOPE:
            return None
        if digest := request_digest(record):
            _check_same(digest, run.digest)
        response = response_from_record(record)
        if response is None:
            raise not_kept(abandoned=record.error_type == ABANDONED)
        return response


def not_kept(*, abandoned: bool) -> ProblemError:
    """Return the 409 to raise for a completion whose response cannot be given again."""
    reason = "Its caller went away before the end" if abandoned else "The log left its output out"
    return problem(
        "answer_not_kept",
        409,
        "This completion was made, and its answer was not kept",
        f"{reason}, so it cannot be given again. Use a new inference_id to ask again.",
    )


def _check_same(before: str, now: str) -> None:
    """Raise `ProblemError` 409 if two digests of requests differ."""
    if before != now:
        raise problem(
            "inference_id_taken",
            409,
            "Another completion has this inference_id",
            "The same inference_id came before with another request. Use a new one for each completion.",
            field="inference_id",
        )
