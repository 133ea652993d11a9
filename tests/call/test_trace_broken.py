"""A recorder that fails in any step, and a stack with no room left, change nothing for the program."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

from everycall import _guard, current, trace
from everycall._call import call, start
from everycall._call import recorder as _recorder
from everycall._capture import processors
from everycall._ledger import Ledger
from everycall.settings import Settings
from everycall.testing import capture_records

# --- recursion ---


def test_recursion_two_hundred_deep_is_all_recorded() -> None:
    @trace
    def down(n: int) -> int:
        return 0 if n == 0 else 1 + down(n - 1)

    with capture_records() as records:
        assert down(200) == 200
    assert len(records) == 201
    assert records[0].trace_id == records[-1].trace_id


RECURSION = textwrap.dedent(
    """
    import json, sys
    from everycall import trace, _guard
    from everycall.testing import capture_records

    deepest = 0

    @trace
    def down(n):
        global deepest
        deepest = n
        return down(n + 1)

    @trace
    def till(n, last):
        return n if n == last else till(n + 1, last)

    with capture_records() as records:
        try:
            down(1)
        except RecursionError as error:
            caught = type(error).__name__
        recorded = len(records)
        legal = 0
        for last in range(470, 500):  # the closest calls that still succeed give their value, recorded or not
            try:
                assert till(1, last) == last
                legal = last
            except RecursionError:
                break
        assert till(1, 2) == 2
        after = records[-1].status
    print(json.dumps([caught, deepest, legal, recorded, after]))
    """
)


@pytest.mark.process
def test_endless_recursion_fails_as_without_everycall() -> None:
    done = subprocess.run([sys.executable, "-c", RECURSION], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    caught, deepest, legal, recorded, after = __import__("json").loads(done.stdout)
    assert caught == "RecursionError"
    assert deepest >= 490
    assert legal >= 485
    assert recorded >= 480
    assert after == "success"


# --- a recorder that is broken ---


class Broken(Exception):
    """What a broken part raises."""


def refuse(*args: Any, **kwargs: Any) -> Any:
    raise Broken("broken")


class BrokenSink:
    def append(self, line: bytes) -> None:
        raise Broken("broken")


class KeptLines:
    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def append(self, line: bytes) -> None:
        self.lines.append(line)


def breaks_begin(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(start, "OwnedCall", refuse)


def breaks_clock(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(call, "_clock", refuse)


def breaks_capture(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(call, "set_json", refuse)


def breaks_encoding(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(call, "_encode", refuse)


def breaks_chain(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(processors, "mask_and_limit", refuse)
    patch.setattr(_recorder, "_active", _recorder.Recorder(Settings(mask=refuse), KeptLines(), Ledger()))


def breaks_sink(patch: pytest.MonkeyPatch) -> None:
    broken = _recorder.Recorder(Settings(), BrokenSink(), Ledger())
    patch.setattr(_recorder, "_active", broken)


def breaks_making_a_recorder(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_recorder, "_active", None)
    patch.setattr(_recorder, "_make", refuse)


def breaks_mask(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_recorder, "_active", _recorder.Recorder(Settings(mask=refuse), KeptLines(), Ledger()))


def breaks_logging(patch: pytest.MonkeyPatch) -> None:
    """A log handler of the user's that raises, while something else fails too."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise Broken("broken")

    logger = logging.getLogger("everycall")
    patch.setattr(logger, "handlers", [Handler()])
    patch.setattr(_guard, "_warned_at", {})
    patch.setattr(call, "set_json", refuse)


BREAKS = [
    breaks_begin,
    breaks_clock,
    breaks_capture,
    breaks_encoding,
    breaks_chain,
    breaks_sink,
    breaks_making_a_recorder,
    breaks_mask,
    breaks_logging,
]


@pytest.mark.parametrize("break_it", BREAKS)
def test_a_broken_recorder_changes_nothing(break_it: Callable[[pytest.MonkeyPatch], None]) -> None:
    ran: list[str] = []
    error = ValueError("the user's")

    def function(fails: bool) -> Any:
        ran.append("function")
        if fails:
            raise error
        return ran

    async def coroutine(fails: bool) -> Any:
        return function(fails)

    def generator(fails: bool) -> Any:
        value = yield 1
        yield value
        return function(fails)

    async def async_generator(fails: bool) -> Any:
        value = yield 1
        yield value
        function(fails)

    def steps(fails: bool) -> Any:
        iterator = traced_generator(fails)
        items = [next(iterator), iterator.send(2)]
        try:
            next(iterator)
        except StopIteration as stop:
            items.append(stop.value)
        return items

    async def async_steps(fails: bool) -> Any:
        iterator = traced_async_generator(fails)
        items = [await anext(iterator), await iterator.asend(2)]
        with pytest.raises(StopAsyncIteration):
            await anext(iterator)
        return items

    traced_generator, traced_async_generator = trace(generator), trace(async_generator)
    with pytest.MonkeyPatch.context() as patch, capture_records():
        break_it(patch)
        for fails in (False, True):
            run: Callable[[], Any]
            for run in (
                lambda: trace(function)(fails),
                lambda: asyncio.run(trace(coroutine)(fails)),
                lambda: steps(fails),
                lambda: asyncio.run(async_steps(fails)),
            ):
                ran.clear()
                if fails:
                    with pytest.raises(ValueError) as info:
                        run()
                    assert info.value is error
                    assert error.__context__ is None
                else:
                    assert run() in (["function"], [1, 2, ["function"]], [1, 2])
                assert ran == ["function"]
        assert not current().inference_id


def test_a_mask_that_raises_replaces_the_field() -> None:
    @trace
    def run(secret: str) -> str:
        return secret

    with capture_records(Settings(mask=refuse)) as records:
        assert run("canary") == "canary"
    assert b"canary" not in bytes(records[0].inputs) + bytes(records[0].output)


def test_records_that_cannot_be_built_are_counted_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = _recorder.Recorder(Settings(), BrokenSink(), Ledger())
    monkeypatch.setattr(_recorder, "_active", recorder)
    assert trace(lambda: 1)() == 1
    assert recorder.ledger.dropped == {"capture_failed": 1}
