"""A pytest plugin (entry point `everycall`): the fixture `captured_records`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from everycall.record import Record
from everycall.testing import capture_records

__all__ = ["captured_records"]


@pytest.fixture
def captured_records() -> Iterator[list[Record]]:
    """The records of the calls that end during the test; nothing is spooled or sent."""
    with capture_records() as records:
        yield records
