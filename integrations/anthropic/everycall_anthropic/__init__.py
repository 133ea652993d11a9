"""everycall for Anthropic's client: each request to a model becomes one record."""

from everycall_anthropic._clients import instrument, uninstrument, wrap

__all__ = ["instrument", "uninstrument", "wrap"]
