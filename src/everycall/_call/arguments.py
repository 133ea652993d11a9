"""A call's arguments by name, without `inspect.Signature.bind`, which costs more than a call itself.

It never fails: arguments that the function does not accept are recorded as they were passed.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field, replace
from typing import Any

__all__ = ["Arguments"]

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_RECEIVERS = ("self", "cls")


@dataclass(frozen=True, slots=True)
class Arguments:
    """The parameters of one callable, looked at once. The receiver of a method (`self`, `cls`) is left out."""

    known: bool = True
    names: tuple[str, ...] = ()  # that can be given by position, in order
    shown: tuple[str, ...] = ()  # of these, all but the receiver
    by_keyword: frozenset[str] = frozenset()
    defaults: dict[str, Any] = field(default_factory=dict)
    rest: str | None = None  # `*args`
    extra: str | None = None  # `**kwargs`
    exact: bool = False  # nothing but `names`: then they and the arguments go together one by one

    @classmethod
    def of(cls, target: Any) -> Arguments:
        """Look at a callable; one that says nothing of its parameters (some builtins) shows them by position."""
        try:
            parameters = tuple(inspect.signature(target).parameters.values())
        except Exception:  # noqa: BLE001 - a callable object may be anything; it is traced all the same
            return cls(known=False)
        names = tuple(p.name for p in parameters if p.kind in _POSITIONAL)
        variable = {p.kind: p.name for p in parameters}
        return cls(
            names=names,
            shown=names[1:] if names and names[0] in _RECEIVERS else names,
            by_keyword=frozenset(p.name for p in parameters if p.kind in _KEYWORD),
            defaults={p.name: p.default for p in parameters if p.default is not p.empty},
            rest=variable.get(inspect.Parameter.VAR_POSITIONAL),
            extra=variable.get(inspect.Parameter.VAR_KEYWORD),
            exact=len(names) == len(parameters),
        )

    def bound(self) -> Arguments:
        """Return these for a method that is bound: its receiver is not among the arguments."""
        names = self.names[1:]
        return replace(self, names=names, shown=names)

    def by_name(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the arguments by name, defaults included, in the order given."""
        names, shown = self.names, self.shown
        if self.exact and not kwargs and len(args) == len(names):
            return dict(zip(shown, args if shown is names else args[1:], strict=True))
        if not self.known or (len(args) > len(names) and self.rest is None):
            return {"args": args, "kwargs": kwargs} if kwargs else list(args)
        arguments: dict[str, Any] = dict(zip(names, args, strict=False))
        if shown is not names:
            arguments.pop(names[0], None)
        if self.rest is not None:
            arguments[self.rest] = args[len(names) :]
        extra: dict[str, Any] = {}
        for name, value in kwargs.items():
            (arguments if name in self.by_keyword else extra)[name] = value
        for name, value in self.defaults.items():
            arguments.setdefault(name, value)
        if self.extra is not None:
            arguments[self.extra] = extra
        else:
            arguments.update(extra)
        return arguments
