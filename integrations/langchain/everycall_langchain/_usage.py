"""The usage of a model's response: tokens, searches and charges, from wherever LangChain keeps them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from everycall.integration import usage_fields

__all__ = ["response_usage"]

_SUMS: Final = ("input_tokens", "output_tokens")
_BILLED_APART: Final = ("web_searches", "file_searches", "unpriced.")
"""Prefixes of the parts of `usage` that no sum includes."""
_CHARGE: Final = ("cost", "cost_source", "everycall.service_tier")
_SEARCHES_OF_ANTHROPIC: Final = "server_tool_use"
_CALLS_OF_OPENAI: Final = frozenset({"web_search_call", "file_search_call", "image_generation_call"})


def response_usage(
    message: Mapping[str, Any], metadata: Mapping[str, Any], overall: Mapping[str, Any], *, has_several_choices: bool
) -> dict[str, Any]:
    """Return the usage of a response, for `Call.update`.

    `message` has the members of the first choice's message, `metadata` is its `response_metadata`, and `overall` the
    result's `llm_output`. The message's own report holds, unless several choices share one bill. The provider's report
    is kept by LangChain beside it, and adds what LangChain's does not have: searches, charges, and tokens that are
    billed apart. Calls of the provider's tools that no report counts are counted in the content.
    """
    own = message.get("usage_metadata")
    shared = overall.get("token_usage") or overall.get("usage")
    of_provider = metadata.get("token_usage") or metadata.get("usage") or shared
    if has_several_choices and shared:
        own, of_provider = None, shared
    if not isinstance(own, Mapping) or "input_tokens" not in own:
        own = None
    if own is None and not of_provider:
        return {}
    model = metadata.get("model_name") or metadata.get("model")
    may_have_calls = type(message.get("content")) is list or message.get("additional_kwargs")
    calls = list(_tool_calls(message, of_provider)) if may_have_calls else []
    response = {"model": model, "output": calls} if model or calls else None
    fields = usage_fields(of_provider if own is None else own, response=response)
    if own is not None and of_provider:
        _add_details(fields, usage_fields(of_provider))
    return fields


def _add_details(fields: dict[str, Any], of_provider: Mapping[str, Any]) -> None:
    """Add to LangChain's counts what only the provider's report has."""
    usage, parts = fields.setdefault("usage", {}), of_provider.get("usage", {})
    has_same_sums = all(fields.get(name) == of_provider.get(name) for name in _SUMS)
    for name, count in parts.items():
        if has_same_sums or name.startswith(_BILLED_APART):
            usage.setdefault(name, count)
    for name in _CHARGE:
        if name in of_provider:
            fields.setdefault(name, of_provider[name])


def _tool_calls(message: Mapping[str, Any], of_provider: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the calls of the provider's own tools in a message, as OpenAI's Responses API shows them.

    Anthropic's are not counted if its report does, and neither are those of other tools than searches and images.
    """
    is_counted = isinstance(of_provider, Mapping) and _SEARCHES_OF_ANTHROPIC in of_provider
    extras = message.get("additional_kwargs")
    outputs = extras.get("tool_outputs") if isinstance(extras, Mapping) else None
    for blocks in (message.get("content"), outputs):
        for block in blocks if isinstance(blocks, list) else ():
            kind = block.get("type") if isinstance(block, Mapping) else None
            if kind in _CALLS_OF_OPENAI:
                yield block
            elif kind in ("server_tool_call", _SEARCHES_OF_ANTHROPIC) and not is_counted:
                arguments = block.get("args")
                action = arguments.get("type") if isinstance(arguments, Mapping) else None
                yield {"type": f"{block.get('name')}_call", "action": {"type": action or "search"}}
