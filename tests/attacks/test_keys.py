"""Attacks on keys, logins and sessions, and every place where a secret could be found afterwards."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

PAREA = "/api/parea/v1"
COOKIE = "everycall_session"


def test_a_thousand_wrong_keys(start_victim: Callable[..., Any]) -> None:
    """401 twenty times, then 429 with Retry-After, by header, bearer and form alike; the correct key is accepted."""
    server = start_victim()
    codes = []
    with server.client(None) as attacker:
        for number in range(1_000):
            wrong = f"ek_{hashlib.sha256(b'%d' % number).hexdigest()[:43]}"
            match number % 3:
                case 0:
                    answer = attacker.get("/api/records", headers={"x-api-key": wrong})
                case 1:
                    answer = attacker.get("/api/records", headers={"authorization": f"Bearer {wrong}"})
                case _:
                    answer = attacker.post("/login", data={"key": wrong})
            codes.append(answer.status_code)
            assert wrong not in answer.text
            if answer.status_code == 429:
                assert 1 <= int(answer.headers["retry-after"]) <= 60
            if number % 100 == 99:
                assert attacker.get("/api/records", headers={"x-api-key": server.key}).status_code == 200
    assert codes[:20] == [401] * 20
    assert codes.count(401) < 100, "a minute or two may begin meanwhile"
    assert set(codes) == {401, 429}
    with server.client(server.make_key("alpha", "read")) as right:
        assert right.get("/api/records").status_code == 200
    server.is_well()


@pytest.mark.parametrize(
    "near",
    [
        pytest.param(lambda key: key + "x", id="longer"),
        pytest.param(lambda key: key[:-1], id="shorter"),
        pytest.param(lambda key: key.upper(), id="upper case"),
        pytest.param(lambda key: key.swapcase(), id="swapped case"),
        pytest.param(lambda key: key[:-1] + chr(ord(key[-1]) ^ 1), id="one bit"),
        pytest.param(lambda key: key + "\u00ad", id="a hyphen nobody sees"),
        pytest.param(lambda key: f"{key},{key}", id="twice"),
        pytest.param(lambda key: hashlib.sha256(key.encode()).hexdigest(), id="its digest"),
        pytest.param(lambda key: base64.b64encode(key.encode()).decode(), id="encoded"),
        pytest.param(lambda key: "%" + key[0].encode().hex() + key[1:], id="percent-encoded"),
    ],
)
def test_almost_correct_keys_are_refused(start_victim: Callable[..., Any], near: Callable[[str], str]) -> None:
    """Is refused."""
    server = start_victim()
    secret = server.make_key("alpha", "admin")
    for key in (secret, server.key):
        for headers in ({"x-api-key": near(key)}, {"authorization": f"Bearer {near(key)}"}):
            raw = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
            assert httpx.get(f"{server.address}/api/records", headers=raw).status_code == 401
    assert httpx.get(f"{server.address}/api/records", headers={"authorization": f"Basic {secret}"}).status_code == 401
    assert httpx.get(f"{server.address}/api/records", params={"x-api-key": secret, "key": secret}).status_code == 401
    assert httpx.get(f"{server.address}/api/records", headers={"cookie": f"x-api-key={secret}"}).status_code == 401


def test_a_login_token_logs_in_one_of_many_browsers(start_victim: Callable[..., Any]) -> None:
    """Thirty browsers with the same printed URL: one is logged in."""
    server = start_victim()
    codes: list[int] = []
    start = threading.Barrier(30)

    def log_in() -> None:
        with httpx.Client(timeout=30) as browser:
            start.wait()
            codes.append(browser.get(server.login).status_code)

    browsers = [threading.Thread(target=log_in) for _ in range(30)]
    for browser in browsers:
        browser.start()
    for browser in browsers:
        browser.join()
    assert codes.count(303) == 1
    assert set(codes) <= {303, 401, 429}
    token = parse_qs(urlsplit(server.login).query)["token"][0]
    for wrong in (token, token[:-1], token + "=", "", "0", "../" + token, "\u0000", "%00", "x" * 10_000):
        answer = httpx.get(f"{server.address}/login", params={"token": wrong})
        assert COOKIE not in answer.headers.get("set-cookie", "")
        assert answer.status_code in (200, 401, 429)
    server.is_well()


def test_a_modified_session_is_refused(victim: Any) -> None:
    """Changes of any part, combined parts of two sessions, and invalid values: none of them logs in."""
    modified = []
    for role in ("read", "admin"):
        with httpx.Client(base_url=victim.address) as browser:
            browser.post("/login", data={"key": victim.make_key("alpha", role)})
            modified.append(browser.cookies[COOKIE])
    one, other = modified
    parts, others = one.split("."), other.split(".")
    forged = [
        one[:place] + ("A" if one[place] != "A" else "B") + one[place + 1 :] for place in range(0, len(one) - 1, 3)
    ]
    forged += [".".join([*others[:1], *parts[1:]]), ".".join([*parts[:-1], others[-1]]), ".".join(parts[:-1]), parts[0]]
    forged += [
        ".".join([parts[0], "9" * 30, *parts[2:]]),
        ".".join([parts[0], "\u00b2", *parts[2:]]),
        one + ".",
        "." + one,
        "..",
        "...",
        "",
    ]
    forged += [
        "null",
        "0",
        "a.b.c",
        "x" * 20_000,
        "%00",
        '"',
        "{}",
        one.swapcase(),
        hashlib.sha256(victim.key.encode()).hexdigest(),
    ]
    for value in forged:
        cookie = f"{COOKIE}={value}".encode("latin-1", "replace")
        answer = httpx.get(f"{victim.address}/api/records", headers={b"cookie": cookie})
        assert answer.status_code == 401, value
    for cookies in ("; ".join([f"{COOKIE}={one}"] * 3), f"x=1; {COOKIE}={one}", f'{COOKIE}="{one}"'):
        assert httpx.get(f"{victim.address}/api/records", headers={"cookie": cookies}).status_code == 200
    victim.is_well()


def test_a_session_ends_with_its_key(victim: Any) -> None:
    """The key is revoked while the browser is logged in: its next request is refused."""
    with victim.client() as admin, httpx.Client(base_url=victim.address) as browser:
        key = admin.post("/api/keys", json={"name": "n", "project": "alpha", "role": "write"}).json()
        assert browser.post("/login", data={"key": key["secret"]}).status_code == 303
        assert browser.get("/api/records").status_code == 200
        assert admin.delete(f"/api/keys/{key['id'][:12]}").status_code == 200
        assert browser.get("/api/records").status_code == 401
        assert browser.post(f"{PAREA}/project", json={"name": "alpha"}).status_code == 401


def test_no_key_can_create_a_key_with_more_permissions(victim: Any) -> None:
    """An admin of a project creates keys of that project only; other roles create none."""
    for role in ("read", "write", "admin"):
        with victim.client(victim.make_key("alpha", role)) as client:
            for fields in (
                {"project": "beta"},
                {"project": "beta", "role": "read"},
                {"project": ""},
                {"project": None},
                {"role": "owner"},
                {"role": "ADMIN"},
            ):
                answer = client.post("/api/keys", json={"name": "n", **fields})
                if role == "admin" and not fields.get("project") and "role" not in fields:
                    assert answer.json()["project"] == "alpha"
                else:
                    assert answer.status_code in (400, 403, 422), (role, fields, answer.text)
            body = b'{"name":"n","project":"alpha","project":"beta","role":"admin"}'  # of two, the last one counts
            assert client.post("/api/keys", content=body).status_code == 403


@pytest.fixture(scope="module")
def lived(start_victim: Callable[..., Any], shared_provider: Any) -> tuple[Any, dict[str, str], list[str]]:
    """A server after requests with secrets: its own, created ones and sent ones; with all its responses."""
    secrets = {
        "the provider's key": "sk-canary-of-the-provider-0123456789",
        "the key of a request": "sk-canary-of-a-request-0123456789abc",
        "a wrong key": "ek_canary-of-a-wrong-key-0123456789",
        "a wrong password": "canary-of-a-wrong-login",
    }
    openai = {"kind": "openai", "base_url": shared_provider.base_url, "api_key": secrets["the provider's key"]}
    server = start_victim(providers={"openai": openai})
    answers: list[str] = []

    def note(answer: httpx.Response) -> httpx.Response:
        answer.read()
        answers.append(f"{answer.status_code} {answer.headers} {answer.text}")
        return answer

    with server.client(event_hooks={"response": [note]}) as client:
        for number, status in enumerate((200, 401, 500, 400)):
            shared_provider.reply(status=status, error="Incorrect API key provided: " + secrets["the provider's key"])
            body = {
                "llm_configuration": {"model": "gpt-4o", "messages": [{"role": "user", "content": f"hello {number}"}]},
                "provider_api_key": secrets["the key of a request"],
            }
            note(client.post(f"{PAREA}/completion", json=body))
        for broken in (
            {"provider_api_key": {"a": secrets["the key of a request"]}},
            {"provider_api_key": secrets["the key of a request"], "tags": 1},
        ):
            note(client.post(f"{PAREA}/completion", json=broken))
        for path in (
            "/api/records",
            "/api/traces",
            "/traces",
            "/status",
            "/status.json",
            "/openapi.json",
            "/api/keys",
            "/nowhere",
        ):
            note(client.get(path, headers={"accept": "text/html"}))
    with server.client(secrets["a wrong key"]) as wrong:
        for path in ("/api/records", "/traces", "/nowhere"):
            note(wrong.get(path))
    note(httpx.post(f"{server.address}/login", data={"key": secrets["a wrong password"]}))
    secrets["the local key"] = server.key
    secrets["a key it made"] = server.make_key("alpha", "admin")
    with httpx.Client(base_url=server.address) as browser:
        note(browser.get(server.login))
        secrets["a login token"] = parse_qs(urlsplit(server.login).query)["token"][0]
        secrets["a session"] = browser.cookies[COOKIE].rpartition(".")[2]
        note(browser.get("/traces"))
    return server, secrets, answers


def test_secrets_are_not_stored_or_logged(lived: tuple[Any, dict[str, str], list[str]]) -> None:
    """Not in the database and its log, not in the server's log, and in no response but the one that creates it."""
    server, secrets, answers = lived
    server.is_well()
    stored = b"".join(path.read_bytes() for path in Path(server.data).rglob("*") if path.is_file())
    assert len(stored) > 100_000
    for name, secret in secrets.items():
        spellings = {secret, base64.b64encode(secret.encode()).decode().rstrip("="), secret.encode().hex()}
        for spelling in spellings:
            assert spelling.encode() not in stored, name
            assert spelling not in server.log(), name
            if name != "a session":  # which is set by the answer to its login
                assert not [answer for answer in answers if spelling in answer], name
    digest = hashlib.sha256(secrets["a key it made"].encode()).hexdigest()
    assert digest.encode() in stored, "the hash is what is kept"


def test_only_the_owner_can_read_the_files(lived: tuple[Any, dict[str, str], list[str]]) -> None:
    """No other user of the machine can read the database."""
    server, _, _ = lived
    for path in [server.data, *Path(server.data).rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path
