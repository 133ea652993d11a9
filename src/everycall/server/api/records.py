"""`POST /v1/records`: batches of records from clients. The response is sent after the store's commit.

Each line is decoded with the codec that the SDK wrote it with. A line that is not valid is refused by its index, id and
reason; the other lines are stored.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import msgspec
from litestar import Response, post
from litestar.di import NamedDependency
from litestar.types import Scope
from msgspec import Meta

from everycall import limits, record, semconv
from everycall.record import Record, omit_from
from everycall.server.api.http import ApiRequest, encode_json, is_nested_too_deep, json_response, project_for
from everycall.server.api.openapi import operation, query_parameter
from everycall.server.auth import Identity
from everycall.server.problems import problem
from everycall.server.security import header
from everycall.server.services import Services
from everycall.server.store.values import ClientReport, Refusal

__all__ = ["check_json", "client_report", "handlers", "receive_record"]

LINES_AT_ONCE = 500
"""Lines decoded before other requests may run: about 5 ms."""
REASON_CHARS_MAX = 300
CLIENT_CHARS_MAX = 256
RECEIPT_BYTES = 2 * limits.KIB
"""Reserved for the parts of a receipt other than its refusals."""

_json = msgspec.json.Decoder()


class _Id(msgspec.Struct):
    inference_id: str | None = None


class _Balance(msgspec.Struct):
    recorded: int | None = None
    delivered: int | None = None
    spooled: int | None = None
    dropped: dict[str, int] | None = None


_id_decoder = msgspec.json.Decoder(_Id)
_balance_decoder = msgspec.json.Decoder(_Balance)


@dataclass(slots=True)
class _Group:
    """The records of one project, and the index of each in the batch."""

    records: list[Record] = field(default_factory=list)
    places: list[int] = field(default_factory=list)


class RecordRefusal(msgspec.Struct):
    """A line that will never be stored, and why."""

    index: Annotated[int, Meta(description="Place in the batch, from 0.")]
    inference_id: str | None
    reason: str


class Receipt(msgspec.Struct):
    """What became of a batch."""

    committed: Annotated[int, Meta(description="Records stored now or stored before.")]
    refused: Annotated[list[RecordRefusal], Meta(description="Refused lines, as many as fit into 64 KiB.")]
    refused_count: Annotated[int, Meta(description="Number of refused lines in all.")]


Batch = Annotated[str, Meta(description="One record as JSON in each line; gzip, zstd, deflate or identity.")]


@post(
    semconv.RECORDS_PATH,
    status_code=200,
    operation_class=operation(
        parameters=[query_parameter("project", "The project of the client's balance, for keys of all projects.")],
        body_type=semconv.NDJSON,
        body=Batch,
        response=Receipt,
        problems={
            408: "The body took too long.",
            413: "Too many bytes or records; split the batch.",
            415: "Unknown content-encoding.",
        },
    ),
)
async def post_records(request: ApiRequest, services: NamedDependency[Services]) -> Response[bytes]:
    """Store a batch of records and return which lines were refused. The same batch may be sent again at any time."""
    project_of_client = project_for(request, "write")
    report = client_report(request.scope)
    async with services.bodies.body(request.scope, request.receive) as data:
        groups, refused = await _read(data, request.user)
        if report is not None and not groups:  # a client's last report comes without records
            is_global = request.user.project is None and "project" not in request.query_params
            await services.store.report(project_of_client, report, everywhere=is_global)
        committed = 0
        for project, group in groups.items():
            commit = await services.store.commit(project, group.records, report)
            committed += commit.committed
            refused.extend(
                Refusal(group.places[refusal.index], refusal.inference_id, refusal.reason) for refusal in commit.refused
            )
    return json_response(_receipt(committed, refused))


async def _read(data: bytes, identity: Identity) -> tuple[dict[str, _Group], list[Refusal]]:
    """Return the records of a batch by project, and the lines that are refused. Raise 413 for too many lines."""
    if data.count(b"\n") > limits.BODY_RECORDS_MAX:
        detail = f"A batch may have {limits.BODY_RECORDS_MAX} records. Split it and send the parts."
        raise problem("too_large", 413, "Too large", detail, records_max=limits.BODY_RECORDS_MAX)
    groups: dict[str, _Group] = {}
    refused: list[Refusal] = []
    place = -1
    for line in data.split(b"\n"):
        if not line or line.isspace():
            continue
        place += 1
        if place % LINES_AT_ONCE == LINES_AT_ONCE - 1:
            await asyncio.sleep(0)
        try:
            parsed = receive_record(line, identity)
        except ValueError as error:
            refused.append(Refusal(place, _id_of(line), str(error).replace("`", "'")[:REASON_CHARS_MAX]))
            continue
        group = groups.get(parsed.project_name)
        if group is None:
            group = groups[parsed.project_name] = _Group()
        group.records.append(parsed)
        group.places.append(place)
    return groups, refused


def receive_record(line: bytes, identity: Identity) -> Record:
    """Return a record as it will be stored: checked, in its project, and without the content that it says is omitted.

    Raise `ValueError` with the reason for refusing it; msgspec's errors are subclasses of that.
    """
    if len(line) > limits.RECORD_BYTES_MAX:
        raise ValueError(f"the record has {len(line)} bytes, {limits.RECORD_BYTES_MAX} are allowed")
    try:
        parsed = record.decode(line)
        check_json(line)
    except RecursionError:
        raise ValueError(f"the record is nested deeper than {limits.NESTING_MAX} levels") from None
    if identity.project is not None and parsed.project_name != identity.project:
        if parsed.project_name != semconv.DEFAULT_PROJECT:  # a client that was told no project sends the default
            raise ValueError("the record names another project than the key's")
        parsed = msgspec.structs.replace(parsed, project_name=identity.project)
    return omit_from(parsed, parsed.omitted) if parsed.omitted else parsed


def check_json(line: bytes) -> None:
    """Raise `ValueError` or `RecursionError` for JSON that cannot be read back from the store.

    The codec does not decode users' JSON. It may have invalid UTF-8, numbers out of range, or nesting that exhausts the
    stack of a reader.
    """
    if is_nested_too_deep(line, _json.decode(line)):
        raise ValueError(f"the record is nested deeper than {limits.NESTING_MAX} levels")


def _id_of(line: bytes) -> str | None:
    """Return the id in a line that is refused, if it can be read."""
    try:
        inference_id = _id_decoder.decode(line).inference_id
    except (ValueError, RecursionError):
        return None
    return None if inference_id is None else inference_id[: limits.ID_CHARS_MAX]


def client_report(scope: Scope) -> ClientReport | None:
    """Return the client's balance sheet from its headers; None if it is missing or malformed."""
    client = header(scope, semconv.CLIENT_HEADER.encode())
    balance = header(scope, semconv.BALANCE_HEADER.encode())
    if not client or not balance or len(client) > CLIENT_CHARS_MAX or not client.isprintable():
        return None
    if len(balance) > limits.BALANCE_BYTES_MAX:
        return None
    try:
        parsed = _balance_decoder.decode(balance.encode("latin-1"))
    except ValueError:
        return None
    counts = {name: value for name, value in msgspec.structs.asdict(parsed).items() if value is not None}
    return ClientReport(client, counts, time.time_ns())


def _receipt(committed: int, refused: Sequence[Refusal]) -> bytes:
    """Return the encoded `Receipt`, with as many refusals as a client reads of a body (`limits.ANSWER_BYTES_MAX`)."""
    listed: list[bytes] = []
    bytes_left = limits.ANSWER_BYTES_MAX - RECEIPT_BYTES
    for refusal in sorted(refused, key=lambda refusal: refusal.index)[: limits.REFUSALS_MAX]:
        encoded = encode_json(RecordRefusal(refusal.index, refusal.inference_id, refusal.reason))
        bytes_left -= len(encoded) + 1
        if bytes_left < 0:
            break
        listed.append(encoded)
    return b'{"committed":%d,"refused":[%b],"refused_count":%d}' % (committed, b",".join(listed), len(refused))


handlers = [post_records]
