"""The record: a finished call as a frozen value. It is a line of the spool and of a batch, and a row of the store.

The SDK and the server use the same class, so a field has the same meaning in both. `omit`, which removes what an omit
flag covers, is here too, for both.

Fields that hold a user's JSON (`inputs`, `output`, `metadata`, ...) are `msgspec.Raw`: bytes that are already JSON.
They are encoded once, at call time, and not parsed on the way to the store. `ABSENT` is the raw `null`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Meta, Raw

from everycall import limits, semconv
from everycall.semconv import CHAIN, DEFAULT_PROJECT, SUCCESS

__all__ = [
    "ABSENT",
    "CONTENT_FIELDS",
    "INPUT_FIELDS",
    "OMITTED_FIELDS",
    "OUTPUT_FIELDS",
    "Cut",
    "Labels",
    "Record",
    "decode",
    "encode",
    "error_without_content",
    "is_safe_attribute",
    "omit",
    "omit_from",
    "to_json",
    "to_raw",
]

ABSENT = Raw(b"null")
"""The value of a JSON field that is not set. Compare with `is`, or with `bytes(field) == b"null"`."""

Id = Annotated[str, Meta(min_length=1, max_length=limits.ID_CHARS_MAX)]
Label = Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Nanos = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Tag = Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX)]


class Cut(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How much of a field was kept within its bound: sizes in bytes, and the SHA-256 of the whole value.

    `bytes` (the size of the whole) and `sha256` are None if computing them would have required visiting a huge value.
    """

    kept: Count
    bytes: Count | None = None
    sha256: str | None = None


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One finished call. Fields have Parea's names if it has them.

    Unknown is `None` (absent on the wire), never 0: `cost=0.0` is a call that cost nothing, `cost=None` a call whose
    price is unknown. Times are UTC nanoseconds since the epoch; `latency` and `time_to_first_token` are seconds from
    the monotonic clock. `input_tokens` includes cached and cache-write tokens, `output_tokens` includes reasoning
    tokens; `usage` has these parts.
    """

    inference_id: Id  # unique in a project; `<trace id, 32 hex>-<span id, 16 hex>` when made by everycall
    trace_id: Id  # the user's text, or 32 hex digits
    trace_name: Label | None = None
    parent_id: Id | None = None  # the parent's inference_id; its record may come later or never
    name: Label = ""
    kind: Annotated[str, Meta(max_length=64)] = CHAIN
    project_name: Annotated[str, Meta(min_length=1, max_length=256)] = DEFAULT_PROJECT
    end_user_identifier: Id | None = None
    session_id: Id | None = None
    deployment_id: Id | None = None
    llm_inputs: Raw = ABSENT  # object: the prompt template's variables
    llm_configuration: Raw = ABSENT  # object: model, provider, model_params, messages, functions, function_call
    inputs: Raw = ABSENT  # any JSON; for a function, an object of its arguments by name
    content: str | None = None  # the text of an LLM's response
    output: Raw = ABSENT  # any JSON: the result of any other call, or tool calls and structured answers
    target: Raw = ABSENT  # any JSON: the expected answer
    metadata: Raw = ABSENT  # object
    tags: Annotated[list[Tag], Meta(max_length=limits.TAGS_MAX)] = []
    model: Label | None = None
    provider: Label | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    total_tokens: Count | None = None
    usage: dict[str, Count] = {}
    cost: Annotated[float, Meta(ge=0)] | None = None  # USD
    cost_source: Annotated[str, Meta(max_length=64)] | None = None  # e.g. "genai-prices", "cache", "client"
    price_version: Annotated[str, Meta(max_length=64)] | None = None
    counted_in: Id | None = None  # set by the store: the record of the same response whose figures are in the sums
    cache: bool | None = None  # whether a response cache was consulted
    cache_hit: bool | None = None
    saved_cost: Annotated[float, Meta(ge=0)] | None = None  # USD not spent because of the cache
    status: Annotated[str, Meta(pattern="^(success|error)$")] = SUCCESS
    error: str | None = None
    error_type: Label | None = None  # the exception's qualified name, or `cancelled`, `abandoned`
    latency: Annotated[float, Meta(ge=0)] | None = None
    time_to_first_token: Annotated[float, Meta(ge=0)] | None = None
    start_time_unix_nano: Nanos = 0
    end_time_unix_nano: Nanos = 0
    omitted: list[Annotated[str, Meta(max_length=64)]] = []  # "inputs", "outputs", ...: omitted because of a flag
    truncated: dict[str, Cut] = {}  # field -> what was cut
    sdk: Label | None = None  # e.g. "everycall-python/0.1.0"
    scope: Label | None = None  # the instrumentation: "everycall", "everycall_langchain", ...
    attributes: Raw = ABSENT  # object: OpenTelemetry attributes set on the call, `exception.*`, `events`


INPUT_FIELDS = ("llm_inputs", "llm_configuration", "inputs", "target")
"""The fields that `log_omit_inputs` covers. (`model` and `provider` are separate fields and are kept.)"""
OUTPUT_FIELDS = ("content", "output")
"""The fields that `log_omit_outputs` covers."""
OMITTED_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {"inputs": INPUT_FIELDS, "outputs": OUTPUT_FIELDS}
"""The two sides of a call that a flag can omit, as `Record.omitted` names them, and the fields of each."""
CONTENT_FIELDS = (*INPUT_FIELDS, *OUTPUT_FIELDS, "metadata", "attributes")

_TIER: Final = re.compile(r"auto|default|standard|batch|flex|priority|scale|fast|geo-[a-z]{2,16}")
_SAFE_ATTRIBUTES: Final = {
    semconv.EXCEPTION_TYPE: None,
    semconv.CODE_LOCATION: None,
    semconv.GEN_AI_RESPONSE_ID: re.compile(r"[\w.:/=+-]{1,200}", re.ASCII),
    semconv.GEN_AI_FINISH_REASONS: re.compile(r"[A-Za-z_-]{1,64}"),
    semconv.SERVICE_TIER: _TIER,
    semconv.OPENAI_SERVICE_TIER: _TIER,
}

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Record)
_any_decoder = msgspec.json.Decoder()


class Labels(NamedTuple):
    """The metadata and tags that were set when a call started. They are labels, not content, so flags keep them."""

    metadata: Raw = ABSENT
    tags: Collection[str] = ()


def is_safe_attribute(name: str, value: Any) -> bool:
    """Return whether an attribute is kept in a record whose inputs or outputs are omitted.

    Attributes that are kept say where the call failed, determine its price, or identify the provider's response. They
    are kept only if the value has the expected form: an id, or one of the words that providers use.
    """
    if name not in _SAFE_ATTRIBUTES:
        return False
    pattern = _SAFE_ATTRIBUTES[name]
    words = value if isinstance(value, list) else [value]
    return pattern is None or all(isinstance(word, str) and pattern.fullmatch(word) for word in words)


def error_without_content(error_type: str | None, location: object = None, status: int | None = None) -> str:
    """Return the text for an error whose message is omitted: its type, HTTP status and code location.

    For example `ValueError at app:7` or `RateLimitError (429)`. A message can repeat an input or an output.
    """
    text = error_type or "error"
    if status is not None:
        text = f"{text} ({status})"
    return f"{text} at {location}" if isinstance(location, str) else text


def omit(
    fields: Mapping[str, Any],
    sides: Collection[str],
    *,
    labels: Labels | None = None,
    error: str | None = None,
    keep_attribute: Callable[[str, Any], bool] = is_safe_attribute,
) -> dict[str, Any]:
    """Return a record's fields without those that omitting `sides` ("inputs", "outputs") covers.

    The fields of each side are removed (`OMITTED_FIELDS`). Other fields can have content too, so for either side:

    - the error's message is removed; its type and code location are kept. Pass `error` as a replacement if you have a
      text without content;
    - attributes are removed, except those for which `keep_attribute(name, value)` is true;
    - `metadata` and `tags` are replaced with those of `labels`, if given, which removes what was added during the call;
    - entries of `truncated` for removed fields are removed, because they have a hash of the whole value.

    `omitted` of the result has its earlier entries, then the sides, then `attributes`, `metadata` and `tags` if any of
    theirs were removed. Without a side the fields are returned unchanged. `fields` has values as `Record` takes them
    and is not modified; missing fields are absent.
    """
    result = dict(fields)
    sides = [side for side in OMITTED_FIELDS if side in sides]
    if not sides:
        return result
    omitted = dict.fromkeys((*result.get("omitted", ()), *sides))
    changed = {name for side in sides for name in OMITTED_FIELDS[side]}
    for name in changed:
        result.pop(name, None)
    attributes = to_json(result.get("attributes", ABSENT))
    safe: dict[str, Any] = {}
    if attributes is not None:
        if isinstance(attributes, dict):
            safe = {name: value for name, value in attributes.items() if keep_attribute(name, value)}
        if safe != attributes:
            changed.add("attributes")
            omitted["attributes"] = None
            result["attributes"] = to_raw(safe or None)
    if result.get("error") is not None:
        changed.add("error")
        result["error"] = error or error_without_content(result.get("error_type"), safe.get(semconv.CODE_LOCATION))
    if labels is not None:
        if bytes(result.get("metadata", ABSENT)) != bytes(labels.metadata):
            changed.add("metadata")
            omitted["metadata"] = None
            result["metadata"] = labels.metadata
        if list(result.get("tags", ())) != list(labels.tags):
            omitted["tags"] = None
            result["tags"] = list(labels.tags)
    if result.get("truncated"):
        result["truncated"] = {name: cut for name, cut in result["truncated"].items() if name not in changed}
    result["omitted"] = list(omitted)
    return result


def omit_from(record: Record, sides: Collection[str], **options: Any) -> Record:
    """Return a record without the content that omitting `sides` covers; `options` are those of `omit`."""
    fields = {name: getattr(record, name) for name in Record.__struct_fields__}
    return Record(**omit(fields, sides, **options))


def encode(record: Record) -> bytes:
    """Return the record as one line of JSON, without the newline."""
    return _encoder.encode(record)


def decode(line: bytes | bytearray | memoryview) -> Record:
    """Return the record in one line of JSON.

    Raise `msgspec.DecodeError` (or its subclass `msgspec.ValidationError`) with a message that names the field, such as
    ``Expected `int`, got `str` - at `$.input_tokens` ``. Unknown fields are ignored, so an older server accepts records
    of a newer client. `Raw` fields are views of `line`: keep `line` alive and unchanged.
    """
    return _decoder.decode(line)


def to_json(raw: Raw) -> Any:
    """Return the value of a JSON field as plain Python, None for `ABSENT`."""
    return _any_decoder.decode(raw)


def to_raw(value: Any) -> Raw:
    """Return plain JSON values as a JSON field, `ABSENT` for None. Raise `TypeError` for a value that is not JSON."""
    return ABSENT if value is None else Raw(_encoder.encode(value))
