"""The face is a sorted list, every name of it is there, and importing it has no effect."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import everycall


def test_public_names_are_sorted_and_exist() -> None:
    """`__all__` is sorted and complete: each name resolves, public names beside it are only submodules."""
    assert everycall.__all__ == sorted(everycall.__all__)
    for name in everycall.__all__:
        assert getattr(everycall, name) is not None
    modules = {p.stem for p in Path(everycall.__file__).parent.iterdir()}
    public = {n for n in vars(everycall) if n.isidentifier() and not n.startswith("_")}
    extra = public - set(everycall.__all__) - modules
    assert extra <= {"TYPE_CHECKING", "Any"}


def test_importing_has_no_effect(tmp_path: Path) -> None:
    """No thread, file, socket or patch comes of an import, nor do the heavy packages."""
    code = """
import sys, threading, builtins
opened = []
sys.addaudithook(lambda event, args: opened.append((event, args)) if event in ("socket.connect", "socket.bind")
                 or (event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")) else None)
sys.dont_write_bytecode = True
run, submit = threading.Thread.start, threading.Thread.run
import everycall
assert threading.active_count() == 1
assert (threading.Thread.start, threading.Thread.run) == (run, submit)
assert not opened, opened
heavy = {"httpx", "pydantic", "openai", "anthropic", "langchain_core", "litestar", "uvicorn", "jinja2",
         "opentelemetry.sdk", "genai_prices", "requests", "ssl", "http.client", "asyncio"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("*"))
