"""The values a store takes and returns: batches, queries, pages, deployments, keys, feedback, datasets.

All are frozen. Times are integers: nanoseconds since 1970 in UTC.
"""

from __future__ import annotations

from everycall.server.store.values.deployments import (
    Activation,
    Deployment,
    DeploymentUse,
    DeploymentVersion,
)
from everycall.server.store.values.evaluation import (
    Dataset,
    DatasetCase,
    Experiment,
    Feedback,
)
from everycall.server.store.values.keys import (
    NO_LIMITS,
    ApiKey,
    CachedResponse,
    Expense,
    KeyLimits,
    Spent,
)
from everycall.server.store.values.records import (
    OPERATORS,
    ClientReport,
    Commit,
    Condition,
    LogPage,
    LogQuery,
    RecordPage,
    RecordQuery,
    Refusal,
    TracePage,
    TraceQuery,
    TraceSummary,
)
from everycall.server.store.values.state import (
    Fault,
    SlowRead,
    StoreState,
)

__all__ = [
    "NO_LIMITS",
    "OPERATORS",
    "Activation",
    "ApiKey",
    "CachedResponse",
    "ClientReport",
    "Commit",
    "Condition",
    "Dataset",
    "DatasetCase",
    "Deployment",
    "DeploymentUse",
    "DeploymentVersion",
    "Expense",
    "Experiment",
    "Fault",
    "Feedback",
    "KeyLimits",
    "LogPage",
    "LogQuery",
    "RecordPage",
    "RecordQuery",
    "Refusal",
    "SlowRead",
    "Spent",
    "StoreState",
    "TracePage",
    "TraceQuery",
    "TraceSummary",
]
