"""Every registered route without a key, with wrong keys, with keys of lower roles, and from another site's page."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from typing import Any

import httpx
import pytest

IDS = {
    **dict.fromkeys(("record", "trace", "deployment", "session", "user", "text", "cursor", "experiment"), "none"),
    "foreign_deployment": "nowhere",
    **dict.fromkeys(("dataset", "case"), 1),
    "dataset_name": "none",
    "project": "alpha",
    "project_uuid": "default",
    "key": "0" * 64,
}
SAFE = {"GET", "HEAD", "OPTIONS"}


def test_every_route_is_listed(routes: list[tuple[str, str]], surface: Any) -> None:
    """Every route is attacked: list a new one in `everycall_testkit.attack_surface` with its role."""
    listed = {(ask.method, ask.route) for ask in surface.ASKS}
    assert listed == {route for route in routes if route[0] != "OPTIONS"}
    assert listed >= surface.OPEN


@pytest.mark.parametrize("key", [None, "", "ek_garbage", "é\u00ff", "x" * 10_000, "revoked", "digest"])
def test_every_route_requires_a_key(
    start_victim: Callable[..., Any], routes: list[tuple[str, str]], surface: Any, key: str | None
) -> None:
    """401 for every route but the open ones, before its parameters or body are read; 429 after twenty."""
    server = start_victim()
    if key in ("revoked", "digest"):
        with server.client() as admin:
            created = admin.post("/api/keys", json={"name": "n", "project": "alpha", "role": "admin"}).json()
            if key == "revoked":
                assert admin.delete(f"/api/keys/{created['id']}").status_code == 200
            key = created["secret"] if key == "revoked" else created["id"]
    headers = {} if key is None else {"x-api-key": key.encode("latin-1")}
    wrong = {"unauthenticated"} if key is None else {"wrong_key", "too_many_requests"}
    answered = set()
    with server.client(None, headers=headers) as nobody:
        for ask in surface.ASKS:
            method, address, body = ask.filled(IDS)
            answer = nobody.request(method, address, content=body, headers={"accept": "application/json"})
            if (ask.method, ask.route) in surface.OPEN:
                assert answer.status_code != 500
                continue
            if ask.otlp:
                assert answer.json()["code"] == (8 if answer.status_code == 429 else 16)
            else:
                code = answer.json()["type"].rpartition(":")[2]
                assert code in wrong, (method, address, answer.text)
                assert answer.status_code == (429 if code == "too_many_requests" else 401)
            assert ("www-authenticate" in answer.headers) == (answer.status_code == 401)
            answered.add((ask.method, ask.route))
        for method, path in routes:
            if method == "OPTIONS" and ("GET", path) not in surface.OPEN and ("POST", path) not in surface.OPEN:
                assert nobody.request(method, surface.filled(path, IDS)).status_code in (401, 429)
                answered.add((method, path))
    assert len(answered) > 60
    server.is_well()


@pytest.mark.parametrize(("role", "may"), [("read", {"read"}), ("write", {"read", "write"}), ("admin", None)])
def test_a_key_may_do_what_its_role_permits(victim: Any, surface: Any, role: str, may: set[str] | None) -> None:
    """403 for routes that need a higher role, whatever the request; for other routes anything but 403."""
    with victim.client(victim.make_key("alpha", role)) as client:
        for ask in surface.ASKS:
            if (ask.method, ask.route) in surface.OPEN:
                continue
            method, address, body = ask.filled(IDS)
            answer = client.request(method, address, content=body, headers=ask.headers())
            if may is None or ask.role in may:
                assert answer.status_code not in (401, 403, 500), (method, address, answer.text)
            else:
                assert answer.status_code == 403, (method, address, answer.text)
                if ask.otlp:
                    assert answer.json()["code"] == 7
                    assert role in answer.json()["message"]
                elif not ask.html:
                    assert answer.json()["type"] == "urn:everycall:error:forbidden"
                    assert role in answer.json()["detail"]
    victim.is_well()


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "nonsense"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"origin": ""},
    ],
)
def test_another_site_cannot_use_a_session(
    victim: Any, routes: list[tuple[str, str]], surface: Any, headers: dict[str, str]
) -> None:
    """Every route that changes something refuses requests that another site's page makes with the session."""
    with victim.client() as admin, httpx.Client(base_url=victim.address) as browser:
        secret = admin.post("/api/keys", json={"name": "n", "project": "alpha", "role": "admin"}).json()["secret"]
        assert browser.post("/login", data={"key": secret}).status_code == 303
        before = victim.every_row()
        tried = set()
        for ask in surface.ASKS:
            if ask.method in SAFE or ask.route == "/login":
                continue
            method, address, body = ask.filled(IDS)
            answer = browser.request(method, address, content=body, headers={**ask.headers(), **headers})
            assert answer.status_code == 403, (method, address, headers)
            if ask.otlp:
                assert answer.json()["code"] == 7
            else:
                assert answer.json()["type"] == "urn:everycall:error:cross_origin"
            tried.add((ask.method, ask.route))
        assert tried >= {route for route in routes if route[0] not in SAFE and route[1] != "/login"}
        assert victim.every_row() == before
        assert browser.get("/traces").status_code == 200, "the session is as good as before"


def test_unknown_methods_are_refused(victim: Any, routes: list[tuple[str, str]], surface: Any) -> None:
    """405 or 404 for every path with a method it does not have, even with invented methods."""
    known_methods = {path: {method for method, other in routes if other == path} for _, path in routes}
    connection = http.client.HTTPConnection(victim.address.removeprefix("http://"), timeout=30)
    for path, methods in known_methods.items():
        for method in ("HEAD", "PATCH", "TRACE", "PROPFIND", "BREW", "get", "DELETE", "PUT"):
            if method in methods:
                continue
            connection.request(
                method, surface.filled(path, IDS).replace("{", "").replace("}", ""), headers={"x-api-key": victim.key}
            )
            answer = connection.getresponse()
            answer.read()
            assert answer.status in (404, 405), (method, path, answer.status)
    connection.close()
    victim.is_well()
