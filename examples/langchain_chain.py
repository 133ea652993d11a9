"""A LangChain chain under everycall's callback handler. `ChatModel` may be any LangChain chat model."""

import os

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

import everycall
from everycall.demo.chat_model import LocalChatModel as ChatModel
from everycall_langchain import CallbackHandler

model = ChatModel(
    model=os.environ.get("MODEL", "gpt-4o-mini"),
    base_url=os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1"),
    api_key=os.environ["OPENAI_API_KEY"],
)
prompt = ChatPromptTemplate.from_messages([("system", "Answer in one sentence."), ("user", "What is {thing}?")])
chain = prompt | model | StrOutputParser()


@everycall.trace(trace_name="langchain")
def explain(thing: str) -> str:
    return chain.invoke({"thing": thing}, {"callbacks": [CallbackHandler()]})


print(explain("a spool"))
print(everycall.flush())
