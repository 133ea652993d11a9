"""Whole records, field by field: each outcome of a chain, for each way to run it. No other fields are recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from everycall._version import SDK
from everycall.record import Record, to_json
from everycall_langchain import CallbackHandler

IDS_AND_TIMES = ("inference_id", "trace_id", "latency", "time_to_first_token", "start_time_unix_nano",
                 "end_time_unix_nano")  # fmt: skip
JSON_FIELDS = ("llm_inputs", "llm_configuration", "inputs", "output", "target", "metadata", "attributes")
HANDLER: Any = {
    "tags": ["t"],
    "metadata": {"team": "a"},
    "trace_name": "talk",
    "session_id": "s",
    "end_user_identifier": "u",
}
CONFIG = {"run_name": "root", "tags": ["beta"], "metadata": {"page": 3}}
USAGE: Any = {
    "input_tokens": 20,
    "output_tokens": 6,
    "total_tokens": 26,
    "input_token_details": {"cache_read": 8},
    "output_token_details": {"reasoning": 0},
}
ABOUT = {"model_name": "claude-test-1-20260101", "id": "msg_7", "stop_reason": "end_turn"}
_JOINED: Any = AIMessageChunk(content="") + AIMessageChunk(content="", usage_metadata=USAGE)
MERGES_DETAILS = "input_token_details" in _JOINED.usage_metadata
"""Whether this langchain-core keeps the parts of usage when it joins the chunks of a stream. Old versions do not."""
QUESTION = {"question": "Why do storks fly south?"}
ANSWER = "For the food."
SYSTEM = "Answer in one sentence."
MESSAGES = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION["question"]}]


def common(name: str, kind: str, parent: str | None) -> dict[str, Any]:
    """Return the fields that every record of this chain has."""
    return {
        "name": name,
        "kind": kind,
        "parent": parent,
        "trace_name": "talk",
        "session_id": "s",
        "end_user_identifier": "u",
        "project_name": "default",
        "status": "success",
        "metadata": {"team": "a", "page": 3},
        "tags": ["t", "beta"],
        "scope": "everycall_langchain",
        "sdk": SDK,
    }


ROOT = {**common("root", "chain", None), "inputs": QUESTION, "output": ANSWER}
PROMPT = {**common("ChatPromptTemplate", "prompt", "root"), "inputs": QUESTION, "output": MESSAGES}
REQUEST = {
    **common("ScriptedChat", "llm", "root"),
    "provider": "anthropic",
    "llm_configuration": {
        "model": "claude-test-1",
        "provider": "anthropic",
        "model_params": {"temperature": 0.25},
        "messages": MESSAGES,
    },
}
ANSWERED = {
    "model": "claude-test-1-20260101",
    "input_tokens": 20,
    "output_tokens": 6,
    "total_tokens": 26,
    "usage": {"cached": 8, "reasoning": 0},
    "attributes": {"gen_ai.response.id": "msg_7", "gen_ai.response.finish_reasons": ["end_turn"]},
}
MODEL = {**REQUEST, "content": ANSWER, **ANSWERED}
ASKED_MODEL = {**REQUEST, "model": "claude-test-1"}
PARSER = {
    **common("StrOutputParser", "parser", "root"),
    "inputs": {"role": "assistant", "content": ANSWER},
    "output": ANSWER,
}


def without(record: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in names}


def failed(record: dict[str, Any], error: str, kind: str) -> dict[str, Any]:
    return {**without(record, "output"), "status": "error", "error": error, "error_type": kind}


def omitted(record: dict[str, Any], *what: str) -> dict[str, Any]:
    """Return a record under omit flags: declared labels stay; those of the config go, as they may contain content."""
    removed_fields = {
        "inputs": ("inputs", "llm_configuration"),
        "outputs": ("output", "content"),
        "attributes": ("attributes",),
    }
    left = without(record, *(name for each in what for name in removed_fields.get(each, ())))
    if record["kind"] in ("prompt", "parser"):
        left = without(left, "inputs", "output")  # what one step answers is what the next is asked
    return {**left, "metadata": {"team": "a"}, "tags": ["t"], "omitted": sorted([*what, "metadata", "tags"])}


def fields_by_name(records: list[Record]) -> dict[str, dict[str, Any]]:
    """Return the fields of the records of one trace, by name. Ids and times are checked here and left out."""
    names = {record.inference_id: record.name for record in records}
    assert len({record.trace_id for record in records}) <= 1
    by_name: dict[str, dict[str, Any]] = {}
    for record in records:
        assert record.inference_id.startswith(f"{record.trace_id}-")
        assert record.latency is not None
        assert record.start_time_unix_nano + int(record.latency * 1e9) == pytest.approx(record.end_time_unix_nano)
        fields: dict[str, Any] = {"parent": names[record.parent_id] if record.parent_id else None}
        for name in record.__struct_fields__:
            value = to_json(getattr(record, name)) if name in JSON_FIELDS else getattr(record, name)
            if name not in (*IDS_AND_TIMES, "parent_id") and value not in (None, [], {}):
                fields[name] = sorted(value) if name == "omitted" else value
        attributes = fields.get("attributes", {})
        for name in ("exception.stacktrace", "code.location"):
            attributes.pop(name, None)
        assert record.name not in by_name
        by_name[record.name] = fields if attributes else without(fields, "attributes")
    return by_name


def as_streamed(expected: dict[str, dict[str, Any]], records: list[Record]) -> dict[str, dict[str, Any]]:
    """Return what is expected of a streamed model with the installed version of LangChain."""
    if MERGES_DETAILS or not any(record.time_to_first_token for record in records):
        return expected
    return {name: without(record, "usage") for name, record in expected.items()}


class Case:
    """One outcome of a chain: its model, its config, and the expected records."""

    def __init__(self, *expected: dict[str, Any], handler: dict[str, Any] | None = None, **model: Any) -> None:
        self.expected = {record["name"]: record for record in expected}
        self.handler = {**HANDLER, **(handler or {})}
        self.model = model

    def chain(self, chat: Any) -> Any:
        message = AIMessage(ANSWER, usage_metadata=USAGE, response_metadata=ABOUT)
        prompt = ChatPromptTemplate.from_messages([("system", SYSTEM), ("user", "{question}")])
        return prompt | chat(message, **self.model) | StrOutputParser()

    @property
    def config(self) -> dict[str, Any]:
        return {**CONFIG, "callbacks": [CallbackHandler(**self.handler)]}


GONE = ConnectionError("the host is gone")
GONE_TEXT, GONE_TYPE = "ConnectionError: the host is gone", "ConnectionError"
LATE = TimeoutError("no answer in 30 s")
INPUTS, OUTPUTS = {"log_omit_inputs": True}, {"log_omit_outputs": True}

OK = Case(ROOT, PROMPT, MODEL, PARSER)
ERROR = Case(failed(ROOT, GONE_TEXT, GONE_TYPE), PROMPT, failed(ASKED_MODEL, GONE_TEXT, GONE_TYPE), fails=GONE)
TIMEOUT = Case(
    failed(ROOT, "TimeoutError: no answer in 30 s", "TimeoutError"),
    PROMPT,
    failed(ASKED_MODEL, "TimeoutError: no answer in 30 s", "TimeoutError"),
    fails=LATE,
)
OMIT_INPUTS = Case(
    omitted(ROOT, "inputs"),
    omitted(PROMPT, "inputs"),
    omitted(MODEL, "inputs", "attributes"),
    omitted(PARSER, "inputs"),
    handler=INPUTS,
)
OMIT_OUTPUTS = Case(
    omitted(ROOT, "outputs"),
    omitted(PROMPT, "outputs"),
    omitted(MODEL, "outputs", "attributes"),
    omitted(PARSER, "outputs"),
    handler=OUTPUTS,
)
OMIT_BOTH = Case(
    omitted(ROOT, "inputs", "outputs"),
    omitted(PROMPT, "inputs", "outputs"),
    omitted(MODEL, "inputs", "outputs", "attributes"),
    omitted(PARSER, "inputs", "outputs"),
    handler={**INPUTS, **OUTPUTS},
)
OMIT_ALL = Case(handler={"log_omit": True})
WHOLE = {
    "ok": OK,
    "omit inputs": OMIT_INPUTS,
    "omit outputs": OMIT_OUTPUTS,
    "omit inputs and outputs": OMIT_BOTH,
    "omit all": OMIT_ALL,
}


@pytest.fixture(params=["sync", "async"])
def is_async(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "async")


@pytest.mark.parametrize("name", WHOLE)
async def test_whole(name: str, run: Any, chat: Any, records: list[Record]) -> None:
    """A chain that completes has the same records however it is run, streamed or not."""
    case = WHOLE[name]
    await run(case.chain(chat), QUESTION, case.config)
    assert fields_by_name(records) == as_streamed(case.expected, records)


@pytest.mark.parametrize("case", [ERROR, TIMEOUT], ids=["error", "timeout"])
async def test_failed(case: Case, is_async: bool, chat: Any, records: list[Record]) -> None:
    chain = case.chain(chat)
    with pytest.raises(type(case.model["fails"])):
        _ = await chain.ainvoke(QUESTION, case.config) if is_async else chain.invoke(QUESTION, case.config)
    assert fields_by_name(records) == case.expected


@pytest.mark.parametrize("flags", [INPUTS, OUTPUTS], ids="+".join)
async def test_failed_with_an_omission(flags: dict[str, Any], is_async: bool, chat: Any, records: list[Record]) -> None:
    """The error's text may contain inputs or outputs. Its type and its code location stay."""
    case = Case(handler=flags, fails=GONE)
    chain = case.chain(chat)
    with pytest.raises(ConnectionError):
        _ = await chain.ainvoke(QUESTION, case.config) if is_async else chain.invoke(QUESTION, case.config)
    by_name = fields_by_name(records)
    for name in ("root", "ScriptedChat"):
        error = by_name[name].pop("error")
        assert error.startswith("ConnectionError at ")
        assert "gone" not in error
    what = ["inputs"] if flags is INPUTS else ["outputs"]
    root, model = failed(ROOT, "", GONE_TYPE), failed(ASKED_MODEL, "", GONE_TYPE)
    assert by_name == {
        "root": without(omitted(root, *what), "error"),
        "ChatPromptTemplate": omitted(PROMPT, *what),
        "ScriptedChat": without(omitted(model, *what), "error"),
    }


async def test_stream_complete(is_async: bool, chat: Any, records: list[Record]) -> None:
    chain = OK.chain(chat)
    if is_async:
        pieces = [piece async for piece in chain.astream(QUESTION, OK.config)]
    else:
        pieces = list(chain.stream(QUESTION, OK.config))
    assert "".join(pieces) == ANSWER
    assert fields_by_name(records) == as_streamed(OK.expected, records)
    (model,) = (record for record in records if record.kind == "llm")
    assert model.time_to_first_token is not None
    assert 0 < model.time_to_first_token <= (model.latency or 0)


async def test_stream_broken_off(is_async: bool, chat: Any, records: list[Record]) -> None:
    """By the provider's error after two chunks: the text so far stays, and the tokens are unknown."""
    case = Case(fails=GONE, fails_after=2)
    chain = case.chain(chat)

    async def read() -> None:
        if is_async:
            assert [piece async for piece in chain.astream(QUESTION, case.config)]
        else:
            list(chain.stream(QUESTION, case.config))

    with pytest.raises(ConnectionError):
        await read()
    assert fields_by_name(records) == {
        "root": failed(ROOT, GONE_TEXT, GONE_TYPE),
        "ChatPromptTemplate": PROMPT,
        "ScriptedChat": {**failed(ASKED_MODEL, GONE_TEXT, GONE_TYPE), "content": "For the "},
        "StrOutputParser": {
            **failed(PARSER, GONE_TEXT, GONE_TYPE),
            "inputs": {"role": "assistant", "content": "For "},  # LangChain tells of a piece with the next one
        },
    }


async def test_stream_closed_early(is_async: bool, chat: Any, records: list[Record]) -> None:
    """By the reader of the model's stream, after one chunk: abandoned, with the text so far and without tokens."""
    case = Case()
    model = case.chain(chat).steps[1]
    if is_async:
        later = model.astream(QUESTION["question"], case.config)
        assert (await anext(later)).content == "For "
        await later.aclose()
    else:
        stream = model.stream(QUESTION["question"], case.config)
        assert next(stream).content == "For "
        stream.close()
    configuration = {**REQUEST["llm_configuration"], "messages": MESSAGES[1:]}
    assert fields_by_name(records) == {
        "root": {
            **ASKED_MODEL,
            "name": "root",
            "parent": None,
            "llm_configuration": configuration,
            "content": "For ",
            "error_type": "abandoned",
        }
    }


@pytest.mark.parametrize("flags", [{}, INPUTS, OUTPUTS], ids=["", "omit inputs", "omit outputs"])
async def test_cancelled(flags: dict[str, Any], is_async: bool, chat: Any, records: list[Record]) -> None:
    """A task is cancelled while its model runs, or Ctrl-C is pressed in a program without an event loop."""
    started = asyncio.Event()
    case = Case(handler=flags, waits=started, fails=None if is_async else KeyboardInterrupt())
    chain = case.chain(chat)
    if is_async:
        task = asyncio.create_task(chain.ainvoke(QUESTION, case.config))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        error, kind = "cancelled", "cancelled"
    else:
        with pytest.raises(KeyboardInterrupt):
            chain.invoke(QUESTION, case.config)
        error, kind = "KeyboardInterrupt", "KeyboardInterrupt"
    by_name = fields_by_name(records)
    for name in ("root", "ScriptedChat"):
        by_name[name]["error"] = by_name[name]["error"].partition(" at ")[0]
    root, model = failed(ROOT, error, kind), failed(ASKED_MODEL, error, kind)
    what = {"log_omit_inputs": "inputs", "log_omit_outputs": "outputs"}.get("".join(flags))
    expected = [root, PROMPT, model] if what is None else [omitted(record, what) for record in (root, PROMPT, model)]
    assert by_name == {record["name"]: record for record in expected}


async def test_timed_out(chat: Any, records: list[Record]) -> None:
    """By the program's own time-out: LangChain's runs are cancelled, and the program gets its `TimeoutError`."""
    started = asyncio.Event()
    case = Case(waits=started)

    async def expire(timeout: asyncio.Timeout) -> None:
        await started.wait()
        timeout.reschedule(asyncio.get_running_loop().time())

    async def ask() -> None:
        async with asyncio.timeout(None) as timeout, asyncio.TaskGroup() as tasks:
            tasks.create_task(expire(timeout))
            await case.chain(chat).ainvoke(QUESTION, case.config)

    with pytest.raises(TimeoutError):
        await ask()
    assert fields_by_name(records) == {
        "root": failed(ROOT, "cancelled", "cancelled"),
        "ChatPromptTemplate": PROMPT,
        "ScriptedChat": failed(ASKED_MODEL, "cancelled", "cancelled"),
    }


def test_the_matrix_checks_every_field(value: Callable[[Any], Any]) -> None:
    """A new field of the record is compared too: `fields_by_name` leaves out only ids and times."""
    assert set(IDS_AND_TIMES) < set(Record.__struct_fields__)
    assert set(JSON_FIELDS) < set(Record.__struct_fields__)
