"""Anthropic's messages API: a message, whole or put together from the events of a stream."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from everycall.server.gateway.formats.names import original_names
from everycall.server.gateway.formats.reports import reported_error
from everycall.server.gateway.formats.text import TextJoiner, decode_object, repaired
from everycall.server.gateway.provider_request import ProviderRequest
from everycall.server.gateway.provider_response import ProviderError, ProviderResponse, build_response, token_counts

__all__ = ["MessageStreamParser", "read_response"]


def read_response(body: Mapping[str, Any], request: ProviderRequest, provider: str) -> ProviderResponse:
    """Return a message. Blocks other than text and tool calls are parts of its output. Raise `ProviderError`."""
    if body.get("type") == "error" or body.get("error"):
        raise reported_error(body.get("error"), "ResponseError")
    blocks = body.get("content")
    if not isinstance(blocks, list):
        raise ProviderError("InvalidAnswer", None, f"the answer of {provider} has no content")
    names = original_names(request.functions)
    texts: list[str] = []
    parts: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for block in blocks:
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "text":
            texts.append(str(block.get("text") or ""))
            if block.get("citations"):
                parts.append({"type": "citations", "citations": block["citations"]})
        elif kind == "thinking":
            signature = {"signature": block["signature"]} if block.get("signature") else {}
            parts.append({"type": "reasoning", "text": block.get("thinking") or "", **signature})
        elif kind == "tool_use":
            name = block.get("name")
            function = {"name": names.get(name, name), "arguments": block.get("input")}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
        elif kind is not None:
            parts.append(block)
    model = body.get("model")
    return build_response(
        text="".join(texts),
        parts=parts,
        tool_calls=calls,
        model=model if isinstance(model, str) and model else request.model,
        tokens=token_counts(body.get("usage")),
        finish_reason=body.get("stop_reason"),
        response_id=body.get("id"),
    )


class MessageStreamParser:
    """See `StreamParser`: puts the events of a stream together into the body that it would have been."""

    def __init__(self, request: ProviderRequest, provider: str) -> None:
        self.finished = False
        self.has_begun = False
        self._request = request
        self._provider = provider
        self._body: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}
        self._output_tokens_at_start: Any = None
        self._blocks: dict[int, dict[str, Any]] = {}
        self._joiners: dict[int, TextJoiner] = {}

    def feed(self, data: bytes) -> str:
        """See `StreamParser.feed`."""
        event = decode_object(data, self._provider)
        kind = event.get("type")
        if kind == "error" or (kind is None and event.get("error")):
            raise reported_error(repaired(event.get("error")))
        self.has_begun = self.has_begun or kind not in (None, "ping")
        if kind == "message_start" and isinstance(event.get("message"), dict):
            self._body |= {name: event["message"].get(name) for name in ("id", "model")}
            usage = event["message"].get("usage")
            if isinstance(usage, dict):
                # The output of the start alone is no count of the message. It is one if no later event has another.
                self._output_tokens_at_start = usage.get("output_tokens")
                _merge_counts(self._usage, {name: usage[name] for name in usage if name != "output_tokens"})
        elif kind == "message_delta":
            self._read_end(event)
        elif kind == "message_stop":
            self.finished = True
        elif kind in ("content_block_start", "content_block_delta"):
            return self._read_block(event)
        return ""

    def end(self) -> str:
        """See `StreamParser.end`."""
        return "".join(joiner.end() for joiner in self._joiners.values())

    def response(self) -> ProviderResponse:
        """See `StreamParser.response`."""
        content = [self._whole(index) for index in sorted(self._blocks)]
        body = repaired({**self._body, "content": content, "usage": self._usage})
        return read_response(body, self._request, self._provider)

    def _read_end(self, event: Mapping[str, Any]) -> None:
        usage, delta = event.get("usage"), event.get("delta")
        if isinstance(usage, dict):
            _merge_counts(self._usage, usage)
            if not self._usage.get("output_tokens") and self._output_tokens_at_start and "output_tokens" in usage:
                self._usage["output_tokens"] = self._output_tokens_at_start
        if isinstance(delta, Mapping) and delta.get("stop_reason"):
            self._body["stop_reason"] = delta["stop_reason"]

    def _read_block(self, event: Mapping[str, Any]) -> str:
        index = event.get("index")
        index = index if type(index) is int else 0
        start, delta = event.get("content_block"), event.get("delta")
        if isinstance(start, dict):
            self._blocks[index] = dict(start)
            return self._add_text(index, str(start.get("text") or "")) if start.get("type") == "text" else ""
        if not isinstance(delta, dict):
            return ""
        block = self._blocks.setdefault(index, {"type": "text"})
        kind = delta.get("type")
        if kind == "text_delta":
            return self._add_text(index, str(delta.get("text") or ""))
        if kind == "input_json_delta":
            block["json"] = block.get("json", "") + str(delta.get("partial_json") or "")
        elif kind == "citations_delta":
            block["citations"] = [*(block.get("citations") or ()), delta.get("citation")]
        elif kind == "thinking_delta":
            block["thinking"] = str(block.get("thinking") or "") + str(delta.get("thinking") or "")
        elif kind == "signature_delta":
            block["signature"] = delta.get("signature")
        return ""

    def _add_text(self, index: int, text: str) -> str:
        return self._joiners.setdefault(index, TextJoiner()).add(text)

    def _whole(self, index: int) -> dict[str, Any]:
        """Return a block with the pieces that arrived. Input without any piece is what the block began with: `{}`."""
        block = dict(self._blocks[index])
        text = repaired(block.pop("json", ""))
        if text.strip():
            try:
                block["input"] = json.loads(text)
            except ValueError:
                block["input"] = text
        if index in self._joiners:
            block["text"] = self._joiners[index].text
        return block


def _merge_counts(counts: dict[str, Any], usage: Mapping[str, Any]) -> None:
    """Add a later report of the same message: its counts replace earlier ones, but a 0 or null replaces nothing."""
    for name, value in usage.items():
        earlier = counts.get(name)
        if isinstance(value, dict) and isinstance(earlier, dict):
            _merge_counts(earlier, value)
        elif isinstance(value, dict):
            counts[name] = dict(value)
        elif value or (name not in counts and value is not None):
            counts[name] = value
