"""The pages over HTTP, on a real server with a real store: content, permissions and bounds."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from everycall import limits
from everycall.record import Record, encode, to_raw
from everycall.server.pages.addresses import trace_path
from everycall.server.pages.rendering import STATIC_FILES, asset_href

START = 1_790_000_000_000_000_000
MS = 1_000_000
HTML = {"accept": "text/html"}


def call(name: str, trace_id: str = "t1", **fields: Any) -> Record:
    given = {"start_time_unix_nano": START, "end_time_unix_nano": START + 100 * MS, "latency": 0.1, **fields}
    return Record(inference_id=f"{trace_id[:64]}-{name}", trace_id=trace_id, name=name, **given)


@pytest.fixture
def send(client: httpx.Client) -> Callable[..., None]:
    """Send records to the server, as the SDK does."""

    def sending(*records: Record, **headers: str) -> None:
        for first in range(0, len(records), 500):
            body = b"\n".join(encode(record) for record in records[first : first + 500])
            answer = client.post(
                "/v1/records", content=body, headers={"content-type": "application/x-ndjson", **headers}
            )
            assert answer.status_code == 200, answer.text
            assert answer.json()["refused"] == []

    return sending


def page(client: httpx.Client, path: str, status: int = 200) -> str:
    answer = client.get(path, headers=HTML)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return answer.text


def test_the_home_page_redirects_to_the_traces(client: httpx.Client) -> None:
    answer = client.get("/", headers=HTML)
    assert (answer.is_redirect, answer.headers["location"]) == (True, "/traces")


def test_an_empty_project_shows_how_to_record_the_first_call(client: httpx.Client, server: Any) -> None:
    text = page(client, "/traces")
    assert "No call has been recorded" in text
    assert f"everycall.init(endpoint=&#34;{server.address}&#34;)" in text or server.address in text
    assert "@everycall.trace" in text
    assert 'project_name="other"' in page(client, "/traces?project=other").replace("&#34;", '"')


def test_a_filter_without_a_match_does_not_claim_that_nothing_was_recorded(
    client: httpx.Client, send: Callable[..., None]
) -> None:
    send(call("a"))
    text = page(client, "/traces?tag=none")
    assert "No trace matches" in text
    assert "No call has been recorded" not in text


def test_unknown_cost_and_tokens_are_never_shown_as_zero(client: httpx.Client, send: Callable[..., None]) -> None:
    send(call("model", kind="llm", model="m"))
    text = page(client, "/traces")
    assert "1 unpriced" in text
    assert "$0" not in text
    twin = client.get("/traces.json").json()
    assert (twin["traces"][0]["cost"], twin["traces"][0]["unpriced"], twin["totals"]["cost"]) == (None, 1, None)
    panel = page(client, "/traces/t1")
    assert "price not known: no token counts" in panel
    assert "$0" not in panel


def test_sums_of_the_page_are_the_sums_of_its_rows(client: httpx.Client, send: Callable[..., None]) -> None:
    for number in range(3):
        send(
            call("a", f"t{number}", kind="llm", cost=0.001 * number, input_tokens=10, output_tokens=5),
            call("b", f"t{number}", status="error", error="no", parent_id=f"t{number}-a"),
        )
    totals = client.get("/traces.json").json()["totals"]
    assert totals["cost"] == pytest.approx(0.003)
    del totals["cost"]
    assert totals == {
        "traces": 3,
        "calls": 6,
        "errors": 3,
        "cache_hits": 0,
        "input_tokens": 30,
        "output_tokens": 15,
        "uncounted": 0,
        "unpriced": 0,
        "saved_cost": None,
        "counted_elsewhere": 0,
    }


def test_pages_continue_by_cursor_without_gap_or_repeat(client: httpx.Client, send: Callable[..., None]) -> None:
    send(*(call("a", f"t{number}", start_time_unix_nano=START + number * MS) for number in range(7)))
    seen: list[str] = []
    path = "/traces?limit=3"
    while path:
        text = page(client, path)
        seen += re.findall(r'class="open isolate" href="/traces/(t\d)"', text)
        older = re.search(r'rel="next" href="([^"]+)"', text)
        path = older[1].replace("&amp;", "&") if older else ""
        assert not path or "limit=3" in path
    assert sorted(seen) == [f"t{number}" for number in range(7)]


def test_the_page_links_its_twin_with_the_same_filters(client: httpx.Client, send: Callable[..., None]) -> None:
    send(call("a", tags=["x"]), call("a", "t2"))
    text = page(client, "/traces?tag=x&status=success")
    link = re.search(r'class="twin" href="([^"]+)"', text)
    assert link is not None
    twin = client.get(link[1].replace("&amp;", "&")).json()
    assert (twin["filters"], [trace["trace_id"] for trace in twin["traces"]]) == (
        {"status": "success", "tag": "x"},
        ["t1"],
    )


@pytest.mark.parametrize("query", ["status=maybe", "limit=0", "since=yesterday", "cursor=nonsense", "range=1y"])
def test_an_invalid_parameter_says_what_it_may_be(client: httpx.Client, query: str) -> None:
    text = page(client, f"/traces?{query}", 400)
    assert query.split("=")[0] in text
    answer = client.get(f"/traces.json?{query}")
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
    assert answer.json()["detail"] != ""


def test_an_unknown_trace_or_record_is_not_found(client: httpx.Client, send: Callable[..., None]) -> None:
    send(call("a"), call("a", "t2"))
    page(client, "/traces/nowhere", 404)
    page(client, "/traces/t1?record=t2-a", 404)
    page(client, "/traces/t1?record=t2-a&part=record", 404)
    assert client.get("/traces/nowhere.json").headers["content-type"] == "application/problem+json"


ODD_IDS = [
    "a/b",
    "a//b/",
    "..",
    ".",
    "/",
    "a?b=c#d",
    "x.json",
    "%2F",
    "a b",
    "é✓",
    "a\nb\x00c",
    "~",
    "<b>&\"'",
    "status",
]


@pytest.mark.parametrize("trace_id", ODD_IDS)
def test_a_trace_with_any_id_can_be_opened(client: httpx.Client, send: Callable[..., None], trace_id: str) -> None:
    send(call("a", trace_id), call("b", trace_id, parent_id=f"{trace_id}-a"))
    href = re.search(r'class="open isolate" href="([^"]+)"', page(client, "/traces"))
    assert href is not None
    assert href[1] == trace_path(trace_id)
    text = page(client, href[1])
    assert len(re.findall(r'class="row ', text)) == 2
    rows = re.findall(r'class="row [^"]*" href="([^"#]+)', text)
    assert f'data-record="{"b"}"' not in text
    assert "b</h2>" in page(client, rows[1].replace("&amp;", "&"))
    twin = client.get(trace_path(trace_id, twin=True)).json()
    assert (twin["trace"]["trace_id"], [row["name"] for row in twin["rows"]]) == (trace_id, ["a", "b"])


def test_the_twin_of_a_trace_has_its_rows_and_the_whole_record(client: httpx.Client, send: Callable[..., None]) -> None:
    send(call("a"), call("b", parent_id="t1-a", inputs=to_raw({"q": [1, None]}), omitted=["outputs"]))
    twin = client.get("/traces/t1.json?record=t1-b").json()
    assert twin["record"]["inputs"] == {"q": [1, None]}
    assert [(row["inference_id"], row["depth"], row["omitted"]) for row in twin["rows"]] == [
        ("t1-a", 0, []),
        ("t1-b", 1, ["outputs"]),
    ]
    assert twin["whole"] is True


def test_a_part_is_only_the_panel(client: httpx.Client, send: Callable[..., None]) -> None:
    send(call("a", content="the answer"))
    text = page(client, "/traces/t1?record=t1-a&part=record")
    assert "the answer" in text
    assert "<html" not in text


def test_a_large_trace_is_drawn_in_slices(client: httpx.Client, send: Callable[..., None]) -> None:
    total = limits.TREE_ROWS * 2 + 7
    send(*(call(str(number), start_time_unix_nano=START + number) for number in range(total)))
    seen: list[str] = []
    path = "/traces/t1"
    while path:
        text = page(client, path)
        rows = re.findall(r'<span class="label isolate">(\d+)</span>', text)
        assert 0 < len(rows) <= limits.TREE_ROWS
        seen += rows
        following = re.search(r'rel="next" href="([^"]+)"', text)
        path = following[1].replace("&amp;", "&") if following else ""
    assert seen == [str(number) for number in range(total)]
    last = page(client, f"/traces/t1?record=t1-{total - 1}")
    assert 'aria-current="true"' in last
    assert f"Calls {limits.TREE_ROWS * 2 + 1:,} to {total:,} of {total:,}" in last
    assert client.get("/traces/t1?from=x", headers=HTML).status_code == 400


def test_a_browser_without_a_session_is_sent_to_the_login_and_a_twin_is_refused(server: Any) -> None:
    for path in ("/", "/traces", "/traces/t1", "/status"):
        answer = httpx.get(server.address + path, headers=HTML)
        assert (answer.status_code, answer.headers["location"].startswith("/login?next=")) == (303, True)
    for path in ("/traces.json", "/traces/t1.json", "/status.json"):
        assert httpx.get(server.address + path).status_code == 401


def test_a_project_sees_only_itself(
    server: Any, client: httpx.Client, send: Callable[..., None], make_key: Callable[..., str]
) -> None:
    send(call("secret", "theirs", project_name="other", content="not yours"))
    key = make_key("mine", "read")
    with httpx.Client(base_url=server.address, headers={"x-api-key": key, **HTML}) as mine:
        assert "theirs" not in mine.get("/traces").text
        assert mine.get("/traces?project=other").status_code == 403
        assert mine.get("/traces/theirs").status_code == 404
        assert mine.get("/traces/theirs?project=other").status_code == 403
        assert mine.get("/status.json?project=other").status_code == 403
        assert 'name="project"' not in mine.get("/traces").text
    assert "theirs" in page(client, "/traces?project=other")
    assert '<option value="other"' in page(client, "/traces")


def test_the_status_shows_balance_sheets_and_every_limit(client: httpx.Client, send: Callable[..., None]) -> None:
    sheets = {
        "good:1:1": {"recorded": 10, "delivered": 7, "spooled": 1, "dropped": {"spool_full": 2}},
        "short:2:2": {"recorded": 10, "delivered": 7, "spooled": 1, "dropped": {}},
    }
    for number, (name, sheet) in enumerate(sheets.items()):
        headers = {"x-everycall-client": name, "x-everycall-balance": json.dumps(sheet)}
        send(call(str(number)), **headers)
    text = page(client, "/status")
    assert "spool full 2" in text
    assert "adds up" in text
    assert "2 missing" in text
    twin = client.get("/status.json").json()
    assert {sheet["client"]: sheet["missing"] for sheet in twin["clients"]} == {"good:1:1": 0, "short:2:2": 2}
    assert {limit["name"] for limit in twin["limits"]} == set(limits.LIMITS)
    assert all(name in text for name in limits.LIMITS)


@pytest.mark.parametrize("name", sorted(STATIC_FILES))
def test_static_files_are_cached_forever_with_their_hash(server: Any, name: str) -> None:
    hashed = httpx.get(server.address + asset_href(name))
    assert (hashed.status_code, hashed.headers["cache-control"]) == (200, "public, max-age=31536000, immutable")
    assert hashed.headers["content-type"].split(";")[0] == STATIC_FILES[name]
    for query in ("", "?v=0"):
        assert httpx.get(f"{server.address}/static/{name}{query}").headers["cache-control"] == "no-cache"
    same = httpx.get(f"{server.address}/static/{name}", headers={"if-none-match": hashed.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")


@pytest.mark.parametrize(
    "name", ["", "nothing.js", "../app.py", "..%2Fapp.py", "%2e%2e/%2e%2e/record.py", "/etc/passwd"]
)
def test_no_other_file_is_served(server: Any, name: str) -> None:
    assert httpx.get(f"{server.address}/static/{name}").status_code == 404


def test_no_page_violates_the_content_security_policy(client: httpx.Client, send: Callable[..., None]) -> None:
    send(call("a", kind="llm", content="x", inputs=to_raw({"a": [1]})))
    for path in ("/traces", "/traces/t1", "/status", "/traces?tag=none", "/login", "/traces/none"):
        answer = client.get(path, headers=HTML)
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in answer.headers["content-security-policy"]
        assert re.findall(r"<[^>]*\s(style|on\w+)\s*=", answer.text) == []
        assert (
            re.findall(r"<script(?! src=\"/static/everycall\.js\?v=[0-9a-f]{16}\" defer></script>)", answer.text) == []
        )
        assert re.findall(r"<style", answer.text) == []
        assert re.findall(r"(?:src|href|action)=\"(?![/#])", answer.text) == []
