"""The pages in a real browser with a real server: what a person sees and does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote_plus

import httpx
import pytest
from playwright.sync_api import expect

from everycall.record import Record, to_raw

pytestmark = pytest.mark.browser

MS = 1_000_000
HOUR = 3_600_000 * MS


def call(name: str, start: float = 0, length: float = 100, **fields: Any) -> Record:
    """A record of trace `t1` that ran from `start` for `length` milliseconds, an hour ago."""
    begin = time.time_ns() // HOUR * HOUR - HOUR + int(start * MS)
    record = {"trace_id": "t1", "parent_id": "t1-root" if name != "root" else None, **fields}
    return Record(
        inference_id=f"{record['trace_id']}-{name}",
        name=name,
        start_time_unix_nano=begin,
        end_time_unix_nano=begin + int(length * MS),
        latency=length / 1000,
        **record,
    )


TRACE = (
    call("root", 0, 1000, trace_name="support", tags=["beta"], end_user_identifier="u-7"),
    call("search", 100, 200, kind="retriever", inputs=to_raw({"query": "refund window"}), output=to_raw(["a", "b"])),
    call(
        "draft",
        400,
        500,
        kind="llm",
        model="gpt-5",
        provider="openai",
        input_tokens=1234,
        output_tokens=56,
        cost=0.000123,
        time_to_first_token=0.1,
        content="You have 30 days.",
        llm_configuration=to_raw({"messages": [{"role": "user", "content": "How long?"}]}),
    ),
    call("check", 400, 250, kind="tool", omitted=["inputs", "outputs"]),
    call("fails", 950, 50, kind="tool", status="error", error="connection reset", error_type="ConnectionError"),
)


@pytest.fixture
def seeded(send: Callable[..., None]) -> None:
    send(
        *TRACE,
        call("plan", trace_id="t2", parent_id=None, trace_name="planning"),
        call("model", trace_id="t3", parent_id=None, kind="llm", model="local"),
    )


def test_the_list_shows_every_trace_with_its_figures(visit: Callable[..., Any], seeded: None) -> None:
    page = visit().page
    rows = page.locator("table.traces tbody tr")
    expect(rows).to_have_count(3)
    support = rows.filter(has_text="support")
    for text in ("root", "1.00 s", "5", "1 failed", "gpt-5", "1,234", "56", "$0.000123", "u-7", "beta"):
        expect(support).to_contain_text(text)
    unpriced = rows.filter(has_text="local")
    expect(unpriced).to_contain_text("1 unpriced")
    expect(unpriced).not_to_contain_text("$")
    strip = page.locator(".strip")
    for text in ("Traces here3", "Calls7", "Errors1", "Unpriced1"):
        expect(strip).to_contain_text(text)


def test_filters_narrow_the_list_and_chips_remove_them(visit: Callable[..., Any], seeded: None) -> None:
    opened = visit()
    page = opened.page
    rows = page.locator("table.traces tbody tr")
    page.get_by_label("Status").select_option("error")
    expect(rows).to_have_count(1)
    assert page.url == opened.address + "/traces?status=error"
    page.get_by_text("More filters").click()
    page.get_by_label("Trace name").fill("planning")
    page.get_by_role("button", name="Apply").click()
    expect(page.get_by_role("heading", name="No trace matches")).to_be_visible()
    page.locator(".chip", has_text="Status").click()
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("plan")
    page.get_by_role("link", name="Clear all").click()
    expect(rows).to_have_count(3)
    page.get_by_role("link", name="beta").click()
    expect(rows).to_have_count(1)
    assert page.url.endswith("/traces?tag=beta")


def test_bars_of_the_waterfall_are_placed_by_the_times(visit: Callable[..., Any], seeded: None) -> None:
    page = visit().page
    page.locator("a.open", has_text="support").click()
    boxes = {}
    for name in ("root", "search", "draft", "check", "fails"):
        box = page.locator(".row", has_text=name).locator(".bar").bounding_box()
        assert box is not None
        boxes[name] = box
    root = boxes["root"]

    def place(name: str) -> tuple[float, float]:
        return (boxes[name]["x"] - root["x"]) / root["width"], boxes[name]["width"] / root["width"]

    assert place("search") == pytest.approx((0.1, 0.2), abs=0.01)
    assert place("draft") == pytest.approx((0.4, 0.5), abs=0.01)
    assert place("check") == pytest.approx((0.4, 0.25), abs=0.01)
    assert place("fails") == pytest.approx((0.95, 0.05), abs=0.01)
    tops = [boxes[name]["y"] for name in boxes]
    assert tops == sorted(tops)
    wait = page.locator(".row", has_text="draft").locator(".wait").bounding_box()
    assert wait is not None
    assert (wait["x"], wait["width"]) == pytest.approx((boxes["draft"]["x"], root["width"] * 0.1), abs=2)
    marks = page.locator(".axis text").all()
    assert [mark.text_content() for mark in marks] == ["0", "200 ms", "400 ms", "600 ms", "800 ms"]
    middle = marks[2].bounding_box()
    assert middle is not None
    assert middle["x"] + middle["width"] / 2 == pytest.approx(boxes["draft"]["x"], abs=3)
    indents = [page.locator(".row", has_text=name).locator(".label").bounding_box() for name in ("root", "search")]
    assert indents[0] is not None
    assert indents[1] is not None
    assert indents[1]["x"] > indents[0]["x"] + 10


def test_selecting_a_call_shows_it_without_loading_the_page_again(visit: Callable[..., Any], seeded: None) -> None:
    opened = visit()
    page = opened.go("/traces/t1")
    panel = page.locator("#record")
    expect(panel.get_by_role("heading", name="root")).to_be_visible()
    page.evaluate("window.stayed = true")
    page.locator(".row", has_text="draft").click()
    expect(panel.get_by_role("heading", name="draft")).to_be_visible()
    for text in ("gpt-5", "openai", "1,234", "$0.000123", "100 ms", "How long?", "You have 30 days."):
        expect(panel).to_contain_text(text)
    assert page.evaluate("window.stayed") is True
    assert page.url == opened.address + "/traces/t1?record=t1-draft"
    expect(page.locator(".row[aria-current]")).to_contain_text("draft")
    page.reload()
    expect(panel.get_by_role("heading", name="draft")).to_be_visible()
    page.locator(".row", has_text="fails").click()
    expect(panel).to_contain_text("ConnectionError")
    expect(panel).to_contain_text("connection reset")
    assert opened.seen.console == []


def test_selecting_works_without_a_script(visit: Callable[..., Any], seeded: None) -> None:
    page = visit(java_script_enabled=False).go("/traces/t1")
    page.locator(".row", has_text="search").click()
    expect(page.locator("#record").get_by_role("heading", name="search")).to_be_visible()
    expect(page.locator("#record")).to_contain_text("refund window")
    expect(page.locator(".copy").first).to_be_hidden()


def test_omitted_content_is_named_and_not_shown(visit: Callable[..., Any], seeded: None) -> None:
    page = visit().go("/traces/t1?record=t1-check")
    panel = page.locator("#record")
    expect(panel).to_contain_text("inputs omitted by log_omit_inputs")
    expect(panel).to_contain_text("outputs omitted by log_omit_outputs")
    assert panel.locator(".s-inputs .text, .s-inputs .json, .s-output .text, .s-output .json").count() == 0


def test_the_keyboard_moves_through_the_tree(visit: Callable[..., Any], seeded: None) -> None:
    page = visit().go("/traces/t1")
    current = page.locator(".row[aria-current]")
    heading = page.locator("#record h2")
    for key, name in (
        ("j", "search"),
        ("ArrowDown", "draft"),
        ("k", "search"),
        ("ArrowUp", "root"),
        ("ArrowUp", "root"),
        ("End", "fails"),
        ("j", "fails"),
        ("Home", "root"),
    ):
        page.keyboard.press(key)
        expect(current).to_contain_text(name)
        expect(heading).to_have_text(name)
    assert current.evaluate("row => row === document.activeElement") is True


def test_the_keyboard_moves_through_the_list(visit: Callable[..., Any], seeded: None) -> None:
    opened = visit()
    page = opened.page
    page.keyboard.press("/")
    page.keyboard.type("jk")
    expect(page.locator("#f-search")).to_have_value("jk")
    page.locator("#f-search").blur()
    page.keyboard.press("j")
    first = page.locator("a.open").first
    expect(first).to_be_focused()
    href = first.get_attribute("href")
    page.keyboard.press("Enter")
    page.wait_for_url(f"{opened.address}{href}")


def test_copying_an_id(visit: Callable[..., Any], seeded: None) -> None:
    page = visit(permissions=["clipboard-read", "clipboard-write"]).go("/traces/t1?record=t1-draft")
    page.get_by_role("button", name="Copy inference id").click()
    expect(page.locator(".copy.done")).to_have_count(1)
    assert page.evaluate("navigator.clipboard.readText()") == "t1-draft"


def test_long_text_is_folded_and_unfolds(visit: Callable[..., Any], send: Callable[..., None]) -> None:
    send(call("root", content="word " * 2000 + "the very end"))
    panel = visit().go("/traces/t1").locator("#record")
    end = panel.locator(".s-output").get_by_text("the very end")
    expect(end).to_be_hidden()
    panel.get_by_text("Show all 10,012 characters").click()
    expect(end).to_be_visible()
    assert panel.locator(".s-output .text:visible").count() == 1


def test_broken_trees_are_shown_and_marked(visit: Callable[..., Any], send: Callable[..., None]) -> None:
    send(
        call("root"),
        call("lost", 10, parent_id="never-stored"),
        call("self", 20, parent_id="t1-self"),
        call("one", 30, parent_id="t1-two"),
        call("two", 40, parent_id="t1-one"),
    )
    page = visit().go("/traces/t1")
    expect(page.locator(".row")).to_have_count(5)
    expect(page.locator(".row", has_text="lost")).to_contain_text("parent not stored")
    expect(page.locator(".row", has_text="self")).to_contain_text("circular parent")
    expect(page.locator(".row", has_text="one")).to_contain_text("circular parent")


@pytest.mark.parametrize("trace_id", ["a/../b", "..", "x.json", "a?b#c", "%2e%2e", "line\nbreak"])
def test_the_browser_finds_a_trace_with_any_id(
    visit: Callable[..., Any], send: Callable[..., None], trace_id: str
) -> None:
    send(call("root", trace_id=trace_id), call("leaf", trace_id=trace_id, parent_id=f"{trace_id}-root"))
    page = visit().page
    page.locator("a.open").click()
    page.locator(".row", has_text="leaf").click()
    expect(page.locator("#record h2")).to_have_text("leaf")
    page.reload()
    expect(page.locator("#record h2")).to_have_text("leaf")
    page.get_by_role("link", name="JSON", exact=True).click()
    assert f"record={quote_plus(trace_id)}-leaf" in page.url
    assert '"name": "leaf"' in page.content()


@pytest.mark.parametrize("width", [390, 800, 1440])
def test_nothing_overflows_or_overlaps(visit: Callable[..., Any], send: Callable[..., None], width: int) -> None:
    long = "an-identifier-without-any-place-to-break-" * 8
    send(
        call("root", trace_name=long, end_user_identifier=long, session_id=long, tags=[long, "b", "c"]),
        call(
            long, 10, kind="llm", model=long, provider=long, cost=1e-9, input_tokens=2**53, error=long, status="error"
        ),
        call("json", 20, inputs=to_raw({long: long, "list": [long, {"a": {"b": {"c": long}}}]}), content=long * 9),
    )
    opened = visit(width=width)
    for path in ("/traces", "/traces/t1", f"/traces/t1?record=t1-{long}", "/traces/t1?record=t1-json", "/status"):
        page = opened.go(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        spilling = page.evaluate(
            """() => ["#record", ".record", ".strip", ".trace-head", ".tree", ".filters", ".chips", "main"]
                .flatMap((name) => [...document.querySelectorAll(name)])
                .filter((one) => one.scrollWidth > one.clientWidth + 1)
                .map((one) => one.className || one.id)"""
        )
        assert spilling == [], path


def test_no_page_logs_errors_or_calls_another_host(visit: Callable[..., Any], seeded: None) -> None:
    for scheme in ("light", "dark"):
        opened = visit(color_scheme=scheme)
        for path in ("/traces", "/traces?search=x", "/traces/t1", "/traces/t1?record=t1-draft", "/status"):
            opened.go(path)
        assert (opened.seen.console, opened.seen.dialogs, opened.seen.outside) == ([], [], [])


def test_a_call_is_copied_as_json_curl_and_python(visit: Callable[..., Any], send: Callable[..., None]) -> None:
    configuration = {"model": "gpt-5", "messages": [{"role": "user", "content": "hi"}]}
    send(Record(inference_id="i", trace_id="t", name="call", kind="llm", llm_configuration=to_raw(configuration)))
    opened = visit(permissions=["clipboard-read", "clipboard-write"])
    page = opened.go("/traces/t")
    page.get_by_text("Copy as JSON, curl or Python").click()
    for name, start in (
        ("JSON", "{"),
        ("curl", f"curl {opened.address}/api/parea/v1/completion"),
        ("Python", "import os"),
    ):
        page.get_by_role("button", name=f"Copy as {name}").click()
        assert page.evaluate("navigator.clipboard.readText()").startswith(start)
    twin = page.request.get(page.locator(".twin").evaluate("a => a.href")).json()
    assert twin["request"] == {"llm_configuration": configuration}


@pytest.mark.parametrize("preference", ["light", "dark"])
def test_the_theme_can_be_chosen_and_is_kept(visit: Callable[..., Any], preference: str) -> None:
    opened = visit(color_scheme=preference)
    page = opened.page
    ground = "getComputedStyle(document.body).backgroundColor"
    colours = {"light": "rgb(246, 246, 248)", "dark": "rgb(15, 16, 20)"}
    button = page.get_by_role("button", name="Theme:")
    expect(button).to_have_text("Theme: auto")
    assert page.evaluate(ground) == colours[preference]
    for theme in ("light", "dark"):
        button.click()
        expect(button).to_have_text(f"Theme: {theme}")
        assert page.evaluate(ground) == colours[theme]
        for path in ("/status", "/traces/none", "/traces"):
            opened.go(path)
            assert page.locator("html").get_attribute("data-theme") == theme
            assert page.evaluate(ground) == colours[theme]
    button.click()
    expect(button).to_have_text("Theme: auto")
    opened.go("/status")
    assert page.evaluate(ground) == colours[preference]


def test_a_theme_that_does_not_exist_is_ignored(server: Any) -> None:
    key = {"x-api-key": server.key, "accept": "text/html"}
    answer = httpx.get(f"{server.address}/traces", headers={**key, "cookie": "everycall_theme=blue"})
    assert 'data-theme="' not in answer.text
