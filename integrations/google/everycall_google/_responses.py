"""What an answer says, as fields of a record. Called by exchanges and gatherings with plain JSON of the wire.

Nothing is guessed: what was not reported stays unknown. How tokens are counted is in `everycall.integration`'s
`usage_fields`: input with cached tokens and results of Google's own tools, output with thoughts.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from everycall.integration import members, nonempty_text, usage_fields
from everycall_google._content import items, message, python_names

__all__ = ["BLOCKED", "body_of", "embedding", "failure", "generation"]

BLOCKED: Final = "google.response.block_reason"
"""The attribute of an answer to a prompt that Google's filter refused."""
_KEPT: Final = ("finishMessage", "citationMetadata", "urlContextMetadata")
_TEXTS: Final = ("text", "reasoning")
_FINE: Final = frozenset({None, "STOP", "MAX_TOKENS"})


def body_of(answer: Any) -> Any:
    """Return an answer, or a chunk of one, as JSON: some versions of the library have it decoded, some as text.

    What cannot be read is None: the library will say so itself.
    """
    body = answer if type(answer) is dict else getattr(answer, "body", None)
    if not isinstance(body, str):
        return body
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        return None


def generation(answer: Any) -> dict[str, Any]:
    """Read generated content: `content` is the text of the first candidate, `output` what text alone does not tell.

    `output` is a message with its parts (thoughts, function calls, code, media by reference), what it is grounded on,
    and ratings where a filter stopped it; a list of messages for several candidates. Of a prompt that was refused it
    says why: that is no error.
    """
    told = members(answer)
    candidates = [members(one) for one in items(told.get("candidates"))]
    fields = _about(told)
    reasons = [reason for one in candidates if (reason := nonempty_text(one.get("finishReason")))]
    if reasons:
        fields["gen_ai.response.finish_reasons"] = reasons
    shown = [_said(one) for one in candidates]
    if shown:
        first = _text_of(shown[0])
        if first is not None:
            fields["content"] = first
        if len(shown) > 1:
            fields["output"] = shown
        elif len(shown[0]) > 2 or not isinstance(shown[0]["content"], str):
            fields["output"] = shown[0]
    feedback = told.get("promptFeedback")
    reason = nonempty_text(members(feedback).get("blockReason"))
    if reason:
        fields[BLOCKED] = reason
        fields.setdefault("output", {"prompt_feedback": python_names(feedback)})
    return fields


def failure(error: Any) -> str:
    """Return what a stream says of its failure, as the library's errors say it; older versions of it raise none."""
    told = members(error)
    return f"{told.get('code')} {told.get('status')}. {told.get('message')}"


def _said(candidate: dict[str, Any]) -> dict[str, Any]:
    """Return a candidate as an assistant's message, texts that stand beside each other as one."""
    shown = message(candidate.get("content"))
    shown["role"] = "assistant"
    if isinstance(shown["content"], list):
        joined = _joined(shown["content"])
        only = len(joined) == 1 and joined[0].get("type") == "text"
        shown["content"] = joined[0]["text"] if only else joined or ""
    for name, value in candidate.items():
        if value and name in _KEPT:
            shown.update(python_names({name: value}))
    grounding = candidate.get("groundingMetadata")
    if grounding and (sources := _grounding(members(grounding))):
        shown["grounding"] = sources
    if candidate.get("finishReason") not in _FINE and candidate.get("safetyRatings"):
        shown["safety_ratings"] = python_names(candidate["safetyRatings"])
    return shown


def _joined(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    joined: list[dict[str, Any]] = []
    for part in found:
        before = joined[-1] if joined else {}
        if part.get("type") in _TEXTS and part["type"] == before.get("type"):
            joined[-1] = {**before, "text": before["text"] + part["text"]}
        else:
            joined.append(part)
    return joined


def _text_of(shown: dict[str, Any]) -> str | None:
    """Return the text of a message, without its thoughts; None when it has none."""
    content = shown["content"]
    if isinstance(content, str):
        return content or None
    texts = [part["text"] for part in items(content) if part.get("type") == "text"]
    return "".join(texts) if texts else None


def _grounding(told: dict[str, Any]) -> dict[str, Any]:
    """Return what was searched for and the sources that were found: the rest is their text again, and a page's HTML."""
    sources = [
        {"title": members(place).get("title"), "uri": members(place).get("uri")}
        for chunk in items(told.get("groundingChunks"))
        for place in members(chunk).values()
        if members(place).get("uri")
    ]
    shown = {"web_search_queries": items(told.get("webSearchQueries")), "sources": sources}
    return {name: value for name, value in shown.items() if value}


def embedding(answer: Any) -> dict[str, Any]:
    """Read embeddings: how many, and of how many dimensions; the numbers themselves are not kept."""
    told = members(answer)
    predictions = [members(one).get("embeddings") for one in items(told.get("predictions"))]
    vectors = [members(one) for one in items(told.get("embeddings")) or predictions]
    if not vectors and told.get("embedding") is not None:
        vectors = [members(told["embedding"])]
    fields = _about(told)
    counts = [members(one.get("statistics")).get("token_count") for one in vectors]
    known = [int(count) for count in counts if isinstance(count, int | float)]
    if "input_tokens" not in fields and known and len(known) == len(counts):
        fields["input_tokens"] = fields["total_tokens"] = sum(known)
    shown = {"embeddings": len(vectors)}
    if vectors and isinstance(vectors[0].get("values"), list):
        shown["dimensions"] = len(vectors[0]["values"])
    return {**fields, "output": shown}


def _about(told: dict[str, Any]) -> dict[str, Any]:
    """Read what all answers have: the model that answered, tokens, the answer's id."""
    fields = usage_fields(told.get("usageMetadata"))
    model, answer_id = nonempty_text(told.get("modelVersion")), nonempty_text(told.get("responseId"))
    if model:
        fields["model"] = model.removeprefix("models/")
    if answer_id:
        fields["gen_ai.response.id"] = answer_id
    return fields
