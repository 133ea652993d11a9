"""What an integration of a client supplies to the contract suite: how its client is made, asked and read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import pytest

from everycall_testkit.provider import FakeProvider

if TYPE_CHECKING:
    from everycall_testkit.client_bench import Clients

__all__ = ["PIECES", "TEXT", "ClientAdapter", "Embedding", "Failure", "Timeout", "Way", "parametrize_ways"]

Fields = Mapping[str, Any]

PIECES = ['{"city": ', '"Rome"}']
"""What the model answers in the tests of every way, in the pieces of a stream."""
TEXT = "".join(PIECES)


@dataclass(frozen=True)
class Way:
    """One way of asking a model.

    `ask(client)` returns an answer, a stream, or a manager that is entered for a stream; `returns` says which. An
    asynchronous client returns an awaitable of the first two.

    `request` has the fields of the record that the request alone decides. `answer` has those that a complete answer
    of `PIECES` adds or replaces, `first_piece` those that a stream adds with its first piece.
    """

    ask: Callable[[Any], Any]
    request: Fields
    answer: Fields
    first_piece: Fields = field(default_factory=dict)
    returns: Literal["answer", "stream", "manager"] = "answer"

    @property
    def success(self) -> dict[str, Any]:
        """The content of a record whose answer is complete."""
        return {**self.request, "content": TEXT, **self.answer}

    @property
    def started(self) -> dict[str, Any]:
        """The content of a record of a stream of which one piece has come."""
        return {**self.request, "content": PIECES[0], **self.first_piece}


@dataclass(frozen=True)
class Embedding:
    """One request for embeddings: `ask(client, text)`, and the content of its record without what was embedded."""

    ask: Callable[[Any, Any], Any]
    record: Fields


@dataclass(frozen=True)
class Failure:
    """An HTTP error of the provider, the library's exception, and what the record says of it.

    `error_type` is the exception's qualified name; None where it differs between versions of the library.
    """

    status: int
    exception: type[Exception]
    error_type: str | None = None
    attributes: Fields = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Timeout:
    """How the library tells of a time-out: its exception, the pattern of its text, the end of its qualified name."""

    exception: type[Exception]
    match: str | None
    name: str


class ClientAdapter(ABC):
    """One integration of a client, as the contract suite uses it.

    `ask` and `stream` are the simplest request and the simplest streamed request of a client. The fake provider answers
    both with "hello", 22 input tokens and 189 output tokens unless a test scripts another reply.
    """

    name: str
    """The name of the integration's entry point."""
    integration: ModuleType
    library: ModuleType
    client_types: tuple[type, type]
    """The synchronous and the asynchronous client."""
    provider: str
    wrap_options: Mapping[str, Any] = {}
    reply: Mapping[str, Any] = {}
    """Members of the provider's replies in the tests of every way."""
    ways: Mapping[str, Way]
    embedding: Embedding | None = None

    # errors
    rate_limited: Failure
    bad_request: Failure
    server_error: Failure
    timeout: Timeout
    stream_error: Failure
    """An error event within a stream."""
    stream_error_text: str = "overloaded in the middle"
    raises_stream_error: bool = True
    """Whether every version of the library raises it. The record is an error all the same."""

    # streams
    opening_pieces: int
    """How many pieces of `stream` come before the first text."""
    is_sent_when_read: bool = False
    """Whether a streamed request is sent with the first piece that is read, and not when the stream is made."""
    tokens_before_end: int | None = None
    """The output tokens known once the model has finished, before the last piece is read."""

    # frameworks
    framework_reply: Mapping[str, Any] = {}
    framework_tokens: tuple[int, int, Mapping[str, int]]
    """The input tokens, output tokens and parts of them that the reply above gives a framework's record."""
    framework_attributes: Mapping[str, Any]

    # installation
    refusal: str
    """The pattern of the error for what is not a client."""
    strange_answers: Sequence[bytes]
    patched: tuple[tuple[type, str], ...]
    """The library's methods that `instrument` replaces: those that send, synchronous first, then others."""
    library_modules: str
    """The pattern of the modules that define them."""
    wrong_calls: Sequence[tuple[Callable[[Any], Any], type[Exception], str]]
    """Calls that the library itself refuses, with its error."""

    @property
    def scope(self) -> str:
        """The scope of the integration's records."""
        return f"everycall_{self.name}"

    @property
    @abstractmethod
    def call_name(self) -> str:
        """The name of the record of `ask` and `stream`."""

    @abstractmethod
    def new_client(self, provider: FakeProvider, is_async: bool, **settings: Any) -> Any:
        """Return a client of the provider.

        Settings are `timeout` (seconds), `hook` (a function that is called with each HTTP request), `client_class`, and
        others that the library takes.
        """

    def client_class(self, is_async: bool) -> type:
        """Return the class that `new_client` makes a client of."""
        return self.client_types[is_async]

    async def close(self, client: Any, is_async: bool) -> None:
        """Close a client."""
        if is_async:
            await client.close()
        else:
            client.close()

    @abstractmethod
    def ask(self, client: Any, prompt: str = "hi") -> Any:
        """Send a request; returns the answer, or an awaitable of it."""

    @abstractmethod
    def stream(self, client: Any, prompt: str = "hi") -> Any:
        """Send a streamed request; returns the stream, or an awaitable of it."""

    @abstractmethod
    def answer_text(self, answer: Any) -> str:
        """Return the text of an answer to `ask`."""

    @abstractmethod
    def piece_text(self, piece: Any) -> str | None:
        """Return the text that a piece of any stream brings."""

    @abstractmethod
    def is_final(self, piece: Any) -> bool:
        """Whether the model has finished with this piece of `stream`."""

    @abstractmethod
    def plain_piece(self, piece: Any) -> Any:
        """Return a piece as a value that can be compared."""

    @abstractmethod
    def stream_traits(self, stream: Any, is_async: bool) -> Any:
        """Return what a stream of a wrapped client has in common with one of a bare client, to be compared."""

    async def leave_stream(self, clients: Clients, opened: Any, error: BaseException | None = None) -> None:
        """Leave a stream or its manager before its end, as a `with` block does."""
        await clients.leave(opened, error)

    async def close_stream(self, clients: Clients, stream: Any) -> None:
        """Close a stream."""
        await clients.wait(stream.close())

    @abstractmethod
    def program(self) -> str:
        """Return a program that leaves `stream` open after its first text; `sys.argv[1]` is the provider's address."""

    @abstractmethod
    def methods(self, client: Any) -> Sequence[Callable[..., Any]]:
        """Return public methods of a client, whose kinds and signatures wrapping must not change."""

    @abstractmethod
    def resources(self, client: Any) -> Sequence[Callable[[], Any]]:
        """Return functions that ask through objects taken from a client before it is wrapped."""

    def copies(self, client: Any) -> Sequence[Any]:
        """Return copies of a client, which are recorded as it is."""
        return ()

    @abstractmethod
    async def other_requests(self, clients: Clients, client: Any) -> None:
        """Send requests that are not recorded."""

    retries: bool = True
    """Whether this version of the library sends a request again."""
    retry_reply: Mapping[str, Any]

    @abstractmethod
    def ask_with_retries(self, clients: Clients) -> Any:
        """Send a request of a wrapped client that is sent up to three times."""

    @abstractmethod
    def set_up_readme(self, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let the README's example reach the fake provider."""

    def close_readme(self, client: Any) -> None:
        """Close the client of the README's example."""
        client.close()


def parametrize_ways(metafunc: pytest.Metafunc, adapter: ClientAdapter) -> None:
    """Give `way`, `stream_way` and `bare_stream_way` of a test their values; for `pytest_generate_tests`."""
    kinds = {
        "way": ("answer", "stream", "manager"),
        "stream_way": ("stream", "manager"),
        "bare_stream_way": ("stream",),
    }
    for name, returns in kinds.items():
        if name in metafunc.fixturenames:
            ways = {key: way for key, way in adapter.ways.items() if way.returns in returns}
            metafunc.parametrize(name, ways.values(), ids=ways.keys())
