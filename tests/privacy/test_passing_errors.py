"""An error that leaves an omitted call repeats what was omitted: the calls above it leave its text out too."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import everycall
from everycall.record import Record, encode
from everycall.settings import Settings
from everycall.testing import capture_records


@pytest.fixture
def records() -> Iterator[list[Record]]:
    with capture_records() as captured:
        yield captured


FLAGS: list[dict[str, bool]] = [{"log_omit_inputs": True}, {"log_omit_outputs": True}, {"log_omit": True}]


def by_itself(inner: Callable[[], None]) -> None:
    inner()


def raised_again(inner: Callable[[], None]) -> None:
    try:
        inner()
    except ValueError as error:
        raise error


def wrapped(inner: Callable[[], None]) -> None:
    try:
        inner()
    except ValueError as error:
        raise RuntimeError(f"failed: {error}") from error


def replaced(inner: Callable[[], None]) -> None:
    try:
        inner()
    except ValueError as error:
        raise RuntimeError(f"failed: {error}") from None


def kept_for_later(inner: Callable[[], None]) -> None:
    failed: Exception | None = None
    try:
        inner()
    except ValueError as error:
        failed = error
    if failed is not None:
        raise failed


def grouped(inner: Callable[[], None]) -> None:
    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.to_thread(inner))

    asyncio.run(main())


def in_a_span(inner: Callable[[], None]) -> None:
    with everycall.span("between"):
        inner()


def in_a_trace_of_its_own(inner: Callable[[], None]) -> None:
    with everycall.span("between", trace_id="order-7"):
        inner()


def told_of(inner: Callable[[], None]) -> None:
    try:
        inner()
    except ValueError as error:
        call = everycall.current()
        assert call.inference_id
        call.record_exception(error)


PASSING = [
    by_itself, raised_again, wrapped, replaced, kept_for_later, grouped, in_a_span, in_a_trace_of_its_own, told_of,
]  # fmt: skip


@pytest.mark.parametrize("flags", FLAGS, ids="+".join)
@pytest.mark.parametrize("passing", PASSING, ids=lambda passing: passing.__name__)
def test_the_text_of_an_omitted_calls_error_is_in_no_record(
    records: list[Record], canary: str, passing: Callable[..., None], flags: dict[str, Any]
) -> None:
    """Two levels above, without flags of their own: type and place stay, and `omitted` says that the text went."""

    @everycall.trace(**flags)
    def inner() -> None:
        raise ValueError(f"no {canary}")

    @everycall.trace
    def middle() -> None:
        passing(inner)

    @everycall.trace
    def outer() -> None:
        middle()

    try:
        outer()
    except (ValueError, RuntimeError, ExceptionGroup):
        assert passing is not told_of
    above = [record for record in records if record.name.endswith(("middle", "outer"))]
    assert len(above) == 2
    assert not any(canary.encode() in encode(record) for record in records)
    if passing is not told_of:
        assert all("error" in record.omitted for record in above)
        assert all(" at " in str(record.error) for record in above)


def test_other_errors_keep_their_text(records: list[Record], canary: str) -> None:
    """An error raised after an omitted call's error was handled keeps its text; so does one of a sibling call."""

    @everycall.trace(log_omit=True)
    def inner() -> None:
        raise ValueError(canary)

    @everycall.trace
    def outer() -> None:
        for _ in range(3):
            try:
                inner()
            except ValueError:
                continue
        raise ValueError("of my own")

    with pytest.raises(ValueError, match="of my own"):
        outer()
    (record,) = records
    assert (record.error, record.omitted) == ("ValueError: of my own", [])
    assert canary.encode() not in encode(record)


def test_the_texts_of_concurrent_failures_are_all_omitted(records: list[Record], canary: str) -> None:
    """Many omitted calls that fail at once, in threads: whichever error comes through, its text does not."""

    @everycall.trace(log_omit_inputs=True)
    def inner(n: int) -> None:
        time.sleep(0.01)
        raise ValueError(f"{canary} {n}")

    @everycall.trace
    def outer() -> None:
        with ThreadPoolExecutor(8) as pool:
            for future in [pool.submit(contextvars.copy_context().run, inner, n) for n in range(8)]:
                future.result()

    with pytest.raises(ValueError, match="CANARY"):
        outer()
    assert len(records) == 9
    assert not any(canary.encode() in encode(record) for record in records)


def test_a_call_that_is_not_sampled_omits_nothing() -> None:
    """A trace that is not sampled has no flag: its errors keep their text in the enclosing trace."""
    with capture_records(Settings(sample_rate=0.5)) as records:

        @everycall.trace
        def outer(n: int) -> None:
            with everycall.span("inner", trace_id=f"trace-{n}"):
                raise ValueError("told")

        for n in range(40):
            with pytest.raises(ValueError, match="told"):
                outer(n)
    outers = [record for record in records if record.name.endswith("outer")]
    assert 0 < len(outers) < 40
    assert len(records) > len(outers)
    assert {record.error for record in records} == {"ValueError: told"}


def test_an_error_is_not_kept_alive(records: list[Record]) -> None:
    """The calls above recognise an error without a reference to it, so its frames are freed as without everycall."""

    class Held:
        pass

    @everycall.trace(log_omit=True)
    def inner() -> None:
        holder = Held()
        references.append(weakref.ref(holder))
        raise ValueError("x")

    references: list[Any] = []
    with everycall.span("outer"):
        with contextlib.suppress(ValueError):
            inner()
        assert references[0]() is None


@pytest.mark.parametrize("inner_trace", [None, "inner-trace"])
@pytest.mark.parametrize("flags", FLAGS, ids=lambda flags: next(iter(flags)))
def test_a_separate_trace_does_not_record_the_text(
    records: list[Record], canary: str, flags: dict[str, Any], inner_trace: str | None
) -> None:
    """The omitted call is in a context with another trace id: the calls around that still leave the text out."""

    @everycall.trace(trace_id=inner_trace, **flags)
    def inner() -> None:
        raise ValueError(canary)

    @everycall.trace
    def outer() -> None:
        with everycall.context(trace_id="another-trace"):
            inner()

    with pytest.raises(ValueError, match=canary):
        outer()
    assert [r.name for r in records][-1].endswith("outer")
    assert canary not in "".join(encode(record).decode() for record in records)
