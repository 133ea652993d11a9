"""Hostile text in every field of a record: nothing of it runs, and no request goes to another origin."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect

from everycall.record import Cut, Record, encode, to_raw

pytestmark = pytest.mark.browser

OUT = "//outside.invalid/"
PAYLOADS = [
    "<script>alert(1)</script>",
    f"<script src={OUT}a.js></script>",
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    f"<img src='{OUT}pixel.png'>",
    "<svg onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "<svg><animate onbegin=alert(1) attributeName=x dur=1s>",
    f"<svg><image href='{OUT}i.svg'/></svg>",
    f"<svg><use href='{OUT}u.svg#x'/></svg>",
    "<math><mtext><img src=x onerror=alert(1)></mtext></math>",
    "<body onload=alert(1)>",
    "<iframe src=javascript:alert(1)></iframe>",
    f"<iframe src='{OUT}'></iframe>",
    f"<object data='{OUT}o'></object>",
    f"<embed src='{OUT}e'>",
    f"<link rel=stylesheet href='{OUT}s.css'>",
    f"<style>@import '{OUT}s.css';</style>",
    f"<style>*{{background:url({OUT}bg)}}</style>",
    f"<base href='{OUT}'>",
    f"<meta http-equiv=refresh content='0;url=http:{OUT}'>",
    f"<form action='{OUT}'><input name=x autofocus onfocus=alert(1)></form>",
    "<details open ontoggle=alert(1)>",
    "<video><source onerror=alert(1)></video>",
    "<audio src=x onerror=alert(1)>",
    "<marquee onstart=alert(1)>",
    "<a href=javascript:alert(1) autofocus onfocus=alert(1)>x</a>",
    "javascript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    '" onmouseover=alert(1) autofocus onfocus=alert(1) x="',
    "' onmouseover=alert(1) autofocus onfocus=alert(1) x='",
    '"><script>alert(1)</script>',
    "'><img src=x onerror=alert(1)>",
    "</title><script>alert(1)</script>",
    "</textarea></code></pre><script>alert(1)</script>",
    "--><script>alert(1)</script><!--",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}{{7*7}}",
    "{% include '/etc/passwd' %}${alert(1)}#{alert(1)}",
    '<noscript><p title="</noscript><img src=x onerror=alert(1)>">',
    "\u202e<\u0000script>alert(1)</script>\ufeff<ScRiPt>alert(1)</sCrIpT>",
    "&lt;script&gt;alert(1)&lt;/script&gt;&#x3c;img src=x onerror=alert(1)&#x3e;",
]


def hostile(number: int, payload: str) -> list[Record]:
    """Return two records with the payload in every text: one as clients of models send it, one as functions do."""
    start = time.time_ns() - 3_600_000_000_000 + number * 1_000_000_000
    label = f"{payload} {number}"
    texts: dict[str, Any] = {
        "trace_id": label,
        "trace_name": label,
        "name": payload,
        "end_user_identifier": payload,
        "session_id": payload,
        "deployment_id": payload,
        "tags": [payload],
        "model": payload,
        "provider": payload,
        "error": payload,
        "error_type": payload,
        "status": "error",
        "cost_source": payload[:64],
        "price_version": payload[:64],
        "cost": 0.1,
        "usage": {payload: 1},
        "sdk": payload,
        "scope": payload,
        "omitted": [payload[:64]],
        "truncated": {payload: Cut(kept=1, bytes=2, sha256=payload), "inputs": Cut(kept=1, sha256=payload)},
        "metadata": to_raw({payload: [payload, {payload: payload}]}),
        "attributes": to_raw({"exception.stacktrace": payload, payload: payload}),
        "target": to_raw(payload),
        "start_time_unix_nano": start,
        "end_time_unix_nano": start + 1_000_000,
    }
    messages = [
        {"role": "user", "name": payload, "content": payload},
        {"role": "assistant", "content": [{"type": "text", "text": payload}, {"type": payload, payload: payload}]},
        {"role": "assistant", "tool_calls": [{"id": payload, "function": {"name": payload, "arguments": payload}}]},
        {"role": "tool", "tool_call_id": payload, "content": payload},
    ]
    return [
        Record(
            inference_id=f"{label} a",
            kind="llm",
            llm_inputs=to_raw({payload: payload}),
            llm_configuration=to_raw({"messages": messages, payload: payload}),
            content=payload + "\n" + payload * 400,
            **texts,
        ),
        Record(
            inference_id=f"{label} b",
            parent_id=f"{label} a",
            kind=payload[:64],
            inputs=to_raw({payload: payload}),
            output=to_raw([payload, payload * 400]),
            **texts,
        ),
    ]


def test_there_are_forty_different_payloads() -> None:
    assert len(set(PAYLOADS)) >= 40


@pytest.mark.timeout(180)
def test_no_text_of_a_record_runs_or_sends_a_request(visit: Callable[..., Any], send: Callable[..., None]) -> None:
    for number, payload in enumerate(PAYLOADS):
        send(*hostile(number, payload))
    opened = visit()
    page = opened.go("/traces?limit=100")
    expect(page.locator("table.traces tbody tr")).to_have_count(len(PAYLOADS))
    hrefs = page.eval_on_selector_all("a.open", "links => links.map((link) => link.getAttribute('href'))")
    for href in hrefs:
        page = opened.go(href)
        rows = page.locator(".row")
        expect(rows).to_have_count(2)
        page.keyboard.press("j")
        expect(page.locator(".row[aria-current] .rails")).to_have_count(1)
        expect(page.locator("#record .loading")).to_have_count(0)
        page.locator("details:not([open])").evaluate_all("all => all.forEach((one) => { one.open = true; })")
    for path in (
        "/traces?search=%3Cscript%3Ealert(1)%3C/script%3E",
        "/traces?status=%22%3E%3Cimg%20src=x%20onerror=alert(1)%3E",
    ):
        opened.go(path)
    assert opened.seen.dialogs == []
    assert opened.seen.outside == []
    unwanted = [text for text in opened.seen.console if "400 (Bad Request)" not in text]
    assert unwanted == []


def test_a_payload_is_shown_as_text(visit: Callable[..., Any], send: Callable[..., None]) -> None:
    payload = "<img src=x onerror=alert(1)> & \"'{{7*7}}"
    send(*hostile(0, payload))
    page = visit().page
    page.locator("a.open").click()
    expect(page.locator("h1")).to_contain_text(payload)
    expect(page.locator("#record h2")).to_have_text(payload)
    expect(page.locator("#record .message").first).to_contain_text(payload)
    assert page.locator("#main img, #main script, #main iframe").count() == 0


@pytest.mark.timeout(180)
def test_no_other_text_runs_or_sends_a_request(
    visit: Callable[..., Any], send: Callable[..., None], client: httpx.Client
) -> None:
    """Deployments with their versions, differences and forms; the names of projects, client processes and datasets."""
    paths = ["/deployments", "/deployments?active=false", "/status", "/deployments/new", "/traces"]
    together = ["\n".join(PAYLOADS[start : start + 4]) for start in range(0, len(PAYLOADS), 4)]
    for number, payload in enumerate(together):
        project = f"{payload} {number}"[:256]
        name = "".join(one if " " <= one <= "~" else "?" for one in payload)
        client.post(
            "/v1/records",
            headers={"x-everycall-client": f"{name[:100]}:{number}", "x-everycall-balance": '{"recorded":1}'},
            content=encode(Record(inference_id=f"{number}", trace_id=f"{number}", project_name=project)),
        )
        body = {
            "name": payload,
            "model": payload,
            "messages": [
                {"role": "user", "name": payload, "content": payload + "{{" + payload + "}}"},
                {"role": "assistant", "content": [{"type": "text", "text": payload}]},
            ],
            "functions": [{"name": payload, "description": payload, "parameters": {payload: payload}}],
            "function_call": payload,
            "model_params": {"response_format": {"type": payload}},
        }
        response = client.post("/api/deployments", json=body)
        assert response.status_code == 200, response.text
        own = response.json()["deployment_id"]
        changed = {**body, "deployment_id": own, "name": payload * 2, "model": payload * 2}
        assert client.post("/api/deployments", json=changed).json()["version"] == 2
        paths += [f"/deployments/{own}", f"/deployments/{own}/diff?from=1&to=2", f"/deployments/{own}/edit"]
    hostile_query = "%3Cimg%20src=x%20onerror=alert(1)%3E"
    paths += [f"/deployments/x?done={hostile_query}", f"/deployments?project={hostile_query}", f"/x{hostile_query}"]
    opened = visit()
    for path in paths:
        opened.go(path)
        opened.page.locator("details:not([open])").evaluate_all("all => all.forEach((one) => { one.open = true; })")
        assert opened.page.locator("main iframe, main object, main embed, main base").count() == 0
        assert opened.page.locator("img[src=x], svg[onload], [onerror], [onmouseover]").count() == 0
    assert opened.seen.dialogs == []
    assert opened.seen.outside == []
    assert [text for text in opened.seen.console if "Failed to load resource" not in text] == []
