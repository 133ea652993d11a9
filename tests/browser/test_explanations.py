"""Figures and errors on the pages explain themselves: what is missing, why, and where to go from here."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from everycall.record import Record

pytestmark = pytest.mark.browser

MS = 1_000_000
HOUR = 3_600_000 * MS


def call(name: str, hours_ago: float = 1, length_ms: float = 100, **fields: Any) -> Record:
    """A record of trace `t1` that started some hours ago."""
    start = time.time_ns() - int(hours_ago * HOUR)
    values = {"trace_id": "t1", **fields}
    return Record(
        inference_id=f"{values['trace_id']}-{name}",
        name=name,
        start_time_unix_nano=start,
        end_time_unix_nano=start + int(length_ms * MS),
        **values,
    )


def test_a_failed_call_says_so_in_place_of_a_price(visit: Callable[..., Any], send: Callable[..., None]) -> None:
    error = "APIConnectionError: connection reset by `peer`"
    send(call("llm", kind="llm", model="gpt-5", status="error", error=error, error_type="openai.APIConnectionError"))
    page = visit().go("/traces/t1")
    panel = page.locator("#record")
    cost = panel.locator(".figures div", has_text="Cost")
    expect(cost).to_contain_text("the call failed")
    expect(panel).not_to_contain_text("price not known")
    assert page.locator(".row .cost span").get_attribute("title") == "the call failed"
    box = panel.locator(".error-box")
    expect(box.locator("h3")).to_have_text("openai.APIConnectionError")
    expect(box.locator(".text")).to_have_text("connection reset by `peer`")  # the provider's text, as it came


def test_a_call_without_tokens_is_explained(visit: Callable[..., Any], send: Callable[..., None]) -> None:
    send(
        call("root"),
        call("one", kind="llm", model="gpt-5", parent_id="t1-root", content="x"),
        call("two", kind="llm", model="gpt-5", parent_id="t1-root", input_tokens=3, output_tokens=4),
    )
    opened = visit()
    expect(opened.go("/traces").locator(".strip")).to_contain_text("1 call reported no tokens")
    page = opened.go("/traces/t1?record=t1-one")
    expect(page.locator(".strip")).to_contain_text("1 call reported no tokens")
    expect(page.locator("#record .figures div", has_text="Tokens in")).to_contain_text("none reported")
    expect(page.locator("#record .figures div", has_text="Cost")).to_contain_text("price not known: no token counts")


def test_the_list_shows_the_time_it_is_sorted_by(visit: Callable[..., Any], send: Callable[..., None]) -> None:
    send(
        call("long", hours_ago=30.5, length_ms=29 * 3_600_000, trace_id="long", trace_name="long"),
        call("short", hours_ago=4.5, trace_id="short", trace_name="short"),
    )
    page = visit().page
    head = page.locator("table.traces thead th[aria-sort]")
    expect(head).to_have_text("Last activity")
    rows = page.locator("table.traces tbody tr")
    expect(rows.nth(0)).to_contain_text("long")
    expect(rows.nth(0).locator(".when")).to_have_text("1 h ago")
    expect(rows.nth(1).locator(".when")).to_have_text("4 h ago")
    assert "Started" in (rows.nth(0).locator(".when time").get_attribute("title") or "")


def test_hidden_columns_are_listed(visit: Callable[..., Any], send: Callable[..., None]) -> None:
    send(call("root", trace_name="n" * 40, end_user_identifier="u" * 30, session_id="s" * 30, tags=["t" * 20, "b"]))
    hint = visit(width=1024).page.locator(".more-columns")
    expect(hint).to_contain_text("Scroll right for more columns:")
    expect(hint).to_contain_text("Tags")
    page = visit(width=1024).page
    page.locator("#traces").evaluate("wrap => wrap.scrollTo(10000, 0)")
    expect(page.locator(".more-columns")).to_be_hidden()
    expect(visit(width=1920).page.locator(".more-columns")).to_be_hidden()
    expect(visit(width=400).page.locator(".more-columns")).to_be_hidden()


def test_an_invalid_filter_keeps_the_form_and_the_other_filters(
    visit: Callable[..., Any], send: Callable[..., None]
) -> None:
    send(call("root", tags=["beta"]))
    page = visit().go("/traces?status=fine&tag=beta")
    expect(page.get_by_role("alert")).to_have_text("status may be 'success' or 'error', not 'fine'.")
    expect(page.get_by_label("Tag", exact=True)).to_have_value("beta")
    expect(page.get_by_role("heading", name="No trace matches")).to_have_count(0)
    page.locator(".chip", has_text="fine").click()
    expect(page.locator("table.traces tbody tr")).to_have_count(1)
    assert page.url.endswith("/traces?tag=beta")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("cursor=none", "This cursor does not belong to this list."),
        ("limit=0", "limit may be 1 to 1000, not '0'."),
        ("statu=error", "There is no filter 'statu'; did you mean 'status'?"),
        ("colour=red", "There is no filter 'colour'; there are search, status,"),
    ],
)
def test_any_invalid_parameter_of_the_list_keeps_the_form(
    visit: Callable[..., Any], send: Callable[..., None], query: str, message: str
) -> None:
    send(call("root", tags=["beta"]))
    opened = visit()
    page = opened.go(f"/traces?{query}&tag=beta")
    expect(page.get_by_role("alert")).to_contain_text(message)
    expect(page.get_by_label("Tag", exact=True)).to_have_value("beta")
    page.get_by_role("button", name="Apply").click()
    expect(page.locator("table.traces tbody tr")).to_have_count(1)


def test_an_error_page_links_to_the_page_without_its_parameters(
    visit: Callable[..., Any], send: Callable[..., None]
) -> None:
    send(call("root", project_name="shop"))
    page = visit().go("/traces/t1?record=none&project=shop")
    page.get_by_role("link", name="This page without its filters").click()
    assert page.url.endswith("/traces/t1?project=shop")
    expect(page.locator("#record-name")).to_have_text("root")
    page = visit().go("/traces/none?project=shop")
    expect(page.get_by_role("link", name="This page without its filters")).to_have_count(0)


@pytest.mark.parametrize(
    ("path", "current", "link"),
    [
        ("/traces/none", "Traces", "All traces"),
        ("/traces/t1?from=x", "Traces", "All traces"),
        ("/deployments/none", "Deployments", "All deployments"),
        ("/nothing", None, "All traces"),
    ],
)
def test_an_error_page_keeps_the_navigation_and_the_project(
    visit: Callable[..., Any], send: Callable[..., None], path: str, current: str | None, link: str
) -> None:
    send(call("root"), call("root", trace_id="t2", project_name="shop"))
    opened = visit()
    page = opened.go(path + ("&" if "?" in path else "?") + "project=shop")
    if current is not None:
        expect(page.locator("nav [aria-current]")).to_have_text(current)
    page.get_by_role("link", name=link).click()
    assert page.url == f"{opened.address}/{link.split()[1]}?project=shop"
    expect(page.locator("header .project")).to_contain_text("shop")
    assert opened.seen.outside == []
