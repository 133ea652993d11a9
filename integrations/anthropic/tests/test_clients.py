"""How the recording gets into clients and out again, and that a wrapped client is used like any other."""

from __future__ import annotations

import inspect
import re
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import anthropic
import pytest

import everycall
import everycall_anthropic

ASKED: dict[str, Any] = {"model": "claude-test", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
CLIENTS = (anthropic.Anthropic, anthropic.AsyncAnthropic)


@pytest.fixture
def everywhere() -> Any:
    """`instrument`, undone after the test."""
    yield everycall_anthropic.instrument
    everycall_anthropic.uninstrument()


def owners() -> list[tuple[type, Any]]:
    """The classes that have `request`, and what they have."""
    found = [next(kind for kind in client.__mro__ if "request" in vars(kind)) for client in CLIENTS]
    return [(kind, vars(kind)["request"]) for kind in found]


async def ask(both: Any, client: Any, **more: Any) -> Any:
    return await both.wait(client.messages.create(**ASKED, **more))


async def test_wrap_returns_the_client_itself(both: Any, records: Any) -> None:
    """The same object of the same class, with the library's own resources and methods."""
    client = both.client()
    before = client.messages.create
    assert everycall_anthropic.wrap(client) is client
    assert type(client) in CLIENTS
    assert client.messages.create == before
    plain = both.client()
    assert inspect.signature(client.request) == inspect.signature(plain.request)
    assert inspect.iscoroutinefunction(client.request) == both.is_async
    assert inspect.signature(client.with_options) == inspect.signature(plain.with_options)


async def test_resources_taken_before_are_recorded(both: Any, records: Any) -> None:
    client = both.client()
    messages = client.messages
    everycall_anthropic.wrap(client)
    await both.wait(messages.create(**ASKED))
    assert len(records) == 1


async def test_copies_are_recorded_with_the_same_options(both: Any, records: Any) -> None:
    client = both.wrapped(session_id="s-1")
    copied = client.with_options(timeout=9).copy(max_retries=1)
    assert (type(copied), copied.timeout, copied.max_retries) == (type(client), 9, 1)
    await ask(both, copied)
    assert [r.session_id for r in records] == ["s-1"]
    assert copied.with_options.__self__ is copied


@pytest.mark.skipif(not hasattr(anthropic.Anthropic, "with_middleware"), reason="this version has no middleware")
async def test_a_client_with_middleware_is_recorded_once(both: Any, provider: Any, records: Any) -> None:
    """What the middleware makes of a request is below it: the record has the answer that the caller has."""

    def twice(request: Any, call_next: Any) -> Any:
        call_next(request)
        return call_next(request)

    async def twice_async(request: Any, call_next: Any) -> Any:
        await call_next(request)
        return await call_next(request)

    client = both.wrapped().with_middleware(twice_async if both.is_async else twice)
    await ask(both, client)
    assert (len(provider.requests), [r.content for r in records]) == (2, ["hello"])


async def test_wrapping_again_replaces_the_options(both: Any, records: Any) -> None:
    client = both.wrapped(session_id="s-1")
    everycall_anthropic.wrap(client, session_id="s-2", provider="deepseek")
    await ask(both, client.with_options(timeout=9))
    await ask(both, client)
    assert [(r.session_id, r.provider) for r in records] == [("s-2", "deepseek")] * 2


@pytest.mark.parametrize("given", [anthropic, anthropic.Anthropic, "client", None])
def test_what_is_no_client_is_refused(given: Any) -> None:
    with pytest.raises(TypeError, match=r"wrap\(\) takes a client such as anthropic\.Anthropic\(\)"):
        everycall_anthropic.wrap(given)


def test_an_unknown_keyword_is_refused(provider: Any) -> None:
    with anthropic.Anthropic(api_key="k", base_url=provider.root) as client:
        with pytest.raises(TypeError, match="unknown keyword 'user'"):
            everycall_anthropic.wrap(client, user="u-7")


async def test_labels(both: Any, records: Any, value: Any) -> None:
    """They go to each record; a trace that has begun keeps its name."""
    client = both.wrapped(
        trace_name="asks", end_user_identifier="u-7", session_id="s-1", tags=["beta"], metadata={"team": "a"}
    )
    await ask(both, client)
    with everycall.span("outer", trace_name="support"), everycall.context(tags=["more"]):
        await ask(both, client)
    alone, inner, _ = records
    assert (alone.trace_name, alone.end_user_identifier, alone.session_id) == ("asks", "u-7", "s-1")
    assert (alone.tags, value(alone.metadata)) == (["beta"], {"team": "a"})
    assert (inner.trace_name, inner.end_user_identifier, inner.tags) == ("support", "u-7", ["more", "beta"])


async def test_flags_of_the_context_hold(both: Any, records: Any) -> None:
    client = both.wrapped(log_omit_outputs=True)
    with everycall.context(log_omit_inputs=True):
        await ask(both, client)
    assert records[0].omitted == ["attributes", "inputs", "outputs"]
    with everycall.context(log_omit=True):
        await both.all(await ask(both, client, stream=True))
    assert len(records) == 1


async def test_what_is_not_recorded_is_not_changed(both: Any, provider: Any, records: Any) -> None:
    """Under `log_omit` a stream's iterator is the library's."""
    stream = await ask(both, both.wrapped(log_omit=True), stream=True)
    assert inspect.isasyncgen(stream._iterator) or inspect.isgenerator(stream._iterator)
    await both.all(stream)
    assert records == []


async def test_other_requests_pass(both: Any, provider: Any, records: Any) -> None:
    """Those that ask no model for an answer are not recorded: counting tokens is free."""
    client = both.wrapped()
    asked = {name: given for name, given in ASKED.items() if name != "max_tokens"}
    counted = await both.wait(client.beta.messages.count_tokens(**asked))
    assert counted.input_tokens == 22
    with pytest.raises(anthropic.NotFoundError):
        await both.wait(client.get("/v1/models/claude-test", cast_to=object))
    assert records == []


async def test_a_wrong_call_is_the_librarys_to_refuse(both: Any, records: Any) -> None:
    with pytest.raises(TypeError, match="options"):
        await both.wait(both.wrapped().request(object))
    assert records == []


async def test_retries_are_one_record(both: Any, provider: Any, records: Any) -> None:
    client = everycall_anthropic.wrap(both.client(max_retries=2))
    provider.script(*(type(provider.default)(status=529, headers={"retry-after-ms": "1"}) for _ in range(2)))
    await ask(both, client)
    assert (len(provider.requests), [r.status for r in records]) == (3, ["success"])


async def test_an_answer_of_a_strange_shape(both: Any, provider: Any, records: Any) -> None:
    """What a compatible server sends is not always a message: the caller gets it, the record has what is known."""
    bodies = (
        b'{"id": "x"}',
        b'{"content": null, "usage": {"input_tokens": "many"}}',
        b'{"content": [null, 7, "text", {"type": "text"}], "usage": []}',
        b"[]",
        b'"text"',
        b"null",
    )
    for body in bodies:
        provider.reply(body=body)
        await ask(both, both.wrapped())
    assert [(r.status, r.content, r.input_tokens) for r in records] == [("success", None, None)] * len(bodies)


# --- raw responses ---


async def test_a_raw_response(both: Any, provider: Any, records: Any, told: Any) -> None:
    """It is read already; our look at it leaves nothing behind."""
    plain = await both.wait(both.client().messages.with_raw_response.create(**ASKED))
    raw = await both.wait(both.wrapped().messages.with_raw_response.create(**ASKED))
    assert type(raw) is type(plain)
    assert raw._parsed_by_type == {}
    assert "parse" not in vars(raw)
    assert (await both.wait(raw.parse())).to_dict() == (await both.wait(plain.parse())).to_dict()
    assert [(r.content, r.input_tokens, r.model) for r in records] == [("hello", 22, "claude-test")]
    assert told(records[0])["attributes"]["http.response.status_code"] == 200


async def test_a_raw_response_that_is_a_stream(both: Any, provider: Any, records: Any) -> None:
    raw = await both.wait(both.wrapped().messages.with_raw_response.create(**ASKED, stream=True))
    assert records == []
    stream = await both.wait(raw.parse())
    assert await both.wait(raw.parse()) is stream
    await both.all(stream)
    assert [(r.content, r.input_tokens, r.output_tokens) for r in records] == [("hello", 22, 189)]


async def test_a_streamed_response_that_is_parsed(both: Any, provider: Any, records: Any) -> None:
    manager = both.wrapped().messages.with_streaming_response.create(**ASKED)
    raw = await both.enter(manager)
    assert not raw.is_closed
    answer = await both.wait(raw.parse())
    await both.leave(manager)
    assert answer.content[0].text == "hello"
    assert [(r.content, r.input_tokens) for r in records] == [("hello", 22)]


async def test_a_streamed_response_that_is_a_stream(both: Any, provider: Any, records: Any) -> None:
    provider.reply(pieces=["hel", "lo"], pause_after=1).go.set()
    manager = both.wrapped().messages.with_streaming_response.create(**ASKED, stream=True)
    raw = await both.enter(manager)
    stream = await both.wait(raw.parse())
    for _ in range(3):
        await both.next(stream)
    await both.leave(manager)
    assert [(r.content, r.error_type) for r in records] == [("hel", "abandoned")]


async def test_a_streamed_response_that_is_read_otherwise(both: Any, provider: Any, records: Any, told: Any) -> None:
    """Its bytes are the caller's alone; the record has the latency and the status."""
    manager = both.wrapped().messages.with_streaming_response.create(**ASKED, stream=True)
    raw = await both.enter(manager)
    lines = await both.all(raw.iter_lines())
    await both.leave(manager)
    assert 'data: {"type": "message_stop"}' in lines
    found = told(records[0])
    assert found["attributes"] == {"http.response.status_code": 200}
    assert (found["status"], found["model"], "content" in found) == ("success", "claude-test", False)


async def test_a_raw_error(both: Any, provider: Any, records: Any) -> None:
    provider.reply(status=404, error="no such model")
    with pytest.raises(anthropic.NotFoundError):
        await both.wait(both.wrapped().messages.with_raw_response.create(**ASKED))
    assert [r.error_type for r in records] == ["anthropic.NotFoundError"]


# --- everywhere ---


async def test_instrument_records_all_clients(both: Any, records: Any, everywhere: Any) -> None:
    """Those that exist already, and those that come."""
    earlier = both.client()
    everywhere(session_id="s-1")
    for client in (earlier, both.client(), both.client().with_options(timeout=8)):
        await ask(both, client)
        await both.all(await ask(both, client, stream=True))
    assert [(r.session_id, r.content) for r in records] == [("s-1", "hello")] * 6


async def test_uninstrument_puts_back_what_was_there(both: Any, records: Any) -> None:
    before = owners()
    everycall_anthropic.instrument()
    everycall_anthropic.instrument(session_id="later")
    replaced = owners()
    assert all(now is not then for (_, now), (_, then) in zip(replaced, before, strict=True))
    assert [inspect.iscoroutinefunction(function) for _, function in replaced] == [False, True]
    everycall_anthropic.uninstrument()
    everycall_anthropic.uninstrument()
    assert [function for _, function in owners()] == [function for _, function in before]
    await ask(both, both.client())
    assert records == []


async def test_a_wrapped_client_is_recorded_once(both: Any, records: Any, everywhere: Any) -> None:
    """With its own options."""
    everywhere(session_id="everywhere")
    await ask(both, both.wrapped(session_id="mine"))
    assert [r.session_id for r in records] == ["mine"]


async def test_by_name(both: Any, records: Any) -> None:
    """`everycall.instrument("anthropic")`."""
    assert everycall.instrument("anthropic", session_id="named") == ("anthropic",)
    try:
        await ask(both, both.client())
    finally:
        everycall.uninstrument("anthropic")
    await ask(both, both.client())
    assert [r.session_id for r in records] == ["named"]


def test_the_entry_point() -> None:
    (found,) = entry_points(group="everycall.integrations", name="anthropic")
    assert found.load() is everycall_anthropic


def test_the_readme_runs(provider: Any, records: Any, monkeypatch: Any, capsys: Any) -> None:
    """Its example, as it stands, with the provider's address in the environment."""
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    program = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", provider.root)
    names: dict[str, Any] = {}
    exec(compile(program, "README.md", "exec"), names)
    names["client"].close()
    assert capsys.readouterr().out == "hello\nhello"
    assert [(r.content, r.session_id, r.tags) for r in records] == [("hello", "s-1", ["beta"])] * 2


def test_importing_changes_nothing() -> None:
    """No patch before `instrument`: the functions in the library's classes are the library's."""
    assert all(function.__module__ == "anthropic._base_client" for _, function in owners())
