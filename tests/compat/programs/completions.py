"""With parea-ai 0.2.220: completions, streams, deployed prompts, feedback. `completions.py DEPLOYMENT_ID`."""

import asyncio
import json
import sys

from attrs import asdict
from parea import Parea, get_current_trace_id, trace
from parea.schemas import Completion, FeedbackRequest, LLMInputs, Message, ModelParams, Role, UseDeployedPrompt

deployment_id = sys.argv[1]
p = Parea()


def seed(**fields):
    return Completion(
        deployment_id=deployment_id, llm_inputs={"x": "Golang", "y": "Fiber"}, metadata={"purpose": "testing"}, **fields
    )


@trace(name="around", end_user_identifier="u-7")
def around():
    answer = p.completion(seed(trace_name="inside", cache=False))
    return get_current_trace_id(), answer.inference_id


async def asynchronous():
    answer = await p.acompletion(seed())
    texts = [text async for text in p.astream(seed(cache=False))]
    prompt = await p.aget_prompt(UseDeployedPrompt(deployment_id))
    await p.arecord_feedback(FeedbackRequest(score=0.0, trace_id=answer.inference_id, comment="wrong"))
    return {"answer": asdict(answer), "texts": texts, "prompt": asdict(prompt)}


own = Completion(
    llm_configuration=LLMInputs(
        model="gpt-4o",
        model_params=ModelParams(temp=0.25),
        messages=[Message("be brief", Role.system), Message("Say {{x}}", Role.user)],
        functions=[{"name": "f", "description": "", "parameters": {"type": "object", "properties": {}}}],
    ),
    llm_inputs={"x": "hi"},
    target="hello",
    tags=["a"],
    end_user_identifier="u-1",
    cache=False,
)
long = Completion(llm_configuration=LLMInputs(model="gpt-4o", messages=[Message("a long answer")]))
results = {
    "long": ["".join(p.stream(long)), "".join(p.stream(long))],
    "first": asdict(p.completion(seed())),
    "second": asdict(p.completion(seed())),
    "own": asdict(p.completion(own)),
    "stream": list(p.stream(seed())),
    "stream_again": list(p.stream(seed(cache=False))),
    "prompt": asdict(p.get_prompt(UseDeployedPrompt(deployment_id, {"x": "Golang", "y": "Fiber"}))),
    "around": around(),
    "asynchronous": asyncio.run(asynchronous()),
}
p.record_feedback(FeedbackRequest(score=0.75, trace_id=results["first"]["inference_id"], target="gold"))
results["log"] = asdict(p.get_trace_log(results["first"]["inference_id"]))
results["tree"] = asdict(p.get_trace_log(results["around"][0]))
print(json.dumps(results))
