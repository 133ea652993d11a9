"""Serving below a path: links, styles, redirects and cookies stay below it, and only a trusted proxy can set it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from everycall.errors import ConfigurationError
from everycall.server.options import ServerOptions
from everycall.server.runner import Server

KEY = "ek-local-key-of-a-server-below-a-path"
PAGE = {"accept": "text/html"}
PAGES = ["/traces", "/traces/t1", "/traces/t1?record=a", "/deployments", "/deployments/new", "/deployments/d",
         "/deployments/d/edit", "/deployments/d/diff", "/status", "/traces/none", "/nowhere", "/login"]  # fmt: skip
RECORD = b'{"inference_id":"a","trace_id":"t1","name":"/traces","start_time_unix_nano":1790000000000000000}'
STRANGE = ["calls", "/", "//evil.example", "/a//b", "/..", "/a/../b", "/a b", '/"><script>', "/é", "/a?b", "/a#b",
           "https://evil.example/", "/" + "a" * 300, "/a\\b"]  # fmt: skip


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Start servers with options and some records. They stop with the module's tests."""
    started: list[Server] = []

    def starting(**options: Any) -> Server:
        server = Server(ServerOptions(tmp_path_factory.mktemp("below"), port=0, local_key=KEY, **options)).start()
        started.append(server)
        with httpx.Client(base_url=server.address, headers={"x-api-key": KEY}) as client:
            assert client.post("/v1/records", content=RECORD).json()["committed"] == 1
            body = {"name": "n", "model": "m", "messages": [{"role": "user", "content": "/x"}]}
            for text in ("/x", "/y"):
                body["messages"] = [{"role": "user", "content": text}]
                assert client.put("/api/deployments/d", json=body).status_code in (200, 201)
        return server

    yield starting
    for server in started:
        server.stop()


@pytest.fixture(scope="module", params=["a header", "a setting", "a setting, not stripped"])
def below(request: pytest.FixtureRequest, start: Callable[..., Server]) -> Iterator[httpx.Client]:
    """A client of a server below /team/calls, as a proxy reaches it: its paths are those of the server itself."""
    if request.param == "a header":
        server = start(trusted_proxies=("127.0.0.1",))
        headers = {"x-forwarded-prefix": "/team/calls/"}
        address = server.address
    else:
        server = start(root_path="/team/calls")
        headers = {}
        address = server.address if "not stripped" in request.param else server.address.removesuffix("/team/calls")
    with httpx.Client(base_url=address, headers=headers) as client:
        yield client


def urls(html: str) -> list[str]:
    return re.findall(r'\s(?:href|src|action|data-run|data-page)="([^"]*)"', html)


@pytest.mark.parametrize("path", PAGES)
def test_no_link_leaves_the_path(below: httpx.Client, path: str) -> None:
    answer = below.get(path, headers={**PAGE, "x-api-key": KEY})
    assert answer.headers["content-type"].startswith("text/html")
    links = urls(answer.text)
    assert links
    assert [url for url in links if url.startswith("/") and not url.startswith("/team/calls/")] == []
    assert "/team/calls/team/calls" not in answer.text
    for url in links:
        if url.startswith("/team/calls/static/"):
            assert below.get(url.removeprefix("/team/calls")).status_code == 200


def test_the_api_document_names_the_path(below: httpx.Client) -> None:
    document = below.get("/openapi.json", headers={"x-api-key": KEY}).json()
    assert document["servers"] == [{"url": "/team/calls"}]


def test_text_of_users_is_not_changed(below: httpx.Client) -> None:
    page = below.get("/deployments/d", headers={**PAGE, "x-api-key": KEY}).text
    assert "/y" in page
    assert "/team/calls/y" not in page
    edit = below.get("/deployments/d/edit", headers={**PAGE, "x-api-key": KEY}).text
    assert ">/y<" in edit.replace("\n", "")


def test_redirects_and_the_cookie_stay_below_the_path(below: httpx.Client) -> None:
    home = below.get("/", headers={"x-api-key": KEY})
    assert home.headers["location"] == "/team/calls/traces"
    login = below.get("/traces?tag=a", headers=PAGE)
    assert (login.status_code, login.headers["location"]) == (303, "/team/calls/login?next=%2Ftraces%3Ftag%3Da")
    done = below.post("/login", data={"key": KEY, "next": "/traces?tag=a"})
    assert (done.status_code, done.headers["location"]) == (303, "/team/calls/traces?tag=a")
    assert "path=/team/calls;" in done.headers["set-cookie"].lower() + ";"
    out = below.post("/logout", headers={"cookie": done.headers["set-cookie"].partition(";")[0]})
    assert out.headers["location"] == "/team/calls/login"
    assert "path=/team/calls;" in out.headers["set-cookie"].lower() + ";"


def test_a_visit_from_another_site_stays_below_the_path(below: httpx.Client) -> None:
    headers = {**PAGE, "sec-fetch-site": "cross-site", "sec-fetch-dest": "document"}
    page = below.get("/traces/t1", headers=headers)
    assert page.status_code == 200
    assert "url=/team/calls/traces/t1" in page.text


def test_the_empty_page_names_the_endpoint(start: Callable[..., Server]) -> None:
    server = start(trusted_proxies=("127.0.0.1",), hosts=("tools.example",))
    headers = {"x-forwarded-prefix": "/calls", "x-forwarded-proto": "https", "host": "tools.example"}
    page = httpx.get(f"{server.address}/traces?project=empty", headers={**headers, **PAGE, "x-api-key": KEY}).text
    assert "https://tools.example/calls&#34;" in page or 'https://tools.example/calls"' in page


def test_a_prefix_from_an_untrusted_address_is_ignored(start: Callable[..., Server]) -> None:
    server = start()
    answer = httpx.get(server.address, headers={"x-forwarded-prefix": "/evil", "x-api-key": KEY})
    assert answer.headers["location"] == "/traces"


@pytest.mark.parametrize("prefix", STRANGE)
def test_a_prefix_must_be_a_plain_path(below: httpx.Client, prefix: str) -> None:
    headers = {name.encode(): value.encode("latin-1") for name, value in {**PAGE, "x-api-key": KEY}.items()}
    answer = below.get("/traces", headers={b"x-forwarded-prefix": prefix.encode("latin-1"), **headers})
    assert answer.status_code == 200
    bare = prefix.strip("/")
    assert not bare or f'="{prefix}' not in answer.text


@pytest.mark.parametrize("prefix", [path for path in STRANGE if path != "/"])
def test_a_root_path_must_be_a_plain_path(tmp_path: Path, prefix: str) -> None:
    with pytest.raises(ConfigurationError, match="invalid root path"):
        ServerOptions(data_dir=tmp_path, root_path=prefix)


def test_the_printed_url_has_the_path(start: Callable[..., Server]) -> None:
    server = start(root_path="/team/calls")
    with httpx.Client() as browser:
        answer = browser.get(server.login_url("/status"))
        assert answer.headers["location"] == "/team/calls/status"
        page = browser.get(f"{server.address}/status", headers=PAGE)
        assert page.status_code == 200
        assert "Client processes" in page.text


def test_a_path_named_like_a_page(start: Callable[..., Server]) -> None:
    server = start(root_path="/traces")
    answer = httpx.get(f"{server.address}/traces/t1", headers={**PAGE, "x-api-key": KEY})
    assert answer.status_code == 200
    assert [url for url in urls(answer.text) if url.startswith("/") and not url.startswith("/traces/")] == []
    assert any(url.startswith("/traces/traces") for url in urls(answer.text))
