"""everycall for Google's Gen AI client: each request to a model becomes one record."""

from everycall_google._clients import instrument, uninstrument, wrap

__all__ = ["instrument", "uninstrument", "wrap"]
