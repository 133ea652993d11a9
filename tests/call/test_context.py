"""`context(...)`: what every call below inherits, and where it ends."""

from __future__ import annotations

import asyncio
import hashlib
import random
import uuid
from typing import Any

import pytest

from everycall import context, current, span, trace
from everycall._call.context import current_node
from everycall.record import to_json
from everycall.sampling import trace_id_hex
from everycall.testing import capture_records


def test_calls_below_inherit_the_context() -> None:
    with capture_records() as records:
        with context(
            trace_id="order-42",
            trace_name="support",
            end_user_identifier="u-7",
            session_id="s-1",
            tags=["a"],
            metadata={"team": "x"},
        ):
            with span("outer", tags=["b"], metadata={"n": 1}):
                trace(lambda: 1)()
    for record in records:
        assert (record.trace_id, record.trace_name) == ("order-42", "support")
        assert (record.end_user_identifier, record.session_id) == ("u-7", "s-1")
    inner, outer = records
    assert (outer.tags, to_json(outer.metadata)) == (["a", "b"], {"team": "x", "n": 1})
    assert (inner.tags, to_json(inner.metadata)) == (["a"], {"team": "x"})
    assert inner.parent_id == outer.inference_id


def test_the_context_ends_with_its_block() -> None:
    with pytest.raises(ValueError):
        with context(trace_name="t"):
            raise ValueError
    assert current_node() is None


def test_inner_contexts_add_to_outer_ones() -> None:
    with capture_records() as records:
        with context(trace_name="outer", session_id="s", tags=["a"], metadata={"k": 1, "l": 1}):
            with context(trace_name="inner", tags=["b"], metadata={"k": 2}, log_omit_outputs=True):
                with span("s") as call:
                    call.update(output="canary")
            with span("after") as call:
                call.update(output="kept")
    inner, after = records
    assert (inner.trace_name, inner.session_id, inner.tags) == ("inner", "s", ["a", "b"])
    assert to_json(inner.metadata) == {"k": 2, "l": 1}
    assert (inner.omitted, to_json(inner.output)) == (["outputs"], None)
    assert (after.trace_name, to_json(after.output)) == ("outer", "kept")


def test_a_different_trace_id_starts_a_new_trace() -> None:
    with capture_records() as records:
        with span("one") as one:
            with context(trace_id="two"):
                with span("two"):
                    pass
            with context(trace_id=one.trace_id), span("three"):
                pass
    two, three, _ = records
    assert (two.trace_id, two.parent_id) == ("two", None)
    assert (three.trace_id, three.parent_id) == (one.trace_id, one.inference_id)


def test_a_context_can_be_reused_and_nested() -> None:
    scope = context(trace_name="t")
    with scope:
        with scope:
            assert current_node() is not None
        assert current_node() is not None
    assert current_node() is None
    with scope:
        assert current_node() is not None


async def test_tasks_keep_the_context_they_started_in() -> None:
    @trace
    async def run(name: str) -> None:
        await asyncio.sleep(0)

    async def under(name: str) -> None:
        async with context(trace_name=name):
            await asyncio.sleep(0)
            await run(name)

    with capture_records() as records:
        with context(session_id="s"):
            later = asyncio.create_task(run("later"))
        await asyncio.gather(*(under(f"t{i}") for i in range(10)), later)
    assert sorted((to_json(r.inputs)["name"], r.trace_name, r.session_id) for r in records if r.trace_name) == sorted(
        (f"t{i}", f"t{i}", None) for i in range(10)
    )
    assert [record.session_id for record in records if record.trace_name is None] == ["s"]


def test_an_unknown_flag_is_refused() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'log_omit_all'"):
        context(log_omit_all=True)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a" * 32, "a" * 32),
        ("0f8fad5b-d9cb-469f-a165-70867728950e", "0f8fad5bd9cb469fa16570867728950e"),
        ("0F8FAD5B-D9CB-469F-A165-70867728950E", "0f8fad5bd9cb469fa16570867728950e"),
        ("0" * 32, None),
        ("A" * 32, None),
        (str(uuid.UUID(int=0)), None),
        ("order-42", None),
        ("a\n" + "b" * 30, None),
        ("a" * 32 + "\n", None),
        ("\ud800", None),
    ],
    ids=ascii,
)
def test_any_string_is_a_trace_id(text: str, expected: str | None) -> None:
    digest = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:32]
    assert trace_id_hex(text) == (expected or digest)
    with capture_records() as records:
        with context(trace_id=text), span("s") as call:
            assert call.get_span_context().is_valid
    assert records[0].trace_id == text.encode("utf-8", "backslashreplace").decode()
    assert records[0].inference_id.startswith(expected or digest)


@pytest.mark.parametrize("value", [7, uuid.UUID(int=7), "x" * 10_000], ids=lambda v: type(v).__name__)
def test_records_with_invalid_ids_are_kept(value: Any) -> None:
    with capture_records() as records:
        with context(trace_id=value, session_id=value, end_user_identifier=value, trace_name=value):
            with span("s"):
                pass
        with span("t", trace_id=value, session_id=value, end_user_identifier=value, trace_name=value):
            pass
    assert len(records) == 2
    for record in records:
        assert record.session_id is not None
        assert len(record.session_id) <= 512
        assert record.session_id[:100] == str(value)[:100]


def test_ids_do_not_depend_on_the_users_random_seed() -> None:
    def made() -> str:
        random.seed(0)
        with span("s") as call:
            assert random.getstate() == state
            return call.inference_id

    random.seed(0)
    state = random.getstate()
    with capture_records():
        assert len({made() for _ in range(100)}) == 100


def test_current_records_nothing_outside_a_call() -> None:
    assert not current().inference_id
    with context(trace_name="t"):
        assert not current().inference_id
