"""Feedback, experiments and datasets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = [
    "Dataset",
    "DatasetCase",
    "Experiment",
    "Feedback",
]


@dataclass(frozen=True, slots=True)
class Feedback:
    """Feedback on a record, which may arrive later than the feedback. `score` is from 0 to 1."""

    inference_id: str
    score: float
    name: str | None = None
    target: str | None = None
    comment: str | None = None
    created_unix_nano: int = 0


@dataclass(frozen=True, slots=True)
class Experiment:
    """One run of an experiment. `statistics` and `samples` are set when it finishes.

    Its records have its `uuid` in their attribute `parea.experiment_uuid`.
    """

    uuid: str
    project_name: str
    name: str
    run_name: str
    status: str = "pending"
    metadata: Mapping[str, str] | None = None
    is_public: bool = False
    created_unix_nano: int = 0
    statistics: tuple[Mapping[str, Any], ...] = ()
    samples: int | None = None


@dataclass(frozen=True, slots=True)
class DatasetCase:
    """A test case of a dataset. The store sets `id`."""

    inputs: Mapping[str, str]
    target: str | None = None
    tags: tuple[str, ...] = ()
    id: int = 0


@dataclass(frozen=True, slots=True)
class Dataset:
    """A named collection of test cases. The store sets `id` and the times."""

    name: str
    project_name: str
    columns: tuple[str, ...] = ()
    cases: tuple[DatasetCase, ...] = ()
    id: int = 0
    created_unix_nano: int = 0
    updated_unix_nano: int = 0
