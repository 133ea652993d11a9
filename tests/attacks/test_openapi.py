"""Requests generated from the server's OpenAPI document: valid and invalid ones for every operation.

Schemathesis makes the requests from `/openapi.json`, the same ones in each run; a real server process answers them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import load_all_checks, not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

EXAMPLES = {"positive": 28, "negative": 15}
"""Requests for each operation; `EVERYCALL_TEST_EXAMPLES` makes it as many times more."""
MODES = {"positive": schemathesis.GenerationMode.POSITIVE, "negative": schemathesis.GenerationMode.NEGATIVE}
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@schemathesis.serializer("application/x-ndjson")
def _lines(_: Any, value: Any) -> bytes:
    """NDJSON is described as text, and sent unchanged."""
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else b"%r" % (value,)


@pytest.fixture(scope="module")
def described(start_victim: Callable[..., Any], shared_provider: Any) -> Iterator[tuple[Any, Any, requests.Session]]:
    """A server with a provider, its document, and a session with its key."""
    openai = {"kind": "openai", "base_url": shared_provider.base_url, "api_key": "sk-fake"}
    server = start_victim(providers={"openai": openai})
    with requests.Session() as session:
        session.headers["x-api-key"] = server.key
        document = session.get(f"{server.address}/openapi.json", timeout=30).json()
        schema = schemathesis.openapi.from_dict(document)
        schema.config.update(base_url=server.address)
        yield server, schema, session


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("mode", MODES)
def test_every_operation_answers_as_it_is_described(described: tuple[Any, Any, requests.Session], mode: str) -> None:
    """No 500; statuses, content types and bodies of responses are those of the document."""
    server, schema, session = described
    load_all_checks()
    failures: dict[str, str] = {}
    sent_count = 0
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(
            max_examples=EXAMPLES[mode] * int(os.environ.get("EVERYCALL_TEST_EXAMPLES", "1")),
            deadline=None,
            database=None,
            derandomize=True,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=MODES[mode]))
        def attack(case: schemathesis.Case[Any]) -> None:
            nonlocal sent_count
            sent_count += 1
            answer = case.call(session=session, timeout=30)
            case.validate_response(answer, checks=CHECKS)

        if mode == "negative" and not (operation.body or operation.query or operation.path_parameters):
            continue  # there is nothing to be wrong
        before = sent_count
        try:
            attack()
            assert sent_count - before >= EXAMPLES[mode] // 4 or not operation.body, operation.label
        except BaseExceptionGroup as error:
            failures[operation.label] = "\n".join(str(one) for one in error.exceptions)
    assert not failures, "\n\n".join(f"{label}: {failure}" for label, failure in failures.items())
    assert sent_count > 500
    server.is_well()
