"""The record: a finished call as one frozen value; the wire form, the spool's line and the store's row.

The SDK builds records and the server decodes the very same class, so a field cannot mean two things. What an omit flag
leaves out of a record is decided here too (`omit`), for the SDK and the server alike.

Fields that hold a user's JSON (`inputs`, `output`, `metadata`, ...) are `msgspec.Raw`: bytes that are already JSON.
They are encoded once, at call time, and never parsed on the way to the store. `ABSENT` is the raw `null`.
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
"""The value of a JSON field that was not given. Compare with `is` or by `bytes(field) == b"null"`."""

Id = Annotated[str, Meta(min_length=1, max_length=limits.ID_CHARS_MAX)]
Label = Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Nanos = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Tag = Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX)]


class Cut(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What was cut from a field to keep it within its bound: sizes in bytes, and the SHA-256 of the whole.

    `bytes` and `sha256` are None where finding them would have meant walking all of a huge value.
    """

    kept: Count
    bytes: Count | None = None
    sha256: str | None = None


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One finished call. Names are the seed's where it has them.

    Unknown is `None` (absent on the wire), never 0: `cost=0.0` is a call that cost nothing, `cost=None` a call whose
    price is not known. Times are UTC nanoseconds since the epoch; `latency` and `time_to_first_token` are seconds
    measured on the monotonic clock. `input_tokens` includes cached and cache-write tokens, `output_tokens` includes
    reasoning tokens; `usage` has these parts.
    """

    inference_id: Id  # unique in a project; `<trace id, 32 hex>-<span id, 16 hex>` when made by everycall
    trace_id: Id  # the string the user gave, or 32 hex digits
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
    content: str | None = None  # the text an LLM answered
    output: Raw = ABSENT  # any JSON: what any other call returned, or tool calls and structured answers
    target: Raw = ABSENT  # any JSON: the gold standard
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
    counted_in: Id | None = None  # set by the store: the record of the same answer in which this one's sums are counted
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
    omitted: list[Annotated[str, Meta(max_length=64)]] = []  # "inputs", "outputs": left out because a flag said so
    truncated: dict[str, Cut] = {}  # field -> what was cut
    sdk: Label | None = None  # e.g. "everycall-python/0.1.0"
    scope: Label | None = None  # the instrumentation: "everycall", "everycall_langchain", ...
    attributes: Raw = ABSENT  # object: OpenTelemetry attributes set on the call, `exception.*`, `events`


INPUT_FIELDS = ("llm_inputs", "llm_configuration", "inputs", "target")
"""The fields that `log_omit_inputs` covers (`model` and `provider` have fields of their own and stay)."""
OUTPUT_FIELDS = ("content", "output")
"""The fields that `log_omit_outputs` covers."""
OMITTED_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {"inputs": INPUT_FIELDS, "outputs": OUTPUT_FIELDS}
"""The two sides of a call that a flag can leave out, as `Record.omitted` names them, and the fields of each."""
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
    """The metadata and tags given when a call started. Omit flags leave them: they are labels, not content."""

    metadata: Raw = ABSENT
    tags: Collection[str] = ()


def is_safe_attribute(name: str, value: Any) -> bool:
    """Tell whether an attribute stays in a record whose inputs or outputs are left out.

    The attributes that stay say where the call failed, decide its price, or identify the provider's answer. Each stays
    only if its value has the expected form: an id, or one of the words that providers use.
    """
    if name not in _SAFE_ATTRIBUTES:
        return False
    pattern = _SAFE_ATTRIBUTES[name]
    words = value if isinstance(value, list) else [value]
    return pattern is None or all(isinstance(word, str) and pattern.fullmatch(word) for word in words)


def error_without_content(error_type: str | None, location: object = None, status: int | None = None) -> str:
    """Return what a record says of an error whose message is left out: its type, HTTP status and place in the code.

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
    """Return a record's fields without what omitting `sides` ("inputs", "outputs") covers, whatever put it there.

    The fields of each side go (`OMITTED_FIELDS`). Content also travels elsewhere, so with either side:

    - the error's message goes; its type, and its place in the code, stay. `error` replaces it where the caller has a
      text that is known to hold no content;
    - attributes go, except those that `keep_attribute(name, value)` accepts;
    - `metadata` and `tags` become those of `labels`, if given: what was added while the call ran goes;
    - `truncated` no longer names what went: its entries have the hash of the whole.

    `omitted` of the result says what was left out: its earlier entries, then the sides, then `attributes`, `metadata`
    and `tags` where something of theirs went. Without a side the fields are returned as they are. `fields` has values
    as `Record` takes them and is not changed; what it lacks is absent.
    """
    kept = dict(fields)
    sides = [side for side in OMITTED_FIELDS if side in sides]
    if not sides:
        return kept
    omitted = dict.fromkeys((*kept.get("omitted", ()), *sides))
    changed = {name for side in sides for name in OMITTED_FIELDS[side]}
    for name in changed:
        kept.pop(name, None)
    attributes = to_json(kept.get("attributes", ABSENT))
    safe: dict[str, Any] = {}
    if attributes is not None:
        if isinstance(attributes, dict):
            safe = {name: value for name, value in attributes.items() if keep_attribute(name, value)}
        if safe != attributes:
            changed.add("attributes")
            omitted["attributes"] = None
            kept["attributes"] = to_raw(safe or None)
    if kept.get("error") is not None:
        changed.add("error")
        kept["error"] = error or error_without_content(kept.get("error_type"), safe.get(semconv.CODE_LOCATION))
    if labels is not None:
        if bytes(kept.get("metadata", ABSENT)) != bytes(labels.metadata):
            changed.add("metadata")
            omitted["metadata"] = None
            kept["metadata"] = labels.metadata
        if list(kept.get("tags", ())) != list(labels.tags):
            omitted["tags"] = None
            kept["tags"] = list(labels.tags)
    if kept.get("truncated"):
        kept["truncated"] = {name: cut for name, cut in kept["truncated"].items() if name not in changed}
    kept["omitted"] = list(omitted)
    return kept


def omit_from(record: Record, sides: Collection[str], **options: Any) -> Record:
    """Return a record without what omitting `sides` covers; `options` are those of `omit`."""
    fields = {name: getattr(record, name) for name in Record.__struct_fields__}
    return Record(**omit(fields, sides, **options))


def encode(record: Record) -> bytes:
    """Return the record as one line of JSON, without the newline."""
    return _encoder.encode(record)


def decode(line: bytes | bytearray | memoryview) -> Record:
    """Read one record.

    Raises `msgspec.DecodeError` (of which `msgspec.ValidationError` is a kind) with a message that names the field,
    such as ``Expected `int`, got `str` - at `$.input_tokens` ``. Unknown fields are ignored, so an older server takes
    what a newer client sends. `Raw` fields hold views of `line`: keep `line` alive and unchanged.
    """
    return _decoder.decode(line)


def to_json(raw: Raw) -> Any:
    """Return a JSON field's value as plain Python; `None` for `ABSENT`."""
    return _any_decoder.decode(raw)


def to_raw(value: Any) -> Raw:
    """Return plain JSON values as a JSON field; `None` is `ABSENT`. Raises `TypeError` for what is not JSON."""
    return ABSENT if value is None else Raw(_encoder.encode(value))
