"""One request of a client and its answer: the call that records them, from before it is sent to its end. Layer 3.

The base of what integrations of clients build (OpenAI, Anthropic, Google): they say how requests and answers are read.
An exchange has a call of its own, or that of a framework (LangChain's model) that records this very request: then it
adds what only the client knows, tokens and the id of the answer, and leaves the end to the framework.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final, TypedDict

from everycall._call.call import Call, start_call
from everycall._call.context import current_call
from everycall._guard import report
from everycall._instrumentation.content import read
from everycall.settings import OMIT_ALL, OMIT_OUTPUTS

__all__ = ["Exchange", "Labels", "Options", "SharedLabels", "recorded_by_framework"]

Arguments = tuple[Any, ...]
Keywords = dict[str, Any]
_KNOWN_HERE: Final = (
    *("input_tokens", "output_tokens", "total_tokens", "usage", "cost", "cost_source"),
    "gen_ai.response.id",
)
_PROVIDER: Final = "provider"


class SharedLabels(TypedDict, total=False):
    """What every integration takes for its records, one of a framework too.

    `trace_name` names traces that begin with a request. The flags add up with those around the call.
    """

    trace_name: str | None
    end_user_identifier: str | None
    session_id: str | None
    tags: Iterable[str]
    metadata: Mapping[str, Any] | None
    log_omit: bool
    log_omit_inputs: bool
    log_omit_outputs: bool


class Labels(SharedLabels, total=False):
    """What `wrap` and `instrument` of every integration of a client take, for the records of its requests.

    `provider` names who answers, where the client's class and host do not tell.
    """

    provider: str | None


class Options:
    """The keywords of `wrap` and `instrument`, as each request needs them. Raises `TypeError` for an unknown one."""

    __slots__ = ("_given", "_within", "provider")

    def __init__(self, labels: Labels) -> None:
        if unknown := sorted(labels.keys() - Labels.__annotations__.keys()):
            raise TypeError(f"unknown keyword {unknown[0]!r}; there are {', '.join(Labels.__annotations__)}")
        given: dict[str, Any] = {name: value for name, value in labels.items() if value}
        self.provider: str | None = given.pop(_PROVIDER, None)
        tags, metadata = given.get("tags"), given.get("metadata")
        if tags:
            given["tags"] = (tags,) if isinstance(tags, str) else tuple(tags)
        if metadata:
            given["metadata"] = dict(metadata)
        self._given = given
        self._within = {name: value for name, value in given.items() if name != "trace_name"}

    def arguments(self) -> Mapping[str, Any]:
        """Return what `start_call` is given here: a trace that has begun keeps its name."""
        return self._given if not self._given or current_call() is None else self._within


class Exchange:
    """One request under way; made when it begins, by an integration's `begin`. None of its methods raises.

    `framework` is the call of a framework that records this request, as `recorded_by_framework` told. `take` or `fail`
    is called once, when the library has answered or raised; a stream's `Reading` calls `finish`, `leave` or `fail`.

    An integration overrides what it needs of `arguments`, `takes_back`, `answered`, `handed`, `hides`, `partial` and
    `about`.
    """

    __slots__ = ("call", "is_own", "provider")

    adds: ClassVar[tuple[str, ...]] = ()
    """Attributes that a framework's call gets from here, beside tokens and the answer's id."""

    def __init__(
        self, scope: str, name: str, kind: str, options: Options, provider: str | None, framework: Call | None
    ) -> None:
        self.is_own = framework is None
        self.provider = options.provider or provider
        self.call: Call = framework or start_call(name, kind=kind, scope=scope, **options.arguments())

    @property
    def records(self) -> bool:
        """Whether anything of this request is recorded at all."""
        return not self.call.omit & OMIT_ALL

    @property
    def keeps_outputs(self) -> bool:
        """Whether the call has its content from here, and takes it."""
        return self.is_own and not self.call.omit & OMIT_OUTPUTS

    def arguments(self, args: Arguments, kwargs: Keywords) -> tuple[Arguments, Keywords]:
        """Return what the library's method is called with: the caller's arguments, or others that ask for more."""
        return args, kwargs

    def takes_back(self, error: BaseException) -> bool:  # noqa: ARG002
        """Tell whether a request failed because of what was added to it: then it is sent as the caller made it."""
        return False

    def answered(self, answer: Any) -> dict[str, Any] | None:
        """Return what an answer says as fields of a record; None for one that is yet to be read, and is followed.

        `failure` among the fields says that the answer is the report of an error. May raise: then nothing is known.
        """
        raise NotImplementedError

    def handed(self, answer: Any) -> Any:
        """Return what the caller is given for an answer that was taken: itself, or what stands in its place."""
        return answer

    def hides(self, piece: Any) -> bool:  # noqa: ARG002
        """Tell whether a stream's piece is one the caller has not asked for. May raise."""
        return False

    def partial(self, error: BaseException) -> dict[str, Any]:  # noqa: ARG002
        """Return what was answered although the library raised. May raise."""
        return {}

    def about(self, error: BaseException) -> dict[str, Any]:
        """Return what an error says beside its text, as attributes."""
        return {"http.response.status_code": read(error, "status_code")}

    def take(self, answer: Any) -> None:
        """Record an answer, or follow it where it is yet to be read."""
        fields: dict[str, Any] = {}
        if self.records:
            try:
                found = self.answered(answer)
                if found is None:
                    return
                fields = found
            except Exception as error:  # noqa: BLE001 - the guard
                report("a client's answer", error)
        self.finish(fields)

    def finish(self, fields: dict[str, Any]) -> None:
        """End the call with what an answer said; as an error where the answer is the report of one."""
        failure = fields.pop("failure", None)
        self._tell(fields)
        if self.is_own:
            if failure is None:
                self.call.end()
            else:
                self.call.fail(failure)

    def leave(self, fields: dict[str, Any]) -> None:
        """End the call as abandoned by who read the answer."""
        fields.pop("failure", None)
        self._tell(fields)
        if self.is_own:
            self.call.abandon()

    def fail(self, error: BaseException, fields: dict[str, Any] | None = None) -> None:
        """End the call with the library's error, and with what was answered before it."""
        if self.records:
            try:
                fields = fields or self.partial(error)
                fields.pop("failure", None)
                self._tell(fields)
                if self.is_own:
                    self.call.update(**self.about(error))
            except Exception as own:  # noqa: BLE001 - the guard
                report("a client's error", own)
        if self.is_own:
            self.call.fail(error)

    def _tell(self, fields: Mapping[str, Any]) -> None:
        if self.is_own:
            self.call.update(**fields)
        elif fields:
            known = {name: fields.get(name) for name in (*_KNOWN_HERE, *self.adds)}
            self.call.update(provider=self.provider, **known)


def recorded_by_framework(scope: str, kind: str) -> Call | None:
    """Return the call in progress here when a framework opened it for the very request that is made now, else None.

    `scope` and `kind` are those of the provider integration that asks. A framework's model call (LangChain's chat
    model) is the record of the request its own code sends: the provider's integration then opens none of its own, makes
    that call current while the request runs, and tells it what only the provider knows. So one request is one record.

    A user's own call, such as `@trace(kind="llm")`, is not such a record: it may hold several requests. Each of them
    has its own below it, and the tokens are there.
    """
    call = current_call()
    if call is None or call.ended or call.kind != kind or call._scope_name in ("everycall", scope):
        return None
    return call
