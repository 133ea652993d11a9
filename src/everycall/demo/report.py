"""What the demo shows: the table of records and the balance sheet, read back over the server's API with the local key.

`run` uses it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx

from everycall import Balance, limits
from everycall._terminal import Column, Terminal
from everycall.semconv import API_KEY_HEADER

if TYPE_CHECKING:
    from everycall.server.runner import Server

__all__ = ["COLUMNS", "Api", "row", "show_balance", "show_records", "tree"]

TIMEOUT_S = 30.0
COLUMNS = (
    Column("name", shrinks=True),
    Column("model", shrinks=True),
    Column("tokens", right=True),
    Column("cost", right=True),
    Column("cache_hit"),
    Column("latency", right=True),
    Column("status"),
)

Answer = dict[str, Any]


class Api:
    """The server's JSON API, with its local key. It is on this machine, so proxies of the environment are not used."""

    def __init__(self, server: Server) -> None:
        self._client = httpx.Client(
            base_url=server.address, headers={API_KEY_HEADER: server.key}, timeout=TIMEOUT_S, trust_env=False
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def deploy(self, deployment: Mapping[str, Any]) -> str:
        """Create a deployment, or a new version of the deployment with this name. Return its id."""
        deployments = self._request("GET", "/api/deployments")["deployments"]
        same_name = (other["deployment_id"] for other in deployments if other["name"] == deployment["name"])
        body = {**deployment, "deployment_id": next(same_name, None)}
        return str(self._request("POST", "/api/deployments", body)["deployment_id"])

    def clear_cache(self) -> int:
        """Delete the cached responses of the project. Return how many there were."""
        return int(self._request("DELETE", "/api/cache")["cleared"])

    def record(self, inference_id: str) -> Answer | None:
        """Return a record as it is stored, or None if it is not stored."""
        try:
            return self._request("GET", f"/api/records/{quote(inference_id, safe='')}")
        except httpx.HTTPStatusError as error:
            if error.response.status_code == 404:
                return None
            raise

    def records(self, since: int) -> list[Answer]:
        """Return the records of calls that started at or after `since` (UTC nanoseconds), oldest first."""
        records: list[Answer] = []
        parameters = {"since": str(since), "limit": str(limits.PAGE_ROWS_MAX)}
        while True:
            page = self._request("GET", "/api/records", parameters=parameters)
            records.extend(page["records"])
            if page["next_cursor"] is None:
                return records[::-1]
            parameters["cursor"] = page["next_cursor"]

    def _request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        parameters: Mapping[str, str] | None = None,
    ) -> Answer:
        response = self._client.request(method, path, json=body, params=parameters)
        response.raise_for_status()
        return dict(response.json())


def tree(records: Sequence[Answer]) -> list[tuple[int, Answer]]:
    """Return the records with their depth, each below its parent, siblings by start time.

    A record whose parent is not among the records is at depth 0.
    """
    ids = {record["inference_id"] for record in records}
    children: dict[str | None, list[Answer]] = {}
    for record in sorted(records, key=lambda record: record["start_time_unix_nano"]):
        parent = record.get("parent_id")
        children.setdefault(parent if parent in ids else None, []).append(record)
    ordered: list[tuple[int, Answer]] = []
    stack = [(0, record) for record in reversed(children.get(None, ()))]
    while stack:
        depth, record = stack.pop()
        ordered.append((depth, record))
        stack.extend((depth + 1, child) for child in reversed(children.get(record["inference_id"], ())))
    return ordered


def row(depth: int, record: Answer) -> list[str | None]:
    """Return the cells of a record. Unknown values are None, never 0."""
    indent = "  " * (depth - 1) + "└ " if depth else ""
    return [
        indent + str(record.get("name") or record.get("kind") or ""),
        record.get("model"),
        _tokens(record.get("input_tokens"), record.get("output_tokens")),
        _cost(record.get("cost")),
        _cache(record),
        _latency(record.get("latency")),
        str(record.get("status", "success")),
    ]


def show_records(screen: Terminal, records: Sequence[Answer]) -> None:
    """Show the records as a table."""
    screen.table(COLUMNS, [row(depth, record) for depth, record in tree(records)])


def show_balance(screen: Terminal, balance: Balance) -> bool:
    """Show the balance sheet. Return whether it adds up, with no record spooled or lost."""
    adds_up = balance.recorded == balance.delivered + balance.spooled + balance.lost
    good = adds_up and balance.spooled == balance.lost == 0
    losses = screen.style(f"{balance.lost} lost", "green" if good else "red", "bold")
    screen.line(
        f"  recorded {balance.recorded} = delivered {balance.delivered} + spooled {balance.spooled}"
        f" + dropped {balance.lost}    {losses}"
    )
    for reason, count in sorted(balance.dropped.items()):
        screen.note(f"{count} dropped: {reason}")
    return good


def _tokens(input_tokens: int | None, output_tokens: int | None) -> str | None:
    if input_tokens is None and output_tokens is None:
        return None
    return " → ".join("—" if count is None else f"{count:,}" for count in (input_tokens, output_tokens))


def _cost(cost: float | None) -> str | None:
    if cost is None:
        return None
    return "$0" if cost == 0 else f"${cost:.6f}"


def _cache(record: Answer) -> str | None:
    if record.get("cache") is False:
        return "off"
    hit = record.get("cache_hit")
    if hit is None:
        return None
    return "hit" if hit else "miss"


def _latency(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"
