"""How the recording gets into clients and out again, and that a wrapped client is used like any other."""

from __future__ import annotations

import inspect
import re
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import openai
import pytest

import everycall
import everycall_openai

ASKED: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def everywhere() -> Any:
    """`instrument`, undone after the test."""
    yield everycall_openai.instrument
    everycall_openai.uninstrument()


def owners() -> list[tuple[type, Any]]:
    """The classes that have `request`, and what they have."""
    found = [next(kind for kind in client.__mro__ if "request" in vars(kind)) for client in CLIENTS]
    return [(kind, vars(kind)["request"]) for kind in found]


CLIENTS = (openai.OpenAI, openai.AsyncOpenAI)


async def test_wrap_returns_the_client_itself(both: Any, records: Any) -> None:
    """The same object of the same class, with the library's own resources and methods."""
    client = both.client()
    before = client.chat.completions.create
    assert everycall_openai.wrap(client) is client
    assert type(client) in CLIENTS
    assert client.chat.completions.create == before
    plain = both.client()
    assert inspect.signature(client.request) == inspect.signature(plain.request)
    assert inspect.iscoroutinefunction(client.request) == both.is_async
    assert inspect.signature(client.with_options) == inspect.signature(plain.with_options)


async def test_resources_taken_before_are_recorded(both: Any, records: Any) -> None:
    client = both.client()
    completions = client.chat.completions
    everycall_openai.wrap(client)
    await both.wait(completions.create(**ASKED))
    assert len(records) == 1


async def test_copies_are_recorded_with_the_same_options(both: Any, records: Any) -> None:
    client = both.wrapped(session_id="s-1")
    copied = client.with_options(timeout=9).copy(max_retries=1)
    assert (type(copied), copied.timeout, copied.max_retries) == (type(client), 9, 1)
    await both.wait(copied.chat.completions.create(**ASKED))
    assert [r.session_id for r in records] == ["s-1"]
    assert copied.with_options.__self__ is copied


async def test_wrapping_again_replaces_the_options(both: Any, records: Any) -> None:
    client = both.wrapped(session_id="s-1")
    everycall_openai.wrap(client, session_id="s-2", provider="groq")
    await both.wait(client.with_options(timeout=9).chat.completions.create(**ASKED))
    await both.wait(client.chat.completions.create(**ASKED))
    assert [(r.session_id, r.provider) for r in records] == [("s-2", "groq")] * 2


@pytest.mark.parametrize("given", [openai, openai.OpenAI, "client", None])
def test_what_is_no_client_is_refused(given: Any) -> None:
    with pytest.raises(TypeError, match=r"wrap\(\) takes a client such as openai\.OpenAI\(\)"):
        everycall_openai.wrap(given)


async def test_labels(both: Any, records: Any, value: Any) -> None:
    """They go to each record; a trace that has begun keeps its name."""
    client = both.wrapped(
        trace_name="asks", end_user_identifier="u-7", session_id="s-1", tags=["beta"], metadata={"team": "a"}
    )
    await both.wait(client.chat.completions.create(**ASKED))
    with everycall.span("outer", trace_name="support"), everycall.context(tags=["more"]):
        await both.wait(client.chat.completions.create(**ASKED))
    alone, inner, _ = records
    assert (alone.trace_name, alone.end_user_identifier, alone.session_id) == ("asks", "u-7", "s-1")
    assert (alone.tags, value(alone.metadata)) == (["beta"], {"team": "a"})
    assert (inner.trace_name, inner.end_user_identifier, inner.tags) == ("support", "u-7", ["more", "beta"])


async def test_flags_of_the_context_hold(both: Any, records: Any) -> None:
    client = both.wrapped(log_omit_outputs=True)
    with everycall.context(log_omit_inputs=True):
        await both.wait(client.chat.completions.create(**ASKED))
    assert records[0].omitted == ["attributes", "inputs", "outputs"]
    with everycall.context(log_omit=True):
        stream = await both.wait(client.chat.completions.create(**ASKED, stream=True))
        await both.all(stream)
    assert len(records) == 1


async def test_what_is_not_recorded_is_not_changed(both: Any, provider: Any, records: Any) -> None:
    """Under `log_omit` a stream's usage is not asked for, and its iterator is the library's."""
    stream = await both.wait(both.wrapped(log_omit=True).chat.completions.create(**ASKED, stream=True))
    assert "stream_options" not in provider.requests[0].body
    assert inspect.isasyncgen(stream._iterator) or inspect.isgenerator(stream._iterator)
    await both.all(stream)
    assert records == []


async def test_other_requests_pass(both: Any, provider: Any, records: Any) -> None:
    """Those that ask no model are not recorded, whatever becomes of them."""
    client = both.wrapped()
    with pytest.raises(openai.APIStatusError):
        await both.wait(client.moderations.create(input="hi"))
    with pytest.raises(openai.APIStatusError):
        await both.wait(client.models.retrieve("gpt-4o"))
    assert records == []


async def test_a_request_by_hand(both: Any, provider: Any, records: Any) -> None:
    """`client.post(...)`, as for endpoints that a version of the library does not know."""
    client = both.wrapped()
    answer = await both.wait(client.post("chat/completions", body=ASKED, cast_to=object))
    assert answer["choices"][0]["message"]["content"] == "hello"
    assert [(r.content, r.input_tokens) for r in records] == [("hello", 22)]


async def test_a_wrong_call_is_the_librarys_to_refuse(both: Any, records: Any) -> None:
    with pytest.raises(TypeError, match="options"):
        await both.wait(both.wrapped().request(object))
    assert records == []


async def test_retries_are_one_record(both: Any, provider: Any, records: Any) -> None:
    client = everycall_openai.wrap(both.client(max_retries=2))
    provider.script(*(type(provider.default)(status=503, headers={"retry-after-ms": "1"}) for _ in range(2)))
    await both.wait(client.chat.completions.create(**ASKED))
    assert (len(provider.requests), len(records)) == (3, 1)


async def test_an_answer_of_a_strange_shape(both: Any, provider: Any, records: Any) -> None:
    """What a compatible server sends is not always a completion: the caller gets it, the record has what is known."""
    for body in (b'{"id": "x"}', b'{"choices": null, "usage": {"prompt_tokens": "many"}}', b"[]", b'"text"', b"null"):
        provider.reply(body=body)
        await both.wait(both.wrapped().chat.completions.create(**ASKED))
    assert [(r.status, r.content, r.input_tokens) for r in records] == [("success", None, None)] * 5


async def test_a_stream_of_a_strange_shape(both: Any, provider: Any, records: Any) -> None:
    provider.reply(pieces=["a"], message={"content": None, "tool_calls": [{"index": None, "id": "c", "x": 1}]})
    await both.all(await both.wait(both.wrapped().chat.completions.create(**ASKED, stream=True)))
    assert [(r.status, r.content) for r in records] == [("success", "a")]


# --- raw responses ---


async def test_a_raw_response(both: Any, provider: Any, records: Any, told: Any) -> None:
    """It is read already; our look at it leaves nothing behind."""
    plain = await both.wait(both.client().chat.completions.with_raw_response.create(**ASKED))
    raw = await both.wait(both.wrapped().chat.completions.with_raw_response.create(**ASKED))
    assert type(raw) is type(plain)
    assert raw._parsed_by_type == {}
    assert raw.parse() == plain.parse()
    assert "parse" not in vars(raw)
    assert [(r.content, r.input_tokens, r.model) for r in records] == [("hello", 22, "gpt-4o-2024-08-06")]
    assert told(records[0])["attributes"]["http.response.status_code"] == 200


async def test_a_raw_response_that_is_a_stream(both: Any, provider: Any, records: Any) -> None:
    """Usage is not asked for: nothing can be hidden from who reads the bytes."""
    raw = await both.wait(both.wrapped().chat.completions.with_raw_response.create(**ASKED, stream=True))
    assert records == []
    stream = raw.parse()
    assert raw.parse() is stream
    chunks = await both.all(stream)
    assert chunks[1].choices[0].delta.content == "hello"
    assert "stream_options" not in provider.requests[0].body
    assert [(r.content, r.input_tokens) for r in records] == [("hello", None)]


async def test_a_streamed_response_that_is_parsed(both: Any, provider: Any, records: Any) -> None:
    manager = both.wrapped().chat.completions.with_streaming_response.create(**ASKED)
    raw = await both.enter(manager)
    assert not raw.is_closed
    answer = await both.wait(raw.parse())
    await both.leave(manager)
    assert answer.choices[0].message.content == "hello"
    assert [(r.content, r.input_tokens) for r in records] == [("hello", 22)]


async def test_a_streamed_response_that_is_a_stream(both: Any, provider: Any, records: Any) -> None:
    manager = both.wrapped().chat.completions.with_streaming_response.create(**ASKED, stream=True)
    raw = await both.enter(manager)
    stream = await both.wait(raw.parse())
    await both.next(stream)
    await both.next(stream)
    await both.leave(manager)
    assert [(r.content, r.error_type) for r in records] == [("hello", "abandoned")]


async def test_a_streamed_response_that_is_read_otherwise(both: Any, provider: Any, records: Any, told: Any) -> None:
    """Its bytes are the caller's alone; the record has the latency and the status."""
    manager = both.wrapped().chat.completions.with_streaming_response.create(**ASKED, stream=True)
    raw = await both.enter(manager)
    lines = await both.all(raw.iter_lines())
    await both.leave(manager)
    assert lines[-2:] == ["data: [DONE]", ""]
    found = told(records[0])
    assert found["attributes"] == {"http.response.status_code": 200}
    assert (found["status"], found["model"], "content" in found) == ("success", "gpt-4o", False)


async def test_a_streamed_response_that_is_not_read(both: Any, provider: Any, records: Any) -> None:
    manager = both.wrapped().chat.completions.with_streaming_response.create(**ASKED)
    await both.enter(manager)
    assert records == []
    await both.leave(manager)
    assert len(records) == 1


async def test_a_raw_error(both: Any, provider: Any, records: Any) -> None:
    provider.reply(status=404, error="no such model")
    with pytest.raises(openai.NotFoundError):
        await both.wait(both.wrapped().chat.completions.with_raw_response.create(**ASKED))
    assert [r.error_type for r in records] == ["openai.NotFoundError"]


# --- everywhere ---


async def test_instrument_records_all_clients(both: Any, records: Any, everywhere: Any) -> None:
    """Those that exist already, and those that come."""
    earlier = both.client()
    everywhere(session_id="s-1")
    for client in (earlier, both.client(), both.client().with_options(timeout=8)):
        await both.wait(client.chat.completions.create(**ASKED))
        await both.all(await both.wait(client.chat.completions.create(**ASKED, stream=True)))
    assert [(r.session_id, r.content) for r in records] == [("s-1", "hello")] * 6


async def test_uninstrument_puts_back_what_was_there(both: Any, records: Any) -> None:
    before = owners()
    everycall_openai.instrument()
    everycall_openai.instrument(session_id="later")
    replaced = owners()
    assert all(now is not then for (_, now), (_, then) in zip(replaced, before, strict=True))
    assert [inspect.iscoroutinefunction(function) for _, function in replaced] == [False, True]
    everycall_openai.uninstrument()
    everycall_openai.uninstrument()
    assert [function for _, function in owners()] == [function for _, function in before]
    await both.wait(both.client().chat.completions.create(**ASKED))
    assert records == []


async def test_what_others_wrapped_around_ours_stays(both: Any, records: Any, everywhere: Any) -> None:
    """Then ours stays below it, and does nothing until it is wanted again."""
    kinds = {False: openai.OpenAI, True: openai.AsyncOpenAI}
    owner = next(kind for kind in kinds[both.is_async].__mro__ if "request" in vars(kind))
    original = vars(owner)["request"]
    everywhere()
    ours = vars(owner)["request"]

    def theirs(self: Any, *args: Any, **kwargs: Any) -> Any:
        return ours(self, *args, **kwargs)

    theirs.__wrapped__ = ours  # type: ignore[attr-defined]
    owner.request = theirs
    try:
        everycall_openai.uninstrument()
        await both.wait(both.client().chat.completions.create(**ASKED))
        assert (vars(owner)["request"], records) == (theirs, [])
        everywhere()
        await both.wait(both.client().chat.completions.create(**ASKED))
        assert len(records) == 1
    finally:
        owner.request = ours
        everycall_openai.uninstrument()
    assert vars(owner)["request"] is original


async def test_a_wrapped_client_is_recorded_once(both: Any, records: Any, everywhere: Any) -> None:
    """With its own options."""
    everywhere(session_id="everywhere")
    await both.wait(both.wrapped(session_id="mine").chat.completions.create(**ASKED))
    assert [r.session_id for r in records] == ["mine"]


async def test_the_client_of_the_module(provider: Any, records: Any, everywhere: Any) -> None:
    """`openai.chat.completions.create(...)`, with no client made by hand."""
    everywhere()
    saved = openai.api_key, openai.base_url
    openai.api_key, openai.base_url = "sk-fake", f"{provider.base_url}/"
    try:
        assert openai.chat.completions.create(**ASKED).choices[0].message.content == "hello"
    finally:
        openai.api_key, openai.base_url = saved
        openai._reset_client()
    assert [r.content for r in records] == ["hello"]


def test_the_entry_point() -> None:
    (found,) = entry_points(group="everycall.integrations", name="openai")
    assert found.load() is everycall_openai


def test_the_readme_runs(provider: Any, records: Any, monkeypatch: Any, capsys: Any) -> None:
    """Its example, as it stands, with the provider's address in the environment."""
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    program = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.setenv("OPENAI_BASE_URL", provider.base_url)
    names: dict[str, Any] = {}
    exec(compile(program, "README.md", "exec"), names)
    names["client"].close()
    assert capsys.readouterr().out == "hello\nhello"
    assert [(r.content, r.session_id, r.tags) for r in records] == [("hello", "s-1", ["beta"])] * 2


def test_importing_changes_nothing() -> None:
    """No patch before `instrument`: the functions in the library's classes are the library's."""
    assert all(function.__module__ == "openai._base_client" for _, function in owners())
