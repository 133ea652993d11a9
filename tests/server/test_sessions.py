"""Browser sessions: each is separate, logging out ends it, and behind TLS its cookie is `Secure`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from everycall.errors import ConfigurationError
from everycall.server.options import ServerOptions
from everycall.server.runner import Server
from everycall.server.security import over_tls
from everycall.server.sessions import COOKIE, Sessions


def log_in(server: Any, **headers: str) -> str:
    """Log in with a printed URL; return the cookie header."""
    answer = httpx.get(server.login_url(), headers=headers)
    assert answer.status_code == 303
    return answer.headers["set-cookie"]


def value_of(cookie: str) -> str:
    return cookie.partition("=")[2].partition(";")[0]


def may_read(server: Any, value: str) -> bool:
    answer = httpx.get(f"{server.address}/api/records", headers={"cookie": f"{COOKIE}={value}"})
    assert answer.status_code in (200, 401)
    return answer.status_code == 200


def log_out(server: Any, value: str, **headers: str) -> httpx.Response:
    return httpx.post(f"{server.address}/logout", headers={"cookie": f"{COOKIE}={value}", **headers})


def test_logging_out_ends_this_session_and_no_other(server: Any) -> None:
    mine, other = value_of(log_in(server)), value_of(log_in(server))
    assert mine != other
    answer = log_out(server, mine)
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert "max-age=0" in answer.headers["set-cookie"].lower()
    assert not may_read(server, mine)  # a copy of the cookie is worth nothing
    assert may_read(server, other)
    assert log_out(server, mine).status_code == 401


def test_logging_out_outlives_a_restart(tmp_path: Path) -> None:
    options = ServerOptions(data_dir=tmp_path / "data", port=0)
    with Server(options) as server:
        ended, active = value_of(log_in(server)), value_of(log_in(server))
        log_out(server, ended)
    stored = b"".join(path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file())
    assert ended.encode() not in stored
    assert ended.rpartition(".")[2].encode() not in stored
    with Server(options) as server:
        assert not may_read(server, ended)
        assert may_read(server, active)


def test_another_site_cannot_log_a_browser_out(server: Any) -> None:
    value = value_of(log_in(server))
    for headers in ({"sec-fetch-site": "cross-site"}, {"origin": "http://evil.example"}, {"origin": "null"}):
        assert log_out(server, value, **headers).status_code == 403
    assert may_read(server, value)
    assert httpx.get(f"{server.address}/logout", headers={"cookie": f"{COOKIE}={value}"}).status_code == 405
    assert may_read(server, value)


def test_without_authentication_there_is_no_log_out(tmp_path: Path) -> None:
    with Server(ServerOptions(data_dir=tmp_path / "data", port=0, no_auth=True)) as server:
        for path in ("/traces", "/deployments", "/status"):
            assert "Log out" not in httpx.get(server.address + path).text


def test_every_page_has_a_log_out(server: Any) -> None:
    with httpx.Client(base_url=server.address) as browser:
        browser.get(server.login_url())
        for path in ("/traces", "/deployments", "/deployments/new", "/status"):
            assert '<form class="log-out" method="post" action="/logout">' in browser.get(path).text, path


def test_an_ended_session_is_forgotten_when_it_would_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = Sessions("secret")
    now = time.time()
    first, second = sessions.issue("a"), sessions.issue("a")
    ended = sessions.end(first)
    assert ended is not None
    assert sessions.read(first) is None
    assert sessions.end("forged") is None
    assert first not in ended[0]
    monkeypatch.setattr(time, "time", lambda: now + 40 * 86_400)
    assert sessions.end(second) is None  # it ended by itself
    assert sessions.read(second) is None


# --- behind a proxy ---


def test_the_cookie_is_secure_when_a_trusted_proxy_says_so(tmp_path: Path) -> None:
    options = ServerOptions(data_dir=tmp_path / "data", port=0, trusted_proxies=("127.0.0.0/8", "::1"))
    with Server(options) as server:
        assert "secure" in log_in(server, **{"x-forwarded-proto": "https"}).lower()
        assert "secure" in log_in(server, **{"x-forwarded-proto": "http, https"}).lower()
        for scheme in ("http", "https, http", "", "httpsx"):
            assert "secure" not in log_in(server, **{"x-forwarded-proto": scheme}).lower(), scheme
        assert "secure" not in log_in(server).lower()
        value = value_of(log_in(server, **{"x-forwarded-proto": "https"}))
        assert "secure" in log_out(server, value, **{"x-forwarded-proto": "https"}).headers["set-cookie"].lower()


def test_an_untrusted_proxy_is_ignored(server: Any) -> None:
    assert "secure" not in log_in(server, **{"x-forwarded-proto": "https"}).lower()


@pytest.mark.parametrize(
    ("client", "trusted", "expected"),
    [
        ("10.1.2.3", ("10.0.0.0/8",), True),
        ("11.1.2.3", ("10.0.0.0/8",), False),
        ("::1", ("10.0.0.0/8", "::1"), True),
        ("10.1.2.3", (), False),
        ("not an address", ("0.0.0.0/0",), False),
        (None, ("0.0.0.0/0",), False),
    ],
)
def test_who_is_trusted(client: str | None, trusted: tuple[str, ...], expected: bool) -> None:
    scope: Any = {
        "scheme": "http",
        "client": (client, 1) if client else None,
        "headers": [(b"x-forwarded-proto", b"https")],
    }
    assert over_tls(scope, trusted) is expected
    assert over_tls(scope | {"scheme": "https"}, ())


@pytest.mark.parametrize("proxy", ["proxy.example", "10.0.0.0/64", ""])
def test_a_trusted_proxy_must_be_an_address(tmp_path: Path, proxy: str) -> None:
    with pytest.raises(ConfigurationError, match="address of a proxy"):
        ServerOptions(data_dir=tmp_path, trusted_proxies=(proxy,))
