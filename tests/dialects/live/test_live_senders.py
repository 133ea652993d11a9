"""Genuine senders, each in an environment of its own, configured by their documented variables alone.

They run the same program against a fake provider and send to a real server: the same records. Their packages come from
PyPI and npm, so these tests need a network, and are skipped without `LIVE_SENDERS_DIR`, the directory in which the
environments are created and kept:

    LIVE_SENDERS_DIR=/tmp/senders uv run pytest -n 0 tests/dialects/live
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from everycall_testkit.provider import FakeProvider

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

FOLDER = os.environ.get("LIVE_SENDERS_DIR")
MODEL, SYSTEM, QUESTION = "gpt-4o-mini", "You are brief.", "Say hello."
CHAT = f"""
import os, openai
client = openai.OpenAI(base_url=os.environ["PROVIDER"], api_key="sk-none", max_retries=0)
messages = [{{"role": "system", "content": "{SYSTEM}"}}, {{"role": "user", "content": "{QUESTION}"}}]
def ask(**more):
    return client.chat.completions.create(model="{MODEL}", messages=messages, temperature=0.25, max_tokens=321, **more)
ask()
try:
    ask(user="fails")
except openai.OpenAIError as error:
    print("raised", type(error).__name__)
"""
SDK = """
from opentelemetry import trace, _logs
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
logs = LoggerProvider()
logs.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
_logs.set_logger_provider(logs)
"""
OTEL = ("opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http", "opentelemetry-instrumentation")
PYDANTIC_AI = f"""
import os
from pydantic_ai import Agent, exceptions
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from openai import AsyncOpenAI
client = AsyncOpenAI(base_url=os.environ["PROVIDER"], api_key="sk-none", max_retries=0)
model = OpenAIChatModel("{MODEL}", provider=OpenAIProvider(openai_client=client))
settings = {{"temperature": 0.25, "max_tokens": 321}}
agent = Agent(model, system_prompt="{SYSTEM}", model_settings=settings)
agent.run_sync("{QUESTION}")
try:
    agent.run_sync("{QUESTION}")
except exceptions.ModelHTTPError as error:
    print("raised", type(error).__name__)
"""
VERCEL = f"""
import {{ NodeTracerProvider }} from "@opentelemetry/sdk-trace-node";
import {{ BatchSpanProcessor }} from "@opentelemetry/sdk-trace-base";
import {{ OTLPTraceExporter }} from "@opentelemetry/exporter-trace-otlp-proto";
import {{ createOpenAI }} from "@ai-sdk/openai";
import {{ generateText, registerTelemetry }} from "ai";
import {{ OpenTelemetry }} from "@ai-sdk/otel";
const provider = new NodeTracerProvider({{ spanProcessors: [new BatchSpanProcessor(new OTLPTraceExporter())] }});
provider.register();
registerTelemetry(new OpenTelemetry());
const openai = createOpenAI({{ baseURL: process.env.PROVIDER, apiKey: "sk-none" }});
const ask = () => generateText({{
  model: openai.chat("{MODEL}"), instructions: "{SYSTEM}", prompt: "{QUESTION}", temperature: 0.25,
  maxOutputTokens: 321, maxRetries: 0, telemetry: {{ isEnabled: true }},
}});
await ask();
try {{ await ask(); }} catch (error) {{ console.log("raised", error.name); }}
await provider.forceFlush();
"""


@dataclass(frozen=True)
class Sender:
    """Packages, the lines around the program, and variables; `{address}` and `{key}` stand in them."""

    packages: tuple[str, ...]
    before: str = ""
    after: str = ""
    variables: dict[str, str] = field(default_factory=dict)
    program: str = CHAT
    node: bool = False


STANDARD = {"OTEL_EXPORTER_OTLP_ENDPOINT": "{address}", "OTEL_EXPORTER_OTLP_HEADERS": "x-api-key={key}"}
FLUSH = "\nprovider.force_flush(); logs.force_flush()\n"
SENDERS: dict[str, Sender] = {
    "genai-openai": Sender(
        ("openai", "opentelemetry-instrumentation-genai-openai==1.3b0", *OTEL),
        SDK + "from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor\n"
        "OpenAIInstrumentor().instrument()\n",
        FLUSH,
        {**STANDARD, "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "SPAN_ONLY"},
    ),
    "openinference": Sender(
        ("openai", "openinference-instrumentation-openai==0.1.66", *OTEL),
        SDK
        + "from openinference.instrumentation.openai import OpenAIInstrumentor\nOpenAIInstrumentor().instrument()\n",
        FLUSH,
        STANDARD,
    ),
    "traceloop": Sender(
        ("openai", "opentelemetry-instrumentation-openai==0.62.4", *OTEL),
        SDK
        + "from opentelemetry.instrumentation.openai import OpenAIInstrumentor\nOpenAIInstrumentor().instrument()\n",
        FLUSH,
        STANDARD,
    ),
    "langfuse": Sender(
        ("openai", "langfuse==5.0.4"),
        "import langfuse\nfrom langfuse import openai as _patched\n",
        "\nlangfuse.get_client().flush()\n",
        {"LANGFUSE_PUBLIC_KEY": "pk-lf-any", "LANGFUSE_SECRET_KEY": "{key}", "LANGFUSE_HOST": "{address}"}
        | {"LANGFUSE_BASE_URL": "{address}"},
    ),
    "logfire": Sender(
        ("openai", "logfire==5.4.0"),
        "import logfire\nlogfire.configure(send_to_logfire=False, console=False)\nlogfire.instrument_openai()\n",
        "\nlogfire.force_flush()\n",
        STANDARD,
    ),
    "pydantic-ai": Sender(
        ("pydantic-ai-slim[openai]==2.68.0", *OTEL),
        SDK + "from pydantic_ai import Agent\nAgent.instrument_all()\n",
        FLUSH,
        STANDARD,
        PYDANTIC_AI,
    ),
    "mlflow": Sender(
        ("openai", "mlflow-skinny==3.17.2", "numpy", "pandas", "opentelemetry-exporter-otlp-proto-http"),
        "import mlflow\nmlflow.openai.autolog()\n",
        "\nmlflow.flush_trace_async_logging()\n",
        {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "{address}/v1/traces",
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "x-api-key={key}",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        },
    ),
    "vercel-ai-7": Sender(
        (
            *("ai@7.0.173", "@ai-sdk/openai@4.0.118", "@ai-sdk/otel@1.0.173", "@opentelemetry/sdk-trace-node@2.12.1"),
            *("@opentelemetry/sdk-trace-base@2.12.1", "@opentelemetry/exporter-trace-otlp-proto@0.223.1"),
            "@opentelemetry/api@1.9.1",
        ),
        variables=STANDARD,
        program=VERCEL,
        node=True,
    ),
}


@pytest.fixture(scope="module")
def live_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server that the senders share, each with a project and key of its own."""
    from everycall.server.options import ServerOptions
    from everycall.server.runner import Server

    with Server(ServerOptions(data_dir=tmp_path_factory.mktemp("live"), port=0)) as server:
        yield server


def installed(name: str, sender: Sender) -> list[str]:
    """Return the command that runs a program in a sender's environment, which is created if needed."""
    folder = Path(str(FOLDER)) / name
    ready = folder / "ready"
    folder.mkdir(parents=True, exist_ok=True)
    if not ready.exists():
        python = str(folder / "venv" / "bin" / "python")
        steps = (
            [["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), *sender.packages]]
            if sender.node
            else [
                ["uv", "venv", "-q", "--python", "3.11", str(folder / "venv")],
                ["uv", "pip", "install", "-q", "--python", python, *sender.packages],
            ]
        )
        for step in steps:
            done = subprocess.run(step, capture_output=True, text=True, check=False, timeout=400, cwd=folder)
            if done.returncode:
                pytest.skip(f"its packages cannot be installed: {done.stderr.strip().splitlines()[-1:]}")
        ready.touch()
    return ["node"] if sender.node else [str(folder / "venv" / "bin" / "python")]


@pytest.mark.skipif(FOLDER is None, reason="set LIVE_SENDERS_DIR to a directory for the senders' environments")
@pytest.mark.parametrize("name", SENDERS)
def test_the_same_program_makes_the_same_records(live_server: Any, name: str) -> None:
    """A call that is answered and one that the provider refuses: model, messages, tokens, answer and status."""
    sender = SENDERS[name]
    if shutil.which("npm" if sender.node else "uv") is None:
        pytest.skip(f"{'npm' if sender.node else 'uv'} is not installed")
    command = installed(name, sender)
    headers = {"x-api-key": live_server.key}
    with httpx.Client(base_url=live_server.address, headers=headers) as client, FakeProvider() as provider:
        made = client.post("/api/keys", json={"name": name, "project": f"live-{name}", "role": "write"})
        key = made.json()["secret"]
        provider.reply()
        provider.reply(status=429, error="slow down")
        values = {
            "address": live_server.address,
            "key": key,
        }
        variables = {variable: text.format(**values) for variable, text in sender.variables.items()}
        file = Path(str(FOLDER)) / name / ("program.mjs" if sender.node else "program.py")
        file.write_text(sender.before + sender.program + sender.after, encoding="utf-8")
        environment = {"PATH": os.environ["PATH"], "HOME": str(file.parent), "PROVIDER": provider.base_url, **variables}
        done = subprocess.run(
            [*command, str(file)],
            env=environment,
            cwd=file.parent,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert "raised" in done.stdout, done.stdout + done.stderr[-3000:]
        records = client.get("/api/records", params={"project": f"live-{name}", "limit": "50"}).json()["records"]
    calls = sorted(
        (one for one in records if one.get("kind") == "llm" and one.get("counted_in") is None),
        key=lambda one: one["start_time_unix_nano"],
    )
    assert len(calls) == 2, (done.stderr[-2000:], [one["name"] for one in records])
    answered, failed = calls
    assert answered["llm_configuration"].get("model", MODEL) == MODEL  # Langfuse sends the answer's model alone
    assert answered["model"] == MODEL
    assert [(message["role"], message["content"]) for message in answered["llm_configuration"]["messages"]] == [
        ("system", SYSTEM),
        ("user", QUESTION),
    ]
    assert answered["content"] == "hello"
    assert (answered["input_tokens"], answered["output_tokens"]) == (22, 189)
    parameters = answered["llm_configuration"]["model_params"]
    assert parameters["temperature"] == 0.25
    assert 321 in parameters.values()
    assert answered.get("status", "success") == "success"
    assert failed["status"] == "error"
    assert failed["error"]
    assert failed.get("input_tokens") is None
