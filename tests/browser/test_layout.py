"""Pages fit their window at any width and in any font: nothing is wider than the window, and no figure is cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect

from everycall.record import Record, encode

pytestmark = pytest.mark.browser

LONG = "a-name-without-any-place-to-break-" * 6
WIDE = "* { font-family: monospace !important; letter-spacing: .12em !important; word-spacing: .16em !important }"
"""Wide letters, with the text spacing that pages must support by WCAG 2.2 (1.4.12)."""
PATHS = (
    "/traces", "/traces?status=error", "/traces?tag=none", "/traces?status=fine", "/traces/t1?record=t1-call",
    "/traces/none", "/status", "/deployments", "/deployments/support", "/deployments/support?version=1",
    "/deployments/support/edit", "/deployments/support/diff", "/deployments/new", "/deployments/none", "/login",
)  # fmt: skip
CUT = """() => [...document.querySelectorAll(".strip dt, .strip dd, .figures dt, .figures dd, td.num")]
    .filter((element) => element.scrollWidth > element.clientWidth + 1 && element.clientWidth > 0)
    .map((element) => element.textContent.trim())"""


@pytest.fixture
def server(gateway_server: Any) -> Any:
    """The server that the browser visits has a provider."""
    return gateway_server


@pytest.fixture
def filled(client: httpx.Client, send: Callable[..., None]) -> None:
    """Traces and deployments with long names, ids and figures."""
    start = 1_800_000_000_000_000_000
    common: dict[str, Any] = {"trace_id": "t1", "start_time_unix_nano": start, "end_time_unix_nano": start + 10**12}
    send(
        Record(inference_id="t1-root", name=LONG, trace_name=LONG, end_user_identifier=LONG, tags=[LONG], **common),
        Record(
            inference_id="t1-call",
            parent_id="t1-root",
            name="call",
            kind="llm",
            model="a-model-2026-10-18",
            input_tokens=123_456_789,
            output_tokens=98_765_432,
            cost=1234.567891,
            latency=1000.0,
            **common,
        ),
        Record(
            inference_id="t1-failed",
            parent_id="t1-root",
            name="failed",
            kind="llm",
            status="error",
            error=LONG,
            error_type="ValueError",
            **common,
        ),
    )
    balance = '{"recorded":123456789,"delivered":123456000,"spooled":700,"dropped":{"spool_full":89}}'
    headers = {"x-everycall-client": f"{LONG[:200]}:4711:1", "x-everycall-balance": balance}
    client.post(
        "/v1/records", content=encode(Record(inference_id="other", trace_id="other")), headers=headers
    ).raise_for_status()
    body = {"name": LONG, "model": "m" * 100, "messages": [{"role": "user", "content": "{{question}} " + LONG}]}
    client.put("/api/deployments/support", json=body).raise_for_status()
    client.put("/api/deployments/support", json={**body, "model": "gpt-4o-mini"}).raise_for_status()
    answer = client.post("/api/parea/v1/completion", json={"deployment_id": "support", "llm_inputs": {"question": "?"}})
    assert answer.json()["status"] == "success"


@pytest.mark.parametrize("style", ["", WIDE], ids=["default font", "wide font"])
@pytest.mark.parametrize("width", [320, 360, 400, 768, 1024, 1440])
def test_every_page_fits_its_window(visit: Callable[..., Any], filled: None, width: int, style: str) -> None:
    opened = visit(width=width, bypass_csp=True)  # or the page would refuse the style
    for path in PATHS:
        page = opened.go(path)
        if style:
            page.add_style_tag(content=style)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert page.evaluate(CUT) == [], path


OUT_OF_VIEW = """() => [...document.querySelectorAll(".top a, .top button, .top select")].filter((element) => {
    const box = element.getBoundingClientRect();
    const frame = element.parentElement.getBoundingClientRect();
    const shown = box.width > 0;
    return shown && (box.left < 0 || box.right > window.innerWidth + 1 || box.right > frame.right + 1);
}).map((element) => element.textContent.trim())"""


@pytest.mark.parametrize("style", ["", WIDE], ids=["default font", "wide font"])
@pytest.mark.parametrize("width", [320, 400, 761, 1001])
def test_the_whole_frame_is_in_view(visit: Callable[..., Any], filled: None, width: int, style: str) -> None:
    opened = visit(width=width, bypass_csp=True)
    for path in ("/traces", "/status", "/deployments/none"):
        page = opened.go(path)
        if style:
            page.add_style_tag(content=style)
        for name in ("Traces", "Deployments", "Status"):
            assert page.locator("header nav a", has_text=name).is_visible(), path
        if "none" not in path:
            assert page.locator("header").get_by_role("link", name="JSON").is_visible(), path
        assert page.evaluate(OUT_OF_VIEW) == [], path


def test_versions_are_cards_at_400_pixels(visit: Callable[..., Any], filled: None) -> None:
    page = visit(width=400).go("/deployments/support")
    wrap = page.locator(".table-wrap:has(.versions)")
    assert wrap.evaluate("wrap => wrap.scrollWidth <= wrap.clientWidth")
    row = page.locator(".versions tbody tr").nth(1)
    for text in ("version 1", "m" * 100, "Serve"):
        assert text in row.inner_text()


def test_a_trace_keeps_its_user_and_session_at_400_pixels(visit: Callable[..., Any], send: Callable[..., None]) -> None:
    send(Record(inference_id="i", trace_id="t", end_user_identifier="u-amara", session_id="s-10120"))
    card = visit(width=400).page.locator(".traces tbody tr")
    assert "user u-amara" in card.inner_text()
    assert "session s-10120" in card.inner_text()


@pytest.mark.parametrize("width", [800, 1024])
def test_every_table_that_scrolls_sideways_says_so(visit: Callable[..., Any], filled: None, width: int) -> None:
    opened = visit(width=width, bypass_csp=True)
    for path in ("/traces", "/status", "/deployments", "/deployments/support"):
        page = opened.go(path)
        page.add_style_tag(content=WIDE + "table { min-width: 1400px }")
        for wrap in page.locator(".table-wrap:visible").all():
            hint = wrap.locator("xpath=preceding-sibling::p[1]")
            last = wrap.locator("thead th").last.inner_text()
            expect(hint).to_contain_text("Scroll right for more columns:")
            expect(hint).to_contain_text(last)
