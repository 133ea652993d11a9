"""`@trace` and `span()`: how users record their own code.

Decorating does not change a function: it stays a function of the same kind with the same signature, a generator
keeps `send`, `throw`, `close` and its return value, a class stays the class. Values and exceptions pass through
unchanged, `BaseException` included; if recording fails, the function runs as if undecorated.
"""

from __future__ import annotations

import functools
import inspect
import types
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol, TypeVar, Unpack, overload

from everycall import _guard
from everycall._call.arguments import Arguments
from everycall._call.call import OwnedCall
from everycall._call.context import attach, detach
from everycall._call.interface import Call
from everycall._call.keywords import OMIT_KEYWORDS, SPAN_KEYWORDS, TRACE_KEYWORDS, UNSET, SpanFields, refuse_keyword
from everycall._call.start import start_call
from everycall._call.wrappers import Options, Plan, wrapping_of
from everycall.settings import is_disabled, omit_flags

__all__ = ["span", "trace"]

Traceable = TypeVar(
    "Traceable",
    bound="Callable[..., Any] | classmethod[Any, Any, Any] | property | functools.cached_property[Any]"
    " | functools.partialmethod[Any] | functools.singledispatchmethod[Any]",
)


class Decorator(Protocol):
    """What `trace(...)` with options returns: a decorator that keeps the type of its target."""

    def __call__(self, target: Traceable, /) -> Traceable:
        """Return the target, its calls recorded."""
        ...


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
def trace(what: Any = None, /, *, name: str | None = None, kind: str | None = None, **keywords: Any) -> Any:
    """Record every call of a function, method, class or callable.

    Use it bare (`@trace`), with a name (`@trace("answer")`) or with the seed's fields: `name, kind ("chain"),
    trace_name, trace_id, end_user_identifier, session_id, deployment_id, tags, metadata, target, log_omit,
    log_omit_inputs, log_omit_outputs`. Works on plain and async functions, generators and async generators, static and
    class methods (above or below their decorator), properties, partials, callable objects, and classes (their own
    public methods, in place). What is traced already stays traced once; its omit flags and those given here add up.

    A generator's call begins when the generator is made and ends when it does: exhausted, failed, closed or collected.
    A coroutine's call begins when it is first awaited. A plain function that returns a generator, an async generator,
    a coroutine or a streaming response (Starlette and FastAPI, Flask, Django, Litestar) has a call that lasts until
    that is through, and what runs in it is below the call.

    With EVERYCALL_DISABLED=1 in the environment it returns its argument. Raises `TypeError` for an unknown option
    or a target that cannot be called; the decorated thing itself never raises on our account.
    """
    if isinstance(what, str):
        name, what = what, None
    options = _options(name, kind, keywords)
    if what is None:
        return functools.partial(_decorate, options=options)
    return _decorate(what, options=options)


def _options(name: str | None, kind: str | None, keywords: dict[str, Any]) -> Options:
    if not keywords.keys() <= TRACE_KEYWORDS:
        refuse_keyword("trace", keywords, TRACE_KEYWORDS)
    flags = {key: bool(value) for key, value in keywords.items() if key in OMIT_KEYWORDS}
    fields = {
        key: value
        for key, value in keywords.items()
        if key not in OMIT_KEYWORDS and value is not None and value is not UNSET
    }
    return Options(name, kind, fields, omit_flags(**flags))


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
    except Exception as error:  # noqa: BLE001 - an object whose attributes raise is returned unchanged, and not traced
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
        except (AttributeError, TypeError) as error:  # an immutable class
            _guard.report("trace", error)
    return cls


_traced: weakref.WeakSet[Callable[..., Any]] = weakref.WeakSet()
"""Traced functions, so that tracing one again does not record its calls twice.

What each was made of is in its closure. A table with it as value would keep alive whatever the function reaches, itself
included.
"""


def _decorate_function(function: types.FunctionType, options: Options) -> Callable[..., Any]:
    if function in _traced:
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        closure = {name: cell.cell_contents for name, cell in cells}
        inner: Options = closure["begin"].__self__.options
        joined = inner.within(options)
        if joined == inner:
            return function
        function, options = closure["function"], joined
    wrap = wrapping_of(function)
    plan = Plan(options, function.__qualname__.replace("<locals>.", ""), Arguments.of(function))
    wrapper = functools.update_wrapper(_at_home(wrap(function, plan), function), function)
    _traced.add(wrapper)
    return wrapper


_KIND_FLAGS = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR | inspect.CO_ITERABLE_COROUTINE


def _at_home(wrapper: Any, function: types.FunctionType) -> Any:
    """Return the wrapper with the original's globals, defaults and kind.

    Frameworks resolve string annotations in a function's `__globals__`, so the wrappers below must not use ours: every
    name in them is a local or a closure's. A wrapper that returns a generator is marked as what it stands for, in the
    way `types.coroutine` marks: such flags are read by `inspect`, not by the interpreter.
    """
    code = wrapper.__code__.replace(co_flags=wrapper.__code__.co_flags | function.__code__.co_flags & _KIND_FLAGS)
    inner = types.FunctionType(
        code, function.__globals__, function.__name__, function.__defaults__, wrapper.__closure__
    )
    inner.__kwdefaults__ = function.__kwdefaults__
    return inner


class span:  # noqa: N801 - used like a function: `with everycall.span(...) as call`
    """Record a block: `with span("lookup", kind="retriever", inputs={"q": q}) as call: call.update(output=docs)`.

    Also `async with`. Takes `kind` ("chain"), `trace_id, trace_name, end_user_identifier, session_id`, the fields of
    `Call.update`, and `log_omit, log_omit_inputs, log_omit_outputs`. The block's exception is recorded and passes
    through. `call` is the `Call` in progress. Raises `TypeError` for an unknown keyword.
    """

    __slots__ = ("_entered", "_fields", "_name")

    def __init__(self, name: str, **fields: Unpack[SpanFields]) -> None:
        if not fields.keys() <= SPAN_KEYWORDS:
            refuse_keyword("span", fields, SPAN_KEYWORDS)
        self._name = name
        self._fields = fields
        self._entered: list[tuple[OwnedCall, object]] = []

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
