"""The fake provider of the test kit, for programs outside the tests, which load this file by its path."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "kit"))

from everycall_testkit.provider import FakeProvider, Reply, Seen

__all__ = ["FakeProvider", "Reply", "Seen"]
