"""What an omit flag covers is in no byte that leaves the process or rests on disk: one canary, searched for everywhere.

The matrix: flag x how it was given x how the work was entered x how it ended. The canary is put into every place that
reaches a record by the way: arguments, defaults, results, yielded items, exception messages and causes, tracebacks,
attributes, events, names, metadata and tags added inside, targets.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import everycall
from everycall import _guard
from everycall_testkit.sink import Sink

CANARY = "CANARY-7f3a"
NUMBERS = itertools.count()


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as started:
        yield started
    everycall.shutdown(0.5)


def every_byte(sink: Sink, home: Path) -> bytes:
    """All that was sent, and all that lies on disk."""
    return b"\n".join(sink.bodies) + b"\n".join(p.read_bytes() for p in home.rglob("*") if p.is_file())


# --- entries: each has the canary as input, output, or both, and ends with the outcome ---


def decorate(outcome: str, **flags: Any) -> Callable[[], None]:
    """A plain traced function."""

    @everycall.trace(name="entry", **flags)
    def function(argument: str, default: str = "d-" + CANARY, **more: Any) -> Any:
        inside(outcome)
        return {"answer": "out-" + CANARY}

    return lambda: quietly(lambda: function("in-" + CANARY, more="kw-" + CANARY))


def decorate_async(outcome: str, **flags: Any) -> Callable[[], None]:
    """A traced coroutine, cancelled if the outcome says so."""

    @everycall.trace(name="entry", **flags)
    async def function(argument: str) -> str:
        inside("ok" if outcome == "cancelled" else outcome)
        if outcome == "cancelled":
            await asyncio.sleep(60)
        return "out-" + CANARY

    async def main() -> None:
        task = asyncio.create_task(function("in-" + CANARY))
        await asyncio.sleep(0.01)
        task.cancel()
        await task

    async def simple() -> None:
        await function("in-" + CANARY)

    return lambda: quietly(lambda: asyncio.run(main() if outcome == "cancelled" else simple()))


def generate(outcome: str, **flags: Any) -> Callable[[], None]:
    """A traced generator, closed early if the outcome says so."""

    @everycall.trace(name="entry", **flags)
    def function(argument: str) -> Iterator[Any]:
        yield "chunk-" + CANARY
        inside(outcome)
        yield {"k": "chunk-" + CANARY}

    def consume() -> None:
        for _ in function("in-" + CANARY):
            if outcome == "abandoned":
                break

    return lambda: quietly(consume)


def generate_async(outcome: str, **flags: Any) -> Callable[[], None]:
    """A traced async generator."""

    @everycall.trace(name="entry", **flags)
    async def function(argument: str) -> AsyncIterator[str]:
        yield "chunk-" + CANARY
        inside(outcome)
        yield "chunk-" + CANARY

    async def consume() -> None:
        steps = function("in-" + CANARY)
        async for _ in steps:
            if outcome == "abandoned":
                break
        await steps.aclose()  # type: ignore[attr-defined]

    return lambda: quietly(lambda: asyncio.run(consume()))


def block(outcome: str, **flags: Any) -> Callable[[], None]:
    """A span, with the flags on it."""

    def work() -> None:
        with everycall.span("entry", inputs={"q": "in-" + CANARY}, target="gold-" + CANARY, **flags) as call:
            inside(outcome)
            call.update(output="out-" + CANARY, content="out-" + CANARY)

    return lambda: quietly(work)


def in_context(outcome: str, **flags: Any) -> Callable[[], None]:
    """Flags on a context around two levels of calls: inherited by what is below."""

    @everycall.trace(name="inner")
    def inner(argument: str) -> str:
        inside(outcome)
        return "out-" + CANARY

    @everycall.trace(name="entry")
    def outer(argument: str) -> str:
        return str(inner(argument))

    def work() -> None:
        with everycall.context(**flags):
            outer("in-" + CANARY)

    return lambda: quietly(work)


ENTRIES = [decorate, decorate_async, generate, generate_async, block, in_context]
OUTCOMES = ["ok", "error", "abandoned", "cancelled"]


def inside(outcome: str) -> None:
    """Put the canary wherever a user's code may put it, then end with the outcome."""
    call = everycall.current()
    assert call.inference_id
    call.set_attribute("note", "attr-" + CANARY)
    call.add_event("happened", {"what": "event-" + CANARY})
    call.update_name("name-" + CANARY)
    call.update(metadata={"k": "meta-" + CANARY}, tags=["tag-" + CANARY])
    call.set_attribute("unknown_field", "field-" + CANARY)
    try:
        raise KeyError("handled-" + CANARY)
    except KeyError as error:
        call.record_exception(error)
    if outcome == "error":
        try:
            raise OSError("cause-" + CANARY)
        except OSError as cause:
            raise ValueError("message-" + CANARY) from cause


def quietly(work: Callable[[], Any]) -> None:
    try:
        work()
    except (ValueError, asyncio.CancelledError):
        return


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.__name__)
@pytest.mark.parametrize(
    "both", [{"log_omit_inputs": True, "log_omit_outputs": True}, {"log_omit": True}], ids=["both", "all"]
)
def test_omitted_content_is_nowhere(
    sink: Sink, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str],
    entry: Callable[..., Callable[[], None]], outcome: str, both: dict[str, bool],
) -> None:  # fmt: skip
    """With both flags, or `log_omit`, the canary is nowhere: wire, spool, our log at DEBUG, standard streams."""
    caplog.set_level(logging.DEBUG)
    everycall.init(endpoint=sink.address)
    entry(outcome, **both)()
    flushed = everycall.flush(10)
    assert flushed.spooled == 0
    assert CANARY.encode() not in every_byte(sink, tmp_path)
    assert CANARY not in caplog.text
    assert CANARY not in "".join(capfd.readouterr())
    if "log_omit" in both:
        assert sink.records == []
    else:
        assert all(set(r["omitted"]) >= {"inputs", "outputs"} for r in sink.records)
        assert "entry" in {r["name"] for r in sink.records}
        if outcome == "error":
            record = sink.records[0]
            assert record["status"] == "error"
            assert record["error_type"] == "ValueError"
            assert "test_omit:" in record["error"]
            assert record["attributes"].keys() == {"code.location"}
    assert _guard.failures.get("record") is None


@pytest.mark.parametrize("flag", ["log_omit_inputs", "log_omit_outputs"])
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.__name__)
def test_one_flag_omits_its_side_and_keeps_the_other(
    sink: Sink, tmp_path: Path, entry: Callable[..., Callable[[], None]], flag: str
) -> None:
    """One flag alone: its own side is gone, the other side is there, and the record says which is which."""
    everycall.init(endpoint=sink.address)
    entry("ok", **{flag: True})()
    assert everycall.flush(10).spooled == 0
    everything = every_byte(sink, tmp_path).decode()
    omitted, recorded = ("in-", ("out-", "chunk-")) if flag == "log_omit_inputs" else ("out-", ("in-",))
    assert omitted + CANARY not in everything.replace("chain-", "")
    assert any(k + CANARY in everything for k in recorded)
    assert all(("inputs" if flag == "log_omit_inputs" else "outputs") in r["omitted"] for r in sink.records)
    for by_the_way in ("attr-", "event-", "name-", "meta-", "tag-", "field-", "handled-"):
        assert by_the_way + CANARY not in everything


@pytest.mark.parametrize("value", ["all", "inputs,outputs"])
def test_flags_from_the_environment_apply(
    sink: Sink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """EVERYCALL_LOG_OMIT covers every call of the process."""
    monkeypatch.setenv("EVERYCALL_LOG_OMIT", value)
    everycall.init(endpoint=sink.address)
    for entry in ENTRIES:
        entry("error")()
    assert everycall.flush(10).spooled == 0
    assert CANARY.encode() not in every_byte(sink, tmp_path)


def test_flags_only_add_up(sink: Sink, tmp_path: Path) -> None:
    """An inner scope cannot lift an outer one's flag, and a child call cannot lift its parent's."""
    everycall.init(endpoint=sink.address)
    with (
        everycall.context(log_omit_inputs=True),
        everycall.context(log_omit_outputs=True, log_omit_inputs=False),
        everycall.span("outer", log_omit_inputs=False) as call,
    ):
        call.update(inputs="in-" + CANARY, output="out-" + CANARY)
    assert everycall.flush(10).spooled == 0
    assert CANARY.encode() not in every_byte(sink, tmp_path)
    assert sink.records[0]["omitted"] == ["inputs", "outputs"]


def test_labels_set_at_the_start_are_kept(sink: Sink) -> None:
    """Metadata and tags given on the decorator are the user's labels: omit flags leave them."""
    everycall.init(endpoint=sink.address)

    @everycall.trace(metadata={"team": "a"}, tags=["beta"], log_omit_inputs=True, log_omit_outputs=True)
    def function(argument: str) -> str:
        return argument

    function(CANARY)
    assert everycall.flush(10).spooled == 0
    (record,) = sink.records
    assert (record["metadata"], record["tags"]) == ({"team": "a"}, ["beta"])


def test_a_mask_runs_before_anything_is_written(sink: Sink, tmp_path: Path) -> None:
    """`mask(field, value)` sees each field once; what it returns is all that is ever on disk or wire."""
    fields: list[str] = []

    def mask(field: str, value: Any) -> Any:
        fields.append(field)
        return {"masked": True} if isinstance(value, dict) else "masked"

    everycall.init(endpoint=sink.address, mask=mask)
    decorate("error")()
    block("ok")()
    assert everycall.flush(10).spooled == 0
    assert CANARY.encode() not in every_byte(sink, tmp_path)
    assert {"inputs", "error", "attributes", "metadata", "output", "content", "target", "name", "tags"} <= set(fields)
    assert sink.records[0]["inputs"] == {"masked": True}


def test_a_mask_that_raises_fails_closed(sink: Sink, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A mask that raises has the field replaced and counted; the record arrives, the raw value never does."""
    caplog.set_level(logging.DEBUG)
    before = _guard.failures.get("mask", 0)

    def mask(field: str, value: Any) -> Any:
        raise RuntimeError("mask broke on " + CANARY)

    everycall.init(endpoint=sink.address, mask=mask)
    decorate("ok")()
    assert everycall.flush(10).spooled == 0
    assert CANARY.encode() not in every_byte(sink, tmp_path)
    assert CANARY not in caplog.text
    assert _guard.failures["mask"] > before
    assert sink.records[0]["inputs"] == "<masked: the mask function raised>"


def test_without_flags_the_canary_is_found() -> None:
    """The search itself works: with no flag, each of these places does reach the sink."""
    with Sink() as sink:
        everycall.init(endpoint=sink.address)
        for entry in ENTRIES:
            entry("ok")()
            entry("error")()
        assert everycall.flush(10).spooled == 0
        everything = b"\n".join(sink.bodies).decode()
        everycall.shutdown(0.5)
    places = ["in-", "d-", "kw-", "out-", "chunk-", "gold-", "attr-", "event-", "name-", "meta-", "tag-", "field-"]
    for place in [*places, "handled-", "message-", "cause-"]:
        assert place + CANARY in everything, place
