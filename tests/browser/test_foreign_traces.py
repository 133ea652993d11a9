"""Traces of other senders, as they were recorded, read like everycall's own on the page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from everycall_testkit.corpus import post, scenarios

pytestmark = pytest.mark.browser


@pytest.fixture
def deliver(client: httpx.Client) -> Callable[..., str]:
    """Send a recorded scenario of a sender into a project of its name; return the path of its trace."""

    def delivering(sender: str, scenario: str) -> str:
        files = next(one.files for one in scenarios(sender) if one.name == scenario)
        for file in files:
            assert post(client, sender, file).status_code == 200
        traces = client.get("/traces.json", params={"project": sender}).json()["traces"]
        assert len(traces) == 1
        return f"/traces/{traces[0]['trace_id']}?project={sender}"

    return delivering


def names(page: Page) -> list[str]:
    return page.locator("[data-tree] .label").all_inner_texts()


def open_record(page: Page, name: str) -> Any:
    """Select the first row of that name; return its panel."""
    page.locator("[data-tree] .row", has_text=name).first.click()
    panel = page.locator("#record")
    expect(panel.locator("#record-name")).to_have_text(name)
    return panel


def fact(panel: Any, label: str) -> Any:
    return panel.locator(".facts > div").filter(has=panel.page.locator("dt", has_text=label)).locator("dd")


def test_a_foreign_trace_is_shown_like_any_other(visit: Callable[..., Any], deliver: Callable[..., str]) -> None:
    page = visit().go(deliver("vercel-ai-7", "tools"))
    assert names(page) == [
        "answer_question", "step 1", "chat gpt-4o-mini", "get_weather", "step 2", "chat gpt-4o-mini"
    ]  # fmt: skip
    strip = page.locator(".strip")
    expect(strip).to_contain_text("230")
    expect(strip).to_contain_text("$0.0000501")
    panel = open_record(page, "get_weather")
    expect(panel.locator(".kind-badge")).to_have_text("tool")
    expect(panel.locator(".s-inputs")).to_contain_text("Lyon")
    panel = open_record(page, "chat gpt-4o-mini")
    expect(panel.locator(".kind-badge")).to_have_text("llm")
    expect(panel.locator(".made-by")).to_have_text("gpt-4o-mini-2024-07-18 on openai")
    expect(panel.locator(".m-user").first).to_contain_text("What is the weather in Lyon?")
    expect(panel.locator(".s-output .tool-call")).to_contain_text("get_weather")
    expect(panel.locator(".figures div", has_text="Tokens in")).to_contain_text("100")
    expect(fact(panel, "Finish reason")).to_have_text("tool-calls")


@pytest.mark.parametrize("sender", ["pydantic-ai-v1", "pydantic-ai-v2", "pydantic-ai-v5"])
def test_agents_and_tools_are_told_apart(client: httpx.Client, deliver: Callable[..., str], sender: str) -> None:
    view = client.get(deliver(sender, "tools").replace("?", ".json?")).json()
    assert [(row["name"], row["kind"]) for row in view["rows"]] == [
        ("weather_agent", "agent"), ("chat gpt-4o-mini", "llm"), ("get_weather", "tool"), ("chat gpt-4o-mini", "llm")
    ]  # fmt: skip
    assert view["origin"]["sender"] == view["origin"]["dialect_name"] == "Pydantic AI"


def test_a_record_names_its_sender_and_dialect(visit: Callable[..., Any], deliver: Callable[..., str]) -> None:
    page = visit().go(deliver("openai-agents-openinference", "chat_tools"))
    panel = open_record(page, "generation")
    expect(panel.locator(".sent-by")).to_have_text("Sent by OpenInference")
    expect(fact(panel, "Dialect")).to_have_text("OpenInference")
    expect(fact(panel, "Instrumentation")).to_contain_text("openinference.instrumentation.openai_agents")
    expect(fact(panel, "SDK")).to_contain_text("opentelemetry-python/")
    expect(fact(panel, "Service")).to_have_text("corpus-app")
    twin = page.request.get(
        page.locator(".twin").get_attribute("href") and page.locator(".twin").evaluate("a => a.href")
    )
    origin = twin.json()["origin"]
    assert (origin["sender"], origin["dialect"]) == ("OpenInference", "openinference")
    assert origin["scope"] == "openinference.instrumentation.openai_agents"


def test_missing_fields_are_explained(visit: Callable[..., Any], deliver: Callable[..., str]) -> None:
    opened = visit()
    panel = open_record(opened.go(deliver("openinference-openai-hidden", "chat")), "ChatCompletion")
    expect(panel.locator(".s-output")).to_contain_text("not sent by OpenInference")
    page = opened.go(deliver("anthropic-own-no-content", "anthropic_error_400"))
    expect(page.locator("#record .s-inputs")).to_contain_text("not sent by Anthropic's client")
    expect(page.locator("#record .error-box")).to_contain_text("not sent by Anthropic's client")
    page = opened.go(deliver("vercel-ai-7", "chat"))
    expect(fact(page.locator("#record"), "SDK")).to_have_text("not sent by Vercel AI SDK")


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_steps_can_be_folded(visit: Callable[..., Any], deliver: Callable[..., str], script: bool) -> None:
    opened = visit(java_script_enabled=script)
    page = opened.go(deliver("vercel-ai-7", "tools"))
    expect(page.locator(".steps")).to_contain_text("2 steps are no calls")
    page.get_by_role("link", name="Fold them").click()
    assert "steps=folded" in page.url
    assert names(page) == ["answer_question", "chat gpt-4o-mini", "get_weather", "chat gpt-4o-mini"]
    expect(page.locator("[data-tree] .row").first).to_contain_text("+2 steps")
    assert [row.get_attribute("data-depth") for row in page.locator("[data-tree] .row").all()] == ["0", "1", "1", "1"]
    open_record(page, "get_weather")
    assert "steps=folded" in page.url
    twin = page.request.get(page.locator(".twin").evaluate("a => a.href")).json()
    assert (twin["steps"], twin["steps_folded"], len(twin["rows"])) == (2, True, 4)
    page.get_by_role("link", name="Show them").click()
    assert "steps=folded" not in page.url
    assert len(names(page)) == 6
    expect(page.locator("#record-name")).to_have_text("get_weather")


def test_an_unknown_way_to_show_steps_is_refused(client: httpx.Client, deliver: Callable[..., str]) -> None:
    path = deliver("vercel-ai-7", "tools")
    answer = client.get(path.replace("?", ".json?") + "&steps=gone")
    assert (answer.status_code, answer.json()["detail"]) == (400, "steps may be 'folded' or absent, not 'gone'.")


@pytest.mark.parametrize("width", [400, 1024, 1440])
def test_traces_of_senders_fit_the_window(visit: Callable[..., Any], deliver: Callable[..., str], width: int) -> None:
    opened = visit(width=width)
    for sender in ("langfuse-5", "strands", "smolagents-openinference", "anthropic-own-no-content"):
        scenario = next(one.name for one in scenarios(sender) if one.calls)
        for query in ("", "&steps=folded"):
            page = opened.go(deliver(sender, scenario) + query)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, sender
    assert opened.seen.console == []
    assert opened.seen.outside == []
