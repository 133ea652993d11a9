"""Values under the name of a secret, as a dict key or assigned inside a text; for `masks`."""

from __future__ import annotations

import re

from everycall import limits

__all__ = ["is_secret_name", "mask_named", "mask_named_raw", "may_be_named"]

_KEY = b"[key]"
_QUOTE, _BACKSLASH = ord('"'), ord("\\")

_SECRET_NAME = re.compile(
    r"(?:.*(?:password|passwd|passphrase|secret|api_?key|access_?key|secret_?key|private_?key|signing_?key"
    r"|(?:access|refresh|auth|id|api|bearer|session|bot|github|slack|hf|secret)_?token|authorization)"
    r"|token|cookie|set_cookie)",
    re.IGNORECASE | re.DOTALL,
)
_ENDINGS = {
    "d": ("password", "passwd"),
    "e": ("passphrase", "cookie"),
    "n": ("token", "authorization"),
    "t": ("secret",),
    "y": ("[isteg]key", "[isteg][_ .-]key"),
}
"""The endings of the names, by their last letter: a quick test before `is_secret_name`."""
_NAME_CHARS_MAX = 64
_names: dict[str, bool] = {}


def is_secret_name(name: object) -> bool:
    """Return whether a name is that of a secret: `password`, `DB_PASSWORD`, `x-api-key`, `Authorization`."""
    if type(name) is not str or len(name) > _NAME_CHARS_MAX:
        return False
    is_secret = _names.get(name)
    if is_secret is None:
        if len(_names) >= limits.MASK_NAMES_MAX:
            _names.clear()
        plain = name.replace("-", "_").replace(" ", "_").replace(".", "_")
        is_secret = _names[name] = _SECRET_NAME.fullmatch(plain) is not None
    return is_secret


def _after_a_name(sign: str, tails: tuple[str, ...]) -> str:
    """Return the pattern of a sign after a secret's name and one of these tails (its closing quote, a space)."""
    each = []
    for tail in tails:
        by_letter = [
            rf"(?<={last}{tail}{sign})(?:{'|'.join(f'(?<={name}{tail}{sign})' for name in names)})"
            for last, names in _ENDINGS.items()
        ]
        each.append(rf"(?<={tail}{sign})(?:{'|'.join(by_letter)})" if tail else "|".join(by_letter))
    return f"{sign}(?:{'|'.join(each)})"


_TAILS = {":": ('"', r"\\\"", r"\\\\\\\"", "'", ""), "=": ("", " ")}
_NAMED = tuple(re.compile(_after_a_name(*each).encode(), re.IGNORECASE) for each in _TAILS.items())
_NAME_LITERALS = (b"passw", b"passphrase", b"secret", b"authorization", b"cookie")
_NAME_WORDS = (re.compile(rb"token(?![a-z_])"), re.compile(rb"key(?:(?<=[isteg]key)|(?<=[isteg][_ .-]key))(?![a-z_])"))
_NAME_BACKWARDS = re.compile(rb"[\\\"' ]{0,5}+([\w.-]{1,64}+)(\\?)")
_QUOTED = re.compile(rb"\s{0,8}+([\"'])((?:\\[^\0]|(?!\1)[^\\\0\n])++)")
_QUOTED_TWICE = re.compile(rb"\s{0,8}+(\\{1,3}[\"'])((?:\\\\\\[\"']|(?!\1)[^\0\n])++)")
_PLAIN = re.compile(rb"(?=[^\s\"'&;,<>(){}\[\]$|\\`\0\d]{0,64}+\d)()([^\s\"'&;,<>(){}\[\]$|\\`\0]{6,}+)")


def may_be_named(data: bytes) -> bool:
    """Return whether UTF-8 text or JSON may have a value under a secret's name."""
    if data.count(b":") * 100 > len(data):
        lowered = data.lower()  # with that many colons, searching for the names costs less than looking before each
        if not any(name in lowered for name in _NAME_LITERALS) and not any(w.search(lowered) for w in _NAME_WORDS):
            return False
    return any(pattern.search(data) for pattern in _NAMED)


def mask_named(data: bytes) -> bytes:
    """Mask values assigned to a secret's name inside a text: JSON in a string, code, parameters of a URL."""
    for pattern in _NAMED:
        pieces: list[bytes] = []
        done = 0
        for match in pattern.finditer(data):
            if match.start() < done or not _names_a_secret(data, match.start()):
                continue
            at = match.end()
            value = _QUOTED.match(data, at) or _QUOTED_TWICE.match(data, at)
            if value is None and match[0] == b"=":
                value = _PLAIN.match(data, at)
            if value is not None:
                pieces += (data[done : value.start(2)], _KEY)
                done = value.end(2)
        if pieces:
            data = b"".join([*pieces, data[done:]])
    return data


def _names_a_secret(data: bytes, at: int) -> bool:
    before = _NAME_BACKWARDS.match(data[max(at - _NAME_CHARS_MAX, 0) : at][::-1])
    if before is None:
        return False
    name = before[1][::-1].decode("ascii")
    if before[2]:  # JSON in JSON: the n of a \n is not part of the name
        name = name[1:]
    return is_secret_name(name.rpartition("--")[2].rpartition(".")[2])


_STRING = re.compile(rb"\"((?:\\[^\0]|[^\"\\\0])*+)\"")


def mask_named_raw(raw: bytes) -> bytes | None:
    """Mask texts whose dict key is a secret's name, in JSON as everycall encodes it.

    Return None if that is not enough: for a value that is not a text, and for an assignment inside a text.
    """
    if b'"logprob"' in raw:
        return None
    pieces: list[bytes] = []
    done = 0
    for pattern in _NAMED:
        for match in pattern.finditer(raw):
            at = match.start()
            if match[0] != b":" or raw[at - 1] != _QUOTE or raw[at - 2] == _BACKSLASH:
                if _names_a_secret(raw, at):
                    return None
                continue
            quote = raw.rfind(b'"', 0, at - 1)
            name = raw[quote + 1 : at - 1]
            if b"\\" in name or raw[quote - 1] == _BACKSLASH:  # the name has a quote of its own
                return None
            if at < done or not is_secret_name(name.decode()):
                continue
            value = _STRING.match(raw, match.end())
            if value is None and raw[match.end() : match.end() + 1] not in (b"t", b"f", b"n"):
                return None
            if value is not None and value[1]:
                pieces += (raw[done : value.start(1)], _KEY)
                done = value.end(1)
    return b"".join([*pieces, raw[done:]]) if pieces else raw
