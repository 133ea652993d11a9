"""The fake provider that streams, for programs outside the tests, which load this file by its path."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "kit"))

from everycall_testkit.stream_provider import StreamProvider, StreamReply

__all__ = ["StreamProvider", "StreamReply"]
