"""The record: a finished call as one frozen value; the wire form, the spool's line and the store's row.

Layer 1: the codec and nothing else. The SDK builds records, the server decodes the very same class, so a field cannot
mean two things.

Fields that hold a user's JSON (`inputs`, `output`, `metadata`, ...) are `msgspec.Raw`: bytes that are already JSON.
They are encoded once, at call time, and never parsed on the way to the store. `ABSENT` is the raw `null`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

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
    "Record",
    "decode",
    "encode",
    "is_safe_attribute",
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
"""What `log_omit_inputs` leaves out (of `llm_configuration`, `model` and `provider` have fields of their own)."""
OUTPUT_FIELDS = ("content", "output")
"""What `log_omit_outputs` leaves out; error text and user attributes are handled by the chain."""
OMITTED_FIELDS = {"inputs": INPUT_FIELDS, "outputs": OUTPUT_FIELDS}
"""What a record does not hold when its `omitted` names this."""
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


def is_safe_attribute(name: str, value: Any) -> bool:
    """Tell whether an attribute stays in a record whose inputs or outputs are left out.

    Those stay that say where it failed, that decide the price, or by which one answer that was recorded twice is known:
    and each only where it looks like what it is, an id or one of the words that providers use.
    """
    if name not in _SAFE_ATTRIBUTES:
        return False
    pattern = _SAFE_ATTRIBUTES[name]
    words = value if isinstance(value, list) else [value]
    return pattern is None or all(isinstance(word, str) and pattern.fullmatch(word) for word in words)


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
