"""Greenlets of gevent and eventlet get the call that started them as their parent, in processes of their own."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest

PROGRAM = """
import json, sys
if sys.argv[1] == "gevent":
    from gevent import monkey; monkey.patch_all()
    import gevent
    from gevent.pool import Pool
    spawn, join, pool = gevent.spawn, lambda thread: thread.join(), Pool(1).map
else:
    import eventlet; eventlet.monkey_patch()
    spawn, join = eventlet.spawn, lambda thread: thread.wait()
    pool = lambda work, items: list(eventlet.GreenPool(1).imap(work, items))
from everycall import span
from everycall.testing import capture_records
import contextvars
own = contextvars.ContextVar("own", default="unset")
def work(number):
    with span(f"inner {number}"):
        return own.get()
with capture_records() as records:
    with span("outer"):
        own.set("outer")
        thread = spawn(work, 1)
        pool(work, [2, 3])
        join(thread)
    join(spawn(work, 4))
names = {record.inference_id: record.name for record in records}
print(json.dumps({record.name: names.get(record.parent_id) for record in records}))
"""


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_greenlets_have_the_call_that_started_them_as_parent(library: str) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    run = subprocess.run([sys.executable, "-c", PROGRAM, library], capture_output=True, text=True, check=True)
    parents = json.loads(run.stdout)
    assert parents == {"inner 1": "outer", "inner 2": "outer", "inner 3": "outer", "outer": None, "inner 4": None}
