"""The ready masks: what they find and leave alone, that a value keeps its shape, and that no text stalls them."""

from __future__ import annotations

import base64
import json
import re
import uuid
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from everycall import masks
from everycall.errors import ConfigurationError

LETTERS = "aB3dE6gH1jK4mN7pQ0sT"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEAx\nDEK-Info: AES\n\nq9==\n-----END RSA PRIVATE KEY-----"

FOUND = [
    ("write to joe@example.com.", "write to [email]."),
    ("<joe.o'brien+tag@mail.example.co.uk>", "<[email]>"),
    ("'joe@example.com'", "'[email]'"),
    ("jörg.müller@münchen.de", "[email]"),
    ("mailto:joe@xn--mnchen-3ya.de?x", "mailto:[email]?x"),
    ("a=joe@example.com&b=1", "a=[email]&b=1"),
    (r"{\"mail\": \"x\njoe@example.com\"}", r"{\"mail\": \"x\n[email]\"}"),
    ("@user@mastodon.social", "@[email]"),
    ("postgres://joe:hunter2@localhost:5432/db", "postgres://joe:[key]@localhost:5432/db"),
    (f"key sk-{LETTERS}", "key [key]"),
    (f"sk-proj-{LETTERS}_{LETTERS}-x", "[key]"),
    (f"'sk-ant-api03-{LETTERS}{LETTERS}'", "'[key]'"),
    ("AKIAIOSFODNN7EXAMPLE", "[key]"),
    ("AIza" + "SyA1b2C3d4E5f6G7h8I9j0KlMnOpQrStUvW"[:35], "[key]"),
    (f"ghp_{LETTERS}{LETTERS}", "[key]"),
    (f"github_pat_{LETTERS}_{LETTERS}", "[key]"),
    ("xox" + f"b-123456789012-{LETTERS}", "[key]"),
    ("xox" + f"p-123456789012-{LETTERS}", "[key]"),
    (f"hf_{LETTERS}{LETTERS}", "[key]"),
    ("sk_" + f"live_{LETTERS}", "[key]"),
    (f"Authorization: Bearer {LETTERS}", "Authorization: Bearer [key]"),
    (f"curl -H 'authorization: bearer {LETTERS}=='", "curl -H 'authorization: bearer [key]'"),
    (f"token is {JWT}, valid", "token is [key], valid"),
    (f"before\n{PEM}\nafter", "before\n[key]\nafter"),
    (PEM.replace("\n", "\\n"), "[key]"),
    (PEM.partition("\nDEK")[0], "[key]"),
    (rf'{{"x": "a\nsk-{LETTERS}"}}', r'{"x": "a\n[key]"}'),
    ('{"password": "hunter 2"}', '{"password": "[key]"}'),
    (r'"{\"api_key\": \"a b\", \"n\": 1}"', r'"{\"api_key\": \"[key]\", \"n\": 1}"'),
    ("{'client_secret': 'it\\'s'}", "{'client_secret': '[key]'}"),
    ('db_password = "x y"', 'db_password = "[key]"'),
    ("OPENAI_API_KEY=abc123def", "OPENAI_API_KEY=[key]"),
    ("https://x.org/?a=1&access_token=abc123def&b=2", "https://x.org/?a=1&access_token=[key]&b=2"),
    ("pay 4111 1111 1111 1111 now", "pay [card] now"),
    ("4111-1111-1111-1111", "[card]"),
    ("4111111111111111", "[card]"),
    ("12 4111 1111 1111 1111", "12 [card]"),
    ("2024 5555 5555 5555 4444 2024", "2024 [card] 2024"),
    ("amex 3782 822463 10005,", "amex [card],"),
    ("378282246310005", "[card]"),
    ("diners 30569309025904", "diners [card]"),
    ("6011111111111117 3530111333300000 2223003122003222", "[card] [card] [card]"),
    ("4222222222222", "[card]"),
    (r"{\"n\":\"\n4111111111111111\"}", r"{\"n\":\"\n[card]\"}"),
]

LEFT_ALONE = [
    "The quick brown fox jumps over the lazy dog. It cost $1,299.99 (1.299,99 EUR) on 2026-11-23T10:00:00.123456Z.",
    "f47ac10b-58cc-4372-a567-0e02b2c3d479",
    "d41d8cd98f00b204e9800998ecf8427e 9c1185a5c5e9fc54612808977ee8f548b2258d31",
    "1700000000 1700000000000 1700000000000000 1790000000000000001 20261123101112",
    "+49 170 1234567, (555) 010-9999, 0800 123 4567 890 and 555-0100 or +1-202-555-0143",
    "order 4111111111111112, snowflake 1234567890123456789, account 1000200030004000",
    "[0.4111111111111111, 12.4111111111111111, -5.5555555555554444, 4111111111111111.5]",
    "ISBN 978-3-16-148410-0, EAN 4006381333931, IBAN DE89 3704 0044 0532 0130 00",
    "@app.route('/x')\ndef f(a: int) -> int:\n    return a @ b.T  # see x@y\n",
    "npm i lodash@4.17.21 @types/node@20.1.0 && uses: actions/checkout@v4.1.1; ![](logo@2x.png)",
    "password = get_password(user)\nif password == other: token = tokens[0]; api_key=os.environ['X']; secret=None",
    'max_tokens=512 and {"total_tokens": 512, "next_page_token": "abc", "token_count": 3}',
    "the bearer of bad news; bearer responsibilities-and-duties; Bearer short1",
    "sk-learn-is-not-the-name-of-it, task-force-nine-of-the-world, risk-assessment-and-more-words-here",
    'class="sk-circle-fade-dot-animation" xoxo hf_ ghp_ sk- AKIA eyJ -----BEGIN CERTIFICATE-----',
    "data:image/png;base64," + base64.b64encode(bytes(range(256)) * 40).decode(),
    "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQ\n-----END PUBLIC KEY-----",
    "Passwords must have 8 characters. Your token: please ask for it. secret: none",
    "http://localhost:8080/a:b/@me https://medium.com/@joe/x",
]


@pytest.mark.parametrize(("text", "masked"), FOUND, ids=[text[:24] for text, _ in FOUND])
def test_secrets_are_found(text: str, masked: str) -> None:
    """In a text, in encoded JSON, and as a dict key."""
    assert masks.common("inputs", text) == masked
    raw = msgspec.json.encode({"a": [text], text: 1})
    assert msgspec.json.decode(masks.common.mask_json("inputs", raw) or b"") == {"a": [masked], masked: 1}
    assert masks.common("inputs", masked) == masked


@pytest.mark.parametrize("text", LEFT_ALONE, ids=[text[:24] for text in LEFT_ALONE])
def test_other_values_are_not_changed(text: str) -> None:
    """The very same object comes back, and JSON is not even decoded to something else."""
    assert masks.common("inputs", text) is text
    value = {"a": [text], text[:60]: text}
    assert masks.common("inputs", value) is value
    assert masks.common.mask_json("inputs", msgspec.json.encode(value)) is None


def test_the_code_of_this_package_has_no_secret() -> None:
    """Two hundred thousand characters of ordinary code, less the lines that show what is masked."""
    root = Path(masks.__file__).parent
    for path in sorted(root.glob("*.py")):
        if path.stem not in ("_secrets", "masks"):
            text = path.read_text(encoding="utf-8")
            assert masks.common("inputs", text) == text, path


@given(st.lists(st.one_of(st.uuids().map(str), st.binary(min_size=8, max_size=40).map(bytes.hex)), max_size=30))
@settings(max_examples=100, deadline=None)
def test_ids_are_not_changed(ids: list[str]) -> None:
    """UUIDs and hashes, together and alone."""
    value = {"ids": ids, "joined": " ".join(ids)}
    assert masks.common("inputs", value) is value


@given(st.lists(st.integers(1_400_000_000, 2_100_000_000), max_size=20), st.sampled_from([1, 10**3, 10**6, 10**9]))
@settings(max_examples=100, deadline=None)
def test_times_and_measures_are_not_changed(seconds: list[int], unit: int) -> None:
    """Times in any unit, as numbers and as text, and fractions with all their digits."""
    value: Any = {"at": [s * unit for s in seconds], "text": " ".join(str(s * unit) for s in seconds)}
    value["fractions"] = [s / 7e9 for s in seconds]
    assert masks.common("inputs", value) is value


# --- values ---


def test_a_value_keeps_its_shape() -> None:
    """Lists keep their length, dicts their keys: of keys that become the same, each gets a number."""
    value = {
        "joe@example.com": 1,
        "ann@example.com": [4111111111111111, 4111111111111112, True, None, 1.5],
        "n": {"api_key": "x", "API-Key": ["a", {"b": "c"}, None, 7], "token": "abc", "password": ""},
        "safe": "text",
    }
    assert masks.common("inputs", value) == {
        "[email]": 1,
        "[email] (2)": ["[card]", 4111111111111112, True, None, 1.5],
        "n": {
            "api_key": "[key]",
            "API-Key": ["[key]", {"b": "[key]"}, None, "[key]"],
            "token": "[key]",
            "password": "",
        },
        "safe": "text",
    }


@pytest.mark.parametrize(
    "value",
    [
        {"parameters": {"properties": {"password": {"type": "string", "description": "a password"}}}},
        [{"token": "Hello", "logprob": -0.1}, {"token": " secret", "logprob": -3.5}],
        {"token": 15496, "tokens": ["a", "b"], "token_type": "x", "has_password": True, "secret": None},
        {"max_tokens": 5, "key": "value", "monkey": "see", "next_page_token": "abc", "public_key": "ssh-rsa AAAA"},
    ],
)
def test_harmless_names_are_not_changed(value: Any) -> None:
    """The schema of a tool, the words of a model's answer with their probabilities, numbers of tokens."""
    assert masks.common("inputs", value) is value


@pytest.mark.parametrize(
    "name", ["password", "DB_PASSWORD", "x-api-key", "Authorization", "clientSecret", "accessToken"]
)
def test_values_under_a_secrets_name_are_masked(name: str) -> None:
    """Whatever it looks like, at any depth, and in JSON within a text."""
    value = {"headers": [{name: "plain words"}]}
    masked = {"headers": [{name: "[key]"}]}
    assert masks.common("inputs", value) == masked
    assert masks.common("inputs", json.dumps(value)) == json.dumps(masked)
    twice = json.dumps({"arguments": json.dumps(value)})
    assert masks.common("inputs", twice) == json.dumps({"arguments": json.dumps(masked)})


def test_rules_can_be_selected_and_added() -> None:
    text = "joe@example.com AKIAIOSFODNN7EXAMPLE 4111111111111111 ticket T-77"
    assert masks.rules(emails=False)("x", text) == "joe@example.com [key] [card] ticket T-77"
    assert (
        masks.rules(keys=False, cards=False)("x", text) == "[email] AKIAIOSFODNN7EXAMPLE 4111111111111111 ticket T-77"
    )
    ticket = masks.rules(emails=False, keys=False, cards=False, extra={"ticket": r"\bT-\d+"})
    assert ticket("x", {"a": [text], "T-1": "T-2"}) == {"a": [text.replace("T-77", "[ticket]")], "[ticket]": "[ticket]"}
    assert masks.rules(keys=False)("x", {"password": "hunter2"}) == {"password": "hunter2"}


def test_an_invalid_pattern_is_an_error() -> None:
    for extra in ({"x": "("}, {"": "a"}, {"x": 3}, {"x": re.compile(b"a")}):
        with pytest.raises(ConfigurationError, match="mask"):
            masks.rules(extra=extra)  # type: ignore[arg-type]


def test_nothing_raises() -> None:
    """Values that are no JSON, that contain themselves, or are nested without end: something comes back."""
    cycle: list[Any] = ["joe@example.com"]
    cycle.append(cycle)
    deep: Any = "joe@example.com"
    for _ in range(100_000):
        deep = [deep]
    for value in (cycle, deep):
        assert "joe" not in json.dumps(masks.common("x", value))
    assert masks.common("x", "\ud800 joe@example.com \0") == "\ud800 [email] \0"
    assert masks.common("x", {"a": {1, 2}, "b": ["joe@example.com", 10**40, float("nan")]})["b"][0] == "[email]"
    for value in (None, True, 1.5, 0, -(10**30), "", [], {}, object()):
        assert masks.common("x", value) is value


PIECES = st.sampled_from(
    [
        "joe@example.com", "a@b", "@", f"sk-{LETTERS}", JWT, "4111 1111 1111 1111", "4111111111111111", "x", "\n", '"',
        "\\", "n", "://u:p@", "Bearer ", LETTERS, "é", "\0", "password", '":', "=", " ", "token", PEM, "-", "\x1f",
        "\ue000", "]", "npm_" + LETTERS * 2, "r8_" + LETTERS * 2,
    ]
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=8).map("".join)
VALUES = st.recursive(
    st.one_of(TEXTS, st.none(), st.booleans(), st.sampled_from([4111111111111111, 7, 10**15, 1.5])),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=12,
)
BY_TEXT = masks.rules(extra={"never": "(?!)"})
"""The same rules, with a pattern that matches nothing: so that each text is looked at by itself."""


@given(VALUES)
@example({'"token': "joe@example.com"})
@settings(max_examples=300, deadline=None)
def test_json_is_masked_in_place_as_text_by_text(value: Any) -> None:
    """The quick way gives what the thorough one gives, and always JSON."""
    raw = msgspec.json.encode(value)
    quick, thorough = masks.common.mask_json("x", raw), BY_TEXT.mask_json("x", raw)
    assert msgspec.json.decode(quick or raw) == msgspec.json.decode(thorough or raw)


# --- time ---

HOSTILE = [
    "a@", "@", "@a.a.a", "x@a.a.a.a.a.a.a.a.1", "a@b.cc ", "a.", ".", "a", "4", "4444 ", "4111 1111 1111 1112 ",
    "4444444444444444 ", "sk-", "-sk-", "sk-" + "a" * 60 + " ", "AKIA", "ghp_", "eyJ", "-eyJ", "eyJ" + "a" * 30 + ".",
    "xoxb-", "Bearer ", "earer" + " " * 8, "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----", "-----BEGIN ",
    'password":', "password=", "password='", 'password: "', 'token":"', "://a:", "://a:b@", "\\", '"', "\0", "0-",
    "0000-0000-0000-0", ":", "=",
]  # fmt: skip


@pytest.mark.parametrize("unit", HOSTILE)
def test_every_text_takes_linear_time(unit: str) -> None:
    """The time that a text takes grows with its length.

    A pattern that looks from each place over the whole text would need 10**11 steps for this half megabyte, far
    beyond the time-out that each test has against hanging.
    """
    text = unit * (524_288 // len(unit))
    masks.common("x", text)
    every = unit + " joe@example.com 4111111111111111 Bearer AKIAIOSFODNN7EXAMPLE " + text
    masked = masks.common("x", {"a": every})["a"]
    assert not [secret for secret in ("joe@", "4111111111111111", "AKIAIOSFODNN7EXAMPLE") if secret in masked]


def test_ids_of_every_kind_stay_apart() -> None:
    """A text of nothing but ids takes the other way through the search for keys, with the same result."""
    ids = [str(uuid.UUID(int=n * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128)) for n in range(3_000)]
    assert masks.common("x", ids) is ids
    assert masks.common("x", [*ids, f"sk-{LETTERS}"])[-1] == "[key]"
    numbers = [1_790_000_000_000_000_000 + n for n in range(2_000)]
    assert masks.common("x", numbers) is numbers
    assert masks.common("x", [*numbers, "4111111111111111"])[-1] == "[card]"
