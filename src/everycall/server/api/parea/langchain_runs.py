"""`POST /api/parea/v1/trace_log/langchain`: the runs of Parea's LangChain tracer as records.

A run comes with its children inside it, each of which also comes alone, and the root comes twice: one record a run all
the same. Ids and names without an underscore are LangChain's, `_parea_*`, `_session_id`, `_tags`, ... are Parea's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from litestar import post
from litestar.openapi.spec import Schema
from litestar.openapi.spec.enums import OpenAPIType

from everycall import limits, semconv
from everycall.record import Record, to_json
from everycall.server.api.http import PAREA_PREFIX, ApiRequest, invalid_field, read_object
from everycall.server.api.openapi import operation
from everycall.server.api.parea.log_fields import KEPT_PREFIX, checked, restore_attributes
from everycall.server.api.parea.projects import project_of_body
from everycall.server.auth import require
from everycall.server.store.base import Store
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
_STEP = re.compile(r"(?:seq:step|map:key):")
_PARAMS = {
    "temperature": "temp",
    "top_p": "top_p",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "max_tokens": "max_length",
    "max_completion_tokens": "max_length",
}


@post(
    f"{PAREA_PREFIX}/trace_log/langchain",
    status_code=200,
    operation_class=operation(
        body=Schema(type=OpenAPIType.OBJECT, description="A run of LangChain with `child_runs`, and Parea's keys."),
        answer=Schema(type=OpenAPIType.OBJECT, properties={"trace_id": Schema(type=OpenAPIType.STRING)}),
        problems={413: "Too large.", 422: "Not as documented."},
    ),
)
async def post_langchain_run(request: ApiRequest) -> dict[str, str]:
    """Store a run and all runs inside it."""
    require(request.user, "write")
    store: Store = request.app.state.store
    run = await read_object(request)
    project = await project_of_body(request, run.get("project_name"), run.get("project_uuid"))
    try:
        records = [
            _record({**fields_of_run(one, run, parent), "project_name": project}) for one, parent in runs_of(run)
        ]
    except (ValueError, RecursionError) as error:
        raise invalid_field("body", str(error)) from error
    commit = await store.commit(project, records)
    if commit.refused:
        raise invalid_field("body", commit.refused[0].reason)
    for record in records:
        attributes = to_json(record.attributes)
        if attributes:
            await restore_attributes(store, record, attributes)
    return {"trace_id": records[0].inference_id}


def runs_of(run: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], str | None]]:
    """Yield a run and the runs inside it, each with the id of the run it was found in. Raises `ValueError`."""
    waiting: list[tuple[Mapping[str, Any], str | None]] = [(run, None)]
    count = 0
    while waiting:
        one, parent = waiting.pop(0)
        count += 1
        if count > limits.TRACE_RECORDS_MAX:
            raise ValueError(f"more than {limits.TRACE_RECORDS_MAX} runs came in one")
        yield one, parent
        children = one.get("child_runs")
        below = [child for child in children if isinstance(child, dict)] if isinstance(children, list) else []
        waiting.extend((child, _id(one, "id")) for child in below)


def fields_of_run(run: Mapping[str, Any], top: Mapping[str, Any], parent: str | None) -> dict[str, Any]:
    """Return the record's fields for a run; `top` is the one that was sent, whose keys of Parea's hold for all inside.

    Raises `ValueError` for one without an id or with times that are none.
    """
    own = _id(run, "id")
    if own is None:
        raise ValueError("id is required: the id of the run")
    parent = _id(run, "parent_run_id") or parent or _id(run, "_parea_parent_trace_id")
    root = _id(top, "_parea_root_trace_id") or _id(top, "_parea_parent_trace_id") or _id(top, "trace_id") or own
    kind = KINDS.get(str(run.get("run_type")), semconv.CHAIN)
    extra = _object(run.get("extra"))
    about = _object(extra.get("metadata"))
    metadata = {name: value for name, value in about.items() if not name.startswith("ls_")}
    fields: dict[str, Any] = {
        "inference_id": own,
        "trace_id": root,
        "parent_id": None if parent == own else parent,
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
    if root == own:
        fields["trace_name"] = fields["name"]
    if run.get("error"):
        error = str(run["error"])
        found = re.match(r"([A-Za-z_][\w.]*)\(", error)
        fields |= {"status": semconv.ERROR, "error": error[: limits.ERROR_CHARS_MAX]}
        fields |= {"error_type": found[1]} if found else {}
    fields |= _llm(run, extra, about) if kind == semconv.LLM else {"output": _output(run.get("outputs"))}
    return {name: value for name, value in _with_tier(fields).items() if value not in (None, [])}


def _record(fields: Mapping[str, Any]) -> Record:
    return checked(fields)


def _llm(run: Mapping[str, Any], extra: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    invoked = _object(extra.get("invocation_params"))
    outputs = _object(run.get("outputs"))
    told = _object(outputs.get("llm_output"))
    generation = _first(_first(outputs.get("generations")))
    message = _object(_object(generation.get("message")).get("kwargs"))
    answered = _object(message.get("response_metadata"))
    model = invoked.get("model") or invoked.get("model_name") or about.get("ls_model_name")
    name = answered.get("model_name") or answered.get("model") or told.get("model_name") or model
    provider = about.get("ls_provider")
    params = {theirs: invoked[ours] for ours, theirs in _PARAMS.items() if invoked.get(ours) is not None}
    inputs = _object(run.get("inputs"))
    calls = message.get("tool_calls")
    return {
        "model": name if isinstance(name, str) else None,
        "provider": provider if isinstance(provider, str) else None,
        "llm_configuration": {
            "model": model,
            "provider": provider,
            "model_params": params,
            "messages": _messages(inputs),
            "functions": invoked.get("functions") or invoked.get("tools"),
        },
        "content": generation.get("text") if isinstance(generation.get("text"), str) else None,
        "output": calls if isinstance(calls, list) and calls else None,
        "time_to_first_token": _first_token(run),
        **usage_fields(message.get("usage_metadata") or told.get("token_usage") or told.get("usage")),
    }


def _with_tier(fields: dict[str, Any]) -> dict[str, Any]:
    """Return a run's fields with the tier that its tokens were billed at among the attributes."""
    tier = fields.pop(semconv.SERVICE_TIER, None)
    return (
        fields
        if tier is None
        else {**fields, "attributes": {**(fields["attributes"] or {}), semconv.SERVICE_TIER: tier}}
    )


def _messages(inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the messages: as LangChain serialised them, or the prompt that it made one text of."""
    messages = inputs.get("messages")
    if isinstance(messages, list) and messages and isinstance(messages[0], list):
        messages = messages[0]
    found = []
    for one in messages if isinstance(messages, list) else ():
        message = _object(_object(one).get("kwargs")) or _object(one)
        if message:
            found.append(
                {"role": message.get("role") or message.get("type") or "user", "content": message.get("content")}
            )
    prompts = inputs.get("prompts")
    if not found and isinstance(prompts, list):
        found = [{"role": "user", "content": prompt} for prompt in prompts]
    return found


def _output(outputs: Any) -> Any:
    return outputs["output"] if isinstance(outputs, dict) and list(outputs) == ["output"] else outputs


def _times(run: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("start", "end"):
        value = run.get(f"{name}_time")
        if value is None:
            continue
        if not isinstance(value, str):
            raise ValueError(f"{name}_time is a time such as 2024-05-30T13:48:34+00:00")
        try:
            found[f"{name}_time_unix_nano"] = read_timestamp(value)
        except ValueError as error:
            raise ValueError(f"{name}_time is {error}") from None
    if len(found) == 2:
        found["latency"] = max(0, found["end_time_unix_nano"] - found["start_time_unix_nano"]) / 1e9
    return found


def _first_token(run: Mapping[str, Any]) -> float | None:
    events = run.get("events")
    for event in events if isinstance(events, list) else ():
        if isinstance(event, dict) and event.get("name") == "new_token":
            try:
                came, began = read_timestamp(str(event.get("time"))), read_timestamp(str(run.get("start_time")))
            except ValueError:
                return None
            return max(0, came - began) / 1e9
    return None


def _tags(run: Mapping[str, Any], top: Mapping[str, Any]) -> list[str]:
    own, users = run.get("tags"), top.get("_tags")
    tags = [*(own if isinstance(own, list) else ()), *(users if isinstance(users, list) else ())]
    texts = [tag[: limits.NAME_CHARS_MAX] for tag in tags if isinstance(tag, str) and not _STEP.match(tag)]
    return list(dict.fromkeys(texts))[: limits.TAGS_MAX]


def _attributes(run: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any] | None:
    found = {
        f"{KEPT_PREFIX}experiment_uuid": top.get("experiment_uuid"),
        f"{KEPT_PREFIX}log_sample_rate": rate if (rate := top.get("_log_sample_rate")) != 1.0 else None,
        "langchain.run_type": None if str(run.get("run_type")) in KINDS else run.get("run_type"),
    }
    return {name: value for name, value in found.items() if value not in (None, "chain")} or None


def _id(values: Mapping[str, Any], name: str) -> str | None:
    value = values.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name} is text")
    return value or None


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _first(value: Any) -> Any:
    """Return the first element of a list, for lists of lists of objects; an empty object when there is none."""
    return value[0] if isinstance(value, list) and value and isinstance(value[0], dict | list) else {}


handlers = [post_langchain_run]
