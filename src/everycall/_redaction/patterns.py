"""Patterns of e-mail addresses, keys and card numbers, for `masks`.

Rules work on bytes, UTF-8 text or JSON, in time linear in their length: a pattern begins with a literal that the engine
can search for, and repeats are possessive or bounded. Expensive patterns run only after a cheap check.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from everycall import limits
from everycall._redaction.secret_names import mask_named, mask_named_raw, may_be_named

__all__ = [
    "CARDS", "EMAILS", "KEYS", "NAMES", "STRUCTURED", "find_rules", "is_card", "mask_bytes", "mask_raw",
]  # fmt: skip

EMAILS, CARDS, NAMES, PEM, BEARERS, WORDS = (1 << n for n in range(6))
KEYS = PEM | BEARERS | WORDS
STRUCTURED = PEM | NAMES
"""The rules as bits. Structured rules run only if `find_rules` selects them; the others always run."""

_EMAIL, _KEY, _CARD = b"[email]", b"[key]", b"[card]"
_BACKSLASH = ord("\\")
_MASKED_NAME = re.compile(rb"\[(?:email|key|card)\](?:[^\"\\]|\\.){0,512}+\":")
"""In JSON, the key of a dict in which something was masked."""

# --- e-mail addresses, and passwords in addresses ---

_DOMAIN = re.compile(
    rb"@(?<=[\w\x80-\xff.+%~#&*!$^'-]@)(?!v?\d+\.\d|\d+x\.)"  # not lodash@4.17.21, not logo@2x.png
    rb"(?:[\w\x80-\xff-]{1,63}\.){1,8}[A-Za-z\x80-\xff]{2,48}(?![A-Za-z0-9\x80-\xff])"
)
_LOCAL_BACKWARDS = re.compile(rb"(?:[\w\x80-\xff.+%~#&*!$^-]|'(?=[\w\x80-\xff])){1,64}+")
_EDGES = b".+%~#&*!$^-'"
_ADDRESS_PASSWORD = re.compile(rb"://(?:[^\s:/@\"\\\0]{0,64}+):([^\s/@\"\\\0]{1,256}+)@")


def _emails(data: bytes) -> bytes:
    if b"@" not in data:
        return data
    if b"://" in data:
        data = _ADDRESS_PASSWORD.sub(_keeping_before, data)
    pieces: list[bytes] = []
    done = 0
    for match in _DOMAIN.finditer(data):
        at = match.start()
        local = _LOCAL_BACKWARDS.match(data[max(done, at - 64) : at][::-1])
        if local is None:
            continue
        begin = at - len(local[0][::-1].lstrip(_EDGES))
        if begin and data[begin - 1] == _BACKSLASH and data[begin] in b"nrtbfu":  # the n of \n is not part of the word
            begin += 5 if data[begin] == ord("u") else 1
        while 0x80 <= data[begin] < 0xC0 and begin > done:  # in the middle of a character
            begin -= 1
        if begin < at:
            pieces += (data[done:begin], _EMAIL)
            done = match.end()
    return b"".join([*pieces, data[done:]]) if pieces else data


def _keeping_before(match: re.Match[bytes]) -> bytes:
    """Return a match with its first group replaced by `[key]`."""
    begin, end = match.span(1)
    return match[0][: begin - match.start()] + _KEY + match[0][end - match.start() :]


# --- keys and tokens by their shape ---

_RUN = b"w" * 20
"""Every key of a known shape has at least 20 letters, digits, `_` and `-` in a row."""
_WORD_BYTES = bytes(119 if i < 128 and (chr(i).isalnum() or chr(i) in "_-") else 32 for i in range(256))


def _starting(literal: str, rest: str, before: str = "A-Za-z0-9") -> tuple[bytes, re.Pattern[bytes]]:
    r"""Return a literal and the pattern of a word that begins with it, also after an escape such as `\n` or `%3D`.

    A word that begins with the letter of an escape does not begin right after a backslash: `\npm_` is a line break.
    """
    before += "\\\\" if literal[0] in "nrtbf" else ""
    start = rf"(?:(?<![{before}])|(?<=\\[nrtbf])|(?<=%[0-9A-Fa-f]{{2}}))"
    return literal.encode(), re.compile((start + literal + rest).encode())


_HAS_DIGIT = "(?=[A-Za-z_-]{0,64}+[0-9])"
_SHAPES = dict(
    (
        _starting("sk-", _HAS_DIGIT + "[A-Za-z0-9_-]{17,}+"),
        _starting("AKIA", "[0-9A-Z]{16}(?![0-9A-Za-z])"),
        _starting("ASIA", "[0-9A-Z]{16}(?![0-9A-Za-z])"),
        _starting("AIza", "[0-9A-Za-z_-]{35,}+"),
        _starting("ghp_", "[A-Za-z0-9]{36,}+"),
        _starting("gho_", "[A-Za-z0-9]{36,}+"),
        _starting("ghu_", "[A-Za-z0-9]{36,}+"),
        _starting("ghs_", "[A-Za-z0-9]{36,}+"),
        _starting("ghr_", "[A-Za-z0-9]{36,}+"),
        _starting("github_pat_", "[A-Za-z0-9_]{22,}+"),
        _starting("glpat-", "[A-Za-z0-9_-]{20,}+"),
        _starting("xox", "[abeoprs]-[A-Za-z0-9-]{15,}+"),
        _starting("xapp-", "[A-Za-z0-9-]{15,}+"),
        _starting("xai-", "[A-Za-z0-9]{32,}+"),
        _starting("hf_", "[A-Za-z0-9]{30,}+"),
        _starting("gsk_", "[A-Za-z0-9]{40,}+"),
        _starting("npm_", "[A-Za-z0-9]{36,}+"),
        _starting("r8_", "[A-Za-z0-9]{37,}+"),
        _starting("lsv2_", "[a-z]{2}_[0-9a-f]{32}_[0-9a-f]{10}"),
        _starting("sk_live_", "[A-Za-z0-9]{16,}+"),
        _starting("sk_test_", "[A-Za-z0-9]{16,}+"),
        _starting("rk_live_", "[A-Za-z0-9]{16,}+"),
        _starting("rk_test_", "[A-Za-z0-9]{16,}+"),
        _starting("whsec_", "[A-Za-z0-9_-]{24,}+"),
        _starting("ek_", _HAS_DIGIT + "[A-Za-z0-9_-]{32,}+"),
        _starting("pypi-", "[A-Za-z0-9_-]{50,}+"),
        _starting("eyJ", r"[A-Za-z0-9_-]{17,}+\.[A-Za-z0-9_-]{8,}+(?:\.[A-Za-z0-9_-]*+)?", before="A-Za-z0-9_-"),
    )
)
"""OpenAI, Anthropic and similar; AWS; Google; GitHub; GitLab; Slack; xAI; Hugging Face; Groq; npm; Replicate;
LangSmith; Stripe; everycall; PyPI; JSON web tokens (RFC 7519)."""
_ANY_SHAPE = re.compile(b"|".join(_SHAPES))


def _shape_spans(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the positions of keys, in order and without overlaps."""
    done = 0
    for begin, end in _runs(data):
        at = max(begin, done)
        while (literal := _ANY_SHAPE.search(data, at, end)) is not None:
            match = _SHAPES[literal[0]].match(data, literal.start())
            if match is not None:
                yield match.span()
            at = done = match.end() if match is not None else literal.start() + 1


def _runs(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the long words of a text. After many of them (ids, base64), yield only those that begin like a key."""
    runs = data.translate(_WORD_BYTES)
    end = 0
    for _ in range(limits.MASK_RUNS_MAX):
        at = runs.find(_RUN, end)
        if at < 0:
            return
        begin, end = runs.rfind(b" ", 0, at) + 1, _end(runs, at)
        yield begin, end
    begins: list[int] = []
    for literal in _SHAPES:
        if (b"_" in data or b"_" not in literal) and (b"-" in data or b"-" not in literal):
            at = data.find(literal, end)
            while at >= 0:
                begins.append(at)
                at = data.find(literal, at + 1)
    for at in sorted(begins):
        yield at, at + 12  # longer than any literal, which is all that is searched for


def _end(runs: bytes, at: int) -> int:
    end = runs.find(b" ", at)
    return end if end >= 0 else len(runs)


def _shapes(data: bytes) -> bytes:
    return _replaced(data, _shape_spans(data), _KEY)


def _replaced(data: bytes, spans: Iterable[tuple[int, int]], replacement: bytes) -> bytes:
    pieces: list[bytes] = []
    done = 0
    for begin, end in spans:
        pieces += (data[done:begin], replacement)
        done = end
    return b"".join([*pieces, data[done:]]) if pieces else data


_BEARER = re.compile(rb"earer[ \t]{1,8}(?=[A-Za-z._~+/=-]{0,64}+[0-9])([A-Za-z0-9._~+/-]{16,}+=*+)")


def _bearers(data: bytes) -> bytes:
    return _BEARER.sub(_keeping_before, data)


_PEM = re.compile(rb"-----(BEGIN|END) [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_PEM_LINES = re.compile(rb"(?:(?:\s|\\[nr])*+[A-Za-z0-9+/=]{16,}+)*+")


def _pem(data: bytes) -> bytes:
    pieces: list[bytes] = []
    done = 0
    begin: re.Match[bytes] | None = None
    for mark in [*_PEM.finditer(data), None]:
        if begin is not None:
            whole = mark is not None and mark[1] == b"END" and b"\0" not in data[begin.end() : mark.start()]
            lines = None if whole else _PEM_LINES.match(data, begin.end())  # its end was cut off
            pieces += (data[done : begin.start()], _KEY)
            done = mark.end() if whole and mark is not None else lines.end() if lines is not None else begin.end()
        begin = mark if mark is not None and mark[1] == b"BEGIN" else None
    return b"".join([*pieces, data[done:]]) if pieces else data


# --- card numbers ---

_DIGITS = bytes(48 if 48 <= i < 58 else 45 if i in b" -" else i for i in range(256))
_ROWS = (b"0" * 13, b"0000-0000-0000-0", b"0000-000000-0000")
_CARD_NUMBER = re.compile(
    rb"[2-6](?:(?<![A-Za-z\d._][2-6])|(?<=\\[nrtbf][2-6]))"
    rb"(?:\d{12,18}+|\d{3}([ -])\d{4}\1\d{4}\1\d{4}(?:\1?\d{3})?|\d{3}([ -])\d{6}\2\d{4,5})(?![A-Za-z\d_]|\.\d)"
)


def _card_spans(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the positions of card numbers, in order and without overlaps."""
    done = 0
    for match in _numbers(data):
        if match.start() >= done and is_card(match[0].translate(None, b" -").decode("ascii")):
            yield match.span()
            done = match.end()


def _numbers(data: bytes) -> Iterator[re.Match[bytes]]:
    """Yield numbers that are written like card numbers."""
    digits = data.translate(_DIGITS)
    rows = digits.count(_ROWS[0])
    if rows > limits.MASK_RUNS_MAX:  # a text that has mainly long numbers is searched as a whole
        if rows == digits.count(b"." + _ROWS[0]):  # they are fractions
            return
        at = 0
        while (match := _CARD_NUMBER.search(data, at)) is not None:
            yield match
            at = match.start() + 4
        return
    begins: list[int] = []
    for row in _ROWS:
        at = digits.find(row)
        while at >= 0:
            begins.append(at)
            at = digits.find(row, at + 5)
    for at in sorted(begins):
        if (match := _CARD_NUMBER.match(data, at)) is not None:
            yield match


def _cards(data: bytes) -> bytes:
    return _replaced(data, _card_spans(data), _CARD)


def _is_bare(raw: bytes, begin: int, end: int) -> bool:
    """Return whether digits in JSON are a number, and not part of a text."""
    return raw[begin - 1 : begin] in (b"", b",", b":", b"[") and raw[end : end + 1] in (b"", b",", b"]", b"}")


def is_card(digits: str) -> bool:
    """Return whether digits are a payment card number: an issuer's range and length, and a valid check digit (Luhn)."""
    return _is_issued(digits, len(digits)) and _checks(digits)


def _is_issued(digits: str, length: int) -> bool:
    first = int(digits[:4]) if 13 <= length <= 19 else 0
    if digits[0] == "4":  # Visa
        return length in (13, 16, 19)
    if 5100 <= first <= 5599 or 2221 <= first <= 2720:  # Mastercard
        return length == 16
    if first // 100 in (34, 37):  # American Express
        return length == 15
    if 3000 <= first <= 3059 or first == 3095 or first // 100 in (36, 38, 39):  # Diners Club
        return length in (14, 16)
    if 3528 <= first <= 3589 or first == 6011 or 6440 <= first <= 6599 or first // 100 == 62:  # JCB, Discover, UnionPay
        return length >= 16
    return first in (5018, 5020, 5038, 5893, 6304, 6759, 6761, 6762, 6763)  # Maestro


_DOUBLED = str.maketrans("0123456789", "0246813579")


def _checks(digits: str) -> bool:
    backwards = digits[::-1]
    return (sum(map(int, backwards[::2])) + sum(map(int, backwards[1::2].translate(_DOUBLED)))) % 10 == 0


# --- all of them ---


def find_rules(data: bytes, selected: int) -> int:
    """Return which of the selected rules that need a value's structure (`STRUCTURED`) may find something in `data`.

    `data` is UTF-8 text, or JSON as everycall encodes it. A rule that is not returned finds nothing there.
    """
    rules = 0
    if selected & PEM and b"-----BEGIN " in data:
        rules |= PEM
    if selected & NAMES and may_be_named(data):
        rules |= NAMES
    return rules


_RULES = (
    (PEM, _pem), (NAMES, mask_named), (CARDS, _cards), (BEARERS, _bearers), (WORDS, _shapes), (EMAILS, _emails),
)  # fmt: skip


def mask_bytes(data: bytes, rules: int) -> bytes:
    """Return UTF-8 text with everything that these rules find replaced; the same object if they find nothing."""
    for rule, apply in _RULES:
        if rules & rule:
            data = apply(data)
    return data


def mask_raw(raw: bytes, rules: int) -> bytes | None:
    """Return JSON with everything that these rules find in its texts replaced, without decoding it.

    Return None if it has to be decoded: for a value under a secret's name that is not a text, a card number that is a
    JSON number (its replacement needs quotes), two keys that become the same, or a `\\u` escape, which may end in a
    digit. Replaced text has no quote and no backslash, so the result is JSON.
    """
    if rules & PEM or (b"\\" in raw and b"\\u" in raw):
        return None
    data = mask_named_raw(raw) if rules & NAMES else raw
    if data is None:
        return None
    spans = list(_card_spans(data)) if rules & CARDS else []
    if any(_is_bare(data, *span) for span in spans):
        return None
    masked = mask_bytes(_replaced(data, spans, _CARD), rules & ~(CARDS | NAMES))
    if masked is raw:
        return raw
    names = _MASKED_NAME.finditer(masked)
    return None if next(names, None) and next(names, None) else masked
