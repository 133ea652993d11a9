"""Masks at work: what they find is in no byte of spool, wire or store, and a mask that fails lets nothing by."""

from __future__ import annotations

import asyncio
import itertools
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.prompts import ChatPromptTemplate

import everycall
from everycall import _guard, masks
from everycall._capture import processors
from everycall.record import Record, to_raw
from everycall_langchain import CallbackHandler

KEY = "sk-aB3dE6gH1jK4mN7pQ0sTuV"
CARD = "4111 1111 1111 1111"
NUMBERS = itertools.count()


@pytest.fixture
def mail() -> str:
    """An address that is nowhere else."""
    return f"joe-{next(NUMBERS)}@canary.example.com"


def work(mail: str) -> None:
    """Put an address, a key and a card number into every place of a record."""

    @everycall.trace(name=f"ask {mail}", metadata={"by": mail}, tags=[mail], session_id=mail, end_user_identifier=mail)
    def fails(argument: str, default: Any = KEY, **more: Any) -> None:
        call = everycall.current()
        assert call.inference_id
        call.set_attribute(f"note {mail}", {"card": CARD})
        call.add_event(f"event {mail}", {"key": KEY})
        call.update(metadata={mail: KEY}, tags=[KEY], target=[mail], content=f"said {mail}")
        call.set_attribute("unknown", CARD)
        try:
            raise OSError(f"cause {mail}")
        except OSError as cause:
            raise ValueError(f"{mail} {KEY} {CARD}") from cause

    @everycall.trace
    def steps() -> Iterator[Any]:
        yield {"to": mail}
        yield [KEY, 4111111111111111]

    @everycall.trace
    async def text_steps() -> Any:
        yield mail[:5]
        yield mail[5:]

    with everycall.context(trace_name=f"trace {mail}"):
        with pytest.raises(ValueError, match="canary"):
            fails(mail, password="hunter2-plain", nested=[{mail: {"api_key": "plain-words"}}])
        list(steps())
        with everycall.span("s", inputs={"n": 4111111111111111}, llm_inputs={"x": mail}) as call:
            call.update(llm_configuration={"messages": [{"content": mail}]}, output=(KEY, CARD))

    async def consume() -> None:
        async for _ in text_steps():
            pass

    asyncio.run(consume())
    chain = ChatPromptTemplate.from_template("{q}") | FakeListChatModel(responses=[f"write to {mail}"])
    config: Any = {"callbacks": [CallbackHandler()], "metadata": {"who": mail}, "tags": [mail], "run_name": mail}
    chain.invoke({"q": f"{KEY} {CARD}"}, config)
    list(chain.stream({"q": mail}, config))


SECRETS = (KEY, KEY[3:], CARD, CARD.replace(" ", ""), "hunter2-plain", "plain-words")


def found_in(data: bytes, mail: str) -> set[str]:
    return {secret for secret in (mail, *SECRETS) if secret.encode() in data}


def test_masked_values_are_in_no_byte(sink: Any, tmp_path: Path, mail: str, written_output: Callable[[], str]) -> None:
    """Arguments, defaults, results, steps, errors with causes, tracebacks, events, names, labels, LangChain's runs."""
    everycall.init(endpoint=sink.address, mask=masks.common)
    before = dict(_guard.failures)
    work(mail)
    assert everycall.flush(10).spooled == 0
    files = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    bodies = b"\n".join(sink.bodies)
    # The source lines of a traceback name the functions of this file, and no secret.
    assert found_in(bodies + files, mail) == set()
    assert found_in(written_output().encode(), mail) == set()
    for replacement in (masks.EMAIL, masks.KEY, masks.CARD):
        assert replacement.encode() in bodies
    first = sink.records[0]
    assert (first["name"], first["session_id"], first["tags"]) == ("ask [email]", "[email]", ["[email]", "[key]"])
    assert first["inputs"]["more"] == {"password": "[key]", "nested": [{"[email]": {"api_key": "[key]"}}]}
    assert first["error"] == "ValueError: [email] [key] [card]"
    assert dict(_guard.failures) == before


def test_without_a_mask_all_values_are_found(sink: Any, mail: str) -> None:
    """Each of these does reach the wire when nothing masks it."""
    everycall.init(endpoint=sink.address)
    work(mail)
    assert everycall.flush(10).spooled == 0
    assert found_in(b"\n".join(sink.bodies), mail) == {mail, *SECRETS}


def test_masked_values_are_not_in_the_store(endpoint: Any, mail: str) -> None:
    """A server's database after the same calls, masked by the client."""
    everycall.init(endpoint=endpoint.address, api_key=endpoint.key, mask=masks.common)
    work(mail)
    assert everycall.flush(10).spooled == 0
    everycall.shutdown(1)
    assert found_in(endpoint.every_byte(), mail) == set()


def test_flags_apply_before_the_mask(sink: Any, mail: str) -> None:
    """What a flag covers is not even shown to the mask; what it leaves, such as the outputs, is."""
    fields: list[str] = []

    def mask(field: str, value: Any) -> Any:
        fields.append(f"{field}={value}")
        return masks.common(field, value)

    everycall.init(endpoint=sink.address, mask=mask)
    with everycall.span("s", inputs=mail, log_omit_inputs=True) as call:
        call.update(output=f"see {mail}")
    assert everycall.flush(10).spooled == 0
    assert not any(line.startswith("inputs=") for line in fields)
    assert sink.records[0]["output"] == "see [email]"


class Broken:
    """A mask that fails in one way, at JSON or at text."""

    def __init__(self, way: str) -> None:
        self.way = way

    def __call__(self, field: str, value: Any) -> Any:
        if self.way == "raises":
            raise RuntimeError(f"cannot mask {value}")
        return object()

    def mask_json(self, field: str, raw: bytes) -> Any:
        if self.way == "raises":
            raise RuntimeError(f"cannot mask {raw!r}")
        return {"no json": b"[email]", "no bytes": 7, "half": raw[:-1], "not utf-8": b'"\xff"'}[self.way]


@pytest.mark.parametrize("way", ["raises", "no json", "no bytes", "half", "not utf-8"])
def test_a_failing_json_mask_fails_closed(
    sink: Any, tmp_path: Path, mail: str, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    """It raises, or returns no JSON: the field is replaced and counted, the record arrives whole beside it."""
    caplog.set_level(logging.DEBUG)
    before = _guard.failures.get("mask", 0)
    everycall.init(endpoint=sink.address, mask=Broken(way))
    with everycall.span("s", inputs={"q": mail}, tags=[mail]) as call:
        call.update(content=mail)
    assert everycall.flush(10).spooled == 0
    (record,) = sink.records
    assert record["inputs"] == record["content"] == processors.MASK_FAILED
    files = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert mail.encode() not in b"".join(sink.bodies) + files
    assert mail not in caplog.text
    assert _guard.failures["mask"] >= before + 3


def test_a_mask_costs_little_of_a_large_record() -> None:
    """A record of a megabyte takes as many function calls as one of a kilobyte: the patterns scan the text in C.

    A mask that looked at one word or character after another would take a call for each.
    """
    small, large = masked_record(13), masked_record(13_000)
    assert bytes(processors.mask_record(large, masks.common).inputs).endswith(b'"mail":"[email]"}')
    few = calls_of(lambda: processors.mask_record(small, masks.common))
    assert 0 < calls_of(lambda: processors.mask_record(large, masks.common)) <= few + 10


def masked_record(sentences: int) -> Record:
    words = "The quick brown fox jumps over the lazy dog, and responsibilities were met. " * sentences
    return Record(inference_id="i", trace_id="t", inputs=to_raw({"q": words, "mail": "joe@example.com"}))


def calls_of(work: Callable[[], object]) -> int:
    """Return how many functions, of Python and of C, `work` calls."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return calls
