"""everycall for OpenAI's client: each request to a model becomes one record."""

from everycall_openai._clients import instrument, uninstrument, wrap

__all__ = ["instrument", "uninstrument", "wrap"]
