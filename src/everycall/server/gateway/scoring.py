"""How close an answer is to its target: two scores, kept with the record. Called by `recording.py`."""

from __future__ import annotations

from typing import Any

from rapidfuzz import fuzz

from everycall import limits

__all__ = ["EXACT_MATCH", "SIMILARITY", "score"]

EXACT_MATCH = "exact_match"
SIMILARITY = "similarity"


def score(content: str, target: str) -> list[dict[str, Any]]:
    """Return the scores, each from 0 to 1, as Parea's clients read them (`name`, `score`).

    `exact_match` is 1 if both are the same apart from white space around them. `similarity` is 1 minus the number of
    insertions and deletions that turn one into the other, divided by the characters of both. It is left out if one of
    them has more than `limits.SCORED_CHARS_MAX`.
    """
    content, target = content.strip(), target.strip()
    scores = [{"name": EXACT_MATCH, "score": float(content == target)}]
    if max(len(content), len(target)) <= limits.SCORED_CHARS_MAX:
        scores.append({"name": SIMILARITY, "score": round(fuzz.ratio(content, target) / 100, 6)})
    return scores
