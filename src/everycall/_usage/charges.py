"""The cost that a provider states in its usage report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from everycall._usage.reports import members

__all__ = ["charge"]

_OPENROUTER_NAMES: Final = frozenset({"cost_details", "is_byok"})
_TICKS_PER_DOLLAR: Final = 10**10


def charge(report: Mapping[str, Any]) -> float | None:
    """Return the cost that a report states, in US dollars, or None.

    OpenRouter has `cost`, the charge including searches and other tools. With a key of the user's own (`is_byok`) it is
    OpenRouter's fee, and `upstream_inference_cost` is what the model's host charges in addition. Perplexity has an
    object `cost` with a `total_cost`, xAI `cost_in_usd_ticks` of 10^-10 dollars. A `cost` of any other report is
    ignored: its currency is unknown.
    """
    if "cost" in report:
        cost = report["cost"]
        if not _OPENROUTER_NAMES.isdisjoint(report):
            if not report.get("is_byok"):
                return _dollars(cost)
            fee, upstream = _dollars(cost), _dollars(members(report.get("cost_details")).get("upstream_inference_cost"))
            return None if fee is None or upstream is None else round(fee + upstream, 12)
        return _dollars(members(cost).get("total_cost"))
    ticks = _dollars(report.get("cost_in_usd_ticks"))
    return None if ticks is None else ticks / _TICKS_PER_DOLLAR


def _dollars(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        return None
    return float(value)
