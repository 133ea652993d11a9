"""Work in other threads belongs to the call that started it, with no word from the user, and undone without a trace."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from opentelemetry import baggage
from opentelemetry import context as otel_context
from opentelemetry import trace as otel_trace

import everycall
from everycall import _guard
from everycall._call.interface import NOT_RECORDED
from everycall._propagation import threads as _threads
from everycall.record import Record, to_json
from everycall.settings import Settings
from everycall.testing import capture_records

START, SUBMIT = threading.Thread.start, ThreadPoolExecutor.submit


@pytest.fixture
def records() -> Iterator[list[Record]]:
    before = dict(_guard.failures)
    with capture_records() as captured:
        yield captured
    assert _guard.failures == before


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    _threads.uninstall()  # an earlier test of this process need not have shut down
    yield
    assert threading.Thread.start is START
    assert ThreadPoolExecutor.submit is SUBMIT
    assert [name for name in vars(ThreadPool) if name in _threads._POOL_METHODS] == []


@everycall.trace
def child(n: int = 0) -> int:
    return n


def by_thread(work: Callable[[], Any]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


class Overriding(threading.Thread):
    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__()
        self.work = work

    def run(self) -> None:
        assert "run" not in vars(self)
        self.work()


def by_subclass(work: Callable[[], Any]) -> None:
    thread = Overriding(work)
    thread.start()
    thread.join()


def by_timer(work: Callable[[], Any]) -> None:
    timer = threading.Timer(0, work)
    timer.start()
    timer.join()


def by_own_run(work: Callable[[], Any]) -> None:
    thread = threading.Thread()
    thread.run = work  # type: ignore[method-assign]
    thread.start()
    thread.join()
    assert thread.run is work


def by_submit(work: Callable[[], Any]) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(work).result()


def by_map(work: Callable[[], Any]) -> None:
    with ThreadPoolExecutor(1) as pool:
        list(pool.map(lambda _: work(), range(1)))


def by_nested_pools(work: Callable[[], Any]) -> None:
    with ThreadPoolExecutor(1) as outer, ThreadPoolExecutor(1) as inner:
        outer.submit(lambda: inner.submit(work).result()).result()


def by_thread_pool(work: Callable[[], Any]) -> None:
    with ThreadPool(2) as pool:
        pool.apply(work)


def by_to_thread(work: Callable[[], Any]) -> None:
    async def main() -> None:
        await asyncio.to_thread(work)

    asyncio.run(main())


def by_run_in_executor(work: Callable[[], Any]) -> None:
    async def main() -> None:
        await asyncio.get_running_loop().run_in_executor(None, work)

    asyncio.run(main())


def by_copy_context(work: Callable[[], Any]) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(contextvars.copy_context().run, work).result()


WAYS = [
    by_thread, by_subclass, by_timer, by_own_run, by_submit, by_map, by_nested_pools, by_thread_pool, by_to_thread,
    by_run_in_executor, by_copy_context,
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_start_a_thread_keeps_the_parent(way: Callable[..., None], records: list[Record]) -> None:
    """8 of 8 children name the call around them as parent, whatever carried them there."""
    with everycall.span("above"):
        for _ in range(8):
            way(child)
    *children, above = records
    assert above.name == "above"
    assert [c.parent_id for c in children] == [above.inference_id] * 8
    assert {c.trace_id for c in children} == {above.trace_id}


@pytest.mark.parametrize("way", WAYS)
def test_labels_and_omit_flags_apply_in_threads(way: Callable[..., None], records: list[Record]) -> None:
    """A scope without a call is carried as well, with all that it sets."""
    with everycall.context(
        trace_id="order-42", trace_name="support", end_user_identifier="u-7", session_id="s-1", tags=["beta"],
        metadata={"team": "a"}, log_omit_inputs=True,
    ):  # fmt: skip
        way(lambda: child(7))
    (record,) = records
    assert (record.trace_id, record.trace_name, record.end_user_identifier, record.session_id) == (
        "order-42", "support", "u-7", "s-1",
    )  # fmt: skip
    assert (record.tags, to_json(record.metadata), record.omitted) == (["beta"], {"team": "a"}, ["inputs"])
    assert to_json(record.output) == 7
    assert to_json(record.inputs) is None


@pytest.mark.parametrize("method", _threads._POOL_METHODS)
def test_every_method_of_a_thread_pool(method: str, records: list[Record]) -> None:
    """The workers of `multiprocessing.pool.ThreadPool` are older than the call: it is the task that counts."""
    with ThreadPool(2) as pool:
        with everycall.span("above"):
            results = getattr(pool, method)(
                child, (5,) if method == "apply_async" else [(5,)] if "star" in method else [5]
            )
            assert (results.get() if "async" in method else list(results)) in (5, [5])
            assert pool.apply_async(func=child, args=(6,)).get() == 6
        pool.map(child, [7])
    first, second, above, outside = records
    assert [r.parent_id for r in (first, second, outside)] == [above.inference_id, above.inference_id, None]


def test_executor_map_in_parallel(records: list[Record]) -> None:
    """`executor.map(traced)` over more tasks than workers: order and values are unchanged, all below the call."""
    with everycall.span("above"), ThreadPoolExecutor(3) as pool:
        assert list(pool.map(child, range(8))) == list(range(8))
    *children, above = records
    assert [c.parent_id for c in children] == [above.inference_id] * 8


def test_thirty_threads_thirty_traces(records: list[Record]) -> None:
    """Each thread with a separate trace id, all at once, two levels deep: thirty traces that do not mix."""
    gate = threading.Barrier(30)

    def work(n: int) -> None:
        with everycall.context(trace_id=f"trace-{n}"):
            gate.wait()
            with everycall.span("above", inputs={"n": n}):
                by_thread(lambda: child(n))

    with everycall.span("around all"):
        threads = [threading.Thread(target=work, args=(n,)) for n in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    inner_records = [r for r in records if r.name != "around all"]
    assert len({r.trace_id for r in inner_records}) == 30
    by_id = {r.inference_id: r for r in inner_records}
    for record in inner_records:
        assert record.trace_id == f"trace-{to_json(record.inputs)['n']}"
        above = by_id[record.parent_id] if record.parent_id else None
        assert (above is None) == (record.name == "above")
        assert above is None or above.trace_id == record.trace_id


def test_two_tenants_on_one_pool(records: list[Record]) -> None:
    """A pool that both tenants use, started by one of them: every call is filed under the tenant that submitted it."""
    pool = ThreadPoolExecutor(2)

    def serve(tenant: str) -> None:
        with everycall.context(trace_id=f"{tenant}-trace", end_user_identifier=tenant, log_omit_outputs=tenant == "b"):
            list(pool.map(lambda n: child(n), [1 if tenant == "a" else 2] * 50))

    serve("a")
    threads = [threading.Thread(target=serve, args=(tenant,)) for tenant in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pool.submit(child, 3).result()
    pool.shutdown()
    labels = {(r.end_user_identifier, r.trace_id if r.end_user_identifier else None, to_json(r.inputs)["n"],
             tuple(r.omitted)) for r in records}  # fmt: skip
    assert labels == {("a", "a-trace", 1, ()), ("b", "b-trace", 2, ("outputs",)), (None, None, 3, ())}
    assert len(records) == 151


def test_a_pool_started_in_a_call_does_not_keep_it(records: list[Record]) -> None:
    """Workers outlive the call in which they happened to start: a later task without a call is a root."""
    with everycall.span("above"):
        pool = ThreadPoolExecutor(1)
        pool.submit(int).result()
        workers = ThreadPool(1)
    pool.submit(child).result()
    workers.apply(child)
    pool.shutdown()
    workers.terminate()
    assert [r.parent_id for r in records] == [None, None, None]


def test_the_whole_opentelemetry_context_is_passed_on(records: list[Record]) -> None:
    """Baggage and the current span are there, as with `asyncio.to_thread`; afterwards the worker is as it was."""
    values = []

    def look() -> None:
        values.append((baggage.get_baggage("colour"), otel_trace.get_current_span(), everycall.current()))

    with ThreadPoolExecutor(1) as pool:
        token = otel_context.attach(baggage.set_baggage("colour", "red"))
        with everycall.span("above") as call:
            pool.submit(look).result()
        otel_context.detach(token)
        pool.submit(look).result()
    assert values == [("red", call, call), (None, otel_trace.INVALID_SPAN, NOT_RECORDED)]


def test_other_context_variables_are_not_copied(records: list[Record]) -> None:
    """Only OpenTelemetry's context is passed on; other variables keep the values of the pool's initializer."""
    own: contextvars.ContextVar[str] = contextvars.ContextVar("own", default="unset")
    own.set("caller's")
    with ThreadPoolExecutor(1, initializer=lambda: own.set("worker's")) as pool, everycall.span("above"):
        assert pool.submit(own.get).result() == "worker's"


def boom() -> None:
    raise ValueError("from the work")


def test_a_future_raises_as_without_everycall(records: list[Record]) -> None:
    """The same exception object's type, cause and traceback: no frame of everycall in it."""

    def frames(inside: bool) -> list[str]:
        with ThreadPoolExecutor(1) as pool:
            future = None
            if inside:
                with everycall.span("above"):
                    future = pool.submit(boom)
            else:
                future = pool.submit(boom)
            with pytest.raises(ValueError, match="from the work") as caught:
                future.result()
        return [f"{Path(f.filename).name}:{f.name}" for f in traceback.extract_tb(caught.value.__traceback__)]

    plain, traced = frames(False), frames(True)
    assert plain == traced
    assert plain[-1] == "test_threads.py:boom"


@pytest.mark.parametrize("kind", [threading.Thread, threading.Timer])
def test_a_thread_fails_as_without_everycall(kind: Any, records: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    """`threading.excepthook` gets the thread and a traceback without a frame of everycall."""
    failures: list[tuple[Any, list[str]]] = []

    def hook(args: Any) -> None:
        failures.append((args.exc_type, [f.name for f in traceback.extract_tb(args.exc_traceback)]))

    monkeypatch.setattr(threading, "excepthook", hook)
    for inside in (False, True):
        thread = kind(0, boom) if kind is threading.Timer else kind(target=boom)
        if inside:
            with everycall.span("above"):
                thread.start()
        else:
            thread.start()
        thread.join()
    assert failures[0] == failures[1]
    assert failures[0][1][-1] == "boom"


def no_thread(*_: Any, **__: Any) -> None:
    raise RuntimeError("no thread")


def test_start_fails_as_without_everycall(records: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    """Started twice, or no thread to be had: the same error, and the thread object is as it was."""
    with everycall.span("above"):
        thread = threading.Thread(target=int)
        start = "_start_joinable_thread" if sys.version_info >= (3, 13) else "_start_new_thread"
        monkeypatch.setattr(threading, start, no_thread)
        with pytest.raises(RuntimeError, match="no thread"):
            thread.start()
        assert "run" not in vars(thread)
        monkeypatch.undo()
        thread.start()
        thread.join()
        with pytest.raises(RuntimeError, match="threads can only be started once"):
            thread.start()
        assert "run" not in vars(thread)
        with ThreadPoolExecutor(1) as pool:
            pass
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            pool.submit(int)
        with pytest.raises(TypeError):
            pool.submit()  # type: ignore[call-arg]


def test_nothing_changes_without_a_call(records: list[Record]) -> None:
    """Outside calls and scopes, a pool gets the original function, and threads keep their `run`."""
    release = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(release.wait)
        while not pool._work_queue.empty():
            time.sleep(0.001)
        pool.submit(boom)
        assert pool._work_queue.get().fn is boom
        release.set()
    checks: list[bool] = []
    thread = threading.Thread(target=lambda: checks.append(thread.run.__func__ is threading.Thread.run))  # type: ignore[attr-defined]
    thread.start()
    thread.join()
    assert checks == [True]
    assert inspect.signature(threading.Thread.start) == inspect.signature(START)
    assert inspect.signature(ThreadPoolExecutor.submit) == inspect.signature(SUBMIT)
    assert ThreadPoolExecutor.submit.__doc__ == SUBMIT.__doc__


def test_a_pool_that_pickles_gets_the_original_function(records: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    """`InterpreterPoolExecutor` of Python 3.14 is a ThreadPoolExecutor whose tasks leave the interpreter."""

    class InterpreterPoolExecutor(ThreadPoolExecutor):
        def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
            return super().submit(function, *args, **kwargs)

    module: Any = ModuleType("concurrent.futures.interpreter")
    module.InterpreterPoolExecutor = InterpreterPoolExecutor
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with everycall.span("above") as call:
        with InterpreterPoolExecutor(1) as interpreters:
            assert not interpreters.submit(everycall.current).result().inference_id
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(everycall.current).result() is call


def test_init_installs_and_shutdown_undoes(tmp_path: Path) -> None:
    """The original function objects are back; a second `init` installs nothing twice; `propagate_threads=False` too."""
    for _ in range(2):
        everycall.init(spool_dir=tmp_path)
        replaced = threading.Thread.start
        assert replaced is not START
        assert replaced.__wrapped__ is START  # type: ignore[attr-defined]
    everycall.init(spool_dir=tmp_path, propagate_threads=False)
    assert threading.Thread.start is START
    everycall.init(spool_dir=tmp_path)
    assert threading.Thread.start is not START
    everycall.shutdown()
    assert threading.Thread.start is START


def test_the_environment_switches_it_off() -> None:
    """EVERYCALL_PROPAGATE_THREADS=0 is `propagate_threads=False`; what `init` is given wins."""
    environment = {"EVERYCALL_PROPAGATE_THREADS": "0"}
    assert not Settings.build(environment).propagate_threads
    assert Settings.build(environment, propagate_threads=True).propagate_threads
    assert Settings.build({}).propagate_threads


def test_disabled_propagation_changes_nothing() -> None:
    with capture_records(Settings(propagate_threads=False)) as captured:
        with everycall.span("above"):
            by_thread(child)
            by_submit(child)
    assert [r.parent_id for r in captured] == [None, None, None]


def test_a_wrapper_around_ours_is_kept() -> None:
    """Theirs stays when we leave, ours below it does nothing; when we come back it is not put on a second time."""
    calls = []
    _threads.install()
    ours = threading.Thread.start

    def theirs(self: threading.Thread) -> None:
        calls.append("theirs")
        ours(self)

    theirs.__wrapped__ = ours  # type: ignore[attr-defined]
    try:
        threading.Thread.start = theirs  # type: ignore[method-assign]
        _threads.uninstall()
        assert threading.Thread.start is theirs
        with capture_records(Settings(propagate_threads=False)) as captured, everycall.span("above"):
            by_thread(child)
        assert captured[0].parent_id is None
        with capture_records() as captured, everycall.span("above"):
            assert threading.Thread.start is theirs
            by_thread(child)
        assert captured[0].parent_id == captured[1].inference_id
        assert calls == ["theirs"] * 2
    finally:
        threading.Thread.start = ours  # type: ignore[method-assign]
        _threads.uninstall()


def test_works_with_opentelemetrys_thread_instrumentation(records: list[Record]) -> None:
    """What opentelemetry-instrumentation-threading does (wrap `start`, `run`, `submit`), before and after ours."""

    def start_with_context(self: Any) -> None:
        self._otel_context = otel_context.get_current()
        inner_start(self)

    def run_with_context(self: Any) -> None:
        token = otel_context.attach(self._otel_context)
        try:
            inner_run(self)
        finally:
            otel_context.detach(token)

    inner_start, inner_run = threading.Thread.start, threading.Thread.run
    try:
        threading.Thread.start, threading.Thread.run = start_with_context, run_with_context  # type: ignore[method-assign]
        with everycall.span("above"):
            for way in (by_thread, by_subclass, by_submit):
                way(child)
        *children, above = records
        assert [c.parent_id for c in children] == [above.inference_id] * 3
    finally:
        threading.Thread.start, threading.Thread.run = inner_start, inner_run  # type: ignore[method-assign]


def run(program: str, tmp_path: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.process
def test_only_the_first_call_replaces_functions(tmp_path: Path) -> None:
    """Nothing happens on import; the first traced call is enough; a forked child has it too, and undoes it."""
    out = run(
        """
        import os, sys, threading
        from concurrent.futures import ThreadPoolExecutor
        before = (threading.Thread.start, ThreadPoolExecutor.submit)
        import everycall
        assert (threading.Thread.start, ThreadPoolExecutor.submit) == before
        @everycall.trace
        def first():
            return everycall.current()
        call = first()
        assert threading.Thread.start is not before[0]
        def check():
            seen = []
            with everycall.span("above") as call:
                thread = threading.Thread(target=lambda: seen.append(everycall.current()))
                thread.start()
                thread.join()
                with ThreadPoolExecutor(1) as pool:
                    seen.append(pool.submit(everycall.current).result())
            assert seen == [call, call]
        check()
        if os.fork() == 0:
            check()
            everycall.shutdown(0)
            os._exit(0 if (threading.Thread.start, ThreadPoolExecutor.submit) == before else 1)
        assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
        check()
        everycall.shutdown(0)
        assert (threading.Thread.start, ThreadPoolExecutor.submit) == before
        print("fine")
        """,
        tmp_path,
    )
    assert out == "fine\n"


def test_the_senders_thread_belongs_to_no_call(tmp_path: Path) -> None:
    """The sender is started by the first call that ends; it must not keep that call, or be its child."""
    others = set(threading.enumerate())  # that of an earlier test may still be ending
    everycall.init(spool_dir=tmp_path, endpoint="http://127.0.0.1:9")
    try:
        with everycall.span("above"):
            child()
            (sender,) = [t for t in set(threading.enumerate()) - others if t.name == "everycall-sender"]
            assert _threads._is_worker(sender)
            assert "run" not in vars(sender)
    finally:
        everycall.shutdown(0)
