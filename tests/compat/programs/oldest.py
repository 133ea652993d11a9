"""With parea-ai 0.1.3, which has no option for the URL: it is set on its HTTP client. `oldest.py DEPLOYMENT_ID`."""

import asyncio
import json
import os
import sys

from attrs import asdict
from parea import api_client

api_client.HTTPClient.base_url = os.environ["PAREA_BASE_URL"]

# The address must be in place before the first client is made, which the import of `parea` does.
for name in [name for name in sys.modules if name == "parea" or name.startswith("parea.client")]:
    del sys.modules[name]
api_client.HTTPClient._instance = None

from parea import Parea  # noqa: E402
from parea.schemas.models import Completion, FeedbackRequest, LLMInputs, Message, ModelParams, UseDeployedPrompt  # noqa: E402

deployment_id = sys.argv[1]
p = Parea(api_key=os.environ["PAREA_API_KEY"])


def seed(**fields):
    return Completion(trace_id="T", deployment_id=deployment_id, llm_inputs={"x": "Golang", "y": "Fiber"}, **fields)


own = Completion(
    llm_configuration=LLMInputs(
        model="gpt-4o", model_params=ModelParams(model="gpt-4o", temp=0.75), messages=[Message("hi")]
    )
)


async def asynchronous():
    answer = await p.acompletion(seed(trace_name="step2"))
    await p.record_feedback(FeedbackRequest(score=0.5, inference_id=answer.inference_id))
    await p.record_feedback(FeedbackRequest(score=1.0, trace_id="T"))
    return asdict(answer), asdict(await p.aget_prompt(UseDeployedPrompt(deployment_id)))


first = p.completion(seed(trace_name="step1"))
second, aprompt = asyncio.run(asynchronous())
print(
    json.dumps(
        {
            "first": asdict(first),
            "second": second,
            "own": asdict(p.completion(own)),
            "prompt": asdict(p.get_prompt(UseDeployedPrompt(deployment_id, {"x": "Golang"}))),
            "aprompt": aprompt,
        }
    )
)
