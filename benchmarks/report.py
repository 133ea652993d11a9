"""Run the benchmarks and write RESULTS.md: what they printed, on which kind of machine, on which day.

uv run python benchmarks/report.py
"""

from __future__ import annotations

import datetime as dt
import os
import platform
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
BENCHMARKS = {
    "overhead": "What a traced call costs, against a plain OpenTelemetry SDK span with the same two strings",
    "ingest": "Records per second into the server with SQLite, the load generator on the same machine",
    "gateway": "What the endpoint adds to a completion: a provider, the server and a client as three processes",
    "integrations": "What the integrations add to the calls of their libraries",
}


def machine() -> str:
    """Describe the machine without naming it."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    system = f"{platform.system()} {platform.machine()}, CPython {platform.python_version()}"
    return f"{os.cpu_count()} cores ({model}), {system}"


def main() -> None:
    """Run each benchmark that is there and write the page."""
    sections = [
        "# Benchmark results",
        "",
        f"Written by `benchmarks/report.py` on {dt.datetime.now(dt.UTC).date()}: {machine()}.",
        "The machine is shared: trust the ratios, which are taken in one run, not the absolute times.",
    ]
    for name, title in BENCHMARKS.items():
        script = HERE / f"{name}.py"
        if not script.exists():
            continue
        done = subprocess.run([sys.executable, str(script), "--json"], stdout=subprocess.PIPE, text=True, check=True)
        sys.stdout.write(done.stdout)
        sections += ["", f"## {title}", "", "```text", done.stdout.rstrip(), "```"]
    (HERE / "RESULTS.md").write_text("\n".join(sections) + "\n")


if __name__ == "__main__":
    main()
