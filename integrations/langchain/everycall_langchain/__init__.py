"""everycall for LangChain: each run of a chain, model, tool or retriever becomes one record."""

from everycall_langchain._instrument import instrument, uninstrument
from everycall_langchain.handler import CallbackHandler

__all__ = ["CallbackHandler", "instrument", "uninstrument"]
