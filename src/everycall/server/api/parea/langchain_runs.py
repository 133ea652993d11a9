"""`POST /api/parea/v1/trace_log/langchain`: the runs of Parea's LangChain tracer as records.

A run comes with its child runs inside it; each child is also sent on its own, and the root is sent twice. Every run
becomes one record all the same. Names without a leading underscore are LangChain's; `_parea_*`, `_session_id`,
`_tags`, ... are Parea's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from litestar import post
from litestar.di import NamedDependency
from msgspec import Meta

from everycall import limits, semconv
from everycall.record import to_json
from everycall.server.api.http import PAREA_PREFIX, ApiRequest, invalid_field, read_object
from everycall.server.api.openapi import operation
from everycall.server.api.parea.log_fields import KEPT_PREFIX, checked_record, restore_attributes
from everycall.server.api.parea.projects import project_of_body
from everycall.server.api.parea.trace_logs import LogResponse
from everycall.server.auth import require
from everycall.server.services import Services
from everycall.server.times import read_timestamp
from everycall.usage import usage_fields

__all__ = ["fields_of_run", "handlers", "runs_of"]

SCOPE = "parea.langchain"
KINDS = {
    "llm": semconv.LLM,
    "chat_model": semconv.LLM,
    "tool": semconv.TOOL,
    "retriever": semconv.RETRIEVER,
    "embedding": semconv.EMBEDDING,
    "prompt": semconv.PROMPT,
    "parser": semconv.PARSER,
}
_STEP_TAG = re.compile(r"(?:seq:step|map:key):")
_PARAMS = {
    "temperature": "temp",
    "top_p": "top_p",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "max_tokens": "max_length",
    "max_completion_tokens": "max_length",
}


LangChainRun = Annotated[
    dict[str, Any], Meta(description="A run of LangChain with its `child_runs`, and the keys that Parea adds.")
]


@post(
    f"{PAREA_PREFIX}/trace_log/langchain",
    status_code=200,
    operation_class=operation(
        body=LangChainRun, response=LogResponse, problems={413: "Too large.", 422: "Not as documented."}
    ),
)
async def post_langchain_run(request: ApiRequest, services: NamedDependency[Services]) -> LogResponse:
    """Store a run and all runs inside it."""
    require(request.user, "write")
    top = await read_object(request, services.bodies)
    project = await project_of_body(request.user, services.projects, top.get("project_name"), top.get("project_uuid"))
    try:
        records = [
            checked_record({**fields_of_run(run, top, parent_id), "project_name": project})
            for run, parent_id in runs_of(top)
        ]
    except (ValueError, RecursionError) as error:
        raise invalid_field("body", str(error)) from error
    commit = await services.store.commit(project, records)
    if commit.refused:
        raise invalid_field("body", commit.refused[0].reason)
    for record in records:
        attributes = to_json(record.attributes)
        if attributes:
            await restore_attributes(services.store, record, attributes)
    return LogResponse(records[0].inference_id)


def runs_of(top: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], str | None]]:
    """Yield a run and all runs inside it, each with the id of the run that holds it.

    Raise `ValueError` for more than `limits.TRACE_RECORDS_MAX` runs.
    """
    pending: list[tuple[Mapping[str, Any], str | None]] = [(top, None)]
    count = 0
    while pending:
        run, parent_id = pending.pop(0)
        count += 1
        if count > limits.TRACE_RECORDS_MAX:
            raise ValueError(f"the run has more than {limits.TRACE_RECORDS_MAX} runs inside it")
        yield run, parent_id
        children = run.get("child_runs")
        if isinstance(children, list):
            pending.extend((child, _id(run, "id")) for child in children if isinstance(child, dict))


def fields_of_run(run: Mapping[str, Any], top: Mapping[str, Any], parent_id: str | None) -> dict[str, Any]:
    """Return the record's fields for a run.

    `top` is the run that was sent, whose Parea keys apply to all runs inside it. Raise `ValueError` for a run without
    an id or with invalid times.
    """
    run_id = _id(run, "id")
    if run_id is None:
        raise ValueError("id is required: the id of the run")
    parent_id = _id(run, "parent_run_id") or parent_id or _id(run, "_parea_parent_trace_id")
    trace_id = _id(top, "_parea_root_trace_id") or _id(top, "_parea_parent_trace_id") or _id(top, "trace_id") or run_id
    kind = KINDS.get(str(run.get("run_type")), semconv.CHAIN)
    extra = _object(run.get("extra"))
    run_metadata = _object(extra.get("metadata"))
    metadata = {name: value for name, value in run_metadata.items() if not name.startswith("ls_")}
    fields: dict[str, Any] = {
        "inference_id": run_id,
        "trace_id": trace_id,
        "parent_id": None if parent_id == run_id else parent_id,
        "name": str(run.get("name") or run.get("run_type") or "")[: limits.NAME_CHARS_MAX],
        "kind": kind,
        "scope": SCOPE,
        "session_id": _id(top, "_session_id"),
        "end_user_identifier": _id(top, "_end_user_identifier"),
        "deployment_id": _id(top, "_deployment_id"),
        "metadata": {**metadata, **_object(top.get("_metadata"))} or None,
        "tags": _tags(run, top),
        "inputs": run.get("inputs"),
        "attributes": _attributes(run, top),
        **_times(run),
    }
    if trace_id == run_id:
        fields["trace_name"] = fields["name"]
    if run.get("error"):
        fields |= _error(str(run["error"]))
    if kind == semconv.LLM:
        fields |= _llm(run, extra, run_metadata)
    else:
        fields["output"] = _output(run.get("outputs"))
    return {name: value for name, value in _with_tier(fields).items() if value not in (None, [])}


def _error(text: str) -> dict[str, Any]:
    """Return the fields of a failed run; its error is the exception's `repr`, with the type in front."""
    fields = {"status": semconv.ERROR, "error": text[: limits.ERROR_CHARS_MAX]}
    error_type = re.match(r"([A-Za-z_][\w.]*)\(", text)
    if error_type:
        fields["error_type"] = error_type[1]
    return fields


def _llm(run: Mapping[str, Any], extra: Mapping[str, Any], run_metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a call of a model."""
    invocation = _object(extra.get("invocation_params"))
    outputs = _object(run.get("outputs"))
    llm_output = _object(outputs.get("llm_output"))
    generation = _first(_first(outputs.get("generations")))
    message = _object(_object(generation.get("message")).get("kwargs"))
    response = _object(message.get("response_metadata"))
    model = invocation.get("model") or invocation.get("model_name") or run_metadata.get("ls_model_name")
    response_model = response.get("model_name") or response.get("model") or llm_output.get("model_name") or model
    provider = run_metadata.get("ls_provider")
    params = {parea_name: invocation[name] for name, parea_name in _PARAMS.items() if invocation.get(name) is not None}
    inputs = _object(run.get("inputs"))
    calls = message.get("tool_calls")
    return {
        "model": response_model if isinstance(response_model, str) else None,
        "provider": provider if isinstance(provider, str) else None,
        "llm_configuration": {
            "model": model,
            "provider": provider,
            "model_params": params,
            "messages": _messages(inputs),
            "functions": invocation.get("functions") or invocation.get("tools"),
        },
        "content": generation.get("text") if isinstance(generation.get("text"), str) else None,
        "output": calls if isinstance(calls, list) and calls else None,
        "time_to_first_token": _first_token(run),
        **usage_fields(message.get("usage_metadata") or llm_output.get("token_usage") or llm_output.get("usage")),
    }


def _with_tier(fields: dict[str, Any]) -> dict[str, Any]:
    """Return a run's fields with the service tier, which decides the price, among the attributes."""
    tier = fields.pop(semconv.SERVICE_TIER, None)
    if tier is None:
        return fields
    return {**fields, "attributes": {**(fields["attributes"] or {}), semconv.SERVICE_TIER: tier}}


def _messages(inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the messages as LangChain serialised them, or the prompts that it made of them, as user messages."""
    serialised = inputs.get("messages")
    if isinstance(serialised, list) and serialised and isinstance(serialised[0], list):
        serialised = serialised[0]
    messages = []
    for item in serialised if isinstance(serialised, list) else ():
        message = _object(_object(item).get("kwargs")) or _object(item)
        if message:
            role = message.get("role") or message.get("type") or "user"
            messages.append({"role": role, "content": message.get("content")})
    prompts = inputs.get("prompts")
    if not messages and isinstance(prompts, list):
        messages = [{"role": "user", "content": prompt} for prompt in prompts]
    return messages


def _output(outputs: Any) -> Any:
    return outputs["output"] if isinstance(outputs, dict) and list(outputs) == ["output"] else outputs


def _times(run: Mapping[str, Any]) -> dict[str, Any]:
    times: dict[str, Any] = {}
    for name in ("start", "end"):
        value = run.get(f"{name}_time")
        if value is None:
            continue
        if not isinstance(value, str):
            raise ValueError(f"{name}_time must be a time such as 2024-05-30T13:48:34+00:00")
        try:
            times[f"{name}_time_unix_nano"] = read_timestamp(value)
        except ValueError as error:
            raise ValueError(f"{name}_time is {error}") from None
    if len(times) == 2:
        times["latency"] = max(0, times["end_time_unix_nano"] - times["start_time_unix_nano"]) / 1e9
    return times


def _first_token(run: Mapping[str, Any]) -> float | None:
    """Return the seconds until the first token, from the run's events."""
    events = run.get("events")
    for event in events if isinstance(events, list) else ():
        if isinstance(event, dict) and event.get("name") == "new_token":
            try:
                token_time = read_timestamp(str(event.get("time")))
                start_time = read_timestamp(str(run.get("start_time")))
            except ValueError:
                return None
            return max(0, token_time - start_time) / 1e9
    return None


def _tags(run: Mapping[str, Any], top: Mapping[str, Any]) -> list[str]:
    """Return the run's tags and the user's, without those that LangChain adds to number its steps."""
    run_tags, user_tags = run.get("tags"), top.get("_tags")
    tags = [*(run_tags if isinstance(run_tags, list) else ()), *(user_tags if isinstance(user_tags, list) else ())]
    texts = [tag[: limits.NAME_CHARS_MAX] for tag in tags if isinstance(tag, str) and not _STEP_TAG.match(tag)]
    return list(dict.fromkeys(texts))[: limits.TAGS_MAX]


def _attributes(run: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any] | None:
    sample_rate = top.get("_log_sample_rate")
    run_type = run.get("run_type")
    attributes = {
        f"{KEPT_PREFIX}experiment_uuid": top.get("experiment_uuid"),
        f"{KEPT_PREFIX}log_sample_rate": None if sample_rate == 1.0 else sample_rate,
        "langchain.run_type": None if str(run_type) in KINDS else run_type,
    }
    return {name: value for name, value in attributes.items() if value not in (None, "chain")} or None


def _id(values: Mapping[str, Any], name: str) -> str | None:
    value = values.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name} must be text")
    return value or None


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _first(value: Any) -> Any:
    """Return the first element of a list of lists or objects; an empty object when there is none."""
    return value[0] if isinstance(value, list) and value and isinstance(value[0], dict | list) else {}


handlers = [post_langchain_run]
