"""Fixtures of the compatibility tests: the real `parea-ai` packages, each in a separate environment.

The environments are made once and kept in the user's cache directory, under a name that tells what is in them. Where
the packages cannot be installed the tests are skipped and say why; with CI=true that is a failure.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from everycall_testkit.stream_provider import StreamProvider

HERE = Path(__file__).parent
PROGRAM_S = 55  # below pytest's own time-out, so that a program that hangs says where

# What each client met in its time, and what it needs without declaring it. The clients themselves are installed alone:
# they declare tools of their own development, which nothing of theirs imports.
PACKAGES = {
    "0.2.220": [
        "openai==1.59.9",
        "anthropic==0.42.0",
        "langchain-core==0.3.30",
        "httpx==0.28.1",
        "cattrs==24.1.2",
        "tenacity==9.0.0",
        "python-dotenv",
        "pytz",
        "pysbd",
        "levenshtein",
        "orjson",
        "tiktoken",
        "wrapt",
        "tqdm",
        "numpy",
    ],
    "0.1.3": ["httpx==0.24.1", "attrs==23.1.0", "python-dotenv==1.0.0"],
}


def environment_of(version: str) -> Path:
    """Return the Python of a client's environment, created if needed. Raise `RuntimeError` with the reason."""
    uv = shutil.which("uv")
    if uv is None:
        raise RuntimeError("uv is not installed")
    requirements = [f"parea-ai=={version}", *PACKAGES[version], f"{sys.version_info.major}.{sys.version_info.minor}"]
    mark = hashlib.sha256(json.dumps(requirements).encode()).hexdigest()[:12]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "everycall-tests"
    folder = home / f"parea-{version}-{mark}"
    home.mkdir(parents=True, exist_ok=True)
    with (home / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        python = folder / "bin" / "python"
        if (folder / "complete").exists():
            return python
        shutil.rmtree(folder, ignore_errors=True)
        into = ["--python", str(python)]
        for command in (
            [uv, "venv", "-q", "--python", sys.executable, str(folder)],
            [uv, "pip", "install", "-q", *into, *PACKAGES[version]],
            [uv, "pip", "install", "-q", *into, "--no-deps", f"parea-ai=={version}"],
        ):
            # beside the project: inside it, uv would hold the packages to the versions that the project is tested with
            done = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=600, check=False)
            if done.returncode:
                raise RuntimeError(f"{' '.join(command[:4])} failed: {done.stderr.strip()[-500:]}")
        (folder / "complete").touch()
    return python


@pytest.fixture(scope="session")
def parea_python() -> Callable[[str], Path]:
    """Return the Python of a client's version. If there is none, skip the test, or fail it in CI."""
    interpreters: dict[str, Path] = {}

    def of(version: str) -> Path:
        if version not in interpreters:
            try:
                interpreters[version] = environment_of(version)
            except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
                reason = f"parea-ai {version} cannot be installed: {error}"
                if os.environ.get("CI") == "true":
                    pytest.fail(reason)
                pytest.skip(reason)
        return interpreters[version]

    return of


@pytest.fixture
def provider() -> Iterator[Any]:
    """The fake provider that also streams; `gateway_server` asks it as `openai`."""
    with StreamProvider() as started:
        yield started


@pytest.fixture
def api(gateway_server: Any) -> Iterator[httpx.Client]:
    """An HTTP client of the server, with its local key."""
    with httpx.Client(base_url=gateway_server.address, headers={"x-api-key": gateway_server.key}, timeout=30) as opened:
        yield opened


@pytest.fixture
def deployment_id(api: httpx.Client) -> str:
    """The seed's deployed prompt."""
    body = {
        "name": "hello world",
        "messages": [{"role": "user", "content": "I want a Hello World program in {{x}}. Using the {{y}} framework."}],
        "model": "gpt-3.5-turbo",
        "model_params": {"temp": 0.5},
    }
    return str(api.post("/api/deployments", json=body).json()["deployment_id"])


@pytest.fixture
def run_program(
    gateway_server: Any, provider: Any, parea_python: Callable[[str], Path], tmp_path: Path
) -> Callable[..., Any]:
    """Run a program of `programs/` with a version of the client; return its last line, decoded from JSON.

    A client that could not do something logs it and goes on; so whatever it logs as an error fails the test.
    """

    def run(version: str, name: str, *arguments: str) -> Any:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "PAREA_BASE_URL": f"{gateway_server.address}/api/parea/v1",
            "PAREA_API_KEY": gateway_server.key,
            "PROVIDER": provider.root,
        }
        command = [str(parea_python(version)), str(HERE / "programs" / f"{name}.py"), *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PROGRAM_S, check=False
        )
        assert done.returncode == 0, done.stderr[-4_000:]
        # "Error occurred in function" is the client's word on a function of the program that raised.
        lines = [line for line in done.stderr.splitlines() if "Error occurred in function" not in line]
        complaints = [line for line in lines if "rror" in line]
        assert complaints == [], done.stderr[-4_000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run
