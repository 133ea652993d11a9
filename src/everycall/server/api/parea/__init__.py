"""The routes below `/api/parea/v1` that Parea's clients use, apart from completions.

Existing `parea-ai` code works unchanged with `PAREA_BASE_URL` set to `<address>/api/parea/v1`.
"""
