"""The pages of deployments without a browser: what they show, what their forms do, and permissions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from everycall import limits
from everycall.server.deployments import DeploymentRequest

BODY: dict[str, Any] = {
    "name": "Support reply",
    "description": "Answers customers",
    "messages": [
        {"role": "system", "content": "You work for {{company}}.\nBe {{tone}}. Answer in JSON."},
        {"role": "user", "content": "{{question}} {{company}}"},
    ],
    "model": "gpt-4o-mini",
    "model_params": {"temp": 0.25, "max_length": 300, "response_format": {"type": "json_object"}},
    "functions": [{"name": "look_up", "parameters": {"type": "object"}}],
    "function_call": "auto",
    "fallbacks": [{"model": "gpt-4o", "provider": "openai"}],
    "metadata": {"team": "support"},
}


class Page(HTMLParser):
    """The forms, fields and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.forms: list[dict[str, Any]] = []
        self.text: list[str] = []
        self._area: str | None = None
        self._select: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "form":
            self.forms.append({"action": given["action"], "method": given["method"], "fields": {}, "buttons": []})
        elif tag == "input" and given.get("name") and (given.get("type") != "checkbox" or "checked" in given):
            self.forms[-1]["fields"][given["name"]] = given.get("value") or ""
        elif tag == "textarea":
            self._area = given["name"]
            self.forms[-1]["fields"][self._area] = ""
        elif tag == "select":
            self._select = given["name"]
        elif tag == "option" and "selected" in given and self._select:
            self.forms[-1]["fields"][self._select] = given["value"]
        elif tag == "button" and given.get("name") == "action":
            self.forms[-1]["buttons"].append(given["value"])

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea" and self._area:
            fields = self.forms[-1]["fields"]
            fields[self._area] = fields[self._area].removeprefix("\n")  # as browsers do
            self._area = None

    def handle_data(self, data: str) -> None:
        if self._area:
            self.forms[-1]["fields"][self._area] += data
        else:
            self.text.append(data)

    def form(self, action: str) -> dict[str, Any]:
        """The form that has a button with this action."""
        return next(form for form in self.forms if action in form["buttons"])


@pytest.fixture
def browser(gateway_server: Any) -> Iterator[httpx.Client]:
    """A browser that is logged in to a server with a provider; its scripts are off."""
    headers = {"accept": "text/html", "sec-fetch-site": "same-origin"}
    with httpx.Client(base_url=gateway_server.address, headers=headers, timeout=30) as opened:
        assert opened.get(gateway_server.login_url("/deployments")).status_code == 303
        yield opened


@pytest.fixture
def api(gateway_server: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway_server.address, headers={"x-api-key": gateway_server.key}, timeout=30) as opened:
        yield opened


@pytest.fixture
def deployed(api: httpx.Client) -> str:
    """A deployment with two versions, of which the second is served."""
    api.put("/api/deployments/support", json=BODY).raise_for_status()
    api.put("/api/deployments/support", json={**BODY, "model": "gpt-4o"}).raise_for_status()
    return "/deployments/support"


def press(browser: httpx.Client, page: Page, action: str, **fields: str) -> httpx.Response:
    """Send the form with this button, with these fields filled in."""
    form = page.form(action)
    return browser.post(form["action"].partition("#")[0], data={**form["fields"], **fields, "action": action})


def read(browser: httpx.Client, path: str) -> Page:
    answer = browser.get(path)
    assert answer.status_code == 200, answer.text
    return Page(answer.text)


# --- shown ---


def test_the_list_shows_what_is_served_and_how_it_is_used(
    browser: httpx.Client, api: httpx.Client, deployed: str, provider: Any
) -> None:
    api.put("/api/deployments/old", json={**BODY, "name": "Old one"}).raise_for_status()
    api.post("/api/deployments/old/archive").raise_for_status()
    for question in ("a", "b", "b"):
        asked = {"deployment_id": "support", "llm_inputs": {"question": question}}
        assert api.post("/api/parea/v1/completion", json=asked).json()["status"] == "success"
    shown = browser.get("/deployments").text
    assert "Support reply" in shown
    assert "Old one" not in shown
    assert "Old one" in browser.get("/deployments?active=false").text
    twin = browser.get("/deployments.json").json()
    [row] = twin["deployments"]
    assert (row["deployment"]["version"], row["use"]["completions"], row["use"]["errors"]) == (2, 3, 0)
    records = api.get("/api/records", params={"deployment_id": "support"}).json()["records"]
    assert row["use"]["cost"] == pytest.approx(sum(record["cost"] for record in records))
    assert row["use"]["last_unix_nano"] == max(record["start_time_unix_nano"] for record in records)


def test_lists_have_pages(browser: httpx.Client, api: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PAGE_ROWS", 2)
    for number in range(5):
        api.put(f"/api/deployments/d{number}", json={**BODY, "name": f"n{number}"}).raise_for_status()
    seen, path = [], "/deployments"
    while path:
        page = browser.get(path)
        twin = browser.get(path.replace("/deployments", "/deployments.json")).json()
        seen += [row["deployment"]["deployment_id"] for row in twin["deployments"]]
        marked = page.text.partition('rel="next" href="')[2].partition('"')[0]
        path = marked.replace("&amp;", "&")
    assert seen == ["d0", "d1", "d2", "d3", "d4"]


def test_one_deployment_and_its_twin(browser: httpx.Client, deployed: str) -> None:
    page = browser.get(deployed)
    for text in ("Support reply", "Answers customers", "<mark>{{company}}</mark>", "look_up", "version 2, served"):
        assert text in page.text, text
    twin = browser.get(f"{deployed}.json").json()
    assert (twin["served"], twin["newest"], twin["roll_back_to"]) == (2, 2, 1)
    assert twin["variables"] == ["company", "tone", "question"]
    assert [one["version"] for one in twin["versions"]] == [2, 1]
    assert "This is version 1" in browser.get(f"{deployed}?version=1").text
    assert browser.get(f"{deployed}.json?version=1").json()["deployment"]["model"] == "gpt-4o-mini"
    for wrong, status in (("?version=3", 404), ("?version=x", 400), ("-none", 404), ("?answer=none", 404)):
        answer = browser.get(deployed + wrong)
        assert (answer.status_code, "text/html" in answer.headers["content-type"]) == (status, True), wrong


def test_differences_are_shown(browser: httpx.Client, deployed: str) -> None:
    page = browser.get(f"{deployed}/diff").text
    assert '<tr class="gone">' in page
    assert "model: gpt-4o-mini" in page
    twin = browser.get(f"{deployed}/diff.json?from=1&to=2").json()
    assert [one["field"] for one in twin["changes"]] == ["model"]
    assert [line["sign"] for line in twin["lines"] if line["text"].startswith("model:")] == ["-", "+"]
    assert "No differences" in browser.get(f"{deployed}/diff?from=2&to=2").text
    assert browser.get(f"{deployed}/diff?from=9").status_code == 404


# --- run ---


def test_running_shows_the_answer_its_figures_and_its_record(
    browser: httpx.Client, api: httpx.Client, deployed: str, provider: Any
) -> None:
    page = read(browser, deployed)
    values = {"var.company": "ACME {{tone}}", "var.tone": "brief\r\nand kind", "var.question": "why?"}
    answer = press(browser, page, "run", **values)
    assert answer.status_code == 200
    for text in ("hello", "22", "189", "gpt-4o", "View record"):
        assert text in answer.text, text
    assert provider.requests[0].messages == [
        {"role": "system", "content": "You work for ACME {{tone}}.\nBe brief\nand kind. Answer in JSON."},
        {"role": "user", "content": "why? ACME {{tone}}"},
    ]
    [record] = api.get("/api/records").json()["records"]
    assert (record["deployment_id"], record["tags"], record["trace_name"]) == ("support", ["page"], "Support reply")
    assert f"/traces/{record['trace_id']}?record={record['inference_id']}" in answer.text
    again = Page(answer.text)
    form = again.form("run")["fields"]
    assert form["var.company"] == "ACME {{tone}}"  # what was typed stays
    assert form["inference_id"] != page.form("run")["fields"]["inference_id"]
    cached = press(browser, again, "run").text
    assert "cache hit" in cached
    uncached = {name: value for name, value in Page(cached).form("run")["fields"].items() if name != "cache"}
    assert "cache hit" not in browser.post(deployed, data={**uncached, "action": "run"}).text
    assert len(provider.requests) == 2


def test_sending_the_form_twice_pays_once(browser: httpx.Client, deployed: str, provider: Any) -> None:
    page = read(browser, deployed)
    first, second = (press(browser, page, "run", **{"var.question": "why?"}) for _ in range(2))
    assert (first.status_code, second.status_code, len(provider.requests)) == (200, 200, 1)


def test_another_model_and_another_version_can_be_tried(
    browser: httpx.Client, api: httpx.Client, deployed: str, provider: Any
) -> None:
    press(browser, read(browser, deployed), "run", model="gpt-4.1-mini")
    press(browser, read(browser, f"{deployed}?version=1"), "run", **{"var.tone": "kind"})
    asked = [request.body for request in provider.requests]
    assert [body["model"] for body in asked] == ["gpt-4.1-mini", "gpt-4o-mini"]
    assert asked[1]["messages"][0]["content"].endswith("Be kind. Answer in JSON.")
    assert asked[1]["response_format"] == {"type": "json_object"}
    records = {record["model"]: record for record in api.get("/api/records").json()["records"]}
    tried = records["gpt-4o-mini"]
    assert tried.get("deployment_id") is None  # no completion of what is served
    assert tried["metadata"] == {"deployment_id": "support", "version": 1}


def test_failures_are_shown(browser: httpx.Client, api: httpx.Client, deployed: str, provider: Any) -> None:
    provider.default = type(provider.default)(status=400, error="the <b>model</b> refuses")
    failed = press(browser, read(browser, deployed), "run")
    assert failed.status_code == 200
    assert "the &lt;b&gt;model&lt;/b&gt; refuses" in failed.text
    [record] = api.get("/api/records").json()["records"]
    assert record["inference_id"] in failed.text
    unknown = press(browser, read(browser, deployed), "run", model="nobodys", provider="none")
    assert unknown.status_code == 422
    assert "not configured" in unknown.text
    typed = press(browser, read(browser, deployed), "run", provider="none", **{"var.question": "still here"})
    assert Page(typed.text).form("run")["fields"]["var.question"] == "still here"


def test_the_stream_of_a_run(browser: httpx.Client, api: httpx.Client, deployed: str, provider: Any) -> None:
    """The requests of the script: the text while it is generated, then the page with the figures of the record."""
    provider.default = type(provider.default)(content="hello you", pieces=["hello ", "you"])
    form = read(browser, deployed).form("run")
    sent = {**form["fields"], "action": "run", "var.question": "why?"}
    answer = browser.post(f"{deployed}/stream", data=sent, headers={"accept": "text/event-stream"})
    assert answer.status_code == 200
    events = [json.loads(event.removeprefix("data: ")) for event in answer.text.split("\r\n\r\n") if event]
    assert "".join(event["chunk"] for event in events) == "hello you"
    shown = browser.get(deployed, params={"answer": form["fields"]["inference_id"]}).text
    assert "hello you" in shown
    assert len(provider.requests) == 1


# --- changed ---


def test_activating_rolling_back_and_archiving(browser: httpx.Client, deployed: str) -> None:
    done = press(browser, read(browser, f"{deployed}?version=1"), "activate")
    assert (done.status_code, done.headers["location"]) == (303, f"{deployed}?done=activated")
    assert "Another version is served" in browser.get(done.headers["location"]).text
    stale = read(browser, deployed)
    assert press(browser, stale, "roll-back").headers["location"] == f"{deployed}?done=rolled-back"
    assert browser.get(f"{deployed}.json").json()["served"] == 2
    late = press(browser, stale, "archive")
    assert (late.status_code, "Version 2 is served now" in late.text) == (409, True)
    assert press(browser, read(browser, deployed), "archive").status_code == 303
    gone = browser.get(deployed).text
    assert "No version of this deployment is served" in gone
    assert press(browser, Page(gone), "activate").status_code == 303
    for action in ("", "drop"):
        assert browser.post(deployed, data={"action": action}).status_code == 400
    assert browser.post(deployed, data={"action": "activate"}).status_code == 400
    assert browser.post(deployed, data={"action": "activate", "version": "x"}).status_code == 400
    assert browser.post("/deployments/none", data={"action": "archive"}).status_code == 404


def test_a_deployment_is_created_and_changed_in_the_form(
    browser: httpx.Client, api: httpx.Client, provider: Any
) -> None:
    page = read(browser, "/deployments/new")
    more = press(browser, page, "add", name="Greeting")
    form = Page(more.text).form("save")
    assert (form["fields"]["name"], form["fields"]["role.2"]) == ("Greeting", "user")
    fewer = Page(press(browser, Page(more.text), "remove:1", **{"content.2": "the last"}).text).form("save")["fields"]
    assert (fewer["content.1"], "content.2" in fewer) == ("the last", False)
    filled = {
        "deployment_id": "greeting",
        "name": "Greeting",
        "model": "gpt-4o",
        "temp": "0.5",
        "metadata": '{"team": "x"}',
        "content.0": "",
        "content.1": "\nGreet {{name}}.\r\nKindly.",
    }
    made = press(browser, page, "save", **filled)
    assert (made.status_code, made.headers["location"]) == (303, "/deployments/greeting?done=created")
    found = api.get("/api/deployments/greeting").json()
    assert found["messages"] == [{"role": "user", "content": "\nGreet {{name}}.\nKindly."}]
    assert (found["model_params"], found["metadata"]) == ({"temp": 0.5}, {"team": "x"})
    edit = read(browser, "/deployments/greeting/edit")
    assert edit.form("save")["fields"]["content.0"] == "\nGreet {{name}}.\nKindly."
    assert press(browser, edit, "save").headers["location"].endswith("?done=unchanged")
    unserved = {name: value for name, value in edit.form("save")["fields"].items() if name != "activate"}
    changed = browser.post("/deployments/greeting/edit", data={**unserved, "model": "gpt-5", "action": "save"})
    assert changed.headers["location"] == "/deployments/greeting?done=changed&version=2"
    assert api.get("/api/deployments/greeting").json()["version"] == 1


def test_what_the_form_shows_is_what_it_saves(browser: httpx.Client, api: httpx.Client) -> None:
    """A version with all fields set is unchanged by the form."""
    whole = {
        **BODY,
        "messages": [
            *BODY["messages"],
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function"}]},
            {"role": "tool", "content": "x", "tool_call_id": "1"},
            {"role": "user", "content": [{"type": "text", "text": "{{x}}"}]},
            {"role": "user", "content": "  \n spaces \n\n"},
        ],
        "model_params": {**BODY["model_params"], "top_p": 1 / 3, "frequency_penalty": 0, "safe_prompt": False},
        "function_call": {"name": "look_up"},
    }
    assert whole.keys() >= set(DeploymentRequest.__struct_fields__) - {
        "provider", "deployment_id", "project_name", "activate", "expected_version"
    }  # fmt: skip
    api.put("/api/deployments/whole", json=whole).raise_for_status()
    before = api.get("/api/deployments/whole").json()
    done = press(browser, read(browser, "/deployments/whole/edit"), "save")
    assert parse_qs(urlsplit(done.headers["location"]).query)["done"] == ["unchanged"], done.text
    assert api.get("/api/deployments/whole").json() == before


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"name": ""}, "length &gt;= 1"),
        ({"temp": "warm"}, "temp must be a number"),
        ({"max_length": "1.5"}, "whole number"),
        ({"functions": "{"}, "functions must be JSON"),
        ({"functions": '[{"x": 1}]'}, "functions[0] must be an object with name"),
        ({"metadata": "[]"}, "object"),
        ({"role.0": "json", "content.0": "{"}, "messages[0] must be a message as JSON"),
        ({"role.0": "boss"}, "messages[0].role may be"),
        ({"content.0": "x" * (limits.TEMPLATE_CHARS_MAX + 1)}, "may have"),
        ({"deployment_id": "a b"}, "letters, digits"),
        ({"expected_version": "7"}, "it was changed meanwhile"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_invalid_field_is_named_and_the_input_stays(
    browser: httpx.Client, changed: dict[str, str], told: str
) -> None:
    page = read(browser, "/deployments/new")
    filled = {"name": "n", "model": "gpt-4o", "content.0": "hello {{x}}", "description": "typed"}
    answer = press(browser, page, "save", **{**filled, **changed})
    assert answer.status_code in (409, 422), answer.text
    assert told in answer.text
    assert Page(answer.text).form("save")["fields"]["description"] == "typed"
    assert browser.get("/deployments.json").json()["deployments"] == []


def test_editing_a_version_that_was_replaced_meanwhile(browser: httpx.Client, api: httpx.Client, deployed: str) -> None:
    page = read(browser, f"{deployed}/edit")
    api.put("/api/deployments/support", json={**BODY, "model": "gpt-5"}).raise_for_status()
    late = press(browser, page, "save", name="mine")
    assert (late.status_code, "Version 3 is served now" in late.text) == (409, True)
    assert Page(late.text).form("save")["fields"]["name"] == "mine"
    assert browser.get("/deployments/none/edit").status_code == 404
    assert browser.post("/deployments/none/edit", data={"action": "save", "name": "n"}).status_code in (404, 422)


# --- who may ---


def test_a_key_that_only_reads_is_offered_nothing_and_can_do_nothing(
    gateway_server: Any, api: httpx.Client, deployed: str
) -> None:
    made = api.post("/api/keys", json={"name": "looker", "project": "default", "role": "read"}).json()
    with httpx.Client(base_url=gateway_server.address, headers={"accept": "text/html"}) as looker:
        assert looker.post("/login", data={"key": made["secret"]}).status_code == 303
        page = Page(looker.get(deployed).text)
        assert [form["action"] for form in page.forms] == ["/logout"]
        assert "/deployments/new" not in looker.get("/deployments").text
        for path in ("/deployments/new", f"{deployed}/edit"):
            assert looker.get(path).status_code == 403
            assert looker.post(path, data={"action": "save"}).status_code == 403
        for action in ("run", "activate", "roll-back", "archive"):
            assert looker.post(deployed, data={"action": action, "version": "1"}).status_code == 403, action
        assert looker.post(f"{deployed}/stream", data={"action": "run"}).status_code == 403


def test_projects_do_not_see_each_other(gateway_server: Any, api: httpx.Client, deployed: str) -> None:
    made = api.post("/api/keys", json={"name": "other", "project": "other", "role": "write"}).json()
    with httpx.Client(base_url=gateway_server.address, headers={"accept": "text/html"}) as other:
        assert other.post("/login", data={"key": made["secret"]}).status_code == 303
        for path in (deployed, f"{deployed}.json", f"{deployed}/edit", f"{deployed}/diff", f"{deployed}/diff.json"):
            assert other.get(path).status_code == 404, path
        for action in ("run", "activate", "roll-back", "archive"):
            assert other.post(deployed, data={"action": action, "version": "1"}).status_code == 404, action
        assert "Support" not in other.get("/deployments").text
        assert other.get(f"{deployed}?project=default").status_code == 403


@pytest.mark.parametrize("path", ["/deployments/support", "/deployments/support/edit", "/deployments/new", "/logout"])
@pytest.mark.parametrize(
    "headers",
    [{"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}, {"origin": "http://evil.example"}],
    ids=lambda headers: "-".join(headers.values()),
)
def test_a_page_of_another_site_cannot_send_a_form(
    gateway_server: Any, deployed: str, path: str, headers: dict[str, str]
) -> None:
    with httpx.Client(base_url=gateway_server.address) as victim:
        victim.get(gateway_server.login_url())
        answer = victim.post(path, data={"action": "archive"}, headers={**headers, "accept": "text/html"})
        assert answer.status_code == 403
        assert victim.get(f"{deployed}.json").json()["served"] == 2  # still logged in, still served


def test_an_ended_session_leads_to_the_login(gateway_server: Any, deployed: str) -> None:
    with httpx.Client(base_url=gateway_server.address, headers={"accept": "text/html"}) as stranger:
        answer = stranger.post(deployed, data={"action": "archive"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=%2Fdeployments%2Fsupport")
        assert stranger.post("/logout").headers["location"] == "/login?next=%2Flogout"
        back = stranger.post("/login", data={"key": gateway_server.key, "next": "/logout"})
        assert back.headers["location"] == "/"


def test_a_form_has_bounds(browser: httpx.Client, deployed: str) -> None:
    fields = {f"f{number}": "x" for number in range(1_001)}
    assert browser.post(deployed, data=fields).status_code == 400
    assert browser.post(deployed, content=b"x" * (limits.FORM_BYTES_MAX + 1)).status_code == 413
    many = "".join(f"{{{{v{number}}}}}" for number in range(limits.FORM_VARIABLES_MAX + 5))
    fields = {"action": "save", "name": "n", "model": "m", "role.0": "user", "content.0": many, "deployment_id": "many"}
    assert browser.post("/deployments/new", data={**fields, "activate": "on"}).status_code == 303
    form = Page(browser.get("/deployments/many").text).form("run")["fields"]
    assert sum(name.startswith("var.") for name in form) == limits.FORM_VARIABLES_MAX


def test_hostile_text_stays_text(browser: httpx.Client, api: httpx.Client) -> None:
    """In every field of a deployment; code for template engines is shown as text."""
    hostile = "</textarea></mark><script>alert(1)</script>{{ cycler.__init__.__globals__ }}{{7*7}}{% raw %}"
    body = {
        "name": hostile,
        "description": hostile,
        "messages": [{"content": hostile}, {"content": [{"type": "text", "text": hostile}]}],
        "model": hostile,
        "provider": hostile,
        "metadata": {hostile: hostile},
        "functions": [{"name": hostile}],
    }
    for number in range(2):
        api.put("/api/deployments/hostile", json={**body, "description": f"{hostile}{number}"}).raise_for_status()
    for path in ("", "?version=1", "/edit", "/diff", "?done=<script>alert(1)</script>"):
        shown = browser.get(f"/deployments/hostile{path}").text
        assert "<script>alert" not in shown
        assert "&lt;script&gt;alert(1)" in shown
        assert "7*7" in shown
    assert "<script>alert" not in browser.get("/deployments").text
