"""Deployments in a real browser: creating, running, changing, comparing, activating, rolling back; and logging out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from everycall.server.options import ServerOptions
from everycall.server.provider_settings import ProviderSettings
from everycall.server.runner import Server

pytestmark = pytest.mark.browser

BODY: dict[str, Any] = {
    "name": "Support reply",
    "model": "gpt-4o-mini",
    "messages": [{"role": "user", "content": "Answer {{customer}}:\n{{question}}"}],
}


@pytest.fixture
def server(gateway_server: Any) -> Any:
    """The server that the browser visits has a provider."""
    return gateway_server


@pytest.fixture
def deployed(client: httpx.Client) -> str:
    client.put("/api/deployments/support", json=BODY).raise_for_status()
    return "/deployments/support"


def asked(page: Page, **values: str) -> None:
    """Fill in the variables and run."""
    for name, value in values.items():
        page.get_by_label(name, exact=True).fill(value)
    page.get_by_role("button", name="Run").click()


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without scripts"])
def test_the_life_of_a_deployment(visit: Callable[..., Any], provider: Any, scripts: bool) -> None:
    """All of it on the pages, as a person without a command line does it."""
    opened = visit(java_script_enabled=scripts)
    page = opened.page
    page.get_by_role("link", name="Deployments").click()
    page.get_by_role("link", name="Create the first deployment").click()
    page.get_by_label("Name", exact=True).fill("Support reply")
    page.get_by_label("Id, by which programs call it").fill("support")
    page.get_by_label("Model", exact=True).fill("gpt-4o-mini")
    page.get_by_label("Text of message 1").fill("You work for {{company}}.")
    page.get_by_label("Text of message 2").fill("{{question}}")
    page.get_by_role("button", name="Add a message").click()
    page.get_by_label("Role of message 3").select_option("assistant")
    page.get_by_label("Text of message 3").fill("Dear customer,")
    page.get_by_label("temp").fill("0.5")
    page.get_by_role("button", name="Create deployment").click()
    expect(page.get_by_role("heading", name="Support reply")).to_contain_text("version 1, served")
    assert page.url == opened.address + "/deployments/support?done=created"

    asked(page, company="ACME", question="Where is it? {{company}}")
    answer = page.locator("#answer")
    for text in ("hello", "22", "189", "$0.000", "gpt-4o-mini"):
        expect(answer).to_contain_text(text)
    assert [message["content"] for message in provider.requests[0].messages] == [
        "You work for ACME.",
        "Where is it? {{company}}",
        "Dear customer,",
    ]
    expect(page.get_by_label("company", exact=True)).to_have_value("ACME")
    page.get_by_role("button", name="Run").click()
    expect(answer).to_contain_text("cache hit")
    page.get_by_role("link", name="View record").click()
    expect(page.locator("#record")).to_contain_text("cache hit")

    opened.go("/deployments/support")
    page.get_by_role("link", name="Edit").click()
    page.get_by_label("Text of message 1").fill("You work for {{company}}. Be brief.")
    page.get_by_label("Serve this version now").uncheck()
    page.get_by_role("button", name="Save as a new version").click()
    expect(page.get_by_text("This is version 2. Programs use")).to_be_visible()
    asked(page, company="ACME", question="Now?")
    expect(answer).to_contain_text("hello")
    assert provider.requests[-1].messages[0]["content"] == "You work for ACME. Be brief."
    page.get_by_role("link", name="Compare them").click()
    expect(page.locator("tr.gone .line")).to_have_text(["  You work for {{company}}."])
    expect(page.locator("tr.come .line")).to_have_text(["  You work for {{company}}. Be brief."])
    page.get_by_role("button", name="Serve version 2").click()
    expect(page.get_by_role("status")).to_contain_text("Another version is served")
    page.get_by_role("button", name="Roll back to version 1").click()
    expect(page.get_by_role("heading", name="Support reply")).to_contain_text("version 1, served")
    history = page.locator("table.history tbody tr")
    expect(history).to_have_count(3)
    expect(page.get_by_role("button", name="Roll back")).to_have_count(0)
    page.get_by_role("button", name="Archive").click()
    expect(page.get_by_text("completions with it are refused")).to_be_visible()
    page.get_by_role("button", name="Serve version 2").click()
    expect(page.get_by_role("heading", name="Support reply")).to_contain_text("version 2, served")

    page.get_by_role("button", name="Log out").click()
    assert page.url == opened.address + "/login"
    opened.go("/deployments/support")
    expect(page.get_by_label("Key", exact=True)).to_be_visible()
    assert (opened.seen.console, opened.seen.dialogs, opened.seen.outside) == ([], [], [])


def test_the_response_appears_while_it_is_generated(visit: Callable[..., Any], provider: Any, deployed: str) -> None:
    reply = type(provider.default)(content="one two three", pieces=["one ", "two ", "three"], pause_after=2)
    provider.default = reply
    opened = visit()
    page = opened.go(deployed)
    asked(page, customer="Ann", question="why?")
    answer = page.locator("#answer")
    expect(answer.locator(".text")).to_have_text("one two")
    expect(answer).to_contain_text("running")
    expect(page.get_by_role("button", name="Run")).to_be_disabled()
    reply.go.set()
    expect(answer.locator(".figures")).to_contain_text("189")
    expect(answer.locator(".text")).to_have_text("one two three")
    expect(page.get_by_role("button", name="Run")).to_be_enabled()
    provider.default = type(provider.default)(content="again")
    asked(page, question="and now?")
    expect(answer.locator(".text")).to_have_text("again")
    assert len(provider.requests) == 2
    assert opened.seen.console == []


def test_failures_are_explained(visit: Callable[..., Any], provider: Any, deployed: str) -> None:
    provider.default = type(provider.default)(status=400, error="<img src=x onerror=alert(1)> is refused")
    opened = visit()
    page = opened.go(deployed)
    asked(page, customer="Ann", question="why?")
    answer = page.locator("#answer")
    expect(answer).to_contain_text("the provider failed")
    expect(answer).to_contain_text("<img src=x onerror=alert(1)> is refused")
    page.get_by_label("Provider").fill("nobody")
    page.get_by_role("button", name="Run").click()
    expect(answer).to_contain_text("No provider for this model")
    page.get_by_label("Provider").fill("")
    provider.default = type(provider.default)(content="well", pieces=["we", "ll"], break_after=1)
    page.get_by_role("button", name="Run").click()
    expect(answer).to_contain_text("the provider failed")
    assert opened.seen.dialogs == []


def test_an_ended_session_leads_to_the_login(visit: Callable[..., Any], deployed: str) -> None:
    opened = visit()
    page = opened.go(deployed)
    page.context.clear_cookies()
    asked(page, customer="Ann", question="why?")
    expect(page.get_by_label("Key", exact=True)).to_be_visible()
    assert "next=%2Fdeployments%2Fsupport" in page.url


def test_hostile_text_stays_text(visit: Callable[..., Any], client: httpx.Client, provider: Any) -> None:
    hostile = "</textarea><script>alert(1)</script><img src=//outside.invalid/x onerror=alert(1)>{{x}}"
    provider.default = type(provider.default)(content=hostile)
    body = {
        "name": hostile,
        "description": hostile,
        "model": hostile,
        "provider": "openai",
        "metadata": {hostile: [hostile]},
    }
    for number in range(2):
        content = {**body, "messages": [{"role": "user", "content": f"{hostile} {number}"}]}
        client.put("/api/deployments/hostile", json=content).raise_for_status()
    opened = visit()
    page = opened.go("/deployments/hostile")
    asked(page, x=hostile)
    expect(page.locator("#answer")).to_contain_text("</textarea><script>alert(1)</script>")
    assert provider.requests[0].messages[0]["content"] == f"{hostile} 1".replace("{{x}}", hostile)
    opened.go("/deployments/hostile/edit")
    expect(page.get_by_label("Text of message 1")).to_have_value(f"{hostile} 1")
    for path in ("/deployments", "/deployments/hostile?version=1", "/deployments/hostile/diff"):
        opened.go(path)
    watched = opened.seen
    console = [line for line in watched.console if "favicon" not in line]
    assert (console, watched.dialogs, watched.outside) == ([], [], [])


@pytest.mark.parametrize("width", [360, 768, 1440])
def test_no_page_is_wider_than_its_window(
    visit: Callable[..., Any], client: httpx.Client, deployed: str, width: int
) -> None:
    client.put("/api/deployments/support", json={**BODY, "name": "n" * 300, "model": "m" * 200}).raise_for_status()
    opened = visit(width=width)
    for path in ("", "/support", "/support?version=1", "/support/edit", "/support/diff", "/new"):
        page = opened.go(f"/deployments{path}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path


# --- a name that is not a loopback address, and TLS behind a proxy ---


@pytest.fixture
def named_server(tmp_path: Path, provider: Any) -> Iterator[Server]:
    """A server with a public name, as behind a proxy."""
    settings = ProviderSettings("openai", "openai", base_url=provider.base_url, api_key="sk-fake")
    options = ServerOptions(
        data_dir=tmp_path / "named", port=0, hosts=("calls.example",), providers={"openai": settings}
    )
    with Server(options) as started:
        yield started


def test_forms_work_under_a_plain_http_name(chromium: Browser, named_server: Server) -> None:
    """There browsers send no `Sec-Fetch-Site`, so the `Origin` of a form must be this server."""
    address = named_server.address.replace("127.0.0.1", "calls.example")
    port = named_server.address.rpartition(":")[2]
    browser = chromium.browser_type.launch(
        executable_path=_executable(chromium),
        args=["--no-sandbox", "--disable-gpu", f"--host-resolver-rules=MAP calls.example:{port} 127.0.0.1:{port}"],
    )
    try:
        page = browser.new_page()
        requests: list[dict[str, str]] = []
        page.on("request", lambda request: requests.append(request.all_headers()) if request.method == "POST" else None)
        page.goto(f"{address}/deployments/new")
        page.get_by_label("Key", exact=True).fill(named_server.key)
        page.get_by_role("button", name="Log in").click()
        page.get_by_label("Name", exact=True).fill("named")
        page.get_by_label("Model", exact=True).fill("gpt-4o")
        page.get_by_label("Text of message 2").fill("hi")
        page.get_by_role("button", name="Create deployment").click()
        expect(page.get_by_role("heading", name="named")).to_be_visible()
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("Key", exact=True)).to_be_visible()
        assert ["sec-fetch-site" in headers for headers in requests] == [False, False, False]
        assert {headers["origin"] for headers in requests} == {address}
    finally:
        browser.close()


def _executable(chromium: Browser) -> str:
    import os
    import shutil

    own = chromium.browser_type.executable_path
    names = [os.environ.get("CHROMIUM"), own, *(shutil.which(name) for name in ("chromium", "chromium-browser"))]
    return next(path for path in names if path and Path(path).exists())
