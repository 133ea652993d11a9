"""With parea-ai 0.2.220: `@trace`, its OpenAI and Anthropic wrappers, its LangChain tracer, and reading it all back."""

import asyncio
import json
import os
import time

import anthropic
import openai
from attrs import asdict
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from parea import Parea, get_current_trace_id, trace, trace_insert
from parea.schemas import EvaluationResult, FilterOperator, QueryParams
from parea.utils.trace_integrations.langchain import PareaAILangchainTracer

p = Parea(project_name="default")
gpt = openai.OpenAI(base_url=os.environ["PROVIDER"] + "/v1", api_key="sk-fake")
claude = anthropic.Anthropic(base_url=os.environ["PROVIDER"], api_key="sk-fake")
p.wrap_openai_client(gpt)
p.wrap_anthropic_client(claude)
report = {}


def short(log):
    return EvaluationResult(name="short", score=float(len(log.output) < 10), reason="counted")


@trace(eval_funcs=[short], tags=["t"], metadata={"team": "a"}, session_id="s-1")
def answer(question):
    report["answer"] = get_current_trace_id()
    trace_insert({"end_user_identifier": "u-9"})
    reply = gpt.chat.completions.create(
        model="gpt-3.5-turbo", messages=[{"role": "user", "content": question}], temperature=0.5
    )
    return reply.choices[0].message.content


@trace
def ask_claude(question):
    report["claude"] = get_current_trace_id()
    reply = claude.messages.create(
        model="claude-3-5-sonnet-20240620", max_tokens=10, messages=[{"role": "user", "content": question}]
    )
    return reply.content[0].text


@trace
async def child(n):
    await asyncio.sleep(0)
    return n * 2


@trace(log_omit_inputs=True, log_omit_outputs=True)
async def parent(n):
    report["parent"] = get_current_trace_id()
    return sum(await asyncio.gather(child(n), child(n + 1)))


@trace
def fails(secret):
    report["fails"] = get_current_trace_id()
    raise ValueError("boom")


model = GenericFakeChatModel(
    messages=iter([AIMessage("Paris.", usage_metadata={"input_tokens": 5, "output_tokens": 2, "total_tokens": 7})])
)
chain = ChatPromptTemplate.from_messages([("system", "be brief"), ("user", "{q}")]) | model | StrOutputParser()


@trace
def chained(q):
    report["chained"] = get_current_trace_id()
    handler = PareaAILangchainTracer(session_id="s-2", tags=["lc"], metadata={"a": "1"}, end_user_identifier="u-8")
    return chain.invoke({"q": q}, config={"callbacks": [handler]})


results = [answer("hi"), ask_claude("hi"), asyncio.run(parent(1)), chained("capital?")]
try:
    fails("secret")
except ValueError:
    results.append("failed")


def when_complete(own, count):
    """The tree of a log once that many logs are in it: the client sends them from threads."""
    for _ in range(100):
        logs = p.get_trace_logs(QueryParams(project_name="default", filter_field="trace_id", filter_value=own))
        if logs.total:
            tree = p.get_trace_log(own)
            if size(tree) >= count:
                return asdict(tree)
        time.sleep(0.1)
    raise SystemExit(f"{own} did not come")


def size(tree):
    return 1 + sum(size(child) for child in tree.children_logs)


trees = {
    name: when_complete(report[name], count)
    for name, count in [("answer", 3), ("claude", 2), ("parent", 3), ("fails", 1), ("chained", 5)]
}
for _ in range(100):
    scores = p.get_trace_log_scores(report["answer"], check_context=False)
    if scores:
        break
    time.sleep(0.1)
failed = p.get_trace_logs(QueryParams(project_name="default", status="error"))
tagged = p.get_trace_logs(
    QueryParams(
        project_name="default", filter_field="metadata", filter_key="team", filter_operator=FilterOperator.EQUALS,
        filter_value="a", page_size=5,
    )
)  # fmt: skip
print(
    json.dumps(
        {
            "results": results,
            "trees": trees,
            "scores": [asdict(one) for one in scores],
            "failed": [one.trace_id for one in failed.results],
            "tagged": [one.trace_id for one in tagged.results],
            "page": [tagged.total, tagged.page, tagged.total_pages, tagged.page_size],
            "ids": report,
        }
    )
)
