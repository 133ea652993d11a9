"""Answers that are read piece by piece: a stream, or a raw response whose body is not read yet. Called by exchanges."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from everycall.instrument import Reading, follow, follow_parse, watch_closing

if TYPE_CHECKING:
    from everycall_openai._exchange import OpenAIExchange

__all__ = ["read_raw", "read_stream"]


def read_stream(stream: Any, exchange: OpenAIExchange) -> None:
    """Follow a stream of the library's: `Stream` or `AsyncStream`."""
    gathers = exchange.endpoint.gathers
    assert gathers is not None
    reading = Reading(exchange, gathers(exchange.keeps_outputs))
    stream._iterator = follow(stream._iterator, reading)
    watch_closing(stream.response.stream, reading)


def read_raw(answer: Any, exchange: OpenAIExchange) -> None:
    """Follow a raw response whose body is not read yet: what its `parse()` returns is recorded, or followed.

    Read otherwise, as bytes or lines, it has a latency and a status, and nothing is known of what it said.
    """
    reading = Reading(exchange, None)

    def found(parsed: Any) -> None:
        gathers = exchange.endpoint.gathers
        if "_iterator" not in getattr(parsed, "__dict__", ()):
            reading.complete(exchange.endpoint.answers(parsed))
        elif gathers is not None and reading.gathering is None:
            reading.gathering = gathers(exchange.keeps_outputs)
            parsed._iterator = follow(parsed._iterator, reading)

    follow_parse(answer, reading, found)
    watch_closing(answer.http_response.stream, reading)
