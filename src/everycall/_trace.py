"""`@trace` and `span()`: the ways a user's own code becomes calls. Layer 3.

The decorated thing stays what it was: a function stays a function of the same kind with the same signature, a generator
keeps `send`, `throw`, `close` and its return value, a class stays the class. Values and exceptions pass through
untouched, `BaseException` included; if recording fails, the function runs as if undecorated.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, overload

from everycall import _guard
from everycall._call import UNSET, Call, begin, start_call
from everycall._context import attach, detach
from everycall._stream import AsyncSteps, drive
from everycall.settings import OMIT_ALL, OMIT_INPUTS, is_disabled, omit_flags

__all__ = ["span", "trace"]

T = TypeVar("T")
_MARK = "__everycall__"


@dataclass(frozen=True, slots=True)
class Options:
    """What `@trace(...)` was given: the start of every call of the decorated function."""

    name: str | None = None
    kind: str = "chain"
    fields: Mapping[str, Any] = field(default_factory=dict)
    omit: int = 0


@overload
def trace(what: T, /) -> T: ...
@overload
def trace(
    what: str | None = None,
    /,
    *,
    name: str | None = None,
    kind: str = "chain",
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
) -> Callable[[T], T]: ...
def trace(what: Any = None, /, *, name: str | None = None, kind: str = "chain", **given: Any) -> Any:
    """Record every call of a function, method, class or callable.

    Use it bare (`@trace`), with a name (`@trace("answer")`) or with the seed's fields: `name, kind, trace_name,
    trace_id, end_user_identifier, session_id, deployment_id, tags, metadata, target, log_omit, log_omit_inputs,
    log_omit_outputs`. Works on plain and async functions, generators and async generators, static and class methods
    (above or below their decorator), properties, partials, callable objects, and classes (their public methods).

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


def _options(name: str | None, kind: str, given: dict[str, Any]) -> Options:
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
    if isinstance(target, (staticmethod, classmethod)):
        return type(target)(_decorate(target.__func__, options=options))
    if isinstance(target, property):
        getter = _decorate(target.fget, options=options) if target.fget is not None else None
        return property(getter, target.fset, target.fdel, target.__doc__)
    if isinstance(target, type):
        return _decorate_class(target, options)
    if not callable(target):
        raise TypeError(f"@trace needs something that can be called, not {type(target).__name__}")
    if isinstance(target, types.FunctionType):
        return _decorate_function(target, options)
    from everycall._proxy import CallableProxy  # wrapt is imported by those who need it

    return CallableProxy(target, options, build)


def _decorate_class(cls: type, options: Options) -> type:
    """Trace a class's own public methods in place; the class stays the class, its properties and data as they were."""
    for attribute, value in list(vars(cls).items()):
        if attribute.startswith("_"):
            continue
        function = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
        if isinstance(function, types.FunctionType):
            name = f"{options.name}.{attribute}" if options.name else None
            setattr(cls, attribute, _decorate(value, options=replace(options, name=name)))
    return cls


@dataclass(frozen=True, slots=True)
class Plan:
    """What is known of a decorated callable before its first call: how to begin a call from its arguments."""

    name: str
    kind: str
    fields: Mapping[str, Any]
    omit: int
    names: tuple[str, ...]
    skip: int
    signature: inspect.Signature | None

    @classmethod
    def of(cls, target: Any, options: Options) -> Plan:
        """Look at a callable once; one without a signature (some builtins) records its arguments by position."""
        try:
            signature = inspect.signature(target)
        except (ValueError, TypeError):
            signature = None
        parameters = tuple(signature.parameters.values()) if signature is not None else ()
        plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        names = tuple(p.name for p in parameters) if all(p.kind in plain for p in parameters) else ()
        name = options.name or getattr(target, "__qualname__", None) or getattr(target, "__name__", None)
        if name is None:
            name = getattr(getattr(target, "func", None), "__qualname__", None) or type(target).__qualname__
        is_method = bool(parameters) and parameters[0].name in ("self", "cls")
        return cls(
            name.replace("<locals>.", ""), options.kind, options.fields, options.omit, names, int(is_method), signature
        )

    def inputs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the arguments by name, defaults included; the receiver of a method is left out."""
        if not kwargs and len(args) == len(self.names):
            if not self.skip:
                return dict(zip(self.names, args, strict=True))
            return dict(zip(self.names[self.skip :], args[self.skip :], strict=True))
        if self.signature is None:
            return {"args": args, "kwargs": kwargs} if kwargs else list(args)
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError:
            return {"args": args, "kwargs": kwargs}
        bound.apply_defaults()
        shown = dict(bound.arguments)
        for parameter in list(self.signature.parameters.values())[: self.skip]:
            shown.pop(parameter.name, None)
        return shown

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
        """Begin a call for these arguments; None when that failed (the function then runs untraced)."""
        try:
            call = begin(self.name, self.kind, self.fields, self.omit)
            if not call.omit & (OMIT_INPUTS | OMIT_ALL):
                call._capture("inputs", self.inputs(args, kwargs))
        except Exception as error:  # noqa: BLE001 - the guard: the user's call must happen
            _guard.report("trace", error)
            return None
        return call


def succeed(call: Call, result: Any) -> None:
    """End a call with what the function returned."""
    call.returned(result)


def _decorate_function(function: types.FunctionType, options: Options) -> Callable[..., Any]:
    if getattr(function, _MARK, False):
        return function  # decorated already: a call must not be recorded twice
    wrapper: Any = functools.update_wrapper(build(function, options), function)
    wrapper.__dict__[_MARK] = True
    traced: Callable[..., Any] = wrapper
    return traced


def build(function: Callable[..., Any], options: Options) -> Callable[..., Any]:
    """Return a traced function of the same kind: plain, coroutine, generator or async generator function."""
    plan = Plan.of(function, options)
    runs = (
        function if inspect.isroutine(function) or isinstance(function, functools.partial) else _call_method(function)
    )
    if inspect.isasyncgenfunction(runs):
        return _async_generator(function, plan)
    if inspect.isgeneratorfunction(runs):
        return _generator(function, plan)
    if inspect.iscoroutinefunction(runs):
        return _coroutine(function, plan)
    return _plain(function, plan)


def _call_method(instance: Any) -> Any:
    return getattr(type(instance), "__call__", instance)  # noqa: B004 - the method itself is wanted, to ask its kind


def _plain(function: Callable[..., Any], plan: Plan) -> Callable[..., Any]:
    begin = plan.begin

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        call = begin(args, kwargs)
        if call is None:
            return function(*args, **kwargs)
        token = attach(call, call)
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            detach(token)
            call.fail(error)
            raise
        detach(token)
        succeed(call, result)
        return result

    return wrapper


def _coroutine(function: Callable[..., Any], plan: Plan) -> Callable[..., Any]:
    begin = plan.begin

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        call = begin(args, kwargs)
        if call is None:
            return await function(*args, **kwargs)
        token = attach(call, call)
        try:
            result = await function(*args, **kwargs)
        except BaseException as error:
            detach(token)
            call.fail(error)
            raise
        detach(token)
        succeed(call, result)
        return result

    return wrapper


def _generator(function: Callable[..., Any], plan: Plan) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        call = plan.begin(args, kwargs)
        if call is None:
            return (yield from function(*args, **kwargs))
        return (yield from drive(function(*args, **kwargs), call))

    return wrapper


def _async_generator(function: Callable[..., Any], plan: Plan) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        steps = AsyncSteps(function(*args, **kwargs), plan.begin(args, kwargs))
        send: Any = None
        error: BaseException | None = None
        try:
            while True:
                item = await steps.step(send, error)
                send = error = None
                try:
                    send = yield item
                except GeneratorExit:
                    await steps.close()
                    raise
                except BaseException as thrown:  # noqa: BLE001 - athrow(): it belongs to the body
                    error = thrown
                    steps.left = type(thrown).__name__ == "CancelledError"
        except StopAsyncIteration:
            steps.finish()
        except BaseException as failure:
            steps.fail(failure)
            raise

    return wrapper


class span:  # noqa: N801 - used like a function: `with everycall.span(...) as call`
    """Record a block: `with span("lookup", kind="retriever", inputs={"q": q}) as call: call.update(output=docs)`.

    Also `async with`. Takes the fields of `start_call`: `kind`, `inputs`, the seed's fields, the omit flags. The
    block's exception passes through and is recorded. `call` is the `Call` in progress.
    """

    __slots__ = ("_call", "_fields", "_name", "_token")

    def __init__(self, name: str, **fields: Any) -> None:
        self._name = name
        self._fields = fields
        self._token: object = None
        self._call: Call | None = None

    def __enter__(self) -> Call:
        call = start_call(self._name, **self._fields)
        self._call = call
        self._token = attach(call, call)
        return call

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        call = self._call
        if call is None:
            return
        detach(self._token)
        if error is None:
            call.end()
        else:
            call.fail(error)

    async def __aenter__(self) -> Call:
        return self.__enter__()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.__exit__(kind, error, trace)
