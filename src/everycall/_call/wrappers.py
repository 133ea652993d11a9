"""How each kind of callable is recorded: plain, coroutine, generator and async generator functions.

`@trace` picks the wrapper; the wrapped function's value or exception passes through unchanged.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from everycall import _guard
from everycall._call.arguments import Arguments
from everycall._call.call import OwnedCall
from everycall._call.context import attach, detach
from everycall._call.generators import drive, drive_async
from everycall._call.results import finish
from everycall._call.start import begin
from everycall.errors import Loss
from everycall.settings import OMIT_ALL, OMIT_INPUTS

__all__ = ["Options", "Plan", "Wrapping", "wrapping_of"]


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


class Plan:
    """What is known of a decorated callable before its first call: how to begin a call from its arguments."""

    __slots__ = ("arguments", "fields", "kind", "name", "omit", "options")

    def __init__(self, options: Options, name: str, arguments: Arguments) -> None:
        self.options = options
        self.name = options.name or name
        self.kind = options.kind or "chain"
        self.fields = options.fields
        self.omit = options.omit
        self.arguments = arguments

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> OwnedCall | None:
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


def _lose(call: OwnedCall, failure: BaseException) -> None:
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
    function: Callable[..., Any],
    plan: Plan,
    attach: Any = attach,
    detach: Any = detach,
    lose: Any = _lose,
    finish: Any = finish,
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
            return finish(call, result)
        except failures as failure:
            lose(call, failure)
        return result

    return wrapper


def _coroutine(
    function: Callable[..., Any],
    plan: Plan,
    attach: Any = attach,
    detach: Any = detach,
    lose: Any = _lose,
    finish: Any = finish,
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
            return finish(call, result)
        except failures as failure:
            lose(call, failure)
        return result

    return wrapper


def _generator(function: Callable[..., Any], plan: Plan, drive: Any = drive) -> Callable[..., Any]:
    begin, everything = plan.begin, BaseException

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        call = begin(args, kwargs)
        try:
            generator = function(*args, **kwargs)
        except everything as error:
            if call is not None:
                call.fail(error)
            raise
        return generator if call is None else drive(generator, call)

    return wrapper


def _async_generator(function: Callable[..., Any], plan: Plan) -> Callable[..., Any]:
    return _generator(function, plan, drive_async)
