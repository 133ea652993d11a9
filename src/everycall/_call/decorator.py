"""`@trace` and `span()`: the ways a user's own code becomes calls. Layer 3.

The decorated thing stays what it was: a function stays a function of the same kind with the same signature, a generator
keeps `send`, `throw`, `close` and its return value, a class stays the class. Values and exceptions pass through
untouched, `BaseException` included; if recording fails, the function runs as if undecorated.
"""

from __future__ import annotations

import functools
import inspect
import types
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar, overload

from everycall import _guard
from everycall._call.arguments import Arguments
from everycall._call.call import UNSET, Call, begin, start_call
from everycall._call.context import attach, detach
from everycall._call.generators import drive, drive_async
from everycall.errors import Loss
from everycall.settings import OMIT_ALL, OMIT_INPUTS, is_disabled, omit_flags

__all__ = ["span", "trace"]

Traceable = TypeVar(
    "Traceable",
    bound="Callable[..., Any] | classmethod[Any, Any, Any] | property | functools.cached_property[Any]"
    " | functools.partialmethod[Any] | functools.singledispatchmethod[Any]",
)


class Decorator(Protocol):
    """What `trace(...)` with options returns: a decorator that leaves the type of its target as it is."""

    def __call__(self, target: Traceable, /) -> Traceable:
        """Return the target, its calls recorded."""
        ...


@dataclass(frozen=True, slots=True)
class Options:
    """What `@trace(...)` was given: the start of every call of the decorated function."""

    name: str | None = None
    kind: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    omit: int = 0

    def within(self, outer: Options) -> Options:
        """Return these with what an outer decorator (or the class's) adds: gaps are filled, omit flags add up."""
        fields = {**outer.fields, **self.fields}
        return Options(self.name or outer.name, self.kind or outer.kind, fields, self.omit | outer.omit)


@overload
def trace(what: Traceable, /) -> Traceable: ...
@overload
def trace(
    what: str | None = None,
    /,
    *,
    name: str | None = None,
    kind: str | None = None,
    trace_name: str | None = None,
    trace_id: str | None = None,
    end_user_identifier: str | None = None,
    session_id: str | None = None,
    deployment_id: str | None = None,
    tags: Iterable[str] = (),
    metadata: Mapping[str, Any] | None = None,
    target: Any = UNSET,
    log_omit: bool = False,
    log_omit_inputs: bool = False,
    log_omit_outputs: bool = False,
) -> Decorator: ...
def trace(what: Any = None, /, *, name: str | None = None, kind: str | None = None, **given: Any) -> Any:
    """Record every call of a function, method, class or callable.

    Use it bare (`@trace`), with a name (`@trace("answer")`) or with the seed's fields: `name, kind ("chain"),
    trace_name, trace_id, end_user_identifier, session_id, deployment_id, tags, metadata, target, log_omit,
    log_omit_inputs, log_omit_outputs`. Works on plain and async functions, generators and async generators, static and
    class methods (above or below their decorator), properties, partials, callable objects, and classes (their own
    public methods, in place). What is traced already stays traced once; its omit flags and those given here add up.

    A generator's call begins when the generator is made and ends when it does: exhausted, failed, closed or collected.
    A coroutine's call begins when it is first awaited.

    With EVERYCALL_DISABLED=1 in the environment it returns what it was given. Raises `TypeError` for an unknown option
    or a target that cannot be called; the decorated thing itself never raises on our account.
    """
    if isinstance(what, str):
        name, what = what, None
    options = _options(name, kind, given)
    if what is None:
        return functools.partial(_decorate, options=options)
    return _decorate(what, options=options)


_FIELDS = frozenset(
    {"trace_name", "trace_id", "end_user_identifier", "session_id", "deployment_id", "tags", "metadata", "target"}
)


def _options(name: str | None, kind: str | None, given: dict[str, Any]) -> Options:
    flags = {key: bool(given.pop(key)) for key in ("log_omit", "log_omit_inputs", "log_omit_outputs") if key in given}
    unknown = set(given) - _FIELDS
    if unknown:
        raise TypeError(f"trace() got an unexpected keyword argument {sorted(unknown)[0]!r}")
    return Options(
        name, kind, {k: v for k, v in given.items() if v is not None and v is not UNSET}, omit_flags(**flags)
    )


def _decorate(target: Any, *, options: Options) -> Any:
    if is_disabled():
        return target
    if isinstance(target, types.FunctionType):
        return _decorate_function(target, options)
    if isinstance(target, (staticmethod, classmethod)):
        return type(target)(_decorate(target.__func__, options=options))
    if isinstance(target, property):
        getter = _decorate(target.fget, options=options) if target.fget is not None else None
        return type(target)(getter, target.fset, target.fdel, target.__doc__)
    if isinstance(target, functools.cached_property):
        cached = type(target)(_decorate(target.func, options=options))
        cached.attrname = target.attrname
        return cached
    if isinstance(target, type):
        return _decorate_class(target, options)
    from everycall._call.callable_proxy import CallableProxy  # wrapt is imported by those who need it

    if not callable(target) and not hasattr(type(target), "__get__"):
        raise TypeError(f"@trace needs something that can be called, not {type(target).__name__}")
    try:
        if type(target) is CallableProxy:
            return CallableProxy(target.__wrapped__, target._self_options.within(options))
        return CallableProxy(target, options)
    except Exception as error:  # noqa: BLE001 - an object whose attributes raise stays as it is, and untraced
        _guard.report("trace", error)
        return target


_METHODS = (
    types.FunctionType,
    functools.partialmethod,
    functools.singledispatchmethod,
    type(functools.lru_cache(print)),
)


def _decorate_class(cls: type, options: Options) -> type:
    """Trace a class's own public methods in place; the class stays the class, its properties and data as they were."""
    for attribute, value in list(vars(cls).items()):
        function = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
        if attribute.startswith("_") or not isinstance(function, _METHODS):
            continue
        name = f"{options.name}.{attribute}" if options.name else None
        try:
            setattr(cls, attribute, _decorate(value, options=replace(options, name=name)))
        except (AttributeError, TypeError) as error:  # a class that lets nobody change it
            _guard.report("trace", error)
    return cls


class Plan:
    """What is known of a decorated callable before its first call: how to begin a call from its arguments."""

    __slots__ = ("arguments", "fields", "kind", "name", "omit")

    def __init__(self, options: Options, name: str, arguments: Arguments) -> None:
        self.name = options.name or name
        self.kind = options.kind or "chain"
        self.fields = options.fields
        self.omit = options.omit
        self.arguments = arguments

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
        """Begin a call for these arguments; None when that failed (the function then runs untraced)."""
        try:
            call = begin(self.name, self.kind, self.fields, self.omit)
        except Exception as error:  # noqa: BLE001 - the guard: the user's call must happen
            _guard.report("trace", error)
            return None
        if not call.omit & (OMIT_INPUTS | OMIT_ALL):
            try:
                call.capture("inputs", self.arguments.by_name(args, kwargs))
            except Exception as error:  # noqa: BLE001 - the guard; the call is recorded without its inputs
                _guard.report("trace", error)
        return call


_originals: weakref.WeakKeyDictionary[Callable[..., Any], tuple[types.FunctionType, Options]]
_originals = weakref.WeakKeyDictionary()
"""Traced function -> what it was made of, so that tracing it again does not record its calls twice."""


def _decorate_function(function: types.FunctionType, options: Options) -> Callable[..., Any]:
    known = _originals.get(function)
    if known is not None:
        original, inner = known
        joined = inner.within(options)
        if joined == inner:
            return function
        function, options = original, joined
    wrap = wrapping_of(function)
    plan = Plan(options, function.__qualname__.replace("<locals>.", ""), Arguments.of(function))
    wrapper = functools.update_wrapper(_at_home(wrap(function, plan), function), function)
    _originals[wrapper] = (function, options)
    return wrapper


_KIND_FLAGS = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR | inspect.CO_ITERABLE_COROUTINE


def _at_home(wrapper: Any, function: types.FunctionType) -> Any:
    """Return the wrapper with the original's globals, defaults and kind.

    Frameworks resolve string annotations in a function's `__globals__`, so the wrappers below must not use ours: every
    name in them is a local or a closure's. A wrapper that returns a generator is marked as what it stands for, in the
    way `types.coroutine` marks: such flags are read by `inspect`, not by the interpreter.
    """
    code = wrapper.__code__.replace(co_flags=wrapper.__code__.co_flags | function.__code__.co_flags & _KIND_FLAGS)
    made = types.FunctionType(code, function.__globals__, function.__name__, function.__defaults__, wrapper.__closure__)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def _lose(call: Call, failure: BaseException) -> None:
    """A call that could not be recorded is a named loss, never an exception in the user's program."""
    try:
        _guard.report("trace", failure)
        if call._recorder is not None:
            call._recorder.ledger.drop(Loss.CAPTURE_FAILED, was_spooled=False)
    except RecursionError:  # no room on the stack even to count it
        return


Wrapping = Callable[[Any, Plan], Callable[..., Any]]


def wrapping_of(target: Any) -> Wrapping:
    """Return how a callable of its kind is wrapped: plain, coroutine, generator or async generator function."""
    runs = target
    if not inspect.isroutine(target) and not isinstance(target, functools.partial):
        runs = getattr(type(target), "__call__", target)  # noqa: B004 - the method itself is wanted, to ask its kind
    if inspect.isasyncgenfunction(runs):
        return _async_generator
    if inspect.isgeneratorfunction(runs):
        return _generator
    if inspect.iscoroutinefunction(runs):
        return _coroutine
    return _plain


def _plain(
    function: Callable[..., Any], plan: Plan, attach: Any = attach, detach: Any = detach, lose: Any = _lose
) -> Callable[..., Any]:
    begin, everything, failures = plan.begin, BaseException, Exception

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        call = begin(args, kwargs)
        if call is None:
            return function(*args, **kwargs)
        token = attach(call, call)
        try:
            result = function(*args, **kwargs)
        except everything as error:
            detach(token)
            try:
                call.fail(error)
            except failures as failure:
                lose(call, failure)
            raise
        detach(token)
        try:
            call.returned(result)
        except failures as failure:
            lose(call, failure)
        return result

    return wrapper


def _coroutine(
    function: Callable[..., Any], plan: Plan, attach: Any = attach, detach: Any = detach, lose: Any = _lose
) -> Callable[..., Any]:
    begin, everything, failures = plan.begin, BaseException, Exception

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        call = begin(args, kwargs)
        if call is None:
            return await function(*args, **kwargs)
        token = attach(call, call)
        try:
            result = await function(*args, **kwargs)
        except everything as error:
            detach(token)
            try:
                call.fail(error)
            except failures as failure:
                lose(call, failure)
            raise
        detach(token)
        try:
            call.returned(result)
        except failures as failure:
            lose(call, failure)
        return result

    return wrapper


def _generator(function: Callable[..., Any], plan: Plan, drive: Any = drive) -> Callable[..., Any]:
    begin, everything = plan.begin, BaseException

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        call = begin(args, kwargs)
        try:
            made = function(*args, **kwargs)
        except everything as error:
            if call is not None:
                call.fail(error)
            raise
        return made if call is None else drive(made, call)

    return wrapper


def _async_generator(function: Callable[..., Any], plan: Plan) -> Callable[..., Any]:
    return _generator(function, plan, drive_async)


class span:  # noqa: N801 - used like a function: `with everycall.span(...) as call`
    """Record a block: `with span("lookup", kind="retriever", inputs={"q": q}) as call: call.update(output=docs)`.

    Also `async with`. Takes the fields of `start_call`: `kind`, `inputs`, the seed's fields, the omit flags. The
    block's exception passes through and is recorded. `call` is the `Call` in progress.
    """

    __slots__ = ("_entered", "_fields", "_name")

    def __init__(self, name: str, **fields: Any) -> None:
        self._name = name
        self._fields = fields
        self._entered: list[tuple[Call, object]] = []

    def __enter__(self) -> Call:
        call = start_call(self._name, **self._fields)
        self._entered.append((call, attach(call, call)))
        return call

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if not self._entered:
            return
        call, token = self._entered.pop()
        detach(token)
        if error is None:
            call.end()
        else:
            call.fail(error)

    async def __aenter__(self) -> Call:
        return self.__enter__()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.__exit__(kind, error, trace)
