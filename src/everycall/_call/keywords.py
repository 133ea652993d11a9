"""The keywords that users type, as types; and the `TypeError` for one that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, NoReturn, TypedDict

__all__ = [
    "ATTRIBUTE_ADVICE",
    "CONTEXT_KEYWORDS",
    "OMIT_KEYWORDS",
    "SPAN_KEYWORDS",
    "TRACE_KEYWORDS",
    "UNSET",
    "UPDATE_KEYWORDS",
    "OmitFlags",
    "SpanFields",
    "Unset",
    "UpdateFields",
    "refuse_keyword",
]


class Unset:
    """The type of `UNSET`: not given, as opposed to None."""

    def __repr__(self) -> str:
        return "UNSET"

    def __bool__(self) -> bool:
        return False


UNSET: Final = Unset()


class OmitFlags(TypedDict, total=False):
    """What to leave out of a record, as the seed names it: everything, the inputs, the outputs."""

    log_omit: bool
    log_omit_inputs: bool
    log_omit_outputs: bool


class Labels(TypedDict, total=False):
    """What a trace is known by; inherited by the calls below."""

    trace_id: str | None
    trace_name: str | None
    end_user_identifier: str | None
    session_id: str | None


class RecordFields(TypedDict, total=False):
    """Fields of a record. None leaves a field as it is."""

    inputs: Any
    output: Any
    content: str | None
    llm_inputs: Any
    llm_configuration: Any
    target: Any
    metadata: Mapping[str, Any] | None
    tags: Iterable[str] | None
    model: str | None
    provider: str | None
    input_tokens: int | None
    output_tokens: int | None
    total_tokens: int | None
    usage: Mapping[str, int | None] | None
    cost: float | None
    cost_source: str | None
    price_version: str | None
    saved_cost: float | None
    cache: bool | None
    cache_hit: bool | None
    time_to_first_token: float | None
    deployment_id: str | None


class UpdateFields(RecordFields, total=False):
    """The keywords of `Call.update`."""

    name: str | None


class SpanFields(RecordFields, Labels, OmitFlags, total=False):
    """The keywords of `span()` besides its name."""

    kind: str


OMIT_KEYWORDS: Final = frozenset(OmitFlags.__annotations__)
UPDATE_KEYWORDS: Final = frozenset(UpdateFields.__annotations__)
SPAN_KEYWORDS: Final = frozenset(SpanFields.__annotations__)
CONTEXT_KEYWORDS: Final = frozenset({*Labels.__annotations__, *OMIT_KEYWORDS, "tags", "metadata"})
TRACE_KEYWORDS: Final = frozenset({*CONTEXT_KEYWORDS, "name", "kind", "deployment_id", "target"})
ATTRIBUTE_ADVICE: Final = "; use set_attribute() for attributes of your own"


def refuse_keyword(function: str, keywords: Iterable[str], accepted: Collection[str], advice: str = "") -> NoReturn:
    """Raise `TypeError` for the first keyword that is not accepted; the message names the nearest accepted one."""
    unknown = sorted(set(keywords) - set(accepted))[0]
    nearest = difflib.get_close_matches(unknown, accepted, n=1)
    hint = f". Did you mean {nearest[0]!r}?" if nearest else advice
    raise TypeError(f"{function}() got an unexpected keyword argument {unknown!r}{hint}")
