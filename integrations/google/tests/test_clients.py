"""Where the recording is put in: one client or all, what it leaves alone, and that it can be taken out again."""

from __future__ import annotations

import functools
import inspect
import re
import warnings
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from google import genai
from google.genai import chats, errors, models, types
from google.genai._api_client import BaseApiClient

import everycall
import everycall_google
from everycall_google import _clients, _streams

ASKED: dict[str, Any] = {"model": "gemini-2.5-flash", "contents": "hi"}
SENDS = ("request", "async_request", "request_streamed", "async_request_streamed")
MAKES = ((models.Models, "generate_content_stream"), (models.AsyncModels, "generate_content_stream"),
         (chats.Chat, "send_message_stream"), (chats.AsyncChat, "send_message_stream"))  # fmt: skip


@pytest.fixture
def everywhere() -> Any:
    """`instrument`, undone after the test."""
    yield everycall_google.instrument
    everycall_google.uninstrument()


@pytest.fixture
def nothing_wrapped(monkeypatch: Any) -> Any:
    """As in a process that has wrapped no client yet."""
    _streams.leave_contexts()
    monkeypatch.setattr(_clients._State, "has_wrapped", False)
    yield
    _streams.leave_contexts()


def functions() -> list[Any]:
    """What stands in the library's classes where this integration may put its own."""
    return [*(vars(BaseApiClient)[name] for name in SENDS), *(vars(owner)[name] for owner, name in MAKES)]


async def test_wrap_returns_the_client_itself(both: Any, records: Any) -> None:
    """The same object of the same class, with the library's own models and methods."""
    client = both.client()
    before = client.models.generate_content
    assert everycall_google.wrap(client) is client
    assert client.models.generate_content == before
    plain = both.client()
    assert type(client.models) is type(plain.models)
    for method in ("generate_content_stream", "generate_content", "embed_content"):
        ours, theirs = getattr(client.models, method), getattr(plain.models, method)
        assert inspect.signature(ours) == inspect.signature(theirs)
        assert inspect.iscoroutinefunction(ours) == inspect.iscoroutinefunction(theirs) == both.is_async
        assert inspect.isgeneratorfunction(ours) == inspect.isgeneratorfunction(theirs)


async def test_both_sides_of_a_client_are_wrapped(provider: Any, both: Any, records: Any) -> None:
    """`wrap(client)` and `wrap(client.aio)` are the same: they share what sends."""
    both.wrapped(session_id="s-1")
    client = both._made[0]
    client.models.generate_content(**ASKED)
    await client.aio.models.generate_content(**ASKED)
    client.chats.create(model="gemini-2.5-flash").send_message("hi")
    assert [(r.content, r.session_id) for r in records] == [("hello", "s-1")] * 3


async def test_models_taken_before_are_recorded(both: Any, records: Any) -> None:
    client = both.client()
    taken, chat = client.models, client.chats.create(model="gemini-2.5-flash")
    everycall_google.wrap(client)
    await both.wait(taken.generate_content(**ASKED))
    await both.wait(chat.send_message("hi"))
    assert len(records) == 2


async def test_a_chat_has_its_turns(both: Any, provider: Any, records: Any, value: Any) -> None:
    chat = both.wrapped().chats.create(model="gemini-2.5-flash")
    await both.wait(chat.send_message("hi"))
    await both.all(await both.wait(chat.send_message_stream("and?")))
    assert value(records[1].llm_configuration)["messages"] == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "and?"},
    ]


async def test_wrapping_again_replaces_the_options(both: Any, records: Any) -> None:
    client = both.wrapped(session_id="s-1")
    everycall_google.wrap(client, session_id="s-2", provider="gcp.gen_ai")
    await both.wait(client.models.generate_content(**ASKED))
    assert [(r.session_id, r.provider) for r in records] == [("s-2", "gcp.gen_ai")]


@pytest.mark.parametrize("given", [genai, genai.Client, "client", None], ids=["module", "class", "text", "none"])
def test_what_is_no_client_is_refused(given: Any) -> None:
    with pytest.raises(TypeError, match=r"wrap\(\) takes a client such as genai\.Client\(\)"):
        everycall_google.wrap(given)


def test_an_unknown_keyword_is_refused() -> None:
    with pytest.raises(TypeError, match="unknown keyword 'sesion_id'"):
        everycall_google.instrument(sesion_id="s-1")  # type: ignore[call-arg]


async def test_labels(both: Any, records: Any, value: Any) -> None:
    """They go to each record; a trace that has begun keeps its name."""
    client = both.wrapped(
        trace_name="asks", end_user_identifier="u-7", session_id="s-1", tags=["beta"], metadata={"team": "a"}
    )
    await both.wait(client.models.generate_content(**ASKED))
    with everycall.span("outer", trace_name="support"), everycall.context(tags=["more"]):
        await both.wait(client.models.generate_content(**ASKED))
    alone, inner, _ = records
    assert (alone.trace_name, alone.end_user_identifier, alone.session_id) == ("asks", "u-7", "s-1")
    assert (alone.tags, value(alone.metadata)) == (["beta"], {"team": "a"})
    assert (inner.trace_name, inner.end_user_identifier, inner.tags) == ("support", "u-7", ["more", "beta"])


async def test_flags_of_the_context_hold(both: Any, records: Any) -> None:
    client = both.wrapped(log_omit_outputs=True)
    with everycall.context(log_omit_inputs=True):
        await both.wait(client.models.generate_content(**ASKED))
    assert records[0].omitted == ["attributes", "inputs", "outputs"]


async def test_other_requests_pass(both: Any, provider: Any, records: Any) -> None:
    """Those that ask no model for text or embeddings are not recorded, whatever becomes of them."""
    client = both.wrapped()
    counted = await both.wait(client.models.count_tokens(**ASKED))
    with pytest.raises(errors.APIError):
        await both.wait(client.models.get(model="gemini-2.5-flash"))
    assert (counted.total_tokens, records) == (7, [])


# --- Vertex AI ---


def vertex(both: Any, **options: Any) -> Any:
    return both.wrapped(settings={"vertexai": True}, **options)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_vertex_ai(stream: bool, both: Any, provider: Any, records: Any) -> None:
    client = vertex(both)
    if stream:
        await both.all(await both.wait(client.models.generate_content_stream(**ASKED)))
    else:
        await both.wait(client.models.generate_content(**ASKED))
    (record,) = records
    assert (record.provider, record.name) == ("gcp.vertex_ai", "generate_content gemini-2.5-flash")
    assert (record.model, record.content, record.output_tokens) == ("gemini-2.5-flash", "hello", 189)
    assert "/publishers/google/models/" in provider.requests[0].path


async def test_embeddings_of_vertex_ai(both: Any, provider: Any, records: Any, value: Any) -> None:
    await both.wait(vertex(both).models.embed_content(model="text-embedding-005", contents=["a", "b"]))
    (record,) = records
    assert (record.name, record.provider) == ("embeddings text-embedding-005", "gcp.vertex_ai")
    assert (value(record.inputs), value(record.output)) == ({"input": ["a", "b"]}, {"embeddings": 2, "dimensions": 4})
    assert (record.input_tokens, record.total_tokens) == (6, 6)


async def test_images_of_vertex_ai_are_not_embeddings(both: Any, provider: Any, records: Any) -> None:
    """They go by the same verb."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's, of its next version
        made = await both.wait(vertex(both).models.generate_images(model="imagen-3.0-generate-002", prompt="a stork"))
    assert len(made.generated_images) == 1
    assert records == []


# --- what goes wrong ---


@pytest.mark.skipif("retry_options" not in types.HttpOptions.model_fields, reason="this version does not retry")
async def test_retries_are_one_record(both: Any, provider: Any, records: Any) -> None:
    client = both.wrapped()
    provider.script(*(type(provider.default)(status=503) for _ in range(2)))
    options = types.HttpOptions(retry_options=types.HttpRetryOptions(attempts=3, initial_delay=0.001, max_delay=0.001))
    config = types.GenerateContentConfig(http_options=options)
    answer = await both.wait(client.models.generate_content(**ASKED, config=config))
    assert (answer.text, len(provider.requests)) == ("hello", 3)
    assert [(r.status, r.content) for r in records] == [("success", "hello")]


@pytest.mark.parametrize("body", [b"{}", b"[]", b'{"candidates": null, "usageMetadata": {"promptTokenCount": "many"}}',
                                  b'{"candidates": [{"content": {"parts": [{"text": 7}]}}]}', b"no json", b"null", b""],
                         ids=["empty", "list", "null", "number", "text", "nothing", "silence"])  # fmt: skip
async def test_an_answer_of_a_strange_shape(body: bytes, both: Any, provider: Any, records: Any) -> None:
    """What becomes of it is the library's to say, and the same as without us; the record has what is known."""
    found: list[Any] = []
    for client in (both.client(), both.wrapped()):
        provider.reply(body=body)
        try:
            found.append((await both.wait(client.models.generate_content(**ASKED))).candidates)
        except Exception as error:
            found.append(type(error))
    assert found[0] == found[1]
    assert [(r.content, r.input_tokens) for r in records] == [(None, None)]


async def test_a_wrong_call_is_the_librarys_to_refuse(both: Any, records: Any) -> None:
    with pytest.raises(TypeError, match="contents"):
        await both.wait(both.wrapped().models.generate_content(model="m"))
    with pytest.raises(ValueError, match=r"NotAModel|validation error"):
        await both.wait(both.wrapped().models.generate_content(model="m", contents="hi", config={"NotAModel": 1}))
    assert records == []


# --- everywhere ---


async def test_instrument_records_all_clients(both: Any, records: Any, everywhere: Any) -> None:
    """Those that exist already, and those that come."""
    earlier = both.client()
    everywhere(session_id="s-1")
    for client in (earlier, both.client()):
        await both.wait(client.models.generate_content(**ASKED))
        await both.all(await both.wait(client.models.generate_content_stream(**ASKED)))
        await both.wait(client.models.embed_content(model="e", contents="a"))
    assert [(r.session_id, r.content) for r in records] == [("s-1", "hello"), ("s-1", "hello"), ("s-1", None)] * 2


async def test_uninstrument_puts_back_what_was_there(both: Any, records: Any, nothing_wrapped: Any) -> None:
    before = functions()
    everycall_google.instrument()
    everycall_google.instrument(session_id="later")
    assert all(now is not then for now, then in zip(functions(), before, strict=True))
    everycall_google.uninstrument()
    everycall_google.uninstrument()
    assert all(now is then for now, then in zip(functions(), before, strict=True))
    await both.wait(both.client().models.generate_content(**ASKED))
    assert records == []


async def test_a_wrapped_client_stays_so(both: Any, records: Any, nothing_wrapped: Any) -> None:
    """`uninstrument` takes nothing from it: its streams still belong where they were asked for."""
    client = both.wrapped()
    everycall_google.instrument()
    everycall_google.uninstrument()
    with everycall.span("asks"):
        stream = await both.wait(client.models.generate_content_stream(**ASKED))
    await both.all(stream)
    asks, answer = records
    assert answer.parent_id == asks.inference_id


async def test_a_wrapped_client_is_recorded_once(both: Any, records: Any, everywhere: Any) -> None:
    """With its own options."""
    everywhere(session_id="everywhere")
    await both.wait(both.wrapped(session_id="mine").models.generate_content(**ASKED))
    assert [r.session_id for r in records] == ["mine"]


async def test_a_client_beside_a_wrapped_one_is_untouched(both: Any, records: Any) -> None:
    """Its streams are the library's own generators."""
    both.wrapped()
    stream = await both.wait(both.client().models.generate_content_stream(**ASKED))
    code = stream.ag_code if both.is_async else stream.gi_code
    assert code.co_filename.endswith("models.py")
    await both.all(stream)
    assert records == []


def test_the_entry_point() -> None:
    (found,) = entry_points(group="everycall.integrations", name="google")
    assert found.load() is everycall_google


def test_the_readme_runs(provider: Any, records: Any, monkeypatch: Any, capsys: Any) -> None:
    """Its example, as it stands, with the provider's address in the place of Google's."""
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    program = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    monkeypatch.setenv("GOOGLE_API_KEY", "k")
    options = types.HttpOptions(base_url=provider.root)
    monkeypatch.setattr(genai, "Client", functools.partial(genai.Client, http_options=options))
    names: dict[str, Any] = {}
    exec(compile(program, "README.md", "exec"), names)
    names["client"]._api_client._httpx_client.close()
    assert capsys.readouterr().out == "hello\nhello"
    assert [(r.content, r.session_id, r.tags) for r in records] == [("hello", "s-1", ["beta"])] * 2


def test_importing_changes_nothing(nothing_wrapped: Any) -> None:
    """No patch before `instrument` or `wrap`: the functions in the library's classes are the library's."""
    assert all(function.__module__.startswith("google.genai.") for function in functions())
    assert all(type(function).__name__ == "function" for function in functions())
