"""A wrapped Google client: plain answers, streams and functions that the model calls, below the function that asks.

Needs `everycall serve` running, and GOOGLE_API_KEY (GOOGLE_GEMINI_BASE_URL for another address than Google's).
"""

import os

from google import genai

import everycall
import everycall_google

client = everycall_google.wrap(genai.Client(), session_id="s-1", tags=["example"])
model = os.environ.get("MODEL", "gemini-2.5-flash")


@everycall.trace(kind="tool")
def get_weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"sunny in {city}"


@everycall.trace(trace_name="two questions")
def both(city: str) -> list[str]:
    chat = client.chats.create(model=model, config={"tools": [get_weather]})
    answer = chat.send_message(f"How is the weather in {city}?")
    stream = client.models.generate_content_stream(model=model, contents=f"Who likes {city}?")
    return [answer.text or "", "".join(chunk.text or "" for chunk in stream)]


print(*both("Rome"), sep="\n")
print(everycall.flush())
