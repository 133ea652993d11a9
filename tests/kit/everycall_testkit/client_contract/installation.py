"""How the recording gets into clients and out again; a wrapped client is used like any other."""

from __future__ import annotations

import gc
import inspect
import re
import weakref
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

import everycall
from everycall.record import Record
from everycall_testkit.client_bench import Clients, decode
from everycall_testkit.client_contract.adapter import ClientAdapter
from everycall_testkit.provider import FakeProvider, Reply

__all__ = ["Installation"]


def patched_functions(adapter: ClientAdapter) -> list[Any]:
    """Return what stands in the library's classes where `instrument` puts its own functions."""
    return [vars(owner)[name] for owner, name in adapter.patched]


def labels_of(record: Record) -> tuple[str | None, str | None, str | None]:
    return record.trace_name, record.end_user_identifier, record.session_id


class Installation:
    """`wrap`, `instrument` and `uninstrument`, the labels they take, and what they leave alone."""

    @pytest.fixture
    def instrument(self, adapter: ClientAdapter) -> Iterator[Callable[..., None]]:
        """The integration's `instrument`, undone after the test."""
        yield adapter.integration.instrument
        adapter.integration.uninstrument()

    async def ask(self, clients: Clients, client: Any) -> Any:
        return await clients.wait(clients.adapter.ask(client))

    async def read(self, clients: Clients, client: Any) -> list[Any]:
        return await clients.all(await clients.wait(clients.adapter.stream(client)))

    async def test_wrap_returns_the_client_itself(self, adapter: ClientAdapter, clients: Clients) -> None:
        """The same object of the same class, whose methods look as they did."""
        client, bare = clients.new(), clients.new()
        kind, before = type(client), adapter.methods(client)[0]
        assert clients.wrap(client) is client
        assert type(client) is kind is adapter.client_types[clients.is_async]
        assert adapter.methods(client)[0] == before
        for ours, theirs in zip(adapter.methods(client), adapter.methods(bare), strict=True):
            assert inspect.signature(ours) == inspect.signature(theirs)
            assert inspect.iscoroutinefunction(ours) == inspect.iscoroutinefunction(theirs)
            assert inspect.isgeneratorfunction(ours) == inspect.isgeneratorfunction(theirs)

    async def test_objects_taken_before_are_recorded(
        self, adapter: ClientAdapter, clients: Clients, records: list[Record]
    ) -> None:
        client = clients.new()
        resources = adapter.resources(client)
        clients.wrap(client)
        for ask in resources:
            await clients.wait(ask())
        assert len(records) == len(resources) > 0

    async def test_a_class_of_clients_is_freed(
        self, adapter: ClientAdapter, clients: Clients, provider: FakeProvider, records: list[Record]
    ) -> None:
        """A program may make a class for each request: nothing keeps it alive when its clients are gone."""
        cls = type("Mine", (adapter.client_class(clients.is_async),), {})
        reference = weakref.ref(cls)
        client = adapter.integration.wrap(adapter.new_client(provider, clients.is_async, client_class=cls))
        await self.ask(clients, client)
        await adapter.close(client, clients.is_async)
        del cls, client
        for _ in range(3):
            gc.collect()
            await clients.settle()
        assert reference() is None
        assert len(records) == 1

    async def test_wrapping_again_replaces_the_options(self, clients: Clients, records: list[Record]) -> None:
        client = clients.wrapped(session_id="s-1")
        clients.wrap(client, session_id="s-2", provider="groq")
        for each in (client, *clients.adapter.copies(client)):
            await self.ask(clients, each)
        assert {(record.session_id, record.provider) for record in records} == {("s-2", "groq")}

    async def test_copies_are_recorded_with_the_same_options(self, clients: Clients, records: list[Record]) -> None:
        client = clients.wrapped(session_id="s-1")
        copies = clients.adapter.copies(client)
        for copy in copies:
            assert type(copy) is type(client)
            await self.ask(clients, copy)
        assert [record.session_id for record in records] == ["s-1"] * len(copies)

    @pytest.mark.parametrize("kind", ["module", "class", "text", "none"])
    def test_values_other_than_clients_are_refused(self, kind: str, adapter: ClientAdapter) -> None:
        values = {"module": adapter.library, "class": adapter.client_types[0], "text": "client", "none": None}
        with pytest.raises(TypeError, match=adapter.refusal):
            adapter.integration.wrap(values[kind])

    async def test_an_unknown_keyword_is_refused(self, adapter: ClientAdapter, clients: Clients) -> None:
        with pytest.raises(TypeError, match="unknown keyword 'user'"):
            clients.wrapped(user="u-7")
        with pytest.raises(TypeError, match="unknown keyword 'sesion_id'"):
            adapter.integration.instrument(sesion_id="s-1")

    async def test_labels(self, clients: Clients, records: list[Record]) -> None:
        """They are on each record; a trace that has begun keeps its name."""
        client = clients.wrapped(
            trace_name="asks", end_user_identifier="u-7", session_id="s-1", tags=["beta"], metadata={"team": "a"}
        )
        await self.ask(clients, client)
        with everycall.span("outer", trace_name="support"), everycall.context(tags=["more"]):
            await self.ask(clients, client)
        alone, inner, _ = records
        assert labels_of(alone) == ("asks", "u-7", "s-1")
        assert (alone.tags, decode(alone.metadata)) == (["beta"], {"team": "a"})
        assert (labels_of(inner)[:2], inner.tags) == (("support", "u-7"), ["more", "beta"])

    async def test_flags_of_the_context_apply(self, clients: Clients, records: list[Record]) -> None:
        client = clients.wrapped(log_omit_outputs=True)
        with everycall.context(log_omit_inputs=True):
            await self.ask(clients, client)
        assert records[0].omitted == ["attributes", "inputs", "outputs"]
        with everycall.context(log_omit=True):
            await self.read(clients, client)
        assert len(records) == 1

    async def test_other_requests_pass(self, adapter: ClientAdapter, clients: Clients, records: list[Record]) -> None:
        """Requests that ask no model for an answer are not recorded, whether they succeed or fail."""
        await adapter.other_requests(clients, clients.wrapped())
        assert records == []

    async def test_a_wrong_call_is_refused_by_the_library(
        self, adapter: ClientAdapter, clients: Clients, records: list[Record]
    ) -> None:
        for ask, error, match in adapter.wrong_calls:
            with pytest.raises(error, match=match):
                await clients.wait(ask(clients.wrapped()))
        assert records == []

    async def test_retries_are_one_record(
        self, adapter: ClientAdapter, clients: Clients, provider: FakeProvider, records: list[Record]
    ) -> None:
        if not adapter.retries:
            pytest.skip("this version of the library does not send a request again")
        provider.script(*(Reply(**adapter.retry_reply) for _ in range(2)))
        answer = await clients.wait(adapter.ask_with_retries(clients))
        assert (adapter.answer_text(answer), len(provider.requests)) == ("hello", 3)
        assert [(record.status, record.content) for record in records] == [("success", "hello")]

    async def test_an_answer_of_an_unknown_shape(
        self, adapter: ClientAdapter, clients: Clients, provider: FakeProvider, records: list[Record]
    ) -> None:
        """The caller gets what a bare client gives, or raises; the record has what is known."""
        bare, client = clients.new(), clients.wrapped()
        for body in adapter.strange_answers:
            outcomes, errors = [], []
            for each in (bare, client):
                provider.reply(body=body)
                try:
                    outcomes.append(repr(await self.ask(clients, each)))
                except Exception as error:
                    outcomes.append(repr(type(error)))
                    errors.append(error)
            assert outcomes[0] == outcomes[1]
            record = records.pop()
            assert (record.content, record.input_tokens, records) == (None, None, [])
            assert record.status == "success" or errors

    # `instrument`

    async def test_instrument_records_all_clients(
        self, instrument: Callable[..., None], adapter: ClientAdapter, clients: Clients, records: list[Record]
    ) -> None:
        """Those that exist already, those made later, and copies of them."""
        earlier = clients.new()
        instrument(session_id="s-1")
        later = clients.new()
        all_clients = (earlier, later, *adapter.copies(later))
        for client in all_clients:
            await self.ask(clients, client)
            await self.read(clients, client)
        assert [(r.session_id, r.content) for r in records] == [("s-1", "hello")] * 2 * len(all_clients)
        if adapter.embedding is not None:
            await clients.wait(adapter.embedding.ask(later, "a"))
            assert (records[-1].session_id, records[-1].kind) == ("s-1", "embedding")

    async def test_uninstrument_restores_the_originals(
        self, nothing_wrapped: None, adapter: ClientAdapter, clients: Clients, records: list[Record]
    ) -> None:
        before = patched_functions(adapter)
        adapter.integration.instrument()
        adapter.integration.instrument(session_id="later")
        replaced = patched_functions(adapter)
        assert all(now is not then for now, then in zip(replaced, before, strict=True))
        assert [inspect.iscoroutinefunction(f) for f in replaced] == [inspect.iscoroutinefunction(f) for f in before]
        adapter.integration.uninstrument()
        adapter.integration.uninstrument()
        assert all(now is then for now, then in zip(patched_functions(adapter), before, strict=True))
        await self.ask(clients, clients.new())
        assert records == []

    async def test_wrappers_around_ours_are_kept(
        self, instrument: Callable[..., None], adapter: ClientAdapter, clients: Clients, records: list[Record]
    ) -> None:
        """Ours stays below it, and does nothing until it is switched on again."""
        owner, name = adapter.patched[clients.is_async]
        original = vars(owner)[name]
        instrument()
        ours = vars(owner)[name]

        def theirs(self: Any, *args: Any, **kwargs: Any) -> Any:
            return ours(self, *args, **kwargs)

        theirs.__wrapped__ = ours  # type: ignore[attr-defined]
        setattr(owner, name, theirs)
        try:
            adapter.integration.uninstrument()
            await self.ask(clients, clients.new())
            assert (vars(owner)[name], records) == (theirs, [])
            instrument()
            await self.ask(clients, clients.new())
            assert len(records) == 1
        finally:
            setattr(owner, name, ours)
            adapter.integration.uninstrument()
        assert vars(owner)[name] is original

    async def test_a_wrapped_client_is_recorded_once(
        self, instrument: Callable[..., None], clients: Clients, records: list[Record]
    ) -> None:
        """It is recorded with its own options."""
        instrument(session_id="everywhere")
        await self.ask(clients, clients.wrapped(session_id="mine"))
        assert [record.session_id for record in records] == ["mine"]

    async def test_a_wrapped_client_stays_wrapped(
        self, nothing_wrapped: None, adapter: ClientAdapter, clients: Clients, records: list[Record]
    ) -> None:
        """`uninstrument` takes nothing from it: its streams still belong where they were opened."""
        client = clients.wrapped()
        adapter.integration.instrument()
        adapter.integration.uninstrument()
        with everycall.span("asks"):
            stream = await clients.wait(adapter.stream(client))
        await clients.all(stream)
        asks, answer = records
        assert answer.parent_id == asks.inference_id

    async def test_by_name(self, adapter: ClientAdapter, clients: Clients, records: list[Record]) -> None:
        assert everycall.instrument(adapter.name, session_id="named") == (adapter.name,)
        try:
            await self.ask(clients, clients.new())
        finally:
            everycall.uninstrument(adapter.name)
        await self.ask(clients, clients.new())
        assert [record.session_id for record in records] == ["named"]

    def test_the_entry_point(self, adapter: ClientAdapter) -> None:
        (entry_point,) = entry_points(group="everycall.integrations", name=adapter.name)
        assert entry_point.load() is adapter.integration

    def test_importing_changes_nothing(self, nothing_wrapped: None, adapter: ClientAdapter) -> None:
        """No patch before `instrument` or `wrap`: the functions in the library's classes are the library's."""
        functions = patched_functions(adapter)
        assert all(re.fullmatch(adapter.library_modules, function.__module__) for function in functions)
        assert all(inspect.isfunction(function) for function in functions)

    def test_the_readme_runs(
        self,
        adapter: ClientAdapter,
        provider: FakeProvider,
        records: list[Record],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """Its first example, as it stands, with the fake provider in place of the real one."""
        package = Path(str(adapter.integration.__file__)).parents[1]
        text = (package / "README.md").read_text(encoding="utf-8")
        program = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
        adapter.set_up_readme(provider, monkeypatch)
        names: dict[str, Any] = {}
        exec(compile(program, "README.md", "exec"), names)
        adapter.close_readme(names["client"])
        assert capsys.readouterr().out == "hello\nhello"
        assert [(r.content, r.session_id, r.tags) for r in records] == [("hello", "s-1", ["beta"])] * 2
