"""Every LLM call, on the record, once. See `trace`, `span`, `context`, `Parea` and `init`."""

from everycall._call import Call
from everycall._context import context
from everycall._context import current_call as current
from everycall._ledger import Balance, Flushed
from everycall._runtime import flush, init, shutdown, stats
from everycall._trace import span, trace
from everycall._version import __version__
from everycall.client import Completion, CompletionResponse, LLMInputs, Message, ModelParams, Parea

__all__ = [
    "Balance",
    "Call",
    "Completion",
    "CompletionResponse",
    "Flushed",
    "LLMInputs",
    "Message",
    "ModelParams",
    "Parea",
    "__version__",
    "context",
    "current",
    "flush",
    "init",
    "shutdown",
    "span",
    "stats",
    "trace",
]
