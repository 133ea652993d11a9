"""Below a path behind Debian's nginx, in a real browser: every request that a visit makes stays below the path.

Without nginx these tests are skipped and say so; under CI=true that is a failure.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser

from everycall.server.options import ServerOptions
from everycall.server.runner import Server

KEY = "ek-local-key-of-a-server-behind-nginx"
CONFIGURATION = """
daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; worker_processes 1;
events {{ worker_connections 64; }}
http {{
    access_log {folder}/access.log; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    server {{
        listen 127.0.0.1:{port};
        location = /favicon.ico {{ return 204; }}  # browsers ask for it beside a document without a link, such as JSON
        location /calls/ {{
            proxy_pass {target};
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-Proto $scheme;
            {prefix}
            proxy_buffering off;
        }}
    }}
}}
"""


@dataclass
class Proxied:
    """A server below `/calls/` of an nginx. `address` is the URL of `/calls` there."""

    address: str
    root: str
    log: Path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture(scope="module", params=["X-Forwarded-Prefix", "--root-path"])
def proxied(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    """A server behind nginx: one strips the path and names it in a header, the other passes it on."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if nginx is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no nginx: apt install nginx-light")
        pytest.skip("no nginx: apt install nginx-light")
    folder = tmp_path_factory.mktemp("nginx")
    is_header = request.param == "X-Forwarded-Prefix"
    settings: dict[str, Any] = {"trusted_proxies": ("127.0.0.1",)} if is_header else {"root_path": "/calls"}
    options = ServerOptions(folder / "data", port=0, local_key=KEY, **settings)
    with Server(options) as server:
        port = free_port()
        target = server.address.removesuffix("/calls")
        configuration = CONFIGURATION.format(
            folder=folder,
            port=port,
            target=f"{target}/" if is_header else target,
            prefix="proxy_set_header X-Forwarded-Prefix /calls;" if is_header else "",
        )
        (folder / "nginx.conf").write_text(configuration)
        command = [nginx, "-c", str(folder / "nginx.conf"), "-p", str(folder), "-e", str(folder / "start.log")]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            root = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 120  # ends only a test that hangs
            while True:
                try:
                    httpx.get(f"{root}/calls/healthz", timeout=120)
                    break
                except httpx.TransportError:
                    assert process.poll() is None, (folder / "start.log").read_text()
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            yield Proxied(f"{root}/calls", root, folder / "access.log")
        finally:
            process.terminate()
            process.wait()


def record(name: str, parent: str | None = None, **fields: Any) -> dict[str, Any]:
    times = {"start_time_unix_nano": 1_790_000_000_000_000_000, "end_time_unix_nano": 1_790_000_001_000_000_000}
    return {"inference_id": name, "trace_id": "t/1", "parent_id": parent, "name": name, **times, **fields}


def test_a_visit_stays_below_the_path(proxied: Proxied, chromium: Browser) -> None:
    """Log in, walk through all pages and forms, log out: no request leaves `/calls/`, none finds nothing there."""
    earlier = len(proxied.log.read_text().splitlines())  # of other tests
    with httpx.Client(base_url=proxied.address, headers={"x-api-key": KEY}) as client:
        for one in (record("root"), record("child", "root", kind="llm", model="gpt-4o", tags=["beta"])):
            assert client.post("/v1/records", json=one).json()["committed"] == 1
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(120_000)
    page = context.new_page()
    requests: list[str] = []
    failures: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: failures.append(message.text) if message.type == "error" else None)

    page.goto(f"{proxied.address}/traces?tag=beta")
    assert page.url.startswith(f"{proxied.address}/login?next=")
    page.fill("input[name=key]", KEY)
    page.click("button[type=submit]")
    page.wait_for_url(f"{proxied.address}/traces?tag=beta")
    (cookie,) = context.cookies()
    assert cookie["path"] == "/calls"

    style = page.evaluate("getComputedStyle(document.querySelector('header.top')).display")
    assert style == "flex"  # the style sheet came
    page.click("button.theme")
    assert {cookie["name"]: cookie["path"] for cookie in context.cookies()} == {
        "everycall_session": "/calls",
        "everycall_theme": "/calls/",
    }
    page.click("table a[href*='/traces/']")
    page.wait_for_url("**/traces/t%2F1*")
    page.click("a[href*='record=child']")
    page.wait_for_url("**record=child*")
    page.goto(f"{proxied.address}/")
    page.wait_for_url(f"{proxied.address}/traces")
    page.click("nav a:has-text('Deployments')")
    page.wait_for_url(f"{proxied.address}/deployments")
    page.goto(f"{proxied.address}/deployments/new")
    page.fill("[name=deployment_id]", "support")
    page.fill("[name=name]", "support")
    page.fill("[name=model]", "gpt-4o")
    page.fill("textarea >> nth=0", "Hello {{name}}")
    page.click("main form button[type=submit] >> nth=-1")
    page.wait_for_url("**/calls/deployments/support*")
    page.click("nav a:has-text('Status')")
    page.wait_for_url(f"{proxied.address}/status")
    page.click("a.twin")
    page.wait_for_url(f"{proxied.address}/status.json")
    page.goto(f"{proxied.address}/status")
    page.click("form.log-out button")
    page.wait_for_url(f"{proxied.address}/login")
    context.close()

    assert [url for url in requests if not url.startswith(f"{proxied.address}/")] == []
    assert failures == []
    lines = proxied.log.read_text().splitlines()[earlier:]
    assert len(lines) > 15
    assert [line for line in lines if '" 404 ' in line or '" 5' in line.split('"')[2:3]] == []


def test_everything_a_page_links_to_is_there(proxied: Proxied) -> None:
    """From the list of traces on, all links of all pages: below the path, and found."""
    with httpx.Client(base_url=proxied.address, headers={"x-api-key": KEY, "accept": "text/html"}) as client:
        client.post("/v1/records", json=record("again", kind="llm"))
        waiting = ["/calls/traces"]
        visited: set[str] = set()
        while waiting and len(visited) < 150:
            path = waiting.pop()
            if path in visited:
                continue
            visited.add(path)
            answer = client.get(proxied.root + path)
            assert answer.status_code == 200, (path, answer.status_code)
            waiting += links_of(answer)
        assert len(visited) > 10
        assert all(path.startswith("/calls/") for path in visited)


def links_of(answer: httpx.Response) -> list[str]:
    if not answer.headers["content-type"].startswith("text/html"):
        return []
    urls = [unescape(url) for url in re.findall(r'\s(?:href|src)="([^"]*)"', answer.text)]
    return [url.partition("#")[0] for url in urls if url.startswith("/")]


def test_the_api_is_below_the_path(proxied: Proxied) -> None:
    """Writes, reads, the document, and errors in their shape."""
    with httpx.Client(base_url=proxied.address, headers={"x-api-key": KEY}) as client:
        response = client.put(
            "/api/deployments/other", json={"name": "n", "model": "m", "messages": [{"content": "x"}]}
        )
        assert response.status_code in (200, 201)
        assert client.get("/api/deployments/other").json()["deployment_id"] == "other"
        assert client.get("/api/nothing").headers["content-type"] == "application/problem+json"
        assert client.get("/openapi.json").status_code == 200
