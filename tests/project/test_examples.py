"""The examples run unchanged, each in a child process, against a real server and the deterministic model."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from everycall.demo.stand_in import STAND_IN_MODEL, StandInModel
from everycall.server.options import ServerOptions
from everycall.server.provider_settings import ProviderSettings
from everycall.server.runner import Server

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))
SPOKEN = {
    "anthropic_wrap.py": "hello\nhello",
    "google_wrap.py": "hello\nhello",
    "langchain_chain.py": "What is a spool?",
    "langgraph_approval.py": "send it",
    "nested_async.py": "['Madrid', 'Paris', 'Rome']",
    "omit.py": "no record of this",
    "openai_wrap.py": "You asked: Who needs a spool?",
    "parea_completion.py": "from the cache: [False, True]",
    "quickstart.py": "Name the first step of this plan: bake bread",
}


@dataclass(frozen=True)
class Bench:
    """A server, and a model that both it and the examples may ask."""

    server: Server
    model: StandInModel
    provider: Any  # the fake one, for what the model does not speak

    def run(self, example: Path, **environment: str) -> str:
        """Run an example to its end; returns what it printed."""
        done = subprocess.run(
            [sys.executable, "-W", "error", str(example)],
            env={
                **os.environ,
                "EVERYCALL_ENDPOINT": self.server.address,
                "EVERYCALL_API_KEY": self.server.key,
                "OPENAI_BASE_URL": self.model.base_url,
                "OPENAI_API_KEY": "local",
                "GOOGLE_GEMINI_BASE_URL": self.provider.root,
                "GOOGLE_API_KEY": "local",
                "ANTHROPIC_BASE_URL": self.provider.root,
                "ANTHROPIC_API_KEY": "local",
                "MODEL": STAND_IN_MODEL,
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def records(self) -> dict[str, list[dict[str, Any]]]:
        """All records of the server, by their names, oldest first."""
        address, headers = f"{self.server.address}/api/records?limit=1000", {"x-api-key": self.server.key}
        by_name: dict[str, list[dict[str, Any]]] = {}
        for record in reversed(httpx.get(address, headers=headers, timeout=30).json()["records"]):
            by_name.setdefault(record["name"], []).append(record)
        return by_name


@pytest.fixture
def bench(tmp_path: Path, provider: Any) -> Iterator[Bench]:
    with StandInModel() as model:
        settings = ProviderSettings("openai", "openai", base_url=model.base_url, api_key="local")
        with Server(ServerOptions(tmp_path / "data", port=0, providers={"openai": settings})) as server:
            yield Bench(server, model, provider)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs_and_delivers_its_records(example: Path, bench: Bench) -> None:
    """Exit code 0, nothing on standard error, what it says, and every record on the server."""
    output = bench.run(example)
    assert SPOKEN[example.name] in output
    assert "spooled=0, dropped=0" in output or example.name == "parea_completion.py"
    assert bench.records()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs_with_everycall_disabled(example: Path, bench: Bench) -> None:
    """It says the same, and its process records nothing. What the server answers itself, the server still records."""
    assert SPOKEN[example.name] in bench.run(example, EVERYCALL_DISABLED="1")
    assert bool(bench.records()) == (example.name == "parea_completion.py")


def test_quickstart_is_one_trace_with_tokens(bench: Bench) -> None:
    """The model's call is below the plan, with the model's own counts."""
    bench.run(next(path for path in EXAMPLES if path.name == "quickstart.py"))
    records = bench.records()
    (plan,), (ask,) = records["plan"], records["ask"]
    assert ask["parent_id"] == plan["inference_id"]
    assert (ask["model"], ask["provider"], ask["kind"]) == (STAND_IN_MODEL, "openai", "llm")
    assert ask["input_tokens"] > 0
    assert (plan["trace_name"], plan["tags"]) == ("quickstart", ["example"])


def test_nested_async_calls_are_children_of_their_caller(bench: Bench) -> None:
    """Tasks of `gather` nest under the tour that started them; the failed tour has the program's own error."""
    bench.run(next(path for path in EXAMPLES if path.name == "nested_async.py"))
    records = bench.records()
    tours, looks = records["tour"], records["look_up"]
    assert [tour.get("status", "success") for tour in tours] == ["success", "error"]
    assert [look["parent_id"] for look in looks] == [tours[0]["inference_id"]] * 3 + [tours[1]["inference_id"]]
    assert {record["trace_id"] for record in (*tours, *looks)} == {"order-42"}
    assert {record["end_user_identifier"] for record in looks} == {"u-7"}


def test_a_wrapped_client_is_one_record_for_each_request(bench: Bench) -> None:
    """The answer and the stream are below the function that asked, in their order, with what the model counted."""
    bench.run(next(path for path in EXAMPLES if path.name == "openai_wrap.py"))
    records = bench.records()
    (both,), (answer, stream) = records["both"], records[f"chat {STAND_IN_MODEL}"]
    assert {answer["parent_id"], stream["parent_id"]} == {both["inference_id"]}
    assert (answer["scope"], answer["session_id"], answer["tags"]) == ("everycall_openai", "s-1", ["example"])
    assert answer["input_tokens"] > 0
    assert stream["content"].startswith("Sure! You asked: Who needs a spool?")
    assert stream["time_to_first_token"] <= stream["latency"]


def test_a_chain_is_a_tree_below_the_function_that_ran_it(bench: Bench) -> None:
    """LangChain's runs below the traced function; the model's has the tokens, once."""
    bench.run(next(path for path in EXAMPLES if path.name == "langchain_chain.py"))
    records = bench.records()
    (explain,), (chain,), (model,) = records["explain"], records["RunnableSequence"], records["LocalChatModel"]
    assert chain["parent_id"] == explain["inference_id"]
    assert {records[name][0]["parent_id"] for name in ("ChatPromptTemplate", "LocalChatModel", "StrOutputParser")} == {
        chain["inference_id"]
    }
    assert (model["kind"], model["model"], model["content"]) == ("llm", STAND_IN_MODEL, chain["output"])
    assert model["input_tokens"] > 0


def test_a_graph_that_was_resumed_is_one_trace(bench: Bench) -> None:
    """Both runs of the graph, the first of which stopped for an answer; no record of it is an error."""
    bench.run(next(path for path in EXAMPLES if path.name == "langgraph_approval.py"))
    records = bench.records()
    everything = [record for same_name in records.values() for record in same_name]
    assert {record["trace_id"] for record in everything} == {everything[0]["trace_id"]}
    assert {(record["trace_name"], record["session_id"]) for record in everything} == {("letters", "letter-7")}
    assert {record.get("status", "success") for record in everything} == {"success"}
    stopped, resumed = records["LangGraph"]
    assert stopped["attributes"]["events"][-1]["name"] == "interrupt"
    assert resumed["attributes"]["events"][0]["name"] == "resume"
    assert resumed["output"]["verdict"] == "send it"
    (model,) = records["ChatOpenAI"]
    assert model["parent_id"] == records["write"][0]["inference_id"]


def test_anthropics_cached_tokens_are_among_those_of_the_input(bench: Bench) -> None:
    """The answer and the stream are below the function that asked; a prompt's cached part is counted once."""
    bench.run(next(path for path in EXAMPLES if path.name == "anthropic_wrap.py"))
    records = bench.records()
    (both,), requests = records["both"], records["chat claude-sonnet-5"]
    assert [(record["parent_id"], record["scope"]) for record in requests] == [
        (both["inference_id"], "everycall_anthropic")
    ] * 2
    assert [record["input_tokens"] for record in requests] == [22, 22]
    assert [record["usage"]["cached"] for record in requests] == [10, 10]
    assert requests[0]["llm_configuration"]["messages"][0]["role"] == "system"


def test_function_calls_and_requests_are_siblings(bench: Bench) -> None:
    """Google's client asks, runs the function and asks again; then a stream: all below the function that asked."""
    bench.provider.reply(content=None, tool_calls=[("get_weather", {"city": "Rome"})])
    bench.run(next(path for path in EXAMPLES if path.name == "google_wrap.py"))
    records = bench.records()
    (both,), (weather,), requests = (
        records["both"],
        records["get_weather"],
        records[f"generate_content {STAND_IN_MODEL}"],
    )
    assert [record.get("content") for record in requests] == [None, "hello", "hello"]
    assert {record["parent_id"] for record in (weather, *requests)} == {both["inference_id"]}
    assert {record["provider"] for record in requests} == {"gcp.gemini"}
    assert (weather["kind"], weather["output"]) == ("tool", "sunny in Rome")


def test_omitted_content_is_not_in_the_database(bench: Bench, tmp_path: Path) -> None:
    """No byte of the server's files has what the example omits or masks."""
    bench.run(next(path for path in EXAMPLES if path.name == "omit.py"))
    records = bench.records()
    assert "inputs" not in records["check_password"][0]
    assert "output" not in records["make_token"][0]
    assert "not_logged_at_all" not in records
    assert records["pay"][0]["inputs"] == {"card": "[card]"}
    assert records["outer"][0]["omitted"] == ["outputs"]
    stored = b"".join(path.read_bytes() for path in (tmp_path / "data").iterdir() if path.is_file())
    for canary in (b"battery staple", b"a secret that", b"no record of this", b"4111 1111", b"the flag is inherited"):
        assert canary not in stored
