"""The omission rule, once: fields x flags x sides. The SDK and the server both use `everycall.record.omit`."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec
import pytest

from everycall import span
from everycall.record import (
    INPUT_FIELDS,
    OUTPUT_FIELDS,
    Cut,
    Labels,
    Record,
    encode,
    error_without_content,
    omit,
    omit_from,
    to_json,
    to_raw,
)
from everycall.settings import Settings, omit_flags
from everycall.testing import capture_records

SAFE = {"gen_ai.response.id": "chatcmpl-1", "gen_ai.response.finish_reasons": ["stop"], "code.location": "app:7"}
UNSAFE = {"note": "canary", "exception.message": "canary", "gen_ai.response.finish_reasons": ["canary canary"]}
WHOLE: dict[str, Any] = {
    "inference_id": "i-1",
    "trace_id": "t-1",
    "name": "ask",
    "model": "gpt-4o",
    "input_tokens": 3,
    "llm_inputs": to_raw({"x": "canary"}),
    "llm_configuration": to_raw({"messages": ["canary"]}),
    "inputs": to_raw("canary"),
    "target": to_raw("canary"),
    "content": "canary",
    "output": to_raw("canary"),
    "metadata": to_raw({"team": "a"}),
    "tags": ["beta"],
    "status": "error",
    "error": "ValueError: canary",
    "error_type": "ValueError",
    "attributes": to_raw({**SAFE, "note": "canary"}),
}
SIDES = [(), ("inputs",), ("outputs",), ("inputs", "outputs")]


@pytest.mark.parametrize("sides", SIDES, ids="+".join)
@pytest.mark.parametrize("field", sorted(set(WHOLE) - {"attributes", "error"}))
def test_each_field_is_omitted_with_its_side(field: str, sides: tuple[str, ...]) -> None:
    """Inputs are omitted with inputs, outputs with outputs; everything that is not content is kept."""
    result = omit(WHOLE, sides)
    is_omitted = ("inputs" in sides and field in INPUT_FIELDS) or ("outputs" in sides and field in OUTPUT_FIELDS)
    assert (field in result) == (not is_omitted)
    if not is_omitted:
        assert result[field] == WHOLE[field]


@pytest.mark.parametrize("sides", SIDES[1:], ids="+".join)
def test_other_content_is_omitted_with_either_side(sides: tuple[str, ...]) -> None:
    """The error's message, attributes that may hold content, and labels that were added while the call ran."""
    changed = {**WHOLE, "metadata": to_raw({"team": "a", "answer": "canary"}), "tags": ["beta", "canary"]}
    result = omit(changed, sides, labels=Labels(to_raw({"team": "a"}), ["beta"]))
    assert to_json(result["attributes"]) == SAFE
    assert result["error"] == "ValueError at app:7"
    assert (to_json(result["metadata"]), result["tags"]) == ({"team": "a"}, ["beta"])
    assert result["omitted"] == [*sides, "attributes", "metadata", "tags"]


@pytest.mark.parametrize(("name", "value"), UNSAFE.items())
def test_attributes_that_may_have_content_are_omitted(name: str, value: Any) -> None:
    """By its name, or because its value does not look like what such an attribute holds."""
    result = omit({**WHOLE, "attributes": to_raw({name: value})}, ("inputs",))
    assert to_json(result["attributes"]) is None
    assert "attributes" in result["omitted"]


def test_omission_without_a_side_changes_nothing_and_is_idempotent() -> None:
    """The rule is idempotent and changes nothing in place."""
    before = dict(WHOLE)
    assert omit(WHOLE, ()) == WHOLE
    once = omit(WHOLE, ("inputs", "outputs"))
    assert omit(once, ("inputs", "outputs")) == once
    assert before == WHOLE


def test_errors_keep_their_type_status_and_place() -> None:
    """The text of an error whose message is omitted."""
    assert error_without_content("ValueError", "app:7") == "ValueError at app:7"
    assert error_without_content("RateLimitError", status=429) == "RateLimitError (429)"
    assert error_without_content(None) == "error"


@pytest.mark.parametrize("flag", ["log_omit_inputs", "log_omit_outputs"])
def test_the_sdk_and_the_server_omit_the_same(flag: str, client: httpx.Client) -> None:
    """A record that the SDK made with a flag, and the same record whole that only says so: both are stored alike."""
    side = flag.removeprefix("log_omit_")
    fields: Any = {"inputs": "canary", "output": "canary", "target": "canary", "llm_inputs": {"x": "canary"}}
    with capture_records(Settings(omit=omit_flags(**{flag: True}))) as records:
        with span("ask", **fields) as call:
            call.set_attribute("note", "canary")
    sdk_record = records[0]
    with capture_records() as whole:
        with span("ask", **fields) as call:
            call.set_attribute("note", "canary")
    request = msgspec.structs.replace(whole[0], omitted=[side])
    assert set(omit_from(request, [side]).omitted) == set(sdk_record.omitted)
    for record in (sdk_record, request):
        line = encode(msgspec.structs.replace(record, inference_id=f"{side}-{record is sdk_record}"))
        assert client.post("/v1/records", content=line).json()["committed"] == 1
    stored = [client.get(f"/api/records/{side}-{which}").json() for which in (True, False)]
    assert set(stored[0].pop("omitted")) == set(stored[1].pop("omitted")) == {side, "attributes"}
    names = (*INPUT_FIELDS, *OUTPUT_FIELDS, "attributes")
    made_by_sdk, left_out_by_server = ({name: one.get(name) for name in names} for one in stored)
    assert made_by_sdk == left_out_by_server


def test_every_content_field_belongs_to_a_side() -> None:
    """A new field of the record must be listed as content of a side, or as not content."""
    content = {name for name, kind in Record.__annotations__.items() if "Raw" in str(kind)} | {"content"}
    assert content == {*INPUT_FIELDS, *OUTPUT_FIELDS, "metadata", "attributes"}


@pytest.mark.parametrize("sides", SIDES[1:], ids="+".join)
def test_hashes_of_omitted_fields_are_omitted(sides: tuple[str, ...]) -> None:
    """`truncated` has the SHA-256 of the whole: it goes with each field, attributes, error and labels included."""
    names = [*INPUT_FIELDS, *OUTPUT_FIELDS, "attributes", "error", "metadata"]
    cuts = {name: Cut(kept=3, bytes=9, sha256="ab") for name in names}
    changed = {**WHOLE, "metadata": to_raw({"answer": "canary"}), "truncated": cuts}
    omitted_fields = {*(INPUT_FIELDS if "inputs" in sides else ()), *(OUTPUT_FIELDS if "outputs" in sides else ())}
    truncated = omit(changed, sides, labels=Labels())["truncated"]
    assert truncated.keys() == set(names) - omitted_fields - {"attributes", "error", "metadata"}
    assert omit(changed, sides)["truncated"].keys() == truncated.keys() | {"metadata"}
