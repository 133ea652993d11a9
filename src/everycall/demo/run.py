"""`everycall demo`: start a model and a server, run a program step by step, and show what was recorded.

The command line calls `run_demo`. It returns 0 only if every step succeeded and no record was lost.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import everycall
from everycall._terminal import Terminal
from everycall.client import Parea
from everycall.demo import report
from everycall.demo.model import LocalModel, start_model
from everycall.paths import state_dir

if TYPE_CHECKING:
    from everycall.demo.program import Program
    from everycall.server.runner import Server

__all__ = ["DemoOptions", "StepFailed", "run_demo"]

FLUSH_TIMEOUT_S = 30.0
NOTE_CHARS_MAX = 110
SEED_FIELDS = (
    "inference_id", "content", "latency", "input_tokens", "output_tokens", "total_tokens", "cost", "model", "provider",
    "cache_hit", "status", "error", "start_timestamp", "end_timestamp",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """Options of the demo: `once` exits after the steps, `port` 0 is any free port, `stand_in` uses a fake model."""

    once: bool = False
    port: int = 0
    data_dir: Path | None = None
    stand_in: bool = False


class StepFailed(Exception):
    """The result of a step is not what the demo promises."""


def run_demo(options: DemoOptions, terminal: Terminal | None = None) -> int:
    """Run the demo. Return the exit code: 0, or 1 if a step failed or a record was lost."""
    screen = terminal or Terminal()
    _forget_settings()
    data_dir = (options.data_dir or state_dir() / "demo").expanduser().resolve()
    with contextlib.ExitStack() as running:
        screen.line(screen.style("everycall demo", "bold") + " · no key, no network, nothing leaves this machine")
        screen.heading("Set-up")
        model = _start_model(screen, options, running)
        server = _start_server(screen, options, data_dir, model, running)
        api = report.Api(server)
        running.callback(api.close)
        program = _prepare(screen, server, api, data_dir, model, running)
        since = time.time_ns()
        steps = _Steps(screen, api, program)
        passed = steps.run() & _show(screen, api, since, steps.completions)
        screen.heading("See it")
        if options.once:
            screen.line(f"  {screen.style(f'everycall serve --data {_display(data_dir)}', 'cyan')}")
            screen.note("serves the page of these records")
        else:
            screen.line(f"  {screen.style(server.login_url(), 'cyan')}")
            screen.note("this URL logs a browser in, once")
            screen.note(f"records: {_display(data_dir)}")
            screen.line()
            screen.line("Serving. Ctrl-C ends it.")
            _wait_for_signal()
    return 0 if passed else 1


def _forget_settings() -> None:
    """Remove the user's settings from the environment: they must not change what the demo shows."""
    for name in list(os.environ):
        if name.startswith(("EVERYCALL_", "OTEL_", "LANGCHAIN_", "LANGSMITH_")) and name != "EVERYCALL_HOME":
            del os.environ[name]


def _start_model(screen: Terminal, options: DemoOptions, running: contextlib.ExitStack) -> LocalModel:
    with screen.step("start a model on this machine"):
        model, reason = start_model(stand_in=options.stand_in)
        running.callback(model.stop)
    if reason is not None:
        screen.line(f"    The real local model is not used: {reason}.")
    screen.note(f"{model.name}: {model.description}")
    return model


def _start_server(
    screen: Terminal, options: DemoOptions, data_dir: Path, model: LocalModel, running: contextlib.ExitStack
) -> Server:
    from everycall.demo.program import PROVIDER
    from everycall.server.options import ServerOptions
    from everycall.server.provider_settings import ProviderSettings
    from everycall.server.runner import Server

    with screen.step("start the server on an embedded SQLite store"):
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        provider = ProviderSettings(PROVIDER, "openai_compatible", base_url=model.base_url, api_key="local")
        server = Server(ServerOptions(data_dir, port=options.port, providers={PROVIDER: provider}))
        server.start()
        running.callback(server.stop)
    screen.note(server.address)
    return server


def _prepare(
    screen: Terminal,
    server: Server,
    api: report.Api,
    data_dir: Path,
    model: LocalModel,
    running: contextlib.ExitStack,
) -> Program:
    from everycall.demo.program import PROVIDER, TEMPLATE, Program

    count = api.clear_cache()
    if count:
        responses = "1 cached response" if count == 1 else f"{count} cached responses"
        screen.note(f"deleted {responses} of an earlier demo, so that the first call is a miss again")
    with screen.step("deploy a prompt"):
        deployment_id = api.deploy(
            {
                "name": "hello-world",
                "messages": [{"role": "user", "content": TEMPLATE}],
                "model": model.name,
                "provider": PROVIDER,
                # Stops at the end of the code block: an answer that is cut at a length is not cached.
                "model_params": {"temp": 0.0, "max_length": 200, "stop": ["\n```\n"]},
            }
        )
    screen.note(f"{deployment_id}: {TEMPLATE}")
    everycall.init(endpoint=server.address, api_key=server.key, spool_dir=data_dir / "spool")
    running.callback(everycall.shutdown)
    parea = Parea(api_key=server.key, base_url=server.address)
    running.callback(parea.close)
    return Program(parea, deployment_id, model.name, model.base_url)


class _Steps:
    """The steps, in order. A failed step is shown, and the others still run."""

    def __init__(self, screen: Terminal, api: report.Api, program: Program) -> None:
        self.screen = screen
        self.api = api
        self.program = program
        self.completions = 0  # completions recorded by the server itself, beside the records delivered to it
        self.passed = True
        self._first_id: str | None = None

    def run(self) -> bool:
        """Run all steps. Return whether all succeeded."""
        self._step("a", "the completion of a deployed prompt", self._complete)
        self._step("b", "the same completion again: answered from the cache", self._complete_again)
        self._step("c", "a LangChain chain: prompt | model | parser", self._chain)
        self._step("d", "nested and async calls of traced functions", self._compare)
        self._step("d", "a traced call that fails", self._order)
        self._step("e", "one call with each log_omit flag", self._omit)
        return self.passed

    def _step(self, letter: str, title: str, run: Callable[[], list[str]]) -> None:
        if letter == "a":
            self.screen.heading("Calls")
        try:
            with self.screen.step(f"({letter}) {title}"):
                notes = run()
        except Exception as error:  # noqa: BLE001 - any failure of a step is shown, and decides the exit code
            self.passed = False
            notes = [f"{type(error).__name__}: {error}"]
        for note in notes:
            self.screen.note(_short(note))

    def _complete(self) -> list[str]:
        answer = asdict(self.program.complete())
        self.completions += 1
        _expect(answer.keys() == set(SEED_FIELDS), f"the response has the fields {', '.join(answer)}")
        _expect(answer["status"] == "success", f"the model's server failed: {answer['error']}")
        _expect(answer["cache_hit"] is False, "the first completion came from the cache")
        _expect(answer["input_tokens"] > 0 and answer["output_tokens"] > 0, "no tokens were counted")
        self._first_id = answer["inference_id"]
        ordered = [(name, answer[name]) for name in SEED_FIELDS]
        return [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in ordered]

    def _complete_again(self) -> list[str]:
        answer = self.program.complete()
        self.completions += 1
        _expect(answer.cache_hit is True, "the second completion did not come from the cache")
        _expect(answer.inference_id != self._first_id, "two completions have one inference_id")
        return [f"cache_hit: true, a new inference_id: {answer.inference_id}", f"latency: {answer.latency} s"]

    def _chain(self) -> list[str]:
        answer = self.program.run_chain()
        _expect(bool(answer), "the chain returned nothing")
        return [answer]

    def _compare(self) -> list[str]:
        return self.program.compare().splitlines()

    def _order(self) -> list[str]:
        from everycall.demo.program import StockError

        try:
            self.program.order()
        except StockError as error:
            return [f"the program got its own exception: {type(error).__name__}: {error}"]
        raise StepFailed("the exception did not reach the program")

    def _omit(self) -> list[str]:
        notes = []
        for flag, kept in (
            ("log_omit_inputs", ("content",)),
            ("log_omit_outputs", ("llm_inputs", "llm_configuration")),
            ("log_omit", None),
        ):
            answer = self.program.complete_omitting(flag)
            _expect(answer.status == "success" and bool(answer.content), f"{flag}: the caller got no content")
            stored = self.api.record(answer.inference_id)
            if kept is None:
                _expect(stored is None, f"{flag}: the call was stored")
                notes.append(f"{flag}: the store kept nothing; the caller got its answer")
                continue
            _expect(stored is not None, f"{flag}: the call was not stored")
            assert stored is not None
            self.completions += 1
            fields = tuple(name for name in ("llm_inputs", "llm_configuration", "content", "output") if name in stored)
            _expect(fields == kept, f"{flag}: the store kept {', '.join(fields) or 'no content'}")
            notes.append(f"{flag}: the store kept {', '.join(fields)}, with omitted: {stored['omitted']}")
        return notes


def _show(screen: Terminal, api: report.Api, since: int, completions: int) -> bool:
    """Deliver what is left, and show the table and the balance sheet. Return whether nothing is missing."""
    flushed = everycall.flush(FLUSH_TIMEOUT_S)
    records = api.records(since)
    screen.heading("What the store has")
    report.show_records(screen, records)
    screen.note("tokens: in → out. — is unknown, never 0: a local model has no known price")
    screen.heading("The balance sheet of this process")
    good = report.show_balance(screen, everycall.stats())
    screen.note(f"and {completions} completions, which the server recorded itself")
    expected = flushed.delivered + completions
    if len(records) != expected:
        screen.line(f"  {screen.style(f'the store has {len(records)} records of {expected}', 'red')}")
    return good and len(records) == expected


def _expect(condition: bool, failure: str) -> None:
    if not condition:
        raise StepFailed(failure)


def _display(path: Path) -> str:
    return f"~/{path.relative_to(Path.home())}" if path.is_relative_to(Path.home()) else str(path)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= NOTE_CHARS_MAX else f"{line[: NOTE_CHARS_MAX - 1]}…"


def _wait_for_signal() -> None:
    """Return at SIGINT (Ctrl-C) or SIGTERM."""
    stop = threading.Event()
    handlers = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        stop.wait()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
