"""What the demo asks the server and how it shows the answers: the table of records and the balance sheet.

Everything is read back over the server's own API with the local key, as anybody's script would.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from everycall import Balance, limits
from everycall._terminal import Column, Terminal
from everycall.semconv import API_KEY_HEADER

if TYPE_CHECKING:
    from everycall.server.runner import Server

__all__ = ["COLUMNS", "Api", "row", "show_balance", "show_records", "tree"]

TIMEOUT_S = 30.0
COLUMNS = (
    Column("name", gives_way=True),
    Column("model", gives_way=True),
    Column("tokens", right=True),
    Column("cost", right=True),
    Column("cache_hit"),
    Column("latency", right=True),
    Column("status"),
)

Answer = dict[str, Any]


class Api:
    """The server's JSON API, with its local key. Loopback: no proxy of the environment is asked."""

    def __init__(self, server: Server) -> None:
        self._address = server.address
        self._key = server.key
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def deploy(self, deployment: Mapping[str, Any]) -> str:
        """Make a deployment, or the next version of the one of this name; returns its id."""
        there = self._ask("GET", "/api/deployments")["deployments"]
        found = next((one["deployment_id"] for one in there if one["name"] == deployment["name"]), None)
        return str(self._ask("POST", "/api/deployments", {**deployment, "deployment_id": found})["deployment_id"])

    def clear_cache(self) -> int:
        """Forget the stored responses of the project; returns how many there were."""
        return int(self._ask("DELETE", "/api/cache")["cleared"])

    def record(self, inference_id: str) -> Answer | None:
        """Return a record as it is stored, or None when there is none."""
        try:
            return self._ask("GET", f"/api/records/{quote(inference_id, safe='')}")
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 404:
                    return None
                raise

    def records(self, since: int) -> list[Answer]:
        """Return the records of calls that began at or after a moment (UTC nanoseconds), oldest first."""
        found: list[Answer] = []
        cursor = ""
        while True:
            page = self._ask("GET", f"/api/records?since={since}&limit={limits.PAGE_ROWS_MAX}{cursor}")
            found.extend(page["records"])
            if page["next_cursor"] is None:
                return found[::-1]
            cursor = f"&cursor={quote(page['next_cursor'])}"

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Answer:
        headers = {API_KEY_HEADER: self._key, "content-type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self._address}{path}", data, headers, method=method)  # noqa: S310
        with self._opener.open(request, timeout=TIMEOUT_S) as answer:
            return dict(json.load(answer))


def tree(records: Sequence[Answer]) -> list[tuple[int, Answer]]:
    """Return the records with their depth, each below the one that called it, siblings by their start."""
    known = {record["inference_id"] for record in records}
    below: dict[str | None, list[Answer]] = {}
    for record in sorted(records, key=lambda r: r["start_time_unix_nano"]):
        parent = record.get("parent_id")
        below.setdefault(parent if parent in known else None, []).append(record)
    ordered: list[tuple[int, Answer]] = []
    waiting = [(0, record) for record in reversed(below.get(None, ()))]
    while waiting:
        depth, record = waiting.pop()
        ordered.append((depth, record))
        waiting.extend((depth + 1, child) for child in reversed(below.get(record["inference_id"], ())))
    return ordered


def row(depth: int, record: Answer) -> list[str | None]:
    """Return a record's cells. What is not known is None, never 0."""
    cost, latency, hit = record.get("cost"), record.get("latency"), record.get("cache_hit")
    indent = "  " * (depth - 1) + "└ " if depth else ""
    return [
        indent + str(record.get("name") or record.get("kind") or ""),
        record.get("model"),
        _tokens(record.get("input_tokens"), record.get("output_tokens")),
        None if cost is None else "$0" if cost == 0 else f"${cost:.6f}",
        "off" if record.get("cache") is False else None if hit is None else "hit" if hit else "miss",
        None if latency is None else f"{latency:.2f} s" if latency >= 1 else f"{latency * 1000:.1f} ms",
        str(record.get("status", "success")),
    ]


def show_records(screen: Terminal, records: Sequence[Answer]) -> None:
    """Show all records as one table."""
    screen.table(COLUMNS, [row(depth, record) for depth, record in tree(records)])


def show_balance(screen: Terminal, balance: Balance) -> bool:
    """Show the balance sheet in a line; returns whether it is even and nothing is left or lost."""
    even = balance.recorded == balance.delivered + balance.spooled + balance.lost
    good = even and balance.spooled == balance.lost == 0
    lost = screen.style(f"{balance.lost} lost", "green" if good else "red", "bold")
    screen.line(
        f"  recorded {balance.recorded} = delivered {balance.delivered} + spooled {balance.spooled}"
        f" + dropped {balance.lost}    {lost}"
    )
    for reason, count in sorted(balance.dropped.items()):
        screen.note(f"{count} dropped: {reason}")
    return good


def _tokens(given: int | None, made: int | None) -> str | None:
    if given is None and made is None:
        return None
    return " → ".join("—" if count is None else f"{count:,}" for count in (given, made))
