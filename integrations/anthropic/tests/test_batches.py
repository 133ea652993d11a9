"""Results of batches: one completion for each, however often and wherever it is read."""

from __future__ import annotations

import gc
import json
from typing import Any

import pytest

import everycall
from everycall.record import Record
from everycall_testkit.client_bench import Clients, content_without_times
from everycall_testkit.provider import FakeProvider

MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-test",
    "content": [{"type": "text", "text": "hello"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 7, "cache_read_input_tokens": 10, "output_tokens": 9, "service_tier": "batch"},
}
ERROR = {"type": "error", "error": {"type": "invalid_request_error", "message": "canary: too long"}}
RESULTS = [
    {"custom_id": "one", "result": {"type": "succeeded", "message": MESSAGE}},
    {"custom_id": "two", "result": {"type": "errored", "error": ERROR}},
    {"custom_id": "three", "result": {"type": "expired"}},
    {"custom_id": "four", "result": {"type": "canceled"}},
    {"custom_id": "five", "result": {"type": "succeeded", "message": {**MESSAGE, "id": "msg_5"}}},
]
LINES = b"".join(json.dumps(result).encode() + b"\n" for result in RESULTS)


async def get_member(clients: Clients, client: Any, batches_of: Any) -> list[Any]:
    return await clients.all(await clients.wait(batches_of(client).results("msgbatch_1")))


async def test_each_result_is_a_completion(
    clients: Clients, provider: FakeProvider, records: list[Record], batches_of: Any
) -> None:
    """Below the batch, in a trace with the batch's id. The latency of a result is unknown."""
    provider.reply(body=LINES)
    results = await get_member(clients, clients.wrapped(tags=["nightly"]), batches_of)
    assert [result.custom_id for result in results] == ["one", "two", "three", "four", "five"]
    one, two, five, batch = records
    assert content_without_times(one) == {
        "parent_id": batch.inference_id,
        "name": "chat claude-test",
        "kind": "llm",
        "project_name": "default",
        "status": "success",
        "scope": "everycall_anthropic",
        "tags": ["nightly"],
        "model": "claude-test",
        "provider": "anthropic",
        "content": "hello",
        "input_tokens": 17,
        "output_tokens": 9,
        "total_tokens": 26,
        "usage": {"cached": 10},
        "attributes": {
            "anthropic.message.batch.id": "msgbatch_1",
            "anthropic.message.batch.custom_id": "one",
            "anthropic.response.service_tier": "batch",
            "everycall.service_tier": "batch",
            "gen_ai.response.id": "msg_1",
            "gen_ai.response.finish_reasons": ["end_turn"],
        },
    }
    failed = content_without_times(two)
    assert (failed["status"], failed["error"]) == ("error", "invalid_request_error: canary: too long")
    assert failed["attributes"]["error.type"] == "invalid_request_error"
    assert content_without_times(five)["attributes"]["gen_ai.response.id"] == "msg_5"
    assert content_without_times(batch) == {
        "name": "message_batch msgbatch_1",
        "kind": "chain",
        "project_name": "default",
        "status": "success",
        "scope": "everycall_anthropic",
        "tags": ["nightly"],
        "provider": "anthropic",
        "inputs": {"message_batch_id": "msgbatch_1"},
        "output": {"succeeded": 2, "errored": 1, "canceled": 1, "expired": 1},
    }
    assert {record.trace_id for record in records} == {"msgbatch_1"}
    assert {record.latency for record in records} == {None}


async def test_results_that_are_read_again_are_the_same_records(
    clients: Clients, provider: FakeProvider, records: list[Record], batches_of: Any
) -> None:
    """Also when they are read elsewhere, within another call: so an endpoint stores them once."""
    provider.script(*(type(provider.default)(body=LINES) for _ in range(2)))
    await get_member(clients, clients.wrapped(), batches_of)
    first = [record.inference_id for record in records]
    with everycall.span("again"):
        await get_member(clients, clients.wrapped(session_id="s-1"), batches_of)
    assert [record.inference_id for record in records[4:8]] == first
    assert len(set(first)) == 4
    assert records[8].name == "again"


async def test_an_endpoint_stores_them_once(
    clients: Clients, provider: FakeProvider, batches_of: Any, tmp_path: Any, monkeypatch: Any
) -> None:
    """Sent twice, stored once."""
    pytest.importorskip("litestar")
    import httpx

    from everycall.server.options import ServerOptions
    from everycall.server.runner import Server

    provider.script(*(type(provider.default)(body=LINES) for _ in range(2)))
    with Server(ServerOptions(tmp_path / "data", port=0)) as server:
        everycall.init(endpoint=server.address, api_key=server.key, spool_dir=tmp_path / "spool")
        try:
            for _ in range(2):
                await get_member(clients, clients.wrapped(), batches_of)
            assert everycall.flush(10).dropped == 0
        finally:
            everycall.shutdown(2)
        address = f"{server.address}/api/records"
        stored = httpx.get(address, headers={"x-api-key": server.key}).json()["records"]
    assert sorted(record["name"] for record in stored) == [
        "chat", "chat claude-test", "chat claude-test", "message_batch msgbatch_1"
    ]  # fmt: skip


async def test_results_that_are_not_read_to_the_end(
    clients: Clients, provider: FakeProvider, records: list[Record], batches_of: Any
) -> None:
    """Results that were read are recorded; the others are not."""
    provider.reply(body=LINES)
    results = await clients.wait(batches_of(clients.wrapped()).results("msgbatch_1"))
    await clients.next(results)
    await clients.wait(results.http_response.aclose() if clients.is_async else results.http_response.close())
    del results  # older versions have read the whole body before, so nothing is left to close
    gc.collect()
    assert [(r.kind, r.error_type) for r in records] == [("llm", None), ("chain", "abandoned")]


@pytest.mark.parametrize("flag", ["log_omit_inputs", "log_omit_outputs", "log_omit"])
async def test_omitted(
    flag: str, clients: Clients, provider: FakeProvider, records: list[Record], batches_of: Any
) -> None:
    """The text of a result or of its error is left out; its tokens are kept."""
    provider.reply(body=LINES)
    assert len(await get_member(clients, clients.wrapped(**{flag: True}), batches_of)) == 5
    assert "canary" not in repr(records)
    assert [r.input_tokens for r in records] == ([] if flag == "log_omit" else [17, None, 17, None])
    assert [r.content for r in records if r.content] == (["hello"] * 2 if flag == "log_omit_inputs" else [])


async def test_a_batch_that_cannot_be_read(
    clients: Clients, provider: FakeProvider, records: list[Record], batches_of: Any
) -> None:
    provider.reply(status=404, body=b"{}")
    with pytest.raises(Exception, match="404"):
        await get_member(clients, clients.wrapped(), batches_of)
    assert [(r.name, r.status) for r in records] == [("message_batch msgbatch_1", "error")]


async def test_creating_and_managing_a_batch_is_not_recorded(
    clients: Clients, provider: FakeProvider, records: list[Record], batches_of: Any
) -> None:
    params = {"model": "claude-test", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    batches = batches_of(clients.wrapped())
    batch = await clients.wait(batches.create(requests=[{"custom_id": "one", "params": params}]))
    assert (await clients.wait(batches.retrieve(batch.id))).processing_status == "ended"
    assert records == []
