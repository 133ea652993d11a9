"""Tokens, searches and charges of a response, from LangChain's report and from the provider's beside it."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, LLMResult

from everycall_langchain._completion import response_fields


def fields_of(message: AIMessage, llm_output: dict[str, Any] | None = None) -> dict[str, Any]:
    result = LLMResult(generations=[[ChatGeneration(message=message)]], llm_output=llm_output)
    fields = response_fields(result, "run")
    names = ("input_tokens", "output_tokens", "total_tokens", "usage", "cost", "cost_source", "everycall.service_tier")
    return {name: fields[name] for name in names if name in fields}


OWN: Any = {
    "input_tokens": 3100,
    "output_tokens": 10,
    "total_tokens": 3110,
    "input_token_details": {"cache_read": 1000},
}
ANTHROPIC = {
    "input_tokens": 100,
    "cache_read_input_tokens": 1000,
    "cache_creation_input_tokens": 2000,
    "cache_creation": {"ephemeral_5m_input_tokens": 500, "ephemeral_1h_input_tokens": 1500},
    "output_tokens": 10,
    "server_tool_use": {"web_search_requests": 3},
    "service_tier": "batch",
}


def test_the_providers_report_adds_counts_that_langchain_omits() -> None:
    """Searches are billed; LangChain's report does not have them."""
    message = AIMessage("x", usage_metadata=OWN, response_metadata={"model_name": "claude", "usage": ANTHROPIC})
    assert fields_of(message) == {
        "input_tokens": 3100,
        "output_tokens": 10,
        "total_tokens": 3110,
        "usage": {"cached": 1000, "cache_write": 2000, "cache_write_1h": 1500, "web_searches": 3},
        "everycall.service_tier": "batch",
    }


def test_only_separately_billed_counts_are_added() -> None:
    """A stream's last report may lack what LangChain has added up."""
    report = {**ANTHROPIC, "output_tokens": 4, "dreaming_tokens": 5}
    message = AIMessage("x", usage_metadata=OWN, response_metadata={"usage": report})
    assert fields_of(message)["usage"] == {"cached": 1000, "web_searches": 3, "unpriced.dreaming_tokens": 5}
    assert fields_of(message)["output_tokens"] == 10


def test_what_the_provider_charged_is_the_cost() -> None:
    report = {"prompt_tokens": 5, "completion_tokens": 8, "total_tokens": 13, "cost": 0.0146, "is_byok": False}
    own: Any = {"input_tokens": 5, "output_tokens": 8, "total_tokens": 13}
    expected = {**own, "usage": {}, "cost": 0.0146, "cost_source": "provider"}
    for message in (
        AIMessage("x", usage_metadata=own, response_metadata={"token_usage": report}),
        AIMessage("x", response_metadata={"token_usage": report}),
    ):
        assert fields_of(message) == expected
    assert fields_of(AIMessage("x"), {"token_usage": report}) == expected


SEARCH = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "q"}}
FILE_SEARCH = {"type": "file_search_call", "status": "completed"}
SERVER_TOOL = {"type": "server_tool_call", "id": "st_1", "args": {"query": "q"}}
TEXT = {"type": "text", "text": "found"}


@pytest.mark.parametrize(
    ("content", "extras", "parts"),
    [
        ([SEARCH, {**SEARCH, "action": {"type": "open_page"}}, TEXT], {}, {"web_searches": 1}),
        ("found", {"tool_outputs": [SEARCH, FILE_SEARCH]}, {"web_searches": 1, "file_searches": 1}),
        ([TEXT], {"tool_outputs": [SEARCH, FILE_SEARCH]}, {"web_searches": 1, "file_searches": 1}),
        ([{**SERVER_TOOL, "name": "web_search"}, TEXT], {}, {"web_searches": 1}),
        ([{"type": "server_tool_use", "name": "web_search", "id": "s_1", "input": {}}, TEXT], {}, {"web_searches": 1}),
        ([{"type": "image_generation_call", "status": "completed"}], {}, {"unpriced.image_generation": 1}),
        ([{**SERVER_TOOL, "name": "code_interpreter"}, TEXT], {}, {}),
    ],
    ids=[
        "openai",
        "beside a text",
        "beside blocks",
        "langchain's form",
        "anthropic, streamed",
        "images",
        "other tools",
    ],
)
def test_calls_of_the_providers_tools_that_no_report_counts(
    content: Any, extras: dict[str, Any], parts: dict[str, int]
) -> None:
    own: Any = {"input_tokens": 5, "output_tokens": 8, "total_tokens": 13}
    message = AIMessage(content, additional_kwargs=extras, usage_metadata=own)
    assert fields_of(message)["usage"] == parts


def test_searches_that_the_report_counts_are_not_counted_again() -> None:
    block = {"type": "server_tool_use", "name": "web_search", "id": "srv_1", "input": {}}
    message = AIMessage([block, TEXT], usage_metadata=OWN, response_metadata={"usage": ANTHROPIC})
    assert fields_of(message)["usage"]["web_searches"] == 3


def test_thoughts_that_only_a_total_of_gemini_has() -> None:
    """On OpenAI's protocol, LangChain names OpenAI as the provider, but the model's name is Gemini's."""
    own: Any = {"input_tokens": 66, "output_tokens": 6, "total_tokens": 100}
    message = AIMessage("x", usage_metadata=own, response_metadata={"model_name": "gemini-2.5-flash"})
    assert fields_of(message) == {
        "input_tokens": 66,
        "output_tokens": 34,
        "total_tokens": 100,
        "usage": {"reasoning": 28},
    }
