"""Fifteen cases of compatibility with Parea's API, each as one test: requests as its clients and documents have them.

Where the genuine clients take part, `test_parea_clients.py` runs them; here the same is asked over plain HTTP.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

BASE = "/api/parea/v1"
KEYS = {
    "inference_id", "content", "latency", "input_tokens", "output_tokens", "total_tokens", "cost", "model", "provider",
    "cache_hit", "status", "error", "start_timestamp", "end_timestamp",
}  # fmt: skip
TIME = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?( |Z|\+00:00)?")
SEED = {"llm_inputs": {"x": "Golang", "y": "Fiber"}, "metadata": {"purpose": "testing"}}
PAREA_CONFIGURATION = {
    "model": None,
    "provider": None,
    "model_params": {
        "temp": 1.0, "top_p": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0, "max_length": None,
        "response_format": None, "safe_prompt": None,
    },
    "messages": None,
    "history": None,
    "functions": None,
    "function_call": None,
}  # fmt: skip


def prompt(content: str = "hi", **fields: Any) -> dict[str, Any]:
    return {"model": "gpt-3.5-turbo", "messages": [{"role": "user", "content": content}], **fields}


@pytest.fixture
def complete(api: httpx.Client) -> Callable[..., dict[str, Any]]:
    def post(**body: Any) -> dict[str, Any]:
        if "deployment_id" not in body:
            body.setdefault("llm_configuration", prompt())
        answer = api.post(f"{BASE}/completion", json=body)
        assert answer.status_code == 200, answer.text
        assert set(answer.json()) == KEYS
        return dict(answer.json())

    return post


@pytest.fixture
def with_functions(api: httpx.Client) -> str:
    body = {
        "name": "D", "messages": [{"content": "Say {{x}}"}], "model": "model-a", "provider": "openai",
        "model_params": {"temp": 0.5}, "functions": [{"name": "f", "parameters": {}}],
    }  # fmt: skip
    return str(api.post("/api/deployments", json=body).json()["deployment_id"])


def log_of(api: httpx.Client, own: str) -> dict[str, Any]:
    answer = api.get(f"{BASE}/trace_log/{own}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def records(api: httpx.Client, **query: Any) -> list[dict[str, Any]]:
    return list(api.get("/api/records", params=query).json()["records"])


def stored(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def send_log(api: httpx.Client, own: str, **fields: Any) -> httpx.Response:
    log = {
        "trace_id": own,
        "parent_trace_id": own,
        "root_trace_id": own,
        "start_timestamp": "2026-11-22T22:05:28+00:00",
    }
    return api.post(f"{BASE}/trace_log", json={**log, **fields})


def test_case_1_the_seeds_call(api: httpx.Client, complete: Any, provider: Any, deployment_id: str) -> None:
    answer = complete(deployment_id=deployment_id, **SEED)
    assert (answer["content"], answer["status"], answer["error"], answer["cache_hit"]) == (
        "hello",
        "success",
        None,
        False,
    )
    tokens = [answer["input_tokens"], answer["output_tokens"], answer["total_tokens"]]
    assert (tokens, [type(count) for count in tokens]) == ([22, 189, 211], [int] * 3)
    assert isinstance(answer["cost"], float)
    assert answer["provider"] in ("openai", "anthropic", "azure")
    assert TIME.fullmatch(answer["start_timestamp"])
    assert TIME.fullmatch(answer["end_timestamp"])
    (message,) = provider.requests[0].messages
    assert "Golang" in message["content"]
    assert "Fiber" in message["content"]
    log = log_of(api, answer["inference_id"])
    assert (log["project_name"], log["metadata"]["purpose"]) == ("default", "testing")


def test_case_2_the_cache(api: httpx.Client, complete: Any, provider: Any, deployment_id: str) -> None:
    first = complete(deployment_id=deployment_id, **SEED)
    other = {"metadata": {"a": "b"}, "tags": ["t"], "trace_name": "n", "end_user_identifier": "u"}
    hit = complete(deployment_id=deployment_id, llm_inputs=SEED["llm_inputs"], **other)
    assert (hit["cache_hit"], hit["content"]) == (True, first["content"])
    assert hit["inference_id"] != first["inference_id"]
    assert [hit[name] for name in ("total_tokens", "cost")] == [first[name] for name in ("total_tokens", "cost")]
    assert len(provider.requests) == 1
    assert [one["cache_hit"] for one in records(api)] == [True, False]
    assert not complete(deployment_id=deployment_id, llm_inputs={"x": "Rust", "y": "Fiber"})["cache_hit"]
    params = {"llm_configuration": {"model_params": {"temp": 0.3}}}
    assert not complete(deployment_id=deployment_id, **SEED, **params)["cache_hit"]
    assert not complete(deployment_id=deployment_id, **SEED, cache=False)["cache_hit"]
    assert len(provider.requests) == 4


def test_case_3_precedence(complete: Any, provider: Any, with_functions: str) -> None:
    complete(deployment_id=with_functions, llm_configuration={"model": "model-b"})
    complete(deployment_id=with_functions, llm_configuration=PAREA_CONFIGURATION)
    for request, model in zip(provider.requests, ("model-b", "model-a"), strict=True):
        assert (request.body["model"], request.body["temperature"]) == (model, 0.5)
        assert [tool["function"]["name"] for tool in request.body["tools"]] == ["f"]


def test_case_4_inputs_left_out(
    api: httpx.Client, complete: Any, provider: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = complete(llm_configuration=prompt("CANARY-IN"), log_omit_inputs=True)
    assert answer["content"] == "hello"
    (record,) = records(api)
    assert (record["content"], record["total_tokens"], record["model"]) == ("hello", 211, "gpt-3.5-turbo-0613")
    assert record["cost"] > 0
    provider.reply(status=400, error="cannot answer CANARY-IN")
    failed = complete(llm_configuration=prompt("CANARY-IN"), log_omit_inputs=True, cache=False)
    assert "CANARY-IN" in failed["error"]
    assert records(api)[0]["error"] == "BadRequestError (400)"
    assert b"CANARY" not in stored(tmp_path)
    assert "CANARY" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("flag", ["log_omit_outputs", "log_omit"])
def test_case_5_outputs_or_all_left_out(
    api: httpx.Client, complete: Any, provider: Any, tmp_path: Path, flag: str
) -> None:
    provider.default.content = "CANARY-OUT"
    answer = complete(llm_configuration=prompt("CANARY-IN"), **{flag: True})
    assert answer["content"] == "CANARY-OUT"
    response = api.get(f"{BASE}/trace_log/{answer['inference_id']}")
    if flag == "log_omit":
        assert (response.status_code, records(api)) == (404, [])
        assert b"CANARY-IN" not in stored(tmp_path)
    else:
        assert response.json()["output"] is None
        assert response.json()["configuration"]["messages"][0]["content"] == "CANARY-IN"
    assert b"CANARY-OUT" not in stored(tmp_path)


def test_case_5_flags_reach_the_calls_inside(
    gateway_server: Any, api: httpx.Client, provider: Any, tmp_path: Path
) -> None:
    """The flags of a decorator apply to the completion inside it, also in the server's record."""
    program = (
        "import everycall, sys\n"
        "everycall.init(endpoint=sys.argv[1], api_key=sys.argv[2])\n"
        "p = everycall.Parea(api_key=sys.argv[2], base_url=sys.argv[1])\n"
        "@everycall.trace(log_omit_inputs=True, log_omit_outputs=True)\n"
        "def outer(text):\n"
        "    inputs = everycall.LLMInputs(model='gpt-4o', messages=[everycall.Message(text)])\n"
        "    return p.completion(everycall.Completion(llm_configuration=inputs)).content\n"
        "print(outer('CANARY-IN'))\n"
        "assert everycall.flush(10).spooled == 0\n"
    )
    provider.default.content = "CANARY-OUT"
    done = subprocess.run(
        [sys.executable, "-c", program, gateway_server.address, gateway_server.key],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "CANARY-OUT"), done.stderr
    assert sorted(one.get("kind", "chain") for one in records(api)) == ["chain", "llm"]
    assert b"CANARY" not in stored(tmp_path)


def test_case_6_taget(api: httpx.Client, complete: Any) -> None:
    for body, target in [({"taget": "gold"}, "gold"), ({"taget": "a", "target": "b"}, "b")]:
        answer = complete(**body)
        assert log_of(api, answer["inference_id"])["target"] == target
        assert not {"target", "taget"} & set(answer)


def test_case_7_chain_ids(api: httpx.Client, complete: Any) -> None:
    first, second = (complete(trace_id="T1", trace_name=name) for name in ("step1", "step2"))
    assert first["inference_id"] != second["inference_id"]
    chain = api.get("/api/traces/T1").json()["records"]
    assert [(one["inference_id"], one["name"]) for one in chain] == [
        (first["inference_id"], "step1"), (second["inference_id"], "step2"),
    ]  # fmt: skip
    own = str(uuid.uuid4())
    later = complete(inference_id=own, parent_trace_id=own, root_trace_id="")
    log = log_of(api, own)
    assert later["inference_id"] == log["trace_id"] == log["parent_trace_id"] == log["root_trace_id"] == own


def test_case_8_a_repeated_request(api: httpx.Client, complete: Any, provider: Any) -> None:
    own = str(uuid.uuid4())
    body = {"inference_id": own, "cache": False}
    with ThreadPoolExecutor(4) as pool:
        answers = [*pool.map(lambda _: complete(**body), range(4)), complete(**body)]
    assert len(provider.requests) == 1
    assert {(answer["inference_id"], answer["content"]) for answer in answers} == {(own, "hello")}
    assert [one["inference_id"] for one in records(api)] == [own]


def test_case_9_failures_and_bad_input(api: httpx.Client, complete: Any, provider: Any) -> None:
    provider.default.status = 400
    answer = complete()
    assert (answer["status"], answer["content"], answer["cost"]) == ("error", "", 0.0)
    assert [answer[name] for name in ("input_tokens", "output_tokens", "total_tokens")] == [0, 0, 0]
    assert answer["error"]
    assert records(api)[0]["status"] == "error"
    provider.default.status = 200
    assert complete()["cache_hit"] is False
    before = len(records(api))
    assert api.post(f"{BASE}/completion", json={"cache": "maybe"}).json()["field"] == "cache"
    assert api.post(f"{BASE}/completion", json={"cache": "maybe"}).status_code == 422
    assert api.post(f"{BASE}/feedback", json={"score": 2, "trace_id": "x"}).status_code == 422
    for headers in ({"x-api-key": "wrong"}, {}):
        refused = httpx.post(f"{api.base_url}{BASE}/completion", json={"llm_configuration": prompt()}, headers=headers)
        assert (refused.status_code, "detail" in refused.json()) == (401, True)
    assert len(records(api)) == before


def test_case_10_what_the_client_reads_back(api: httpx.Client) -> None:
    """The nulls that its logs have are not returned: its parser fails on each of them."""
    project = api.post(f"{BASE}/project", json={"name": "default"}).json()
    assert set(project) == {"name", "uuid", "created_at", "was_created"}
    body = {
        "comments": None, "annotations": None, "configuration": PAREA_CONFIGURATION, "images": [], "scores": [],
        "children": ["child"], "depth": 0, "tags": None, "metadata": None, "project_uuid": project["uuid"],
    }  # fmt: skip
    assert (
        send_log(api, "child", parent_trace_id="root", root_trace_id="root", trace_name="child", **body).status_code
        == 200
    )
    assert send_log(api, "root", trace_name="parent", **body).status_code == 200
    log = log_of(api, "root")
    assert log["children_logs"][0]["trace_name"] == "child"
    for one in (log, *log["children_logs"]):
        for name in ("comments", "images", "scores", "children", "children_logs", "annotations", "depth"):
            assert one[name] is not None, name
        assert one["configuration"]["messages"] == []
        assert one["configuration"]["model_params"] is not None
        assert isinstance(one["parent_trace_id"], str)
        assert isinstance(one["root_trace_id"], str)
    page = api.post(f"{BASE}/get_trace_logs", json={"project_name": "default"}).json()
    assert set(page) == {"total", "page", "total_pages", "page_size", "results"}
    assert [one["trace_id"] for one in page["results"]] == ["root"]


def test_case_11_a_stream(api: httpx.Client, provider: Any) -> None:
    texts = ["Hel", "lo ", "data: ", "\r\n", "\N{OWL}"]
    provider.stream(pieces=texts)
    body = {"llm_configuration": prompt(), "inference_id": "streamed"}
    with api.stream("POST", f"{BASE}/completion/stream", json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        chunks = [chunk.decode() for chunk in answer.iter_raw()]
    assert all(re.fullmatch(r'data: \{"chunk":.*\}\r\n\r\n', chunk) for chunk in chunks)
    assert all(chunk.count("data: ") == 1 for chunk in chunks)  # the client deletes it wherever it stands
    assert [json.loads(chunk[6:])["chunk"] for chunk in chunks] == texts
    (record,) = records(api)
    assert (record["content"], record["total_tokens"]) == ("".join(texts), 211)
    assert record["cost"] > 0
    assert record["time_to_first_token"] > 0


def test_case_12_out_of_order_and_twice(api: httpx.Client) -> None:
    late = {"trace_id": "X", "field_name_to_value_map": {"output": "late"}}
    assert api.put(f"{BASE}/trace_log", json=late).status_code == 200
    assert api.post(f"{BASE}/feedback", json={"trace_id": "X", "score": 0.5}).status_code == 200
    for _ in range(2):
        assert send_log(api, "X", output=None).status_code == 200
    assert (log_of(api, "X")["output"], log_of(api, "X")["feedback_score"]) == ("late", 0.5)
    run = {"name": "n", "run_type": "chain", "start_time": "2026-11-23T01:58:41+00:00", "outputs": {"output": "o"}}
    steps = [{**run, "id": f"step-{number}", "trace_id": "lc"} for number in range(3)]
    root = {
        **run,
        "id": "lc",
        "trace_id": "lc",
        "child_runs": steps,
        "_parea_parent_trace_id": "X",
        "_parea_root_trace_id": "X",
    }
    alone = [{**step, "parent_run_id": "lc", "_parea_root_trace_id": "X"} for step in steps]
    for body in (*alone, root, root):
        assert api.post(f"{BASE}/trace_log/langchain", json=body).status_code == 200
    assert len(records(api)) == 5
    (chain,) = log_of(api, "X")["children_logs"]
    assert (chain["trace_id"], sorted(chain["children"])) == ("lc", ["step-0", "step-1", "step-2"])


def test_case_13_timestamps(api: httpx.Client) -> None:
    forms = [
        "2023-07-24 18:05:17 ", "2024-01-15 10:11:12 UTC", "2024-05-30 13:48:34", "2024-05-30T13:48:34.123Z",
        "2026-11-22T22:05:28+00:00",
    ]  # fmt: skip
    for number, text in enumerate(forms):
        assert send_log(api, f"log-{number}", start_timestamp=text).status_code == 200
    assert send_log(api, "same", start_timestamp="2024-05-30T15:48:34+02:00").status_code == 200
    start_times = {one["inference_id"]: one["start_time_unix_nano"] for one in records(api)}
    assert [start_times[f"log-{number}"] for number in range(5)] == sorted(
        start_times[f"log-{number}"] for number in range(5)
    )
    assert start_times["same"] == start_times["log-2"]
    assert send_log(api, "never", start_timestamp="yesterday").status_code == 422


def test_case_14_an_old_client_gets_no_key_that_it_does_not_know(complete: Any, deployment_id: str) -> None:
    """Clients up to 0.2.25 fail on any key beyond the fourteen; the genuine 0.1.3 is in `test_parea_clients.py`."""
    assert set(complete(trace_id="T", deployment_id=deployment_id)) == KEYS


PROGRAM = """
import asyncio, json, math, os, sys
import everycall
from everycall import trace

everycall.init(endpoint=sys.argv[1], api_key="k")

@trace
def same(value): return value

@trace
async def asame(value):
    await asyncio.sleep(0)
    return value

@trace
def numbers(n):
    for i in range(n):
        yield i
    if n == 3:
        raise LookupError("after three")

@trace
async def anumbers(n):
    for i in range(n):
        yield i

@trace
async def waits():
    await asyncio.sleep(60)

circle = []
circle.append(circle)
said = {
    "circular": same(circle) is circle,
    "nan": math.isnan(same(float("nan"))),
    "async": asyncio.run(asame(7)),
    "generator": list(numbers(2)),
    "many": sum(same(i) for i in range(20_000)),
}

async def more():
    said["async generator"] = [i async for i in anumbers(3)]
    task = asyncio.create_task(waits())
    await asyncio.sleep(0)
    task.cancel()
    said["cancelled"] = (await asyncio.gather(task, return_exceptions=True))[0].__class__.__name__

asyncio.run(more())
try:
    list(numbers(3))
except LookupError as error:
    said["generator error"] = str(error)
abandoned = numbers(5)
said["abandoned"] = next(abandoned)
abandoned.close()
child = os.fork()
if child == 0:
    os._exit(0 if same(1) == 1 else 1)
said["fork"] = os.waitpid(child, 0)[1]
balance = everycall.stats()
said["recorded"] = balance.recorded
said["lost"] = sum(balance.dropped.values())
print(json.dumps(said))
"""


@pytest.fixture
def nowhere() -> Iterator[str]:
    """Return a URL at which no server listens."""
    import socket

    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@pytest.mark.parametrize("where", ["nowhere", "a wrong key", "switched off"])
def test_case_15_the_decorator_does_not_hurt(
    where: str, nowhere: str, gateway_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == "switched off":
        monkeypatch.setenv("EVERYCALL_DISABLED", "1")
    address = gateway_server.address if where == "a wrong key" else nowhere
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, address], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    recorded, lost_count = results.pop("recorded"), results.pop("lost")
    assert results == {
        "circular": True, "nan": True, "async": 7, "generator": [0, 1], "many": sum(range(20_000)),
        "async generator": [0, 1, 2], "cancelled": "CancelledError", "generator error": "after three", "abandoned": 0,
        "fork": 0,
    }  # fmt: skip
    assert (recorded, lost_count) == ((0 if where == "switched off" else 20_008), 0)
