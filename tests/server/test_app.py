"""All routes: credentials, headers, the shape of errors, and the OpenAPI document."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from everycall.server.api.otlp import is_otlp
from everycall.server.app import create_app
from everycall.server.gateway import Gateway
from everycall.server.options import ServerOptions
from everycall.server.store.sqlite import SqliteStore
from everycall.server.store.values import RecordQuery

OPEN = {
    ("GET", "/healthz"),
    ("GET", "/v1/proof"),
    ("GET", "/login"),
    ("POST", "/login"),
    ("GET", "/static/{file_path:path}"),
}
"""All routes that answer without credentials. Add one deliberately."""
OPTIONS_OF_OPEN = {("OPTIONS", path) for _, path in OPEN}

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; form-action 'self'; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'"
)


@pytest.fixture
def app(tmp_path: Path) -> Any:
    options = ServerOptions(data_dir=tmp_path / "unused")
    store = SqliteStore(tmp_path / "unused" / "everycall.db")
    return create_app(options, store, Gateway(store, {}))


def routes_of(app: Any) -> Iterator[tuple[str, str]]:
    for route in app.routes:
        for method in sorted(route.methods):
            yield method, route.path


def filled(path: str) -> str:
    return re.sub(r"{[^}]*}", "x", path)


def directives(policy: str) -> set[str]:
    return {directive.strip() for directive in policy.split(";")}


def test_every_route_needs_credentials_except_the_listed_ones(app: Any, server: Any) -> None:
    """No route can be open by accident."""
    seen_routes = set()
    with httpx.Client(base_url=server.address) as nobody:
        for method, path in routes_of(app):
            answer = nobody.request(method, filled(path))
            if (method, path) in OPEN | OPTIONS_OF_OPEN:
                assert b"urn:everycall:error:unauthenticated" not in answer.content
            else:
                assert answer.status_code == 401, (method, path)
                if is_otlp(path):
                    assert answer.json()["code"] == 16
                else:
                    assert answer.headers["content-type"] == "application/problem+json"
                    assert answer.json()["type"] == "urn:everycall:error:unauthenticated"
            seen_routes.add((method, path))
    assert seen_routes > OPEN | OPTIONS_OF_OPEN
    assert len(seen_routes) > 40


def test_a_browser_without_a_session_is_sent_to_the_login(server: Any) -> None:
    """Pages redirect to the login and back; APIs never redirect."""
    html = {"accept": "text/html,application/xhtml+xml"}
    with httpx.Client(base_url=server.address, headers=html) as nobody:
        answer = nobody.get("/traces?status=error")
        assert answer.status_code == 303
        assert answer.headers["location"] == "/login?next=%2Ftraces%3Fstatus%3Derror"
        assert nobody.get("/api/records").status_code == 401
        assert nobody.get("/openapi.json").status_code == 401
        assert nobody.get("/traces.json").status_code == 401


def test_every_response_has_the_security_headers(app: Any, server: Any) -> None:
    """Including errors, redirects, unknown URLs and methods."""
    paths = [(method, filled(path)) for method, path in routes_of(app)]
    paths += [("GET", "/nowhere"), ("DELETE", "/v1/records"), ("GET", "/api/records?nonsense=1")]
    for headers in ({}, {"x-api-key": server.key}, {"x-api-key": server.key, "accept": "text/html"}):
        with httpx.Client(base_url=server.address, headers=headers) as client:
            for method, path in paths:
                answer = client.request(method, path)
                assert answer.status_code != 500, (method, path)
                assert directives(answer.headers["content-security-policy"]) == directives(CSP), (method, path)
                assert answer.headers["x-content-type-options"] == "nosniff"
                assert answer.headers["referrer-policy"] in ("no-referrer", "same-origin")
                if not path.startswith("/static/"):
                    assert answer.headers["cache-control"] == "no-store"
                assert "server" not in answer.headers


def test_errors_have_one_shape(client: httpx.Client) -> None:
    """Unknown URLs, methods and parameters are problems that say what to do."""
    for answer, status, code in (
        (client.get("/nowhere"), 404, "not_found"),
        (client.delete("/v1/records"), 405, "method_not_allowed"),
        (client.get("/api/records?colour=red"), 400, "bad_request"),
        (client.get("/api/records/unknown"), 404, "not_found"),
    ):
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        body = answer.json()
        assert body["type"] == f"urn:everycall:error:{code}"
        assert body["status"] == status
        assert body["detail"]
        assert body["title"]


def test_a_browser_sees_an_error_as_a_page(client: httpx.Client) -> None:
    """The same problem, as a page."""
    answer = client.get("/nowhere", headers={"accept": "text/html"})
    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("text/html")
    assert "There is nothing at this URL." in answer.text


def test_an_unexpected_error_reveals_nothing(client: httpx.Client, server: Any, tmp_path: Path) -> None:
    """A failing disk is a 5xx in the usual shape, without a traceback or a path."""
    for path in (tmp_path / "data").iterdir():
        path.unlink()
    server_answers = [client.get("/api/records"), client.post("/v1/records", content=b"not json")]
    for answer in server_answers:
        assert "Traceback" not in answer.text
        assert str(tmp_path) not in answer.text


def test_the_document_describes_all_routes(app: Any, client: httpx.Client) -> None:
    """Each documented operation exists, and each API route is documented, with its errors and parameters."""
    answer = client.get("/openapi.json")
    assert answer.status_code == 200
    document = answer.json()
    documented = {
        (method.upper(), path)
        for path, item in document["paths"].items()
        for method in item
        if method in ("get", "post", "put", "delete", "patch")
    }
    plain = {
        (method, re.sub(r":\w+}", "}", path))
        for method, path in routes_of(app)
        if path.startswith(("/api/", "/v1/", "/healthz")) and method != "OPTIONS" and not is_otlp(path)
    }
    assert documented == plain
    for path, item in document["paths"].items():
        for method, described in item.items():
            is_open = path in ("/healthz", "/v1/proof")
            assert is_open or {"401", "403", "503"} <= set(described["responses"]), (method, path)
            for status, response in described["responses"].items():
                if status >= "400":
                    assert list(response["content"]) == ["application/problem+json"]
    listed = document["paths"]["/api/records"]["get"]["parameters"]
    names = {parameter["name"] for parameter in listed}
    assert names == {*RecordQuery.__dataclass_fields__, "project"}
    for name in names:
        assert client.get("/api/records", params={name: ""}).status_code == 200
    assert "cdn" not in json.dumps(document)


def test_no_viewer_is_served(client: httpx.Client) -> None:
    """Litestar's viewers load scripts from other hosts; they are off."""
    for path in ("/schema", "/schema/swagger", "/schema/redoc", "/openapi.json/x", "/openapi.json/openapi.json"):
        assert client.get(path).status_code == 404
