"""A headless Chromium, and a page that is logged in to a server and watched for errors and foreign requests.

Without a Chromium these tests are skipped and say so; under CI=true that is a failure.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from everycall.record import Record, encode

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


def _chromium(bundled: str) -> str | None:
    """Return the browser to use: the one named by CHROMIUM, Playwright's, or the system's."""
    candidates = [os.environ.get("CHROMIUM"), bundled]
    candidates += [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
    return next((path for path in candidates if path and Path(path).exists()), None)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for all tests."""
    with sync_playwright() as playwright:
        path = _chromium(playwright.chromium.executable_path)
        if path is None:
            reason = "no Chromium: install one (apt install chromium), or name it in CHROMIUM"
            if os.environ.get("CI") == "true":
                pytest.fail(reason)
            pytest.skip(reason)
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Watched:
    """What a page did besides showing its content."""

    console: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)


def _watch(page: Page, address: str) -> Watched:
    seen = Watched()
    page.on("console", lambda message: seen.console.append(message.text) if message.type != "log" else None)
    page.on("pageerror", lambda error: seen.console.append(str(error)))

    def dismiss(dialog: Any) -> None:
        seen.dialogs.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", dismiss)
    page.on(
        "request",
        lambda request: None if request.url.startswith((address, "data:")) else seen.outside.append(request.url),
    )
    return seen


@dataclass
class Visit:
    """A logged-in page and what it did. `go` opens a path of the server."""

    page: Page
    seen: Watched
    address: str

    def go(self, path: str) -> Page:
        """Open a path and return the page."""
        self.page.goto(self.address + path)
        return self.page


@pytest.fixture
def visit(chromium: Browser, server: Any) -> Iterator[Callable[..., Visit]]:
    """Open a browser context that is logged in: `visit(width=1440, java_script_enabled=False)`."""
    contexts = []

    def opening(width: int = 1440, height: int = 900, **options: Any) -> Visit:
        context = chromium.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        context.set_default_timeout(15_000)
        page = context.new_page()
        seen = _watch(page, server.address)
        page.goto(server.login_url("/traces"))
        assert page.url == server.address + "/traces"
        return Visit(page, seen, server.address)

    yield opening
    for context in contexts:
        context.close()


@pytest.fixture
def send(client: httpx.Client) -> Callable[..., None]:
    """Send records to the server's real endpoint."""

    def sending(*records: Record) -> None:
        answer = client.post("/v1/records", content=b"\n".join(encode(record) for record in records))
        assert answer.status_code == 200, answer.text
        assert answer.json()["refused"] == []

    return sending
