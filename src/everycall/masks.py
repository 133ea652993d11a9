"""Ready rules for `everycall.init(mask=...)`: e-mail addresses, keys and tokens, card numbers.

`masks.common` has all three; `masks.rules(...)` selects among them and adds your own patterns. They run once per field,
before a record is written. They run on the field's JSON, because most fields have nothing to mask, and most matches can
be replaced in place. A field is decoded only if its structure matters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import msgspec

from everycall._redaction.patterns import (
    CARDS,
    EMAILS,
    KEYS,
    NAMES,
    STRUCTURED,
    find_rules,
    is_card,
    mask_bytes,
    mask_raw,
)
from everycall._redaction.secret_names import is_secret_name
from everycall.errors import ConfigurationError

__all__ = ["CARD", "EMAIL", "KEY", "Rules", "common", "rules"]

EMAIL, KEY, CARD = "[email]", "[key]", "[card]"
"""The replacements: the rule's name in brackets."""

UNREADABLE = "[masked: nested too deep]"
_SEPARATOR = "\0"
_LONG = 10**12  # the shortest card number has a digit more
_SCALARS = frozenset({float, bool, type(None)})
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode

Extra = tuple[str, re.Pattern[str]]


class Rules:
    """A mask made of rules: call it as `mask(field, value)`, or give it to `everycall.init(mask=...)`.

    The field's name does not matter. Dict keys are masked too. A value keeps its shape: lists their length, dicts their
    number of keys (if masked keys become equal, the later ones get a number). Numbers, booleans and null are kept,
    except integers that are card numbers and numbers under a secret's name. Never raises.
    """

    __slots__ = ("_extra", "_plain", "_selected")

    def __init__(self, selected: int, extra: tuple[Extra, ...]) -> None:
        self._selected = selected
        self._plain = selected & ~STRUCTURED
        self._extra = extra

    def __call__(self, field: str, value: Any) -> Any:
        """Return the value with everything that the rules find replaced; the same object if they find nothing."""
        if isinstance(value, str):
            data = value.encode("utf-8", "surrogatepass")
            return _extra_masked(_masked(value, find_rules(data, self._selected) | self._plain), self._extra)
        try:
            masked = self.mask_json(field, _encode(value))
            return value if masked is None else _decode(masked)
        except (TypeError, ValueError, RecursionError, OverflowError):
            return self._walked(value, self._selected)  # not JSON

    def mask_json(self, field: str, raw: bytes) -> bytes | None:  # noqa: ARG002 - part of the protocol
        """Mask a field's JSON, encoded as everycall does (UTF-8, with only the necessary escapes).

        Return None if there is nothing to mask. The JSON is decoded only if necessary. Raise `msgspec.DecodeError` if
        it has to be decoded and is not JSON.
        """
        active = find_rules(raw, self._selected) | self._plain
        if not self._extra:
            masked = mask_raw(raw, active)
            if masked is not None:
                return None if masked is raw else masked
        value = _decode(raw)
        walked = self._walked(value, active)
        return None if walked is value else _encode(walked)

    def _walked(self, value: Any, active: int) -> Any:
        try:
            return _Value(active, self._extra).masked(value)
        except RecursionError:
            return UNREADABLE


class _Value:
    """Masks one value. Its texts are joined, masked together and split again, so that the rules run once.

    `_collect` and `_rebuilt` visit the same texts in the same order: dict keys, then values, except values under a
    secret's name.
    """

    __slots__ = ("_active", "_extra", "_next", "_shapes", "_texts", "_whole")

    def __init__(self, active: int, extra: tuple[Extra, ...]) -> None:
        self._active = active
        self._extra = extra
        self._texts: list[str] = []
        self._whole = False  # whether something is replaced as a whole, by its name or as a number
        self._next: Iterator[str] = iter(())
        self._shapes: dict[tuple[str, ...], tuple[str, ...]] = {}  # the keys of dicts seen -> those that name a secret

    def masked(self, value: Any) -> Any:
        """Return the masked value; the same object if nothing was found."""
        if isinstance(value, str):
            text = _extra_masked(_masked(value, self._active), self._extra)
            return value if text == value else text
        self._collect(value)
        texts = self._masked_texts()
        if texts == self._texts and not self._whole:
            return value
        self._next = iter(texts)
        return self._rebuilt(value)

    def _masked_texts(self) -> list[str]:
        joined = _SEPARATOR.join(self._texts)
        texts = _masked(joined, self._active).split(_SEPARATOR)
        if len(texts) != len(self._texts) or joined.count(_SEPARATOR) != len(self._texts) - 1:
            texts = [_masked(text, self._active) for text in self._texts]  # a text has the separator in it
        return [_extra_masked(text, self._extra) for text in texts] if self._extra else texts

    def _collect(self, value: Any) -> None:
        if isinstance(value, dict):
            keys = tuple(value)
            self._texts += keys if not any(type(key) is not str for key in keys) else map(str, keys)
            secrets = self._secret_keys(keys, value)
            items = value.values()
            if secrets:
                self._whole = True
                items = [item for key, item in value.items() if key not in secrets]  # type: ignore[assignment]
        elif isinstance(value, list | tuple):
            items = value  # type: ignore[assignment]
        else:
            self._whole = self._whole or self._is_card(value)
            return
        take = self._texts.append
        for item in items:
            kind = type(item)
            if kind is str:
                take(item)
            elif kind is int:
                if item >= _LONG:
                    self._collect(item)
            elif kind not in _SCALARS:
                self._collect(item)

    def _rebuilt(self, value: Any) -> Any:
        if isinstance(value, dict):
            keys: Any = tuple(value)
            keys_shown = tuple(islice(self._next, len(keys)))
            secrets = self._secret_keys(keys, value)
            if keys_shown != keys:
                keys = _distinct(keys, keys_shown)
            if secrets is None:
                return dict(zip(keys, self._items(value.values()), strict=True))
            return {
                key: _hidden(item) if name in secrets else self._items([item])[0]
                for key, (name, item) in zip(keys, value.items(), strict=True)
            }
        if isinstance(value, list | tuple):
            return self._items(value)
        return CARD if self._is_card(value) else value

    def _items(self, items: Iterable[Any]) -> list[Any]:
        following = self._next.__next__
        return [
            following()
            if (kind := type(item)) is str
            else item
            if kind in _SCALARS or (kind is int and item < _LONG)
            else self._rebuilt(item)
            for item in items
        ]

    def _secret_keys(self, keys: tuple[str, ...], value: dict[str, Any]) -> frozenset[str] | None:
        """Return the keys whose values are secrets. `token` beside `logprob` is a word of a model's answer."""
        if not self._active & NAMES:
            return None
        names = self._shapes.get(keys)
        if names is None:
            names = self._shapes[keys] = tuple(key for key in keys if is_secret_name(key))
        if not names or (names == ("token",) and "logprob" in value):
            return None
        return frozenset(key for key in names if _is_hideable(key, value[key]))

    def _is_card(self, value: Any) -> bool:
        return type(value) is int and value >= _LONG and bool(self._active & CARDS) and is_card(str(value))


def _distinct(keys: tuple[Any, ...], texts: tuple[str, ...]) -> list[Any]:
    """Return the masked keys of a dict. If keys became equal, the later ones get a number."""
    counts: dict[Any, int] = {}
    distinct: list[Any] = []
    for key, text in zip(keys, texts, strict=True):
        masked: Any = text if type(key) is str else key
        counts[masked] = number = counts.get(masked, 0) + 1
        distinct.append(masked if number == 1 else f"{masked} ({number})")
    return distinct


def _masked(text: str, active: int) -> str:
    if not active:
        return text
    data = text.encode("utf-8", "surrogatepass")
    masked = mask_bytes(data, active)
    return text if masked is data else masked.decode("utf-8", "surrogatepass")


def _is_hideable(key: str, value: Any) -> bool:
    """Return whether a value under a secret's name is a secret: not null, a flag, a schema, or a number of tokens."""
    if isinstance(value, dict):
        return not {"type", "description", "$ref", "anyOf", "title"} & value.keys()
    if value is None or isinstance(value, bool) or value == "":
        return False
    return isinstance(value, str | list | tuple) or key.lower() != "token"


def _hidden(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _hidden(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_hidden(item) for item in value]
    return value if value is None or isinstance(value, bool) else KEY


def _extra_masked(text: str, extra: tuple[Extra, ...]) -> str:
    for replacement, pattern in extra:
        text = pattern.sub(lambda _, replacement=replacement: replacement, text)  # type: ignore[misc]
    return text


def rules(
    *,
    emails: bool = True,
    keys: bool = True,
    cards: bool = True,
    extra: Mapping[str, str | re.Pattern[str]] | None = None,
) -> Rules:
    """Return a mask with the selected rules.

    `emails`: addresses, also in dict keys, become `[email]`. `keys`: API keys and tokens of known shapes (OpenAI,
    Anthropic, AWS, GitHub, GitLab, Slack, Google, Stripe, Hugging Face, ...), bearer tokens, JWTs, private keys in PEM,
    passwords in URLs, and values of names such as `password`, `api_key`, `secret`, `token` or `authorization`, become
    `[key]`. `cards`: payment card numbers of 13 to 19 digits, by issuer's range, length and check digit, become
    `[card]`. `extra`: your own patterns by name; a match becomes `[name]`. They run on each text of every field, so a
    slow pattern slows down every call.

    Raise `ConfigurationError` for a pattern that cannot be compiled, or an invalid name.
    """
    selected = (EMAILS if emails else 0) | ((KEYS | NAMES) if keys else 0) | (CARDS if cards else 0)
    return Rules(selected, tuple(_extra(name, pattern) for name, pattern in (extra or {}).items()))


def _extra(name: str, pattern: str | re.Pattern[str]) -> Extra:
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"the name of a mask's pattern must be a text, not {name!r}")
    try:
        compiled = re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ConfigurationError(f"the mask pattern {name!r} is not a regular expression: {error}") from error
    if not isinstance(compiled.pattern, str):
        raise ConfigurationError(f"the mask pattern {name!r} must match text, not bytes")
    return f"[{name}]", compiled


common = rules()
"""E-mail addresses, keys and card numbers: `everycall.init(mask=everycall.masks.common)`."""
