"""Every LLM call, on the record, once. See `trace`, `span`, `context`, `Parea` and `init`."""

from typing import TYPE_CHECKING, Any

from everycall._call.context import context
from everycall._call.decorator import span, trace
from everycall._call.interface import Call, current
from everycall._ledger import Balance, Flushed
from everycall._runtime import flush, init, shutdown, stats
from everycall._version import __version__

if TYPE_CHECKING:
    from everycall import masks as masks
    from everycall._instrumentation.registry import instrument as instrument
    from everycall._instrumentation.registry import uninstrument as uninstrument
    from everycall.client import (
        AsyncCompletionStream,
        Completion,
        CompletionResponse,
        CompletionStream,
        FeedbackRequest,
        LLMInputs,
        Message,
        ModelParams,
        Parea,
        Prompt,
        UseDeployedPrompt,
        UseDeployedPromptResponse,
    )

__all__ = [
    "AsyncCompletionStream",
    "Balance",
    "Call",
    "Completion",
    "CompletionResponse",
    "CompletionStream",
    "FeedbackRequest",
    "Flushed",
    "LLMInputs",
    "Message",
    "ModelParams",
    "Parea",
    "Prompt",
    "UseDeployedPrompt",
    "UseDeployedPromptResponse",
    "__version__",
    "context",
    "current",
    "flush",
    "init",
    "instrument",
    "shutdown",
    "span",
    "stats",
    "trace",
    "uninstrument",
]


def __getattr__(name: str) -> Any:
    """Import the client, the masks and the integrations at their first use, so that tracing alone does not pay."""
    if name == "masks":
        import importlib

        return importlib.import_module("everycall.masks")
    if name in ("instrument", "uninstrument"):
        from everycall._instrumentation import registry

        return getattr(registry, name)
    if name in __all__:
        from everycall import client

        return getattr(client, name)
    raise AttributeError(f"module 'everycall' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
