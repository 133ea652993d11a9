"""What ships: wheels of the core and of each integration, installed where the source tree is out of reach.

The core's wheel alone must import, trace and deliver to a spool with nothing of any extra in the process.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
INTEGRATIONS = sorted(path.parent for path in (ROOT / "integrations").glob("*/pyproject.toml"))
UV = shutil.which("uv")
FORBIDDEN = (
    "anthropic",
    "everycall_langchain",
    "genai_prices",
    "httpx",
    "jinja2",
    "langchain_core",
    "litestar",
    "openai",
    "opentelemetry.sdk",
    "pydantic",
    "uvicorn",
    "zstandard",
)

TRACED = """
import json, sys
import everycall
imported = sorted(sys.modules)

@everycall.trace
def double(x):
    return 2 * x

assert double(21) == 42
balance = everycall.stats()
print(json.dumps({
    "file": everycall.__file__,
    "imported": imported,
    "after": sorted(sys.modules),
    "recorded": balance.recorded,
    "spooled": balance.spooled,
    "dropped": balance.dropped,
}))
"""

CHAIN = """
import json, sys
from langchain_core.runnables import RunnableLambda
import everycall, everycall_langchain

chain = RunnableLambda(lambda x: x + 1) | RunnableLambda(lambda x: x * 2)
assert chain.invoke(1, {"callbacks": [everycall_langchain.CallbackHandler()]}) == 4
print(json.dumps({"file": everycall_langchain.__file__, "recorded": everycall.stats().recorded}))
"""


REQUEST = """
import json
import openai, everycall, everycall_openai

client = everycall_openai.wrap(openai.OpenAI(base_url="http://127.0.0.1:9/v1", api_key="k", max_retries=0))
for ask in (client.chat.completions.create, client.with_options(timeout=5).chat.completions.create):
    try:
        ask(model="m", messages=[])
    except openai.APIConnectionError:
        pass
print(json.dumps({"file": everycall_openai.__file__, "recorded": everycall.stats().recorded}))
"""
GENERATION = """
import json
from google import genai
import everycall, everycall_google

client = everycall_google.wrap(genai.Client(api_key="k", http_options={"base_url": "http://127.0.0.1:9"}))
for ask in (client.models.generate_content, client.models.embed_content):
    try:
        ask(model="m", contents="hi")
    except Exception as error:
        assert "Connect" in type(error).__name__, error
print(json.dumps({"file": everycall_google.__file__, "recorded": everycall.stats().recorded}))
"""
MESSAGE = """
import json
import anthropic, everycall, everycall_anthropic

client = everycall_anthropic.wrap(anthropic.Anthropic(base_url="http://127.0.0.1:9", api_key="k", max_retries=0))
for ask in (client.messages.create, client.with_options(timeout=5).messages.create):
    try:
        ask(model="m", max_tokens=9, messages=[])
    except anthropic.APIConnectionError:
        pass
print(json.dumps({"file": everycall_anthropic.__file__, "recorded": everycall.stats().recorded}))
"""
SMOKE = {"anthropic": (MESSAGE, 2), "google": (GENERATION, 2), "langchain": (CHAIN, 3), "openai": (REQUEST, 2)}
"""What an integration is tried with once it is installed, and the records that makes."""


class Venv:
    """A fresh environment in a separate folder; nothing of this tree is on its path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "venv" / "bin" / "python"
        uv("venv", "--quiet", "--python", sys.executable, str(folder / "venv"), cwd=folder)
        self.constraints = folder / "constraints.txt"
        self.constraints.write_text("\n".join(PROJECT["tool"]["uv"]["constraint-dependencies"]), encoding="utf-8")

    def install(self, *packages: str) -> None:
        uv(
            *("pip", "install", "--quiet", "--python", str(self.python), "--constraint", str(self.constraints)),
            *packages,
            cwd=self.folder,
        )

    def run(self, *arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
        """Run its Python with an endpoint on which nothing listens, and a separate state directory."""
        environment = {
            "PATH": os.environ["PATH"],
            "EVERYCALL_HOME": str(home),
            "EVERYCALL_ENDPOINT": "http://127.0.0.1:9",
            "EVERYCALL_EXIT_TIMEOUT": "0",
        }
        return subprocess.run(
            [str(self.python), "-I", *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


def uv(*arguments: str, cwd: Path) -> None:
    assert UV is not None
    # The outer environment would be taken for the one to install into.
    environment = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT")}
    done = subprocess.run([UV, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"uv {' '.join(arguments)}\n{done.stderr}"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheels of all distributions of the workspace, by the name of the distribution."""
    if UV is None:
        pytest.skip("uv is not installed")
    out = tmp_path_factory.mktemp("wheels")
    uv("build", "--quiet", "--wheel", "--all-packages", "--out-dir", str(out), cwd=ROOT)
    return {path.name.split("-")[0].replace("_", "-"): path for path in out.glob("*.whl")}


@pytest.fixture(scope="module")
def core(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Venv:
    """An environment with the core's wheel and what it requires, and nothing else."""
    venv = Venv(tmp_path_factory.mktemp("core"))
    venv.install(str(wheels["everycall"]))
    return venv


def test_every_distribution_has_a_wheel(wheels: dict[str, Path]) -> None:
    """The core and each folder in integrations/."""
    assert set(wheels) == {"everycall", *(f"everycall-{folder.name}" for folder in INTEGRATIONS)}


def test_the_wheel_has_the_servers_files(wheels: dict[str, Path]) -> None:
    """Templates, static files, the schema and the typing marker ship; tests do not."""
    with zipfile.ZipFile(wheels["everycall"]) as archive:
        names = set(archive.namelist())
    tree = {
        str(path.relative_to(ROOT / "src"))
        for path in (ROOT / "src").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if ".dist-info/" not in name} == tree
    assert "everycall/py.typed" in names


def test_the_core_alone_traces_and_imports_no_extra(core: Venv, tmp_path: Path) -> None:
    """`import everycall` and a traced call work, and nothing heavy is in the process after either."""
    done = core.run("-c", TRACED, home=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert Path(report["file"]).is_relative_to(core.folder)
    assert [m for m in FORBIDDEN if m in report["imported"]] == []
    assert [m for m in FORBIDDEN if m in report["after"]] == []
    assert (report["recorded"], report["spooled"], report["dropped"]) == (1, 1, {})


@pytest.mark.parametrize("command", [["serve"], ["demo", "--once"], ["key", "create", "ci"]])
def test_without_an_extra_a_command_says_what_to_install(core: Venv, tmp_path: Path, command: list[str]) -> None:
    """One line on standard error with the line to run, no traceback, exit code 1."""
    done = core.run("-m", "everycall", *command, home=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert 'pip install "everycall[server' in done.stderr
    assert done.stderr.count("\n") == 1


def test_everything_installs_from_a_folder_of_wheels(
    wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """As README says: `pip install --find-links dist "everycall[all]"` in a new environment, then the server starts."""
    venv = Venv(tmp_path_factory.mktemp("all"))
    venv.install("--find-links", str(wheels["everycall"].parent), "everycall[all]")
    program = (
        "import everycall_openai, everycall_anthropic, everycall_google, everycall_langchain, everycall.server.app"
    )
    done = venv.run("-c", program, home=tmp_path)
    assert done.returncode == 0, done.stderr
    done = venv.run("-m", "everycall", "key", "create", "ci", "--project", "default", home=tmp_path)
    assert done.returncode == 0, done.stderr


def test_ship_needs_no_extra(core: Venv, tmp_path: Path) -> None:
    """What a traced program left behind can be delivered from where only the core is installed."""
    done = core.run("-m", "everycall", "ship", home=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("folder", INTEGRATIONS, ids=lambda folder: folder.name)
def test_an_integration_works_from_its_wheel(
    folder: Path, wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """Installed beside the core's wheel, with the SDK it names, it records what that SDK does."""
    program, recorded = SMOKE[folder.name]
    venv = Venv(tmp_path_factory.mktemp(folder.name))
    venv.install(str(wheels["everycall"]), str(wheels[f"everycall-{folder.name}"]))
    done = venv.run("-c", program, home=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert Path(report["file"]).is_relative_to(venv.folder)
    assert report["recorded"] == recorded
