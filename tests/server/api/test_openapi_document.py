"""`/openapi.json`: its schemas are those of the types that the routes decode and encode."""

from __future__ import annotations

import re
from typing import Any

import httpx
import msgspec
import pytest
from litestar import Litestar, post

from everycall import limits
from everycall.record import Record
from everycall.server.api import openapi
from everycall.server.gateway.request import CompletionRequest, CompletionResponse
from everycall.server.store.values import TraceSummary


@pytest.fixture
def document(client: httpx.Client) -> dict[str, Any]:
    openapi: dict[str, Any] = client.get("/openapi.json").json()
    return openapi


def test_every_reference_resolves(document: dict[str, Any]) -> None:
    names = set(re.findall(r"#/components/schemas/(\w+)", str(document)))
    assert names <= document["components"]["schemas"].keys()
    assert {"Record", "Deployment", "Problem"} <= names


def test_every_operation_describes_its_response_and_its_errors(document: dict[str, Any]) -> None:
    for path, item in document["paths"].items():
        for method, described in item.items():
            success = next(value for status, value in described["responses"].items() if status < "300")
            (content,) = success["content"].values()
            assert content["schema"], (method, path)
            errors = [value for status, value in described["responses"].items() if status >= "400"]
            assert all("application/problem+json" in error["content"] for error in errors), (method, path)
            assert described["description"], (method, path)


def test_a_body_has_the_fields_and_bounds_of_its_struct(document: dict[str, Any]) -> None:
    body = document["components"]["schemas"]["CompletionRequest"]
    assert body["properties"].keys() == set(CompletionRequest.__struct_fields__)
    assert body["properties"]["trace_id"]["anyOf"][0] == {"type": "string", "maxLength": limits.ID_CHARS_MAX}
    assert "required" not in body


def test_a_response_requires_all_fields_that_it_always_has(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert schemas["CompletionResponse"]["required"] == list(CompletionResponse.__struct_fields__)
    assert set(schemas["TraceSummary"]["required"]) == set(TraceSummary.__slots__)
    assert "secret" not in schemas["KeyResponse"]["required"]


def test_a_record_has_all_fields_and_requires_only_its_ids(document: dict[str, Any]) -> None:
    record = document["components"]["schemas"]["Record"]
    assert record["properties"].keys() == set(Record.__struct_fields__)
    assert record["required"] == ["inference_id", "trace_id"]
    assert record["properties"]["inputs"] == {}


def test_two_types_with_one_name_are_an_error() -> None:
    first = msgspec.defstruct("Same", [("a", int)])
    second = msgspec.defstruct("Same", [("b", int)])

    @post("/a", operation_class=openapi.operation(body=first, response=int))
    async def one() -> int:
        return 1

    @post("/b", operation_class=openapi.operation(body=second, response=int))
    async def two() -> int:
        return 2

    with pytest.raises(ValueError, match="named Same"):
        openapi.components_of(Litestar([one, two], openapi_config=None))
