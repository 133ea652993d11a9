"""The request and the response of the completion endpoint, field by field. Decoded by `api/completion.py`.

The request has every field of Parea's documentation, and those that Parea's clients send. An empty string counts as not
given. Unknown fields are ignored, among them the deprecated `retry`, `fallback_strategy`, `stream` and
`eval_metric_ids`. What would shape the answer is refused instead: unknown fields in the configuration, in its messages
and its model parameters, and a parameter that is not in its place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from everycall import limits
from everycall.server.problems import problem

__all__ = [
    "CompletionRequest",
    "CompletionResponse",
    "LLMConfiguration",
    "Message",
    "ModelParams",
    "UnstoredResponse",
    "check_places",
    "without_unknown_fields",
]

Id = Annotated[str, Meta(max_length=limits.ID_CHARS_MAX)]
Label = Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX)]
Tokens = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, le=1)]


class Message(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One message. `content` is text or a list of parts in OpenAI's form; parts in Anthropic's form are taken, too.

    `tool_calls`, `tool_call_id` and the older `function_call` belong to tool use; `refusal`, `audio` and
    `reasoning_content` are what an assistant's message may have beside its content. `cache_control` is Anthropic's.
    """

    role: str = "user"
    content: str | list[dict[str, Any]] | None = ""
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    function_call: dict[str, Any] | None = None
    refusal: str | None = None
    audio: dict[str, Any] | None = None
    reasoning_content: str | None = None
    cache_control: dict[str, Any] | None = None


class ModelParams(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The parameters of a model: those of Parea under its names, and more under OpenAI's. None is not sent.

    `temperature` is another name of `temp`, and `max_tokens` and `max_completion_tokens` are of `max_length`. What a
    provider does not have is refused when the request goes there. Parea's oldest clients repeat the `model` here.
    """

    temp: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    max_length: Tokens | None = None
    response_format: dict[str, Any] | None = None
    safe_prompt: bool | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    top_k: int | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    service_tier: str | None = None
    logit_bias: dict[str, float] | None = None
    parallel_tool_calls: bool | None = None
    temperature: float | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    model: Label | None = None

    def __post_init__(self) -> None:
        """Move aliases to Parea's names. Raise `ValueError` if two names of one parameter have different values."""
        _move_aliases(self, _ALIASES)

    def as_set(self) -> dict[str, Any]:
        """Return the parameters that are not None, by name."""
        values = msgspec.structs.asdict(self)
        del values["model"]
        return {name: value for name, value in values.items() if value is not None}


_ALIASES = (("temperature", "temp"), ("max_tokens", "max_length"), ("max_completion_tokens", "max_length"))
_CONFIGURATION_ALIASES = (("tools", "functions"), ("tool_choice", "function_call"))


def _move_aliases(struct: msgspec.Struct, aliases: Sequence[tuple[str, str]]) -> None:
    for alias, name in aliases:
        value = getattr(struct, alias)
        if value is None:
            continue
        if getattr(struct, name) not in (None, value):
            raise ValueError(f"{alias} and {name} are two names of one parameter; give one of them")
        setattr(struct, name, value)
        setattr(struct, alias, None)


PAREA_DEFAULTS = ModelParams(temp=1.0, top_p=1.0, frequency_penalty=0.0, presence_penalty=0.0)
"""What Parea's client sends in every request, whatever its user set; see `preparation.py`."""


class LLMConfiguration(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Parea's `llm_configuration`. Its values override those of the deployment.

    `tools` and `tool_choice` are OpenAI's names of `functions` and `function_call`.
    """

    model: Label | None = None
    provider: Label | None = None
    model_params: ModelParams | None = None
    messages: list[Message] | None = None
    history: list[Message] | None = None
    functions: list[Any] | None = None
    function_call: str | dict[str, Any] | None = None
    tools: list[Any] | None = None
    tool_choice: str | dict[str, Any] | None = None

    def __post_init__(self) -> None:
        """Move aliases to Parea's names. Raise `ValueError` if both names have different values."""
        _move_aliases(self, _CONFIGURATION_ALIASES)


class CompletionRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The body of `POST /api/parea/v1/completion`.

    `trace_id` is the id of a chain of records. `inference_id` makes the request repeatable: the same id gets the same
    response, and the provider is not asked again. `parent_trace_id` is the `inference_id` of the record above this one.
    `taget` is Parea's spelling; `target` wins. `session_id` is an addition of ours.
    """

    trace_id: Id | None = None
    trace_name: Label | None = None
    end_user_identifier: Id | None = None
    deployment_id: Id | None = None
    name: Label | None = None
    project_name: Annotated[str, Meta(max_length=256)] | None = None
    llm_inputs: dict[str, Any] | None = None
    llm_configuration: LLMConfiguration | None = None
    metadata: dict[str, Any] | None = None
    taget: str | None = None
    target: str | None = None
    tags: Annotated[list[Label], Meta(max_length=limits.TAGS_MAX)] | None = None
    cache: bool | None = None
    log_omit_inputs: bool | None = None
    log_omit_outputs: bool | None = None
    log_omit: bool | None = None
    inference_id: Id | None = None
    parent_trace_id: Id | None = None
    root_trace_id: Id | None = None
    session_id: Id | None = None
    log_sample_rate: Share | None = None
    experiment_uuid: Label | None = None
    project_uuid: Label | None = None
    inputs: dict[str, Any] | None = None
    provider_api_key: str | None = None

    def variables(self) -> Mapping[str, Any]:
        """Return the variables of the template: `llm_inputs`, or `inputs`, its older name."""
        return self.llm_inputs or self.inputs or {}

    def digest(self) -> str:
        """Return a SHA-256 of the request, to tell a repeated one from another one under the same id."""
        plain = msgspec.structs.replace(self, provider_api_key=None)
        return hashlib.sha256(msgspec.json.encode(plain, order="deterministic")).hexdigest()


class CompletionResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The response: exactly Parea's 14 fields, in its order, and a number wherever it has one.

    Old clients fail on a further field or a null, so an unknown number is 0 here and null in the record. Times are
    `YYYY-MM-DD HH:MM:SS`, UTC; `latency` is in seconds, `cost` in US dollars. A cached response has its original tokens
    and cost. `status` is `success` or `error`; with `error`, `content` is empty.
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
    error: str | None
    start_timestamp: str
    end_timestamp: str


class UnstoredResponse(CompletionResponse, frozen=True, kw_only=True):
    """The same response, whose record could not be stored yet."""


_PARAMETERS = frozenset(ModelParams.__struct_fields__) - {"model"}
_PLACES = dict.fromkeys(LLMConfiguration.__struct_fields__, "llm_configuration")
_PLACES |= dict.fromkeys((*_PARAMETERS, "n", "logprobs", "top_logprobs"), "llm_configuration.model_params")
_MISPLACED = msgspec.json.Decoder(
    msgspec.defstruct("_Misplaced", [(name, msgspec.Raw | msgspec.UnsetType, msgspec.UNSET) for name in _PLACES])
)
"""Reads only the fields that belong into the configuration, which takes a microsecond."""


def check_places(data: bytes) -> None:
    """Raise `ProblemError` 422 for a field at the top of a request's JSON that belongs into the configuration."""
    fields = _MISPLACED.decode(data)
    for name, place in _PLACES.items():
        value = getattr(fields, name)
        if value is not msgspec.UNSET and bytes(value) != b"null":
            raise problem("invalid", 422, "A parameter out of place", f"{name} belongs into {place}.", field=name)


def without_unknown_fields(body: Any) -> Any:
    """Return a decoded `CompletionRequest` without the fields that its configuration and messages do not have.

    Parea's clients may have fields of a later version, which their own service would ignore.
    """
    configuration = body.get("llm_configuration") if isinstance(body, dict) else None
    if not isinstance(configuration, dict):
        return body
    filtered: dict[str, Any] = {}
    if isinstance(params := configuration.get("model_params"), dict):
        filtered["model_params"] = _known(params, ModelParams)
    for name in ("messages", "history"):
        if isinstance(messages := configuration.get(name), list):
            filtered[name] = [_known(item, Message) if isinstance(item, dict) else item for item in messages]
    return {**body, "llm_configuration": _known({**configuration, **filtered}, LLMConfiguration)}


def _known(fields: dict[str, Any], struct: type[msgspec.Struct]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name in struct.__struct_fields__}
