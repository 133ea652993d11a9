"""A LangChain chat model on the official `openai` client, for the demo's chain and the LangChain example.

It saves the demo a dependency on LangChain's own package for OpenAI.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LangSmithParams
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, convert_to_openai_messages
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

__all__ = ["LocalChatModel"]


class LocalChatModel(BaseChatModel):
    """A chat model at any OpenAI-compatible URL. It reports the tokens that the server counted."""

    model: str
    base_url: str
    api_key: str = "local"
    max_tokens: int = 48

    @property
    def _llm_type(self) -> str:
        return "openai-compatible-chat"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self.model, "max_tokens": self.max_tokens, "temperature": 0.0}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        # LangChain passes these names to every callback handler.
        parameters = super()._get_ls_params(stop=stop, **kwargs)
        parameters["ls_provider"] = "openai_compatible"
        parameters["ls_model_name"] = self.model
        parameters["ls_max_tokens"] = self.max_tokens
        return parameters

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002 - LangChain passes it
        **kwargs: Any,
    ) -> ChatResult:
        with self._client() as client:
            answer = client.chat.completions.create(**self._request(messages, stop, kwargs))
        usage = _usage(answer.usage)
        message = AIMessage(
            content=answer.choices[0].message.content or "",
            usage_metadata=usage,
            response_metadata={"model_name": answer.model, "finish_reason": answer.choices[0].finish_reason},
        )
        return ChatResult(generations=[ChatGeneration(message=message)], llm_output={"model_name": answer.model})

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        request = self._request(messages, stop, kwargs)
        with (
            self._client() as client,
            client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True}) as chunks,
        ):
            for chunk in chunks:
                text = (chunk.choices[0].delta.content or "") if chunk.choices else ""
                piece = ChatGenerationChunk(
                    message=AIMessageChunk(
                        content=text,
                        usage_metadata=_usage(chunk.usage),
                        response_metadata={"model_name": chunk.model} if chunk.usage else {},
                    )
                )
                if run_manager is not None:
                    run_manager.on_llm_new_token(text, chunk=piece)
                yield piece

    def _client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.base_url, api_key=self.api_key, max_retries=0)

    def _request(self, messages: list[BaseMessage], stop: list[str] | None, more: dict[str, Any]) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": convert_to_openai_messages(messages),
            "max_tokens": self.max_tokens,
            "temperature": 0.0,
            **({"stop": stop} if stop else {}),
            **more,
        }


def _usage(usage: Any) -> Any:
    if usage is None:
        return None
    return {
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
