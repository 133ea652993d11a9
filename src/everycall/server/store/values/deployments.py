"""Deployments, their versions, activations and use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "Activation",
    "Deployment",
    "DeploymentUse",
    "DeploymentVersion",
]


@dataclass(frozen=True, slots=True)
class Deployment:
    """One immutable version of a deployed prompt. `version` counts from 1; `active` is true for the served version.

    `messages` are objects `{"role": ..., "content": ...}` with `{{variables}}`. `fallbacks` are the models to try when
    this one fails, in order: `{"model": ..., "provider": ...}`. `created_by` is the name of the key that created it.
    """

    deployment_id: str
    version: int
    project_name: str
    name: str
    messages: tuple[Mapping[str, Any], ...]
    model: str
    provider: str
    model_params: Mapping[str, Any] = field(default_factory=dict)
    functions: tuple[Mapping[str, Any], ...] = ()
    function_call: str | Mapping[str, str] | None = None
    created_unix_nano: int = 0
    active: bool = True
    description: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    fallbacks: tuple[Mapping[str, Any], ...] = ()
    created_by: str = ""


@dataclass(frozen=True, slots=True)
class DeploymentVersion:
    """A version of a deployment in a list, without its content."""

    version: int
    active: bool
    name: str
    model: str
    provider: str
    created_unix_nano: int
    created_by: str | None = None


@dataclass(frozen=True, slots=True)
class Activation:
    """When a version began to be served, and the name of the key that did it. Version 0: no version was served.

    `roll_back_to` is the version that a roll-back from this one serves, or None.
    """

    version: int
    unix_nano: int
    by: str
    roll_back_to: int | None


@dataclass(frozen=True, slots=True)
class DeploymentUse:
    """How a deployment was used since a time, from its latest records. `whole` is true if these are all of them.

    `cost` is the sum over the latest `costed` records, None if none of them has a cost; `unpriced` is the number of
    those without one, except those that failed and have no tokens. `last_unix_nano` is the time of the latest call
    ever.
    """

    completions: int
    errors: int
    cost: float | None
    unpriced: int
    costed: int
    last_unix_nano: int | None
    whole: bool
