"""A chat model of LangChain's over a client, as integrations of LangChain's are made. Needs langchain-core."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

__all__ = ["ClientModel"]


class ClientModel(BaseChatModel):
    """Sends each run as one request of `client`; `raw` as one for a raw response, where the adapter has such."""

    clients: Any
    client: Any
    raw: bool = False

    @property
    def _llm_type(self) -> str:
        return "client"

    def _request(self) -> Any:
        adapter = self.clients.adapter
        return adapter.ask_raw(self.client) if self.raw else adapter.ask(self.client)

    def _result(self, answer: Any) -> ChatResult:
        text = self.clients.adapter.answer_text(answer)
        return ChatResult(generations=[ChatGeneration(message=AIMessage(text))])

    def _chunk(self, piece: Any) -> ChatGenerationChunk:
        return ChatGenerationChunk(message=AIMessageChunk(content=self.clients.adapter.piece_text(piece) or ""))

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
        answer = self._request()
        return self._result(answer.parse() if self.raw else answer)

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
        answer = await self._request()
        return self._result(await self.clients.wait(answer.parse()) if self.raw else answer)

    def _stream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any
    ) -> Iterator[ChatGenerationChunk]:
        for piece in self.clients.adapter.stream(self.client):
            yield self._chunk(piece)

    async def _astream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        async for piece in await self.clients.adapter.stream(self.client):
            yield self._chunk(piece)
