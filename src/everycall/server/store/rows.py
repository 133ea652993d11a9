"""A record as a row: its checked wire form, and the columns that lists filter and sort by.

The writer calls it for records that arrive or are merged. All functions are pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw

from everycall import limits
from everycall._pricing.price_book import PRICE_FIELDS, PriceBook
from everycall.dialects.join import is_partial, join
from everycall.dialects.marks import ANSWER, MARKS, dialect_of
from everycall.record import ABSENT, Record, decode, encode, is_safe_attribute, omit_from
from everycall.semconv import ERROR, GEN_AI_RESPONSE_ID, PRICED_KINDS
from everycall.server.store.errors import StoreError

__all__ = [
    "COLUMNS",
    "LABEL_COLUMNS",
    "Row",
    "Unstorable",
    "combine_patches",
    "encode_patch",
    "has_other_labels_only",
    "keeps_attribute",
    "labels_of",
    "merge",
    "prepare",
    "read",
    "relabel",
    "rewrite",
]

COLUMNS = (
    "id, project, trace, inference_id, parent_id, start, finish, kind, name, trace_name, model, provider, failed, "
    "end_user, session, deployment, cache_hit, size, answer, dialect"
)
"""The columns of the table `records`; `Row.columns` has those from `inference_id` on."""

LABEL_COLUMNS = ("trace_name", "end_user", "session", "size")
"""The columns that differ when a stored record takes over labels of its parent."""
_NAMES = COLUMNS.split(", ")[COLUMNS.split(", ").index("inference_id") :]
_LABEL_PLACES = tuple(_NAMES.index(name) for name in LABEL_COLUMNS)
_OTHER_PLACES = tuple(place for place in range(len(_NAMES)) if place not in _LABEL_PLACES)
_label_values: Callable[[tuple[Any, ...]], tuple[Any, ...]] = itemgetter(*_LABEL_PLACES)
_other_values: Callable[[tuple[Any, ...]], tuple[Any, ...]] = itemgetter(*_OTHER_PLACES)

_fields = msgspec.json.Decoder(dict[str, Raw])
_encoder = msgspec.json.Encoder()
_json = msgspec.json.Decoder()
_NULL = b"null"
_TRAVELS = ("error", "attributes", "truncated")
"""Fields that may repeat omitted content, besides those of the omitted side itself."""
_RESPONSE_ID = GEN_AI_RESPONSE_ID.encode()
_DOUBLE = ANSWER.encode()
_KEYS = frozenset({"inference_id", "project_name", "counted_in"})


class _Answered(msgspec.Struct):
    answer: str | None = msgspec.field(default=None, name=GEN_AI_RESPONSE_ID)
    double: str | None = msgspec.field(default=None, name=ANSWER)


_response_id = msgspec.json.Decoder(_Answered)


class Unstorable(Exception):
    """A record that can never be stored. The message is the reason."""


class Row(NamedTuple):
    """A record ready to be stored. `record` was decoded from `body`, so what is stored can be read.

    `computed` names the fields the server computed: the price.
    """

    record: Record
    body: bytes
    columns: tuple[Any, ...]
    computed: tuple[str, ...] = ()

    @property
    def answer(self) -> str | None:
        """The provider's response id of a model call, or None."""
        return self.columns[-2]  # type: ignore[no-any-return]

    @property
    def dialect(self) -> str | None:
        """The vocabulary of the span that the record was translated from; None for everycall's own records."""
        return self.columns[-1]  # type: ignore[no-any-return]


def prepare(project: str, record: Record, prices: PriceBook | None = None) -> Row:
    """Return the row of a record in `project`, whatever its own `project_name` is, priced by `prices`.

    Raise `Unstorable` for a value its field does not allow, invalid JSON, text that is not Unicode (a lone surrogate),
    too deep nesting, and a record larger than `limits.RECORD_BYTES_MAX`.
    """
    try:
        if record.project_name != project:
            record = msgspec.structs.replace(record, project_name=project)
        if record.counted_in is not None:
            record = msgspec.structs.replace(record, counted_in=None)  # only the store may set it
        computed: tuple[str, ...] = ()
        if prices is not None and record.kind in PRICED_KINDS:
            priced = prices.price_record(record)
            if priced is not record:
                computed = tuple(name for name in PRICE_FIELDS if getattr(priced, name) != getattr(record, name))
                record = priced
        body = encode(record)
        if not body.isascii():
            body.decode()
        if len(body) > limits.RECORD_BYTES_MAX:
            raise Unstorable(f"the record is {len(body)} bytes of JSON; at most {limits.RECORD_BYTES_MAX} are allowed")
        return read(body, computed)
    except UnicodeError as error:
        raise Unstorable(f"the record is not Unicode text: {error}") from error
    except RecursionError as error:
        raise Unstorable("the record is nested too deep") from error
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise Unstorable(str(error).replace("`", "'")) from error


def read(body: bytes, computed: tuple[str, ...] = ()) -> Row:
    """Return the row of a record in its stored form."""
    record = decode(body)
    attributes = b"" if record.attributes is ABSENT else bytes(record.attributes)
    return Row(
        record,
        body,
        (
            record.inference_id,
            record.parent_id,
            record.start_time_unix_nano,
            record.end_time_unix_nano,
            record.kind,
            record.name,
            record.trace_name,
            record.model,
            record.provider,
            record.status == ERROR,
            record.end_user_identifier,
            record.session_id,
            record.deployment_id,
            record.cache_hit,
            len(body),
            _answer_of(record, attributes),
            dialect_of(attributes),
        ),
        computed,
    )


def rewrite(row: Row, **changes: Any) -> Row:
    """Return the row with some fields of its record changed, such as those that the store computes."""
    return read(encode(msgspec.structs.replace(row.record, **changes)), row.computed)


def labels_of(row: Row) -> tuple[Any, ...]:
    """Return the values of `LABEL_COLUMNS`."""
    return _label_values(row.columns)


def has_other_labels_only(before: Row, after: Row) -> bool:
    """Return whether two rows of a record have the same values in all columns but `LABEL_COLUMNS`."""
    return _other_values(before.columns) == _other_values(after.columns)


def relabel(row: Row, labels: Mapping[str, Any]) -> Row:
    """Return the row with labels of its parent: they were checked in the parent, so they are not decoded again."""
    record = msgspec.structs.replace(row.record, **labels)
    body = encode(record)
    values = (record.trace_name, record.end_user_identifier, record.session_id, len(body))
    columns = list(row.columns)
    for place, value in zip(_LABEL_PLACES, values, strict=True):
        columns[place] = value
    return Row(record, body, tuple(columns), row.computed)


def _answer_of(record: Record, attributes: bytes) -> str | None:
    """Return the provider's response id. Responses from a cache have none: they repeat the id of another call."""
    if record.kind not in PRICED_KINDS or record.cache_hit:
        return None
    if _RESPONSE_ID not in attributes and _DOUBLE not in attributes:
        return None
    try:
        ids = _response_id.decode(attributes)
        answer = ids.answer or ids.double
    except (msgspec.MsgspecError, RecursionError):
        return None
    return answer if answer and len(answer) <= limits.ID_CHARS_MAX else None


def merge(stored: Row, later: Row | None = None, patch: bytes | None = None, prices: PriceBook | None = None) -> Row:
    """Return the row of a stored record, updated with the fields of a later copy and then with those of a patch.

    In a later copy, fields that are null or were computed here do not count. In a patch, null removes a field. Fields
    are replaced as a whole: objects are not merged. Content that one of the copies omitted is taken from neither.
    `prices` decide which cost is kept.
    """
    if later is not None and (is_partial(later.record) or is_partial(stored.record)):
        stored, later = _join_parts(stored, later), None
    whole = later
    if later is not None:
        stored, later = _without_omitted(stored, later)
    fields = _fields.decode(stored.body)
    if later is not None:
        newer = _fields.decode(later.body)
        if later is not whole:  # what is left of its error and attributes replaces nothing that the strict copy has
            newer = {name: value for name, value in newer.items() if name not in _TRAVELS or name not in fields}
        if stored.dialect is not None and later.dialect is not None:
            _join_objects(fields, newer)
        fields.update(
            (name, value) for name, value in newer.items() if bytes(value) != _NULL and name not in later.computed
        )
    if patch is not None:
        for name, value in _fields.decode(patch).items():
            if bytes(value) == _NULL:
                fields.pop(name, None)
            else:
                fields[name] = value
    record = decode(_encoder.encode(fields))
    return read(encode(record if prices is None else prices.settle(stored.record, record)))


def _join_objects(earlier: Mapping[str, Raw], later: dict[str, Raw]) -> None:
    """Keep members of objects that only an earlier report of a foreign span had, such as its log records."""
    for name in ("llm_configuration", "metadata", "attributes"):
        if name in earlier and name in later:
            one, other = _json.decode(earlier[name]), _json.decode(later[name])
            if isinstance(one, dict) and isinstance(other, dict) and one.keys() - other.keys():
                later[name] = Raw(_encoder.encode({**one, **other}))


def _join_parts(stored: Row, later: Row) -> Row:
    """Return the row of a span joined with what only its log records say, whichever came first."""
    whole, part = (later, stored) if is_partial(stored.record) and not is_partial(later.record) else (stored, later)
    joined = join(whole.record, part.record)
    return read(encode(joined), whole.computed)


def _without_omitted(one: Row, other: Row) -> tuple[Row, Row]:
    """Return two copies of a record, each without what either says was left out."""
    if set(one.record.omitted) == set(other.record.omitted):
        return one, other
    omitted = list(dict.fromkeys((*one.record.omitted, *other.record.omitted)))
    return _omitting(one, omitted), _omitting(other, omitted)


def _omitting(row: Row, omitted: list[str]) -> Row:
    """Return a row without the sides that `omitted` names; a copy that left them out itself stays as it is."""
    record = row.record
    if record.omitted == omitted:
        return row
    sides = [side for side in omitted if side not in record.omitted]
    if sides:
        record = omit_from(record, sides, keep_attribute=keeps_attribute)
    return read(encode(msgspec.structs.replace(record, omitted=omitted)), row.computed)


def keeps_attribute(name: str, value: Any) -> bool:
    """Return whether an attribute stays where content is left out: it cannot hold any, or joins foreign spans."""
    return name in MARKS or is_safe_attribute(name, value)


def encode_patch(fields: Mapping[str, Any]) -> bytes:
    """Return the stored form of fields to set. Raise a `StoreError` that names a field which cannot be set."""
    unknown = sorted(set(fields) - set(Record.__struct_fields__))
    if unknown:
        raise StoreError(f"A record has no field {', '.join(unknown)}. The API document lists the fields.")
    fixed = sorted(_KEYS & set(fields))
    if fixed:
        raise StoreError(f"{', '.join(fixed)} cannot be set: the server sets it.")
    if "trace_id" in fields and fields["trace_id"] is None:
        raise StoreError("trace_id cannot be null: a record is always part of a trace. Send a string or leave it out.")
    try:
        patch = _encoder.encode(dict(fields))
        patch.decode()
        values = {name: value for name, value in fields.items() if value is not None}
        decode(_encoder.encode({"trace_id": "-", **values, "inference_id": "-"}))
    except (msgspec.MsgspecError, UnicodeError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise StoreError(f"These fields cannot be set: {error}.") from error
    if len(patch) > limits.RECORD_BYTES_MAX:
        raise StoreError(f"The fields are {len(patch)} bytes of JSON; at most {limits.RECORD_BYTES_MAX} are allowed.")
    return patch


def combine_patches(earlier: bytes, later: bytes) -> bytes:
    """Return one patch with the effect of both, one after the other."""
    return _encoder.encode(_fields.decode(earlier) | _fields.decode(later))
