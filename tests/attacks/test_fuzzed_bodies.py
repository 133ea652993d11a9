"""20 000 damaged bodies on all routes with a body: each gets 2xx or 4xx, and good records beside them are stored."""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

BODIES = int(os.environ.get("EVERYCALL_TEST_BODIES", "20000"))
SENDERS = 8
ACTIONS = ["save", "run", "activate", "roll-back", "archive", "add", "remove:0"]
PAREA = "/api/parea/v1"
TIME = "2026-10-18T12:00:00.123+00:00"
MESSAGES = [
    {"role": "system", "content": "You are {{who}}."},
    {"role": "user", "content": [{"type": "text", "text": "hello {{x}}"}]},
    {"role": "assistant", "content": None,
    "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
    {"role": "tool", "tool_call_id": "1", "content": "42"},
]  # fmt: skip
RECORD = {
    "inference_id": "r", "trace_id": "t", "parent_id": "p", "trace_name": "n", "name": "n", "kind": "llm",
    "status": "error",
    "project_name": "default", "end_user_identifier": "u", "session_id": "s", "deployment_id": "d",
    "llm_inputs": {"x": "y"},
    "llm_configuration": {"model": "gpt-4o", "messages": MESSAGES}, "inputs": {"a": [1, {"b": None}]}, "content": "c",
    "output": ["o"], "target": "t", "metadata": {"k": "v"}, "tags": ["a", "b"], "model": "gpt-4o", "provider": "openai",
    "input_tokens": 1, "output_tokens": 2, "total_tokens": 3, "usage": {"cached": 1}, "cost": 0.1,
    "cost_source": "client",
    "cache": True, "cache_hit": False, "saved_cost": 0.0, "error": "e", "error_type": "E", "latency": 0.5,
    "time_to_first_token": 0.1, "start_time_unix_nano": 1_800_000_000_000_000_000,
    "end_time_unix_nano": 1_800_000_001_000_000_000, "omitted": [], "truncated": {"inputs": {"kept": 1, "bytes": 2}},
    "sdk": "x", "scope": "y", "attributes": {"exception.stacktrace": "z", "n": 1},
}  # fmt: skip
LOG = {
    "trace_id": "log", "root_trace_id": "root", "parent_trace_id": "parent", "start_timestamp": TIME,
    "end_timestamp": TIME,
    "trace_name": "n", "status": "success", "inputs": {"x": "y"}, "output": "o", "target": "t", "latency": 1.5,
    "cost": 0.1,
    "input_tokens": 1, "output_tokens": 2, "total_tokens": 3, "tags": ["a"], "metadata": {"k": "v"}, "error": None,
    "configuration": {"model": "gpt-4o", "provider": "openai", "model_params": {"temp": 1.0}, "messages": MESSAGES},
    "scores": [{"name": "s", "score": 0.5, "reason": "r"}], "experiment_uuid": "e", "evaluation_metric_names": ["m"],
    "apply_eval_frac": 0.5, "depth": 1, "cache_hit": False, "end_user_identifier": "u", "project_uuid": "default",
    "images": [{"url": "http://x", "caption": "c"}], "children": [], "fill_children": False,
}  # fmt: skip
RUN = {
    "id": "run", "name": "ChatOpenAI", "run_type": "chat_model", "start_time": TIME, "end_time": TIME,
    "parent_run_id": None,
    "inputs": {"messages": [[{"kwargs": {"type": "human", "content": "x"}}]]}, "tags": ["seq:step:1", "a"],
    "error": None,
    "outputs": {"generations": [[{"text": "t", "message": {"kwargs": {"usage_metadata": {"input_tokens": 1}}}}]]},
    "extra": {"invocation_params": {"model": "gpt-4o", "temperature": 0.1}, "metadata": {"ls_provider": "openai"}},
    "events": [{"name": "new_token", "time": TIME}],
    "child_runs": [{"id": "child", "run_type": "tool", "inputs": {"a": 1}}],
    "_parea_root_trace_id": "root", "_session_id": "s", "_tags": ["u"], "_metadata": {"k": "v"},
    "_log_sample_rate": 0.5,
}  # fmt: skip
COMPLETION: dict[str, Any] = {
    "llm_configuration": {
        "model": "gpt-4o", "provider": "openai", "messages": MESSAGES, "history": MESSAGES[:1], "function_call": "auto",
        "model_params": {"temp": 0.5, "top_p": 1.0, "max_length": 100, "response_format": {"type": "json_object"}},
        "functions": [{"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}],
    },
    "llm_inputs": {"who": "a poet", "x": "world"}, "metadata": {"k": "v"}, "tags": ["a"], "target": "t", "cache": True,
    "deployment_id": "p-of-the-test", "trace_name": "n", "end_user_identifier": "u", "session_id": "s",
    "log_omit_inputs": False, "log_omit": False,
    "log_sample_rate": 1.0, "experiment_uuid": "e", "parent_trace_id": "p", "root_trace_id": "r",
    "provider_api_key": "k",
}  # fmt: skip
DEPLOYMENT = {
    "name": "n", "messages": MESSAGES, "model": "gpt-4o", "provider": "openai", "model_params": {"temp": 0.1},
    "functions": COMPLETION["llm_configuration"]["functions"], "function_call": {"name": "f"},
    "project_name": "default",
}  # fmt: skip
CASES = {
    "name": "d", "column_names": ["x"], "project_name": "default",
    "test_cases": [{"inputs": {"x": "y"}, "target": {"a": 1}, "tags": ["t"]}, {"inputs": {}}],
}  # fmt: skip
UPDATE = {
    "trace_id": "log",
    "root_trace_id": "root",
    "field_name_to_value_map": {"output": "o", "scores": LOG["scores"]},
}
SEEDS: list[tuple[int, str, str, Any]] = [
    (8, "POST", "/v1/records", RECORD),
    (3, "POST", f"{PAREA}/trace_log", LOG),
    (2, "PUT", f"{PAREA}/trace_log", UPDATE),
    (2, "POST", f"{PAREA}/trace_log/langchain", RUN),
    (2, "POST", f"{PAREA}/completion", COMPLETION),
    (1, "POST", f"{PAREA}/completion/stream", COMPLETION),
    (1, "POST", f"{PAREA}/feedback",
    {"trace_id": "log", "inference_id": "i", "score": 0.5, "name": "n", "target": "t", "comment": "c"}),
    (1, "POST", "/api/deployments", DEPLOYMENT),
    (1, "POST", f"{PAREA}/deployed-prompt", {"deployment_id": "p-of-the-test", "llm_inputs": {"x": {"y": 1}}}),
    (1, "POST", f"{PAREA}/project", {"name": "default"}),
    (1, "POST", f"{PAREA}/collection", CASES),
    (1, "POST", f"{PAREA}/testcases", {**CASES, "id": 1}),
    (1, "POST", f"{PAREA}/update_test_case/1/1", {"inputs": {"x": "z"}, "target": "t", "tags": ["a"]}),
    (1, "POST", f"{PAREA}/experiment", {"name": "e", "run_name": "r", "metadata": {"k": "v"}, "is_public": True}),
    (1, "POST", f"{PAREA}/experiments",
    {"metadata_filter": {"k": "v"}, "experiment_name_filter": "e", "experiment_uuids": ["x"]}),
    (1, "POST", f"{PAREA}/experiment/e-of-the-test/finished",
    {"status": "completed", "dataset_level_stats": LOG["scores"]}),
    (1, "POST", f"{PAREA}/experiment/e-of-the-test/trace_logs",
    {"filter_field": "metadata", "filter_key": "k", "filter_operator": "equals", "filter_value": "v"}),
    (2, "POST", f"{PAREA}/get_trace_logs",
    {"page": 1, "page_size": 20, "time_range": "1h", "status": "error", "filter_field": "latency",
    "filter_operator": "greater_than", "filter_value": 1}),
    (1, "POST", "/api/keys", {"name": "n", "project": "p", "role": "read"}),
]  # fmt: skip


class Sender(threading.Thread):
    """Sends its share over one kept-alive connection, and notes which records must be stored."""

    def __init__(self, number: int, server: Any, mutations: Any, made: dict[str, str]) -> None:
        super().__init__(name=f"sender {number}")
        self._number = number
        self._server = server
        self._mutations = mutations
        self._made = made
        self._source = random.Random(number)
        self.answers: dict[str, Counter[int]] = defaultdict(Counter)
        self.good: list[str] = []
        self.failures: list[str] = []

    def run(self) -> None:
        with closing(
            http.client.HTTPConnection(self._server.address.removeprefix("http://"), timeout=60)
        ) as connection:
            self._send_all(connection)

    def _send_all(self, connection: http.client.HTTPConnection) -> None:
        weights = [seed[0] for seed in SEEDS]
        for turn in range(BODIES // SENDERS):
            _, method, seed, body = self._source.choices(SEEDS, weights)[0]
            path = seed
            data = self._mutations.mutated(self._source, body)
            good: list[str] = []
            if path == "/v1/records":
                good = [f"good-{self._number}-{turn}-{place}" for place in "ab"]
                lines = [json.dumps({**RECORD, "inference_id": own, "trace_id": own}).encode() for own in good]
                data = lines[0] + b"\n" + data + b"\n" + lines[1]
            for name, own in self._made.items():
                data, path = data.replace(name.encode(), own.encode()), path.replace(name, own)
            data, encoding, whole = self._mutations.packed(self._source, data)
            headers = {"x-api-key": self._server.key, **({} if encoding is None else {"content-encoding": encoding})}
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            content = answer.read()
            self.answers[seed][answer.status] += 1
            if not 200 <= answer.status < 300 and not 400 <= answer.status < 500:
                self.failures.append(f"{answer.status} {method} {path} {encoding}: {data[:400]!r}... {content[:200]!r}")
            if whole and answer.status == 200:
                self.good += good


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_body_causes_a_500(start_victim: Callable[..., Any], shared_provider: Any, mutations: Any) -> None:
    """Only 2xx and 4xx; no traceback; the good records of each accepted batch are in the database."""
    openai = {"kind": "openai", "base_url": shared_provider.base_url, "api_key": "sk-fake"}
    server = start_victim(providers={"openai": openai})
    with server.client() as client:
        objects = {
            "e-of-the-test": client.post(f"{PAREA}/experiment", json={"name": "e", "run_name": "0"}).json()["uuid"],
            "p-of-the-test": client.post("/api/deployments", json=DEPLOYMENT).json()["deployment_id"],
        }
        assert client.post(f"{PAREA}/collection", json=CASES).json()["id"] == 1
    senders = [Sender(number, server, mutations, objects) for number in range(SENDERS)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    assert [failure for sender in senders for failure in sender.failures][:5] == []
    answers: dict[str, Counter[int]] = defaultdict(Counter)
    for sender in senders:
        for path, counts in sender.answers.items():
            answers[path].update(counts)
    assert sum(counts.total() for counts in answers.values()) == BODIES // SENDERS * SENDERS
    for _, _, path, _ in SEEDS:
        assert any(status < 300 for status in answers[path]), (path, answers[path])
        assert any(status >= 400 for status in answers[path]), (path, answers[path])
    server.is_well()
    good = {own for sender in senders for own in sender.good}
    stored = {own for (own,) in server.rows("SELECT inference_id FROM records WHERE inference_id LIKE 'good-%'")}
    assert len(good) > BODIES // 3 * 0.8
    assert good <= stored


def test_no_form_causes_a_500(victim: Any, mutations: Any) -> None:
    """Every form of the pages, with hostile texts in its fields: it is shown again with the error, or accepted."""
    source = random.Random(7)
    texts = [one if isinstance(one, str) else json.dumps(one) for one in mutations.VALUES]
    texts += [raw.decode("latin-1")[:5_000] for raw in mutations.RAW.values()]
    with victim.client(headers={"accept": "text/html"}) as client:
        own = client.post("/api/deployments", json=DEPLOYMENT).json()["deployment_id"]
        statuses: Counter[int] = Counter()
        for path in ("/deployments/new", f"/deployments/{own}", f"/deployments/{own}/edit"):
            fields = sorted(set(re.findall(r'name="([^"]+)"', client.get(path).text)))
            assert len(fields) > 3, path
            for turn in range(150):
                form = {name: source.choice(texts) for name in fields if source.random() < 0.7}
                if source.random() < 0.7:
                    form["action"] = source.choice(
                        ["save", "run", "activate", "roll-back", "archive", "add", "remove:0"]
                    )
                    form.setdefault("name", "n")
                    form.setdefault("model", "gpt-4o")
                answer = client.post(path, data=form)
                statuses[answer.status_code] += 1
                assert answer.status_code < 500, (path, form, answer.text[-500:])
                if turn % 10 == 0:
                    assert client.get(path).status_code < 500
            junk = source.randbytes(2_000)
            assert client.post(path, content=junk).status_code < 500
            assert client.post(path, content=b"a=1&" * 20_000).status_code in (400, 413)
    assert {200, 303} & set(statuses)
    assert any(status >= 400 for status in statuses)
    victim.is_well()
