"""Parea's collections of test cases, here datasets: made, added to, changed, read."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Annotated, Any
from urllib.parse import unquote

import msgspec
from litestar import Response, get, post
from litestar.openapi.spec import Schema
from litestar.openapi.spec.enums import OpenAPIType
from msgspec import Meta

from everycall import limits
from everycall.server.api.http import PAREA_PREFIX, ApiRequest, invalid_field, json_response, path_tail, read_json
from everycall.server.api.openapi import operation, path_text, schema_of
from everycall.server.api.parea.log_trees import iso_time
from everycall.server.api.parea.projects import find_project, project_named
from everycall.server.auth import require
from everycall.server.problems import not_found, problem
from everycall.server.store.base import Store
from everycall.server.store.values import Dataset, DatasetCase

__all__ = ["handlers"]

Name = Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX)]
COLLECTION_PATH = f"{PAREA_PREFIX}/collection/"

_encoder = msgspec.json.Encoder()


class NewCase(msgspec.Struct, kw_only=True):
    """One test case. Values that are not text are kept as their JSON."""

    inputs: dict[str, Any] = {}
    target: Any = None
    tags: list[Name] | None = None


class NewCases(msgspec.Struct, kw_only=True):
    """Cases for a dataset, named by id or by name."""

    id: int | None = None
    name: Name | None = None
    test_cases: list[NewCase] = []
    column_names: list[Name] | None = None
    project_name: Annotated[str, Meta(max_length=256)] | None = None


class CaseUpdate(msgspec.Struct, kw_only=True):
    """What to change of a case; null leaves it as it is."""

    inputs: dict[str, Any] | None = None
    target: Any = None
    tags: list[Name] | None = None


_cases_decoder = msgspec.json.Decoder(NewCases)
_update_decoder = msgspec.json.Decoder(CaseUpdate)

_INTEGER = Schema(type=OpenAPIType.INTEGER)
_STRING = Schema(type=OpenAPIType.STRING)
_IDS = Schema(type=OpenAPIType.ARRAY, items=_INTEGER)
_COLLECTION = Schema(
    type=[OpenAPIType.OBJECT, OpenAPIType.NULL],
    properties={
        "id": _INTEGER,
        "name": _STRING,
        "created_at": _STRING,
        "last_updated_at": _STRING,
        "column_names": Schema(type=OpenAPIType.ARRAY, items=_STRING),
        "test_cases": Schema(type=OpenAPIType.OBJECT, description="By id: inputs, target, tags of each."),
    },
)
_WRONG = {404: "No such dataset in this project.", 413: "Too large.", 422: "A field is wrong; `field` names it."}


@get(
    f"{PAREA_PREFIX}/collection/{{collection:path}}",
    operation_class=operation(
        parameters=[path_text("collection", "A dataset's id or name, percent-encoded.")],
        answer=_COLLECTION,
    ),
)
async def get_collection(request: ApiRequest) -> Response[bytes]:
    """Return a dataset with its test cases; null when there is none, as Parea's clients expect."""
    require(request.user, "read")
    found = await _find(request, path_tail(request, COLLECTION_PATH))
    return json_response(None if found is None else _shown(found))


@post(
    f"{PAREA_PREFIX}/collection",
    status_code=200,
    operation_class=operation(
        body=schema_of(NewCases),
        answer=Schema(
            type=OpenAPIType.OBJECT, properties={"id": _INTEGER, "last_updated_at": _STRING, "test_case_ids": _IDS}
        ),
        problems={**_WRONG, 400: "The name is taken by a dataset with other cases."},
    ),
)
async def post_collection(request: ApiRequest) -> Response[bytes]:
    """Make a dataset. The same again returns the one that is there: clients send again what got no answer."""
    require(request.user, "write")
    given = await _read_cases(request)
    if not given.name:
        raise invalid_field("name", "name is required: of the dataset")
    store: Store = request.app.state.store
    project = project_named(request.user, given.project_name)
    dataset = Dataset(given.name, project, _columns(given), tuple(map(_case, given.test_cases)))
    stored = await store.put_dataset(dataset)
    if stored is None:
        stored = await store.dataset(project, given.name)
        if stored is None or not _same(stored, dataset):
            detail = f"There is a dataset {given.name[:200]!r} with other cases. Add to it with POST /testcases."
            raise problem("dataset_name_taken", 400, "The name is taken", detail, field="name")
    return json_response(
        {
            "id": stored.id,
            "last_updated_at": iso_time(stored.updated_unix_nano),
            "test_case_ids": [case.id for case in stored.cases],
        }
    )


@post(
    f"{PAREA_PREFIX}/testcases",
    status_code=200,
    operation_class=operation(body=schema_of(NewCases), answer=_IDS, problems=_WRONG),
)
async def post_test_cases(request: ApiRequest) -> Response[bytes]:
    """Add cases to the dataset of an id or a name; a dataset of that name is made when there is none."""
    require(request.user, "write")
    given = await _read_cases(request)
    if given.id is None and not given.name:
        raise invalid_field("id", "id or name is required: of the dataset to add to")
    store: Store = request.app.state.store
    cases = tuple(map(_case, given.test_cases))
    found = await _find(request, given.name or "" if given.id is None else given.id)
    if found is None and given.id is not None:
        raise not_found("dataset")
    if found is None:
        project = project_named(request.user, given.project_name)
        made = await store.put_dataset(Dataset(given.name or "", project, _columns(given), cases))
        if made is not None:
            return json_response([case.id for case in made.cases])
        found = await store.dataset(project, given.name or "")  # somebody else has just made it
    ids = None if found is None else await store.add_cases(found.project_name, found.id, cases)
    if ids is None:
        raise not_found("dataset")
    return json_response(list(ids))


@post(
    f"{PAREA_PREFIX}/update_test_case/{{dataset_id:str}}/{{test_case_id:str}}",
    status_code=200,
    operation_class=operation(
        parameters=[path_text("dataset_id", "The dataset."), path_text("test_case_id", "The case in it.")],
        body=schema_of(CaseUpdate),
        answer=Schema(type=OpenAPIType.OBJECT, properties={"id": _INTEGER}),
        problems={**_WRONG, 404: "No such case in this project."},
    ),
)
async def post_update(request: ApiRequest) -> Response[bytes]:
    """Change a case; what is null or left out stays."""
    require(request.user, "write")
    store: Store = request.app.state.store
    given = await read_json(request, _update_decoder)
    numbers = [_number(str(request.path_params[name])) for name in ("dataset_id", "test_case_id")]
    found = None if None in numbers else await _find(request, numbers[0] or 0)
    case = next((one for one in found.cases if one.id == numbers[1]), None) if found else None
    if found is None or case is None:
        raise not_found("test case")
    changed = replace(
        case,
        inputs=case.inputs if given.inputs is None else _texts(given.inputs),
        target=case.target if given.target is None else _text(given.target),
        tags=case.tags if given.tags is None else tuple(given.tags),
    )
    if not await store.update_case(found.project_name, found.id, changed):
        raise not_found("test case")
    return json_response({"id": case.id})


async def _find(request: ApiRequest, key: int | str) -> Dataset | None:
    """Return the dataset of an id, or of a text that is its id or its name."""
    store: Store = request.app.state.store
    number = key if isinstance(key, int) else _number(key)
    keys: list[int | str] = [one for one in (number, key if isinstance(key, str) else None) if one is not None]
    for one in keys:

        async def has(project: str, one: int | str = one) -> bool:
            return await store.dataset(project, one) is not None

        found = await store.dataset(await find_project(request, has), one)
        if found is not None:
            return found
    return None


async def _read_cases(request: ApiRequest) -> NewCases:
    return await read_json(request, _cases_decoder)


def _columns(given: NewCases) -> tuple[str, ...]:
    used = [name for case in given.test_cases for name in case.inputs]
    return tuple(dict.fromkeys([*(given.column_names or ()), *used]))


def _case(given: NewCase) -> DatasetCase:
    target = None if given.target is None else _text(given.target)
    return DatasetCase(_texts(given.inputs), target, tuple(given.tags or ()))


def _same(stored: Dataset, given: Dataset) -> bool:
    return tuple(replace(case, id=0) for case in stored.cases) == given.cases


def _texts(values: dict[str, Any]) -> dict[str, str]:
    return {name: _text(value) for name, value in values.items()}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _encoder.encode(value).decode()


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,18}", unquote(text)) else None


def _shown(dataset: Dataset) -> dict[str, Any]:
    return {
        "id": dataset.id,
        "name": dataset.name,
        "created_at": iso_time(dataset.created_unix_nano),
        "last_updated_at": iso_time(dataset.updated_unix_nano),
        "column_names": list(dataset.columns),
        "test_cases": {
            str(case.id): {
                "id": case.id,
                "test_case_collection_id": dataset.id,
                "inputs": dict(case.inputs),
                "target": case.target,
                "tags": list(case.tags),
            }
            for case in dataset.cases
        },
    }


handlers = [get_collection, post_collection, post_test_cases, post_update]
