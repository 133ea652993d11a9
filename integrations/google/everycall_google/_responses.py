"""The fields of a record that a response gives. Used by requests and accumulators, with plain JSON of the wire.

What was not reported stays unknown. What has no field of its own is kept as it came: parts and what belongs to them in
`output`, other members of a response or candidate as attributes `google.response.<name>`. How tokens are counted is
told at `everycall.integration.usage_fields`: input with cached tokens and results of Google's own tools, output with
thoughts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from everycall.integration import Fields, members, nonempty_text, usage_fields
from everycall_google._content import items, message, python_names, snake_case

__all__ = ["BLOCK_REASON", "body_of", "embedding", "failure", "generation"]


BLOCK_REASON: Final = "google.response.block_reason"
"""The attribute of a response to a prompt that Google's filter refused."""
_ATTRIBUTE: Final = "google.response."
_USAGE_ATTRIBUTE: Final = "google.usage."
_FIELDS: Final = frozenset(
    {
        *("candidates", "usageMetadata", "modelVersion", "responseId", "promptFeedback", "createTime", "error"),
        *("embeddings", "embedding", "predictions", "metadata"),
    }
)
_CANDIDATE_FIELDS: Final = frozenset({"content", "finishReason", "index", "groundingMetadata", "safetyRatings"})
_OUTPUT_MEMBERS: Final = frozenset({"finishMessage", "citationMetadata", "urlContextMetadata"})
"""Members of a candidate that belong to its message."""
_TEXT_PART: Final = frozenset({"type", "text"})
_TEXTS: Final = ("text", "reasoning")
_UNBLOCKED: Final = frozenset({None, "STOP", "MAX_TOKENS"})
_NOT_GROUNDING: Final = frozenset({"groundingChunks", "groundingSupports", "webSearchQueries", "searchEntryPoint"})
"""What is read elsewhere, and the HTML of a search widget."""


def body_of(response: object) -> Any:
    """Return a response, or a chunk of one, as JSON. Some versions of the library have it decoded, some as text.

    Returns None for what cannot be decoded: the library will say so itself.
    """
    body = response if type(response) is dict else getattr(response, "body", None)
    if not isinstance(body, str):
        return body
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        return None


def generation(response: object) -> Fields:
    """Read generated content: `content` is the text of the first candidate, `output` what the text does not tell.

    `output` is a message with its parts (thoughts, function calls, code, media by reference), what it is grounded on,
    and ratings if a filter stopped it; a list of messages for several candidates. For a prompt that was refused it has
    the reason: that is not an error. `failure` is the text of an error that a stream, or a response with status 200,
    reports.
    """
    values = members(response)
    candidates = [members(candidate) for candidate in items(values.get("candidates"))]
    fields = _common_fields(values)
    reasons = [reason for candidate in candidates if (reason := nonempty_text(candidate.get("finishReason")))]
    if reasons:
        fields["gen_ai.response.finish_reasons"] = reasons
    messages = [_message(candidate) for candidate in candidates]
    for candidate, candidate_message in zip(candidates, messages, strict=True):
        others = _other_members(candidate)
        if len(candidates) > 1:
            candidate_message.update(others)
        else:
            fields.update({f"{_ATTRIBUTE}{name}": value for name, value in others.items()})
    if messages:
        text = _text_of(messages[0])
        if text is not None:
            fields["content"] = text
        if len(messages) > 1:
            fields["output"] = messages
        elif len(messages[0]) > 2 or not isinstance(messages[0]["content"], str):
            fields["output"] = messages[0]
    if values.get("error"):
        fields["failure"] = failure(values["error"])
    feedback = members(values.get("promptFeedback"))
    reason = nonempty_text(feedback.get("blockReason"))
    if reason:
        fields[BLOCK_REASON] = reason
        fields.setdefault("output", {"prompt_feedback": python_names(feedback)})
    elif feedback:
        fields[f"{_ATTRIBUTE}prompt_feedback"] = python_names(feedback)
    return fields


def failure(error: object) -> str:
    """Return the text of an error that a stream reports, as the library's errors have it; older versions raise none."""
    values = members(error)
    return f"{values.get('code')} {values.get('status')}. {values.get('message')}"


def _message(candidate: Mapping[str, Any]) -> Fields:
    """Return a candidate as an assistant's message, with consecutive texts joined."""
    plain = message(candidate.get("content"))
    plain["role"] = "assistant"
    if isinstance(plain["content"], list):
        joined = _join_texts(plain["content"])
        is_text = len(joined) == 1 and joined[0].get("type") == "text" and joined[0].keys() <= _TEXT_PART
        plain["content"] = joined[0]["text"] if is_text else joined or ""
    for name, value in candidate.items():
        if value and name in _OUTPUT_MEMBERS:
            plain.update(python_names({name: value}))
    if grounding := _grounding(members(candidate.get("groundingMetadata"))):
        plain["grounding"] = grounding
    if _is_blocked(candidate):
        plain["safety_ratings"] = python_names(candidate["safetyRatings"])
    return plain


def _is_blocked(candidate: Mapping[str, Any]) -> bool:
    return candidate.get("finishReason") not in _UNBLOCKED and bool(candidate.get("safetyRatings"))


def _other_members(candidate: Mapping[str, Any]) -> Fields:
    """Return what a candidate has beside its message, such as log probabilities, and ratings that stopped nothing."""
    others = {
        snake_case(name): python_names(value)
        for name, value in candidate.items()
        if value not in (None, "", [], {}) and name not in _CANDIDATE_FIELDS and name not in _OUTPUT_MEMBERS
    }
    if candidate.get("safetyRatings") and not _is_blocked(candidate):
        others["safety_ratings"] = python_names(candidate["safetyRatings"])
    return others


def _join_texts(parts: list[Fields]) -> list[Fields]:
    joined: list[Fields] = []
    for part in parts:
        previous = joined[-1] if joined else {}
        is_text = part.get("type") in _TEXTS and part.keys() <= _TEXT_PART
        if is_text and part["type"] == previous.get("type") and previous.keys() <= _TEXT_PART:
            joined[-1] = {**previous, "text": previous["text"] + part["text"]}
        else:
            joined.append(part)
    return joined


def _text_of(candidate_message: Fields) -> str | None:
    """Return the text of a message without its thoughts; None if it has none."""
    content = candidate_message["content"]
    if isinstance(content, str):
        return content or None
    texts = [part["text"] for part in items(content) if part.get("type") == "text"]
    return "".join(texts) if texts else None


def _source(chunk: Mapping[str, Any]) -> Any:
    """Return the source of a chunk; empty if the chunk tells none, because supports name sources by their position."""
    source = next(iter(chunk.values())) if len(chunk) == 1 else chunk
    return python_names(source or {})


def _grounding(metadata: Mapping[str, Any]) -> Fields:
    """Return what was searched for, the sources that were found, and which source supports which part of the text.

    Left out are the text of these parts, which is that of the answer, and the HTML of a search widget.
    """
    sources = [_source(members(chunk)) for chunk in items(metadata.get("groundingChunks"))]
    supports = [_support(members(support)) for support in items(metadata.get("groundingSupports"))]
    grounding = {"web_search_queries": items(metadata.get("webSearchQueries"))}
    grounding["sources"] = sources if any(sources) else []
    grounding["supports"] = [support for support in supports if support]
    others = {name: value for name, value in metadata.items() if name not in _NOT_GROUNDING}
    grounding.update(python_names(others))
    return {name: value for name, value in grounding.items() if value}


def _support(support: Mapping[str, Any]) -> Fields:
    segment = {name: value for name, value in members(support.get("segment")).items() if name != "text"}
    return {**python_names(segment), **python_names({k: v for k, v in support.items() if k != "segment" and v})}


def embedding(response: object) -> Fields:
    """Read embeddings: their number and dimensions. The numbers themselves are not kept."""
    values = members(response)
    predictions = [members(prediction).get("embeddings") for prediction in items(values.get("predictions"))]
    vectors = [members(vector) for vector in items(values.get("embeddings")) or predictions]
    if not vectors and values.get("embedding") is not None:
        vectors = [members(values["embedding"])]
    fields = _common_fields(values)
    counts = [members(vector.get("statistics")).get("token_count") for vector in vectors]
    numbers = [int(count) for count in counts if isinstance(count, int | float)]
    if "input_tokens" not in fields and numbers and len(numbers) == len(counts):
        fields["input_tokens"] = fields["total_tokens"] = sum(numbers)
    output = {"embeddings": len(vectors)}
    if vectors and isinstance(vectors[0].get("values"), list):
        output["dimensions"] = len(vectors[0]["values"])
    return {**fields, "output": output}


def _common_fields(values: Mapping[str, Any]) -> Fields:
    """Read what all responses have: the model that answered, tokens, the id; and keep what else there is."""
    usage = members(values.get("usageMetadata"))
    fields = usage_fields(usage)
    for name, value in usage.items():
        if nonempty_text(value):
            fields[f"{_USAGE_ATTRIBUTE}{snake_case(name)}"] = value
    model, response_id = nonempty_text(values.get("modelVersion")), nonempty_text(values.get("responseId"))
    if model:
        fields["model"] = model.removeprefix("models/")
    if response_id:
        fields["gen_ai.response.id"] = response_id
    for name, value in values.items():
        if value not in (None, "", [], {}) and name not in _FIELDS:
            fields[f"{_ATTRIBUTE}{snake_case(name)}"] = python_names(value)
    details = members(values.get("error")).get("details")
    if details:
        fields["google.error.details"] = python_names(details)
    return fields
