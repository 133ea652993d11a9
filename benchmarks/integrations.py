"""What the integrations cost: a LangChain chain with the handler, a wrapped OpenAI client; each against the bare thing.

    uv run python benchmarks/integrations.py [--pairs 30] [--json]

One process, blocks in turn (A B A B ...), medians of the pairs. All of this process's CPU counts, delivery to a sink in
another process included; the model that the OpenAI client asks is one of loopback, in a process of its own. The chain
is `RunnableLambda | fake chat model | parser`.

`--json` prints one JSON object as the last line. `langchain_invoke_ratio`, of the CPU of the thread that calls, is to
be at most 1.3 (`langchain_idle_ratio` of it is LangChain's own, with a handler that does nothing); `openai_cpu_ratio`
at most 1.03 and what 50 us are of a bare call (`openai_cpu_bound`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is a spool? " * 12}]
ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "gpt-4o-2024-08-06",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "A spool is a reel. " * 25, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 70,
            "completion_tokens": 120,
            "total_tokens": 190,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        },
    }
).encode()
ALLOWED_SHARE, ALLOWED_NS = 1.03, 50_000


@dataclass(frozen=True)
class Figure:
    """A pair of medians, in nanoseconds per call: of the calling thread's CPU, and of the process's."""

    name: str
    caller_bare_ns: float
    caller_ns: float
    caller_ratio: float
    cpu_bare_ns: float
    cpu_ns: float
    cpu_ratio: float


def measure(name: str, block: int, pairs: int, bare: Callable[[], Any], traced: Callable[[], Any]) -> Figure:
    """Run blocks in turn and return the medians; the first two pairs warm both sides up."""
    import everycall

    rows: list[list[int]] = []
    for index in range(pairs + 2):
        row: list[int] = []
        for run in (bare, traced):
            process, thread = time.process_time_ns(), time.thread_time_ns()
            for _ in range(block):
                run()
            row.append(time.thread_time_ns() - thread)
            if run is traced and everycall.flush(30).spooled:
                raise RuntimeError("the sink did not take everything")
            row.append(time.process_time_ns() - process)
        if index >= 2:
            rows.append(row)
    return Figure(
        name,
        statistics.median(r[0] for r in rows) / block,
        statistics.median(r[2] for r in rows) / block,
        statistics.median(r[2] / r[0] for r in rows),
        statistics.median(r[1] for r in rows) / block,
        statistics.median(r[3] for r in rows) / block,
        statistics.median(r[3] / r[1] for r in rows),
    )


def langchain(pairs: int) -> list[Figure]:
    """The chain, with and without the handler; and with one that does nothing, which is what LangChain itself takes."""
    from langchain_core.callbacks import BaseCallbackHandler
    from langchain_core.language_models import FakeListChatModel
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.runnables import RunnableLambda

    from everycall_langchain import CallbackHandler

    chain: Any = (
        RunnableLambda(lambda inputs: inputs["question"]) | FakeListChatModel(responses=["a reel"]) | StrOutputParser()
    )
    question = {"question": "What is a spool?"}

    class Idle(BaseCallbackHandler):
        def on_chain_start(self, *_: Any, **__: Any) -> None: ...
        def on_chain_end(self, *_: Any, **__: Any) -> None: ...
        def on_chat_model_start(self, *_: Any, **__: Any) -> None: ...
        def on_llm_end(self, *_: Any, **__: Any) -> None: ...

    def with_handler(name: str, handler: BaseCallbackHandler) -> Figure:
        config = {"callbacks": [handler]}
        return measure(name, 200, pairs, lambda: chain.invoke(question), lambda: chain.invoke(question, config))

    return [
        with_handler("LangChain, lambda | model | parser", CallbackHandler()),
        with_handler("the same, a handler that does nothing", Idle()),
    ]


def openai_calls(pairs: int, model: str) -> list[Figure]:
    """A request to the model of loopback by a bare client and by a wrapped one, whole and as a stream."""
    import openai

    import everycall_openai

    with openai.OpenAI(base_url=model, api_key="k") as bare, openai.OpenAI(base_url=model, api_key="k") as traced:
        everycall_openai.wrap(traced, provider="openai")

        def ask(client: Any) -> Callable[[], Any]:
            return lambda: client.chat.completions.create(model="gpt-4o", messages=MESSAGES)

        def read(client: Any) -> Callable[[], Any]:
            return lambda: list(client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True))

        return [  # blocks that are long beside what one delivery costs
            measure("OpenAI, chat", 400, pairs, ask(bare), ask(traced)),
            measure("OpenAI, chat streamed in 40 chunks", 60, pairs, read(bare), read(traced)),
        ]


def table(figures: list[Figure]) -> str:
    """Lay the figures out for people."""
    lines = [
        f"{'':40}{'caller, us/call':>24}{'':>9}{'process, us/call':>24}",
        f"{'workload':40}{'bare':>12}{'recorded':>12}{'ratio':>9}{'bare':>12}{'recorded':>12}{'ratio':>9}",
    ]
    lines += [
        f"{f.name:40}{f.caller_bare_ns / 1e3:12.1f}{f.caller_ns / 1e3:12.1f}{f.caller_ratio:9.3f}"
        f"{f.cpu_bare_ns / 1e3:12.1f}{f.cpu_ns / 1e3:12.1f}{f.cpu_ratio:9.3f}"
        for f in figures
    ]
    return "\n".join(lines)


async def serve() -> None:
    """Be the model: answer each request with the same completion, whole or as events, until standard input closes."""
    about = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-2024-08-06"}

    def event(**fields: Any) -> bytes:
        return b"data: " + json.dumps({**about, **fields}).encode() + b"\n\n"

    words = [event(choices=[{"index": 0, "delta": {"content": "A spool "}, "finish_reason": None}]) for _ in range(40)]
    end = event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
    usage = event(choices=[], usage=json.loads(ANSWER)["usage"])
    head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                headers = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line.partition(b":")[2])
                    for line in headers.split(b"\r\n")
                    if line.lower().startswith(b"content-length:")
                )
                request = json.loads(await reader.readexactly(length))
                if request.get("stream"):
                    reports = [usage] if request.get("stream_options") else []
                    body = b"".join([*words, end, *reports, b"data: [DONE]\n\n"])
                    writer.write(head % (b"text/event-stream", len(body), body))
                else:
                    writer.write(head % (b"application/json", len(ANSWER), ANSWER))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


@contextmanager
def process(*arguments: str) -> Iterator[str]:
    """Run a server in a process of its own, which ends when its standard input closes; gives its address."""
    started = subprocess.Popen([sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert started.stdin is not None
    assert started.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(started.stdout.readline())}"
    finally:
        started.stdin.close()
        started.wait(10)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=30, help="blocks of each side (default 30)")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve())
        return
    foreign = ("OTEL_", "EVERYCALL_", "OPENAI_", "LANGCHAIN_", "LANGSMITH_")
    with tempfile.TemporaryDirectory() as home:
        for name in [n for n in os.environ if n.startswith(foreign)]:
            del os.environ[name]
        os.environ["EVERYCALL_HOME"] = home
        import everycall

        with process(str(HERE / "_sink.py")) as sink, process(__file__, "--serve") as model:
            everycall.init(endpoint=sink)
            figures = [*langchain(options.pairs), *openai_calls(options.pairs, f"{model}/v1")]
            balance = everycall.stats()
            everycall.shutdown()
    assert balance.recorded == balance.delivered, balance
    sys.stdout.write(table(figures) + "\n")
    chain, idle, chat, streamed = figures
    bound = ALLOWED_SHARE + ALLOWED_NS / chat.cpu_bare_ns
    added_us = (chat.cpu_ratio - 1) * chat.cpu_bare_ns / 1e3
    sys.stdout.write(
        f"a wrapped OpenAI call adds {added_us:.0f} us, its delivery included; the ratio is to be at most {bound:.3f}\n"
    )
    if options.json:
        figures_by_name = {
            "langchain_invoke_ratio": round(chain.caller_ratio, 4),
            "langchain_cpu_ratio": round(chain.cpu_ratio, 4),
            "langchain_idle_ratio": round(idle.caller_ratio, 4),
            "openai_cpu_ratio": round(chat.cpu_ratio, 4),
            "openai_cpu_bound": round(bound, 4),
            "openai_caller_ratio": round(chat.caller_ratio, 4),
            "openai_added_us": round(added_us, 1),
            "openai_stream_cpu_ratio": round(streamed.cpu_ratio, 4),
        }
        sys.stdout.write(json.dumps(figures_by_name) + "\n")


if __name__ == "__main__":
    main()
