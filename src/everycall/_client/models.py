"""Requests to the endpoint's API and its responses, as values. `client.py` sends them.

Names and fields are those of Parea's client if it has them.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import msgspec

from everycall._call import recorder as _recorder
from everycall._call.context import current_node
from everycall.settings import OMIT_ALL, OMIT_INPUTS, OMIT_OUTPUTS, Settings

__all__ = [
    "Completion",
    "CompletionResponse",
    "FeedbackRequest",
    "LLMInputs",
    "Message",
    "ModelParams",
    "Prompt",
    "UseDeployedPrompt",
    "UseDeployedPromptResponse",
    "completion_body",
    "feedback_body",
    "prompt_body",
]

_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a prompt. `content` is a text or a list of OpenAI's content parts; the rest is for tool use."""

    content: str | Sequence[Mapping[str, Any]] | None = ""
    role: str = "user"
    name: str | None = None
    tool_calls: Sequence[Mapping[str, Any]] | None = None
    tool_call_id: str | None = None


@dataclass(frozen=True, slots=True)
class ModelParams:
    """Parameters of the generation. None means the deployment's value, or else the provider's default."""

    temp: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    max_length: int | None = None
    response_format: Mapping[str, Any] | None = None
    safe_prompt: bool | None = None


@dataclass(frozen=True, slots=True)
class LLMInputs:
    """The seed's `llm_configuration`. Its values take precedence over the deployment's."""

    model: str | None = None
    provider: str | None = None
    model_params: ModelParams | Mapping[str, Any] | None = None
    messages: Sequence[Message | Mapping[str, Any]] | None = None
    history: Sequence[Message | Mapping[str, Any]] | None = None
    functions: Sequence[Any] | None = None
    function_call: str | Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A request for a completion: the seed's fields. It needs a deployment, or a model with messages.

    A field that is None has the value of the call in progress (`trace_id`, `trace_name`, `end_user_identifier`,
    `session_id`, `parent_trace_id`) or of the client (`cache`, `project_name`), or is not sent. `inference_id` is
    generated if it is None.
    """

    trace_id: str | None = None
    trace_name: str | None = None
    end_user_identifier: str | None = None
    deployment_id: str | None = None
    name: str | None = None
    project_name: str | None = None
    llm_inputs: Mapping[str, Any] | None = None
    llm_configuration: LLMInputs | Mapping[str, Any] | None = None
    metadata: Mapping[str, Any] | None = None
    target: str | None = None
    tags: Sequence[str] | None = None
    cache: bool | None = None
    log_omit_inputs: bool = False
    log_omit_outputs: bool = False
    log_omit: bool = False
    inference_id: str | None = None
    parent_trace_id: str | None = None
    session_id: str | None = None
    log_sample_rate: float | None = None
    provider_api_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionResponse:
    """The seed's response. `status` is "success", or "error" if the provider failed; `error` is then its message.

    `latency` is in seconds, `cost` in US dollars. An unknown number is 0 here and null in the record. Times are
    `YYYY-MM-DD HH:MM:SS`, UTC.
    """

    inference_id: str
    content: str
    latency: float
    input_tokens: int
    output_tokens: int
    total_tokens: int
    cost: float
    model: str
    provider: str
    cache_hit: bool
    status: str
    start_timestamp: str
    end_timestamp: str
    error: str | None = None


@dataclass(frozen=True, slots=True)
class UseDeployedPrompt:
    """A request for a deployed prompt, with the values of its variables if they should be filled in."""

    deployment_id: str
    llm_inputs: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """The messages of a deployed prompt: as written (`raw_messages`), and with `inputs` filled in."""

    raw_messages: list[dict[str, Any]]
    messages: list[dict[str, Any]]
    inputs: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UseDeployedPromptResponse:
    """The active version of a deployment. `functions` are JSON texts, as in Parea's client."""

    deployment_id: str
    version_number: float | None = None
    name: str | None = None
    functions: list[str] | None = None
    function_call: str | None = None
    prompt: Prompt | None = None
    model: str | None = None
    provider: str | None = None
    model_params: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class FeedbackRequest:
    """Feedback on the completion or call with this id: a `score` from 0 to 1, and a comment or the right answer.

    `trace_id` is Parea's name for the record's `inference_id`; the id of a trace means its first record. Raise
    `ValueError` if the score is out of bounds, or if neither id is given.
    """

    score: float
    trace_id: str | None = None
    name: str | None = None
    target: str | None = None
    comment: str | None = None
    inference_id: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.score <= 1:
            raise ValueError(f"score is from 0 to 1, not {self.score!r}")
        if not (self.trace_id or self.inference_id):
            raise ValueError("give trace_id: the inference_id of the completion or call that the feedback is about")


def completion_body(completion: Completion, settings: Settings, cache: bool) -> bytes:
    """Return the body of a request for a completion, with the defaults of the call in progress.

    Raise `TypeError` for a value that is not JSON.
    """
    if not isinstance(completion, Completion):
        raise TypeError(f"completion() takes a Completion, not {type(completion).__name__}")
    values = {item.name: getattr(completion, item.name) for item in fields(completion)}
    body = {name: value for name, value in values.items() if value is not None}
    body.setdefault("project_name", settings.project_name)
    body.setdefault("cache", cache)
    body.setdefault("inference_id", f"{secrets.token_hex(16)}-{secrets.token_hex(8)}")
    _inherit(body, settings)
    return _encoded(body, "completion")


def prompt_body(prompt: UseDeployedPrompt) -> bytes:
    """Return the body of a request for a deployed prompt. Raise `TypeError` for a value that is not JSON."""
    if not isinstance(prompt, UseDeployedPrompt):
        raise TypeError(f"get_prompt() takes a UseDeployedPrompt, not {type(prompt).__name__}")
    return _encoded({"deployment_id": prompt.deployment_id, "llm_inputs": prompt.llm_inputs}, "prompt's inputs")


def feedback_body(feedback: FeedbackRequest) -> bytes:
    """Return the body of a request that stores feedback. Raise `TypeError` for a value that is not JSON."""
    if not isinstance(feedback, FeedbackRequest):
        raise TypeError(f"record_feedback() takes a FeedbackRequest, not {type(feedback).__name__}")
    return _encoded({item.name: getattr(feedback, item.name) for item in fields(feedback)}, "feedback")


def _encoded(body: Mapping[str, Any], what: str) -> bytes:
    try:
        return _encoder.encode(body)
    except RecursionError:
        raise TypeError(f"the {what} holds a value that contains itself, or is nested too deep for JSON") from None


def _inherit(body: dict[str, Any], settings: Settings) -> None:
    """Add what the body leaves to the call in progress. Omit flags add up: those of all three sources hold."""
    node = current_node()
    recorder = _recorder._active  # active() would open a spool, which a completion does not need
    omit = settings.omit | (recorder.omit if recorder is not None else 0)
    if node is not None:
        omit |= node.omit
        same_trace = "trace_id" not in body or body["trace_id"] == node.trace_id
        if node.call is not None and same_trace:
            body.setdefault("parent_trace_id", node.call.inference_id)
        for name in ("trace_id", "trace_name", "end_user_identifier", "session_id"):
            if (value := getattr(node, name)) is not None:
                body.setdefault(name, value)
    for name, flag in (("log_omit", OMIT_ALL), ("log_omit_inputs", OMIT_INPUTS), ("log_omit_outputs", OMIT_OUTPUTS)):
        body[name] = bool(body[name] or omit & flag)
