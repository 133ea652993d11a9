"""Content that tries to be more than content: names of Python attributes, templates that contain code.

`tests/browser/test_xss.py` holds hostile HTML.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

PAREA = "/api/parea/v1"
DEEP = ".".join(f"k{n}" for n in range(10_000))
NAMES = [
    "__proto__", "constructor", "constructor.prototype.admin", "prototype", "__class__",
    "__class__.__init__.__globals__", "__dict__",
    "__reduce__", "__builtins__", "$where", "$ne", "toString", "hasOwnProperty", "__proto__[admin]",
    "a[__proto__][b]", "project", "role",
    "project_name", "inference_id", "", " ", ".", "..", "*", "%s", "{0.__class__}", "\u0000", "\u202e", "a" * 60_000,
    DEEP,
]  # fmt: skip


@pytest.fixture(scope="module")
def two(start_victim: Callable[..., Any], shared_provider: Any) -> Any:
    """A server with a provider, and a project that must not change."""
    openai = {"kind": "openai", "base_url": shared_provider.base_url, "api_key": "sk-fake"}
    server = start_victim(providers={"openai": openai})
    with server.client(server.make_key("bystander", "write")) as bystander:
        line = {"inference_id": "b", "trace_id": "b", "attributes": {"a": 1}, "metadata": {"m": 1}}
        assert bystander.post("/v1/records", content=json.dumps(line)).json()["committed"] == 1
    return server


@pytest.mark.parametrize(
    "field", ["attributes", "metadata", "inputs", "output", "llm_inputs", "llm_configuration", "target"]
)
def test_names_are_stored_unchanged(two: Any, field: str) -> None:
    """Each is returned byte for byte; no other record, project or key changes."""
    with two.client() as admin:
        keys = admin.get("/api/keys").json()
    with two.client(two.make_key("alpha", "admin")) as alpha:
        for number, name in enumerate(NAMES):
            value = {name: {"admin": True, name: [{name: "x"}]}}
            own = f"{field}-{number}"
            answer = alpha.post("/v1/records", content=json.dumps({"inference_id": own, "trace_id": own, field: value}))
            assert answer.json()["committed"] == 1, answer.text
            assert alpha.get(f"/api/records/{own}").json()[field] == value
            for path in (f"/api/traces/{own}", f"/traces/{own}.json", f"{PAREA}/trace_log/{own}"):
                assert alpha.get(path).status_code == 200
            page = alpha.get(f"/traces/{own}", headers={"accept": "text/html"})
            assert page.status_code == 200
    with two.client() as admin:
        assert [key for key in admin.get("/api/keys").json()["keys"] if key["project"] != "alpha"] == [
            key for key in keys["keys"] if key["project"] != "alpha"
        ]
        [record] = admin.get("/api/records", params={"project": "bystander"}).json()["records"]
        assert record["attributes"] == {"a": 1}
        assert record["metadata"] == {"m": 1}
        assert admin.get("/api/records", params={"project": "nobody"}).json()["records"] == []
    two.is_well()


def test_endless_nesting_is_refused(two: Any) -> None:
    """Only the record nested deeper than `limits.NESTING_MAX` is refused; the others are stored."""
    with two.client() as client:
        for number, deep in enumerate(("[" * 100_000 + "]" * 100_000, '{"__proto__":' * 10_000 + "1" + "}" * 10_000)):
            good = [json.dumps({"inference_id": f"near-{number}-{place}", "trace_id": "near"}) for place in "ab"]
            bad = f'{{"inference_id":"deep","trace_id":"deep","attributes":{{"a":{deep}}}}}'
            answer = client.post("/v1/records", content="\n".join([good[0], bad, good[1]])).json()
            assert answer["committed"] == 2
            assert [refusal["index"] for refusal in answer["refused"]] == [1]
        log = '{"trace_id":"x","start_timestamp":"2026-10-18T12:00:00Z","inputs":%s}' % ("[" * 5_000 + "]" * 5_000)
        assert client.post(f"{PAREA}/trace_log", content=log).status_code == 422
    two.is_well()


TEMPLATES = [
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}", "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{7*7}}", "{{ config }}",
    "{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}", "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{{ lipsum.__globals__['os'].system('id') }}", "{x.__class__.__init__.__globals__}", "{0.__class__}",
    "{x!r:>999999999}", "%c" * 1_000,
    "%(x)999999999s", "%n%n%n", "${7*7}", "#{7*7}", "<%= 7*7 %>", "{{ x.__class__ }}", "{{ x['__class__'] }}",
    "{{x|attr('__class__')}}",
    '{"lc":1,"type":"secret","id":["OPENAI_API_KEY"]}', "{{ range(10**9)|list }}", "{{ 'a'*10**9 }}", "{{{{{{x}}}}}}",
    "{{x" * 5_000,
    "{{" + "x" * 60_000 + "}}", "{{\u0000}}", "{{ }}", "{{}}",
]  # fmt: skip


def test_templates_are_data(two: Any, shared_provider: Any) -> None:
    """A prompt is text with variables: what looks like code reaches the provider as text, and nothing is run."""
    with two.client() as client:
        warm = {"name": "warm", "model": "gpt-4o", "messages": [{"role": "user", "content": "{{x}}"}]}
        ready = client.post("/api/deployments", json=warm).json()["deployment_id"]
        assert (
            client.post(f"{PAREA}/completion", json={"deployment_id": ready, "llm_inputs": {"x": "y"}}).status_code
            == 200
        )
        client.get("/traces", headers={"accept": "text/html"})
        since = two.seen()
        for number, template in enumerate(TEMPLATES):
            deployment = client.post(
                "/api/deployments",
                json={**warm, "name": f"t{number}", "messages": [{"role": "user", "content": template}]},
            )
            assert deployment.status_code == 200, deployment.text
            own = deployment.json()["deployment_id"]
            for inputs in ({"x": "value"}, {"x": template}, {"x": {"__class__": "value"}}, {}):
                body = {"deployment_id": own, "llm_inputs": inputs, "cache": False}
                prompt = client.post(f"{PAREA}/deployed-prompt", json=body)
                assert prompt.status_code == 200
                filled = prompt.json()["prompt"]["messages"][0]["content"]
                answer = client.post(f"{PAREA}/completion", json=body)
                assert answer.status_code == 200
                sent = shared_provider.requests[-1].messages[-1]["content"]
                assert sent == filled
                assert "49" not in filled or "49" in template
                assert "uid=" not in filled
                if not inputs:
                    assert filled == template, "what has no value stays as it is written"
            if "{{x}}" not in template.replace(" ", ""):
                assert filled == template
        events = two.events(since)
    assert [
        event for event in events if event[0] in ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen")
    ] == []
    signs = ("passwd", "__", "popen", "cycler", "lipsum", "range(", "7*7")
    run = [
        event
        for event in events
        if event[0] in ("compile", "open") and any(sign in "".join(event[1:2]) for sign in signs)
    ]
    assert [event for event in run if "site-packages" not in event[1]] == []
    two.is_well()


def test_a_template_that_grows(two: Any) -> None:
    """A variable that is used often cannot become gigabytes; nor can a value that contains its own variable."""
    with two.client() as client:
        before = two.process().memory_info().rss
        content = "{{x}}" * 10_000
        deployment = client.post(
            "/api/deployments",
            json={"name": "g", "model": "gpt-4o", "messages": [{"role": "user", "content": content}]},
        ).json()
        body = {"deployment_id": deployment["deployment_id"], "llm_inputs": {"x": "y" * 1_000_000}}
        for path in ("completion", "completion/stream", "deployed-prompt"):
            assert client.post(f"{PAREA}/{path}", json=body).status_code in (413, 422), path
        completion = {"deployment_id": deployment["deployment_id"], "llm_inputs": {"x": "{{x}}{{x}}"}}
        assert (
            client.post(f"{PAREA}/deployed-prompt", json=completion).json()["prompt"]["messages"][0]["content"]
            == "{{x}}{{x}}" * 10_000
        )
        assert two.process().memory_info().rss - before < 256 << 20
    two.is_well()
