"""Parea's test-case collections, here called datasets: creating, extending, changing and reading them."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Annotated, Any
from urllib.parse import unquote

import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency
from msgspec import Meta

from everycall import limits
from everycall.server.api.http import (
    PAREA_PREFIX,
    ApiRequest,
    encode_json,
    invalid_field,
    json_response,
    path_tail,
    read_json,
)
from everycall.server.api.openapi import operation, path_parameter
from everycall.server.api.parea.log_trees import iso_time
from everycall.server.api.parea.projects import find_project, project_named
from everycall.server.auth import Identity, require
from everycall.server.problems import not_found, problem
from everycall.server.services import Services
from everycall.server.store.base import Store
from everycall.server.store.values import Dataset, DatasetCase

__all__ = ["handlers"]

Name = Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX)]
_COLLECTION_PATH = f"{PAREA_PREFIX}/collection/"


class NewCase(msgspec.Struct, kw_only=True):
    """One test case. Values that are not text are kept as JSON."""

    inputs: dict[str, Any] = {}
    target: Any = None
    tags: list[Name] | None = None


class NewCases(msgspec.Struct, kw_only=True):
    """Cases for a dataset, which is named by id or by name."""

    id: int | None = None
    name: Name | None = None
    test_cases: list[NewCase] = []
    column_names: list[Name] | None = None
    project_name: Annotated[str, Meta(max_length=256)] | None = None


class CaseUpdate(msgspec.Struct, kw_only=True):
    """What to change of a case; null leaves a value as it is."""

    inputs: dict[str, Any] | None = None
    target: Any = None
    tags: list[Name] | None = None


class StoredCase(msgspec.Struct):
    """A case of a dataset."""

    id: int
    test_case_collection_id: int
    inputs: dict[str, str]
    target: str | None
    tags: list[str]


class Collection(msgspec.Struct, kw_only=True):
    """A dataset with its cases by id."""

    id: int
    name: str
    created_at: str
    last_updated_at: str
    column_names: list[str]
    test_cases: dict[str, StoredCase]


class NewCollection(msgspec.Struct):
    """A dataset that was created, or that was there with the same cases."""

    id: int
    last_updated_at: str
    test_case_ids: list[int]


class CaseId(msgspec.Struct):
    """The id of a case."""

    id: int


_cases_decoder = msgspec.json.Decoder(NewCases)
_update_decoder = msgspec.json.Decoder(CaseUpdate)
_PROBLEMS = {404: "No such dataset in this project.", 413: "Too large.", 422: "A field is wrong; `field` names it."}


@get(
    f"{PAREA_PREFIX}/collection/{{collection:path}}",
    operation_class=operation(
        parameters=[path_parameter("collection", "A dataset's id or name, percent-encoded.")],
        response=Collection | None,
    ),
)
async def get_collection(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """Return a dataset with its test cases; null when there is none, as Parea's clients expect."""
    require(request.user, "read")
    dataset = await _find(request.user, services.store, path_tail(request, _COLLECTION_PATH))
    return json_response(None if dataset is None else _collection(dataset))


@post(
    f"{PAREA_PREFIX}/collection",
    status_code=200,
    operation_class=operation(
        body=NewCases,
        response=NewCollection,
        problems={**_PROBLEMS, 400: "The name is taken by a dataset with other cases."},
    ),
)
async def post_collection(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """Create a dataset.

    Sending the same dataset again returns the stored one: clients repeat a request whose response they did not get.
    """
    require(request.user, "write")
    body = await read_json(request, services.bodies, _cases_decoder)
    if not body.name:
        raise invalid_field("name", "name is required: the name of the dataset")
    project = project_named(request.user, body.project_name)
    dataset = Dataset(body.name, project, _columns(body), tuple(map(_case, body.test_cases)))
    stored = await services.store.put_dataset(dataset)
    if stored is None:
        stored = await services.store.dataset(project, body.name)
        if stored is None or not _has_same_cases(stored, dataset):
            detail = f"There is a dataset {body.name[:200]!r} with other cases. Add to it with POST /testcases."
            raise problem("dataset_name_taken", 400, "The name is taken", detail, field="name")
    case_ids = [case.id for case in stored.cases]
    return json_response(NewCollection(stored.id, iso_time(stored.updated_unix_nano), case_ids))


@post(
    f"{PAREA_PREFIX}/testcases",
    status_code=200,
    operation_class=operation(body=NewCases, response=list[int], problems=_PROBLEMS),
)
async def post_test_cases(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """Add cases to the dataset with this id or name, and return their ids. A dataset of a new name is created."""
    require(request.user, "write")
    store = services.store
    body = await read_json(request, services.bodies, _cases_decoder)
    if body.id is None and not body.name:
        raise invalid_field("id", "id or name is required: of the dataset to add to")
    cases = tuple(map(_case, body.test_cases))
    dataset = await _find(request.user, store, body.name or "" if body.id is None else body.id)
    if dataset is None and body.id is not None:
        raise not_found("dataset")
    if dataset is None:
        project = project_named(request.user, body.project_name)
        stored = await store.put_dataset(Dataset(body.name or "", project, _columns(body), cases))
        if stored is not None:
            return json_response([case.id for case in stored.cases])
        dataset = await store.dataset(project, body.name or "")  # another request has just created it
    case_ids = None if dataset is None else await store.add_cases(dataset.project_name, dataset.id, cases)
    if case_ids is None:
        raise not_found("dataset")
    return json_response(list(case_ids))


@post(
    f"{PAREA_PREFIX}/update_test_case/{{dataset_id:str}}/{{test_case_id:str}}",
    status_code=200,
    operation_class=operation(
        parameters=[path_parameter("dataset_id", "The dataset."), path_parameter("test_case_id", "The case in it.")],
        body=CaseUpdate,
        response=CaseId,
        problems={**_PROBLEMS, 404: "No such case in this project."},
    ),
)
async def post_update(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """Change a case. Values that are null or missing stay as they are."""
    require(request.user, "write")
    update = await read_json(request, services.bodies, _update_decoder)
    dataset_id = _number(str(request.path_params["dataset_id"]))
    case_id = _number(str(request.path_params["test_case_id"]))
    dataset = None
    if dataset_id is not None and case_id is not None:
        dataset = await _find(request.user, services.store, dataset_id)
    case = next((case for case in dataset.cases if case.id == case_id), None) if dataset else None
    if dataset is None or case is None:
        raise not_found("test case")
    changed = replace(
        case,
        inputs=case.inputs if update.inputs is None else _texts(update.inputs),
        target=case.target if update.target is None else _text(update.target),
        tags=case.tags if update.tags is None else tuple(update.tags),
    )
    if not await services.store.update_case(dataset.project_name, dataset.id, changed):
        raise not_found("test case")
    return json_response(CaseId(case.id))


async def _find(identity: Identity, store: Store, key: int | str) -> Dataset | None:
    """Return the dataset with an id, or with a text that is its id or its name."""
    number = key if isinstance(key, int) else _number(key)
    name = key if isinstance(key, str) else None
    for candidate in (number, name):
        if candidate is None:
            continue

        async def exists(project: str, key: int | str = candidate) -> bool:
            return await store.dataset(project, key) is not None

        dataset = await store.dataset(await find_project(identity, store, exists), candidate)
        if dataset is not None:
            return dataset
    return None


def _columns(body: NewCases) -> tuple[str, ...]:
    names = [name for case in body.test_cases for name in case.inputs]
    return tuple(dict.fromkeys([*(body.column_names or ()), *names]))


def _case(case: NewCase) -> DatasetCase:
    target = None if case.target is None else _text(case.target)
    return DatasetCase(_texts(case.inputs), target, tuple(case.tags or ()))


def _has_same_cases(stored: Dataset, dataset: Dataset) -> bool:
    return tuple(replace(case, id=0) for case in stored.cases) == dataset.cases


def _texts(values: dict[str, Any]) -> dict[str, str]:
    return {name: _text(value) for name, value in values.items()}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else encode_json(value).decode()


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,18}", unquote(text)) else None


def _collection(dataset: Dataset) -> Collection:
    return Collection(
        id=dataset.id,
        name=dataset.name,
        created_at=iso_time(dataset.created_unix_nano),
        last_updated_at=iso_time(dataset.updated_unix_nano),
        column_names=list(dataset.columns),
        test_cases={
            str(case.id): StoredCase(case.id, dataset.id, dict(case.inputs), case.target, list(case.tags))
            for case in dataset.cases
        },
    )


handlers = [get_collection, post_collection, post_test_cases, post_update]
