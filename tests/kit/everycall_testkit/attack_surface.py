"""Everything that can be asked of the server, once: each route with what it needs and where an id can stand in it.

`ASKS` has at least one entry for each registered route; `test_routes.py` fails when a route is added without one. In
paths, queries and bodies `<kind>` stands for an id of that kind. Loaded by fixtures; no test.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

__all__ = ["ASKS", "OPEN", "Ask", "filled", "routes_of"]

PAREA = "/api/parea/v1"
OPEN = {
    ("GET", "/healthz"),
    ("GET", "/v1/proof"),
    ("GET", "/login"),
    ("POST", "/login"),
    ("GET", "/static/{file_path}"),
}
"""All that answers without credentials. A new entry is a decision, not an accident."""


@dataclass(frozen=True)
class Ask:
    """One request. `role` is the least a key needs; `changes` says whether it stores something when all is well."""

    method: str
    route: str
    role: str = "read"
    path: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    html: bool = False
    form: bool = False

    def filled(self, ids: Mapping[str, Any]) -> tuple[str, str, bytes | None]:
        """Return method, address and body with the ids in their places."""
        path = filled(self.path or self.route, {kind: quote(str(value), safe="") for kind, value in ids.items()})
        pairs = [f"{name}={quote(filled(value, ids), safe='')}" for name, value in self.query.items()]
        address = path + ("?" + "&".join(pairs) if pairs else "")
        if self.body is None:
            return self.method, address, None
        if self.form:
            return (
                self.method,
                address,
                "&".join(f"{k}={quote(filled(v, ids), safe='')}" for k, v in self.body.items()).encode(),
            )
        text = self.body if isinstance(self.body, str) else json.dumps(self.body)
        numbers = re.sub(r'"<(dataset|case)>"', r"<\1>", text)
        return self.method, address, filled(numbers, ids).encode()

    def headers(self) -> dict[str, str]:
        """Return what it is sent with."""
        result = {"accept": "text/html"} if self.html else {}
        if self.form:
            result["content-type"] = "application/x-www-form-urlencoded"
        if self.otlp:
            result["content-type"] = "application/json"
        return result

    @property
    def otlp(self) -> bool:
        """Whether the route speaks OTLP: its errors are `google.rpc.Status`."""
        return self.route.endswith(("/v1/traces", "/v1/logs", "/v1/metrics"))


def filled(text: str, ids: Mapping[str, Any]) -> str:
    """Return the text with the ids in the places of their kinds."""
    return re.sub(r"<(\w+)>", lambda match: str(ids[match[1]]) if match[1] in ids else match[0], text)


def routes_of(app: Any) -> Iterator[tuple[str, str]]:
    """Return each registered method and path, without the kinds of its parameters."""
    for route in app.routes:
        for method in sorted(route.methods):
            yield method, route.path_format


_LOG = {"trace_id": "<record>", "root_trace_id": "<trace>", "start_timestamp": "2026-10-18T12:00:00Z"}
_MESSAGES = [{"role": "user", "content": "hello"}]
_DEPLOYMENT = "/api/deployments/{deployment_id}"
_EXPERIMENT = PAREA + "/experiment/{experiment_uuid}"

_SPAN = {"traceId": "5b8efff798038103d269b633813fc60c", "spanId": "eee19b7ec3c1b174", "name": "<record>"}
_SPAN |= {"startTimeUnixNano": "1790000000000000000", "endTimeUnixNano": "1790000000500000000"}
_SPANS = {"resourceSpans": [{"scopeSpans": [{"spans": [_SPAN]}]}]}
_LOGS = {"resourceLogs": [{"scopeLogs": [{"logRecords": [{"body": {"stringValue": "<text>"}}]}]}]}
_METRICS: dict[str, Any] = {"resourceMetrics": [{"scopeMetrics": [{"metrics": []}]}]}
_OTLP = [
    Ask("POST", f"{prefix}/v1/{signal}", "write", body=body)
    for prefix in ("", "/otel", "/api/public/otel")
    for signal, body in (("traces", _SPANS), ("logs", _LOGS), ("metrics", _METRICS))
]

ASKS = [
    *_OTLP,
    Ask("POST", "/v1/records", "write", body='{"inference_id":"<record>","trace_id":"<trace>"}'),
    Ask("POST", "/v1/records", "write", body='{"inference_id":"<record>","project_name":"<project>"}'),
    Ask("POST", "/v1/records", "write", query={"project": "<project>"}, body=""),
    Ask("GET", "/api/records"),
    Ask("GET", "/api/records", query={"trace_id": "<trace>"}),
    Ask("GET", "/api/records", query={"deployment_id": "<deployment>"}),
    Ask("GET", "/api/records", query={"session_id": "<session>"}),
    Ask("GET", "/api/records", query={"end_user_identifier": "<user>"}),
    Ask("GET", "/api/records", query={"search": "<text>"}),
    Ask("GET", "/api/records", query={"project": "<project>"}),
    Ask("GET", "/api/records", query={"cursor": "<cursor>"}),
    Ask("GET", "/api/records/{inference_id}", path="/api/records/<record>"),
    Ask("GET", "/api/records/{inference_id}", path="/api/records/<record>", query={"project": "<project>"}),
    Ask("GET", "/api/traces"),
    Ask("GET", "/api/traces", query={"session_id": "<session>"}),
    Ask("GET", "/api/traces", query={"search": "<text>"}),
    Ask("GET", "/api/traces", query={"project": "<project>"}),
    Ask("GET", "/api/traces/{trace_id}", path="/api/traces/<trace>"),
    Ask("GET", "/api/traces/{trace_id}", path="/api/traces/<trace>", query={"project": "<project>"}),
    Ask("GET", "/api/clients"),
    Ask("GET", "/api/clients", query={"project": "<project>"}),
    Ask("GET", "/api/projects"),
    Ask("GET", PAREA),
    Ask("POST", PAREA + "/project", "write", body={"name": "<project>"}),
    Ask("POST", PAREA + "/trace_log", "write", body=_LOG),
    Ask("POST", PAREA + "/trace_log", "write", body={**_LOG, "project_name": "<project>"}),
    Ask("POST", PAREA + "/trace_log", "write", body={**_LOG, "project_uuid": "<project_uuid>"}),
    Ask("POST", PAREA + "/trace_log", "write", body={**_LOG, "trace_id": "own", "parent_trace_id": "<record>"}),
    Ask(
        "PUT",
        PAREA + "/trace_log",
        "write",
        body={"trace_id": "<record>", "root_trace_id": "<trace>", "field_name_to_value_map": {"output": "changed"}},
    ),
    Ask("POST", PAREA + "/completion", "write", body={"deployment_id": "<deployment>"}),
    Ask("POST", PAREA + "/completion", "write", body={"inference_id": "<record>", "deployment_id": "<deployment>"}),
    Ask("POST", PAREA + "/completion", "write", body={"project_name": "<project>", "deployment_id": "<deployment>"}),
    Ask("POST", PAREA + "/completion", "write", body={"project_uuid": "<project_uuid>", "deployment_id": "x"}),
    Ask("POST", PAREA + "/completion/stream", "write", body={"deployment_id": "<deployment>"}),
    Ask("POST", PAREA + "/completion/stream", "write", body={"project_name": "<project>", "deployment_id": "x"}),
    Ask("DELETE", "/api/cache", "write"),
    Ask("DELETE", "/api/cache", "write", query={"project": "<project>"}),
    Ask("POST", PAREA + "/deployed-prompt", body={"deployment_id": "<deployment>"}),
    Ask("POST", PAREA + "/feedback", "write", body={"trace_id": "<record>", "score": 0.5}),
    Ask("POST", PAREA + "/feedback", "write", body={"inference_id": "<record>", "score": 0.25}),
    Ask("POST", PAREA + "/feedback", "write", body={"trace_id": "<trace>", "score": 0.75}),
    Ask("POST", PAREA + "/trace_log/langchain", "write", body={"id": "<record>", "name": "run"}),
    Ask(
        "POST",
        PAREA + "/trace_log/langchain",
        "write",
        body={"id": "run", "parent_run_id": "<record>", "_parea_root_trace_id": "<trace>", "project_name": "<project>"},
    ),
    Ask("GET", PAREA + "/trace_log/{trace_id}", path=PAREA + "/trace_log/<record>"),
    Ask("GET", PAREA + "/trace_log/{trace_id}", path=PAREA + "/trace_log/<trace>"),
    Ask("POST", PAREA + "/get_trace_logs", body={}),
    Ask("POST", PAREA + "/get_trace_logs", body={"project_name": "<project>"}),
    Ask("POST", PAREA + "/get_trace_logs", body={"filter_field": "trace_id", "filter_value": "<record>"}),
    Ask("POST", PAREA + "/experiment", "write", body={"name": "theirs", "project_name": "<project>"}),
    Ask("POST", PAREA + "/experiment", "write", body={"name": "theirs", "project_uuid": "<project_uuid>"}),
    Ask("POST", PAREA + "/experiments", body={}),
    Ask("POST", PAREA + "/experiments", body={"experiment_uuids": ["<experiment>"]}),
    Ask("POST", PAREA + "/experiments", body={"project_name": "<project>"}),
    Ask("GET", _EXPERIMENT + "/stats", path=PAREA + "/experiment/<experiment>/stats"),
    Ask("POST", _EXPERIMENT + "/finished", "write", path=PAREA + "/experiment/<experiment>/finished", body={}),
    Ask("POST", _EXPERIMENT + "/trace_logs", path=PAREA + "/experiment/<experiment>/trace_logs", body={}),
    Ask("GET", PAREA + "/collection/{collection}", path=PAREA + "/collection/<dataset>"),
    Ask("GET", PAREA + "/collection/{collection}", path=PAREA + "/collection/<dataset_name>"),
    Ask("POST", PAREA + "/collection", "write", body={"name": "<dataset_name>"}),
    Ask("POST", PAREA + "/collection", "write", body={"name": "x", "project_name": "<project>"}),
    Ask("POST", PAREA + "/testcases", "write", body={"id": "<dataset>", "test_cases": [{"inputs": {"x": "y"}}]}),
    Ask("POST", PAREA + "/testcases", "write", body={"name": "<dataset_name>", "test_cases": []}),
    Ask(
        "POST",
        PAREA + "/update_test_case/{dataset_id}/{test_case_id}",
        "write",
        path=PAREA + "/update_test_case/<dataset>/<case>",
        body={"target": "changed"},
    ),
    Ask("POST", "/api/deployments", "write", body={"name": "n", "model": "gpt-4o", "messages": _MESSAGES}),
    Ask(
        "POST",
        "/api/deployments",
        "write",
        body={"name": "n", "model": "gpt-4o", "messages": _MESSAGES, "deployment_id": "<deployment>"},
    ),
    Ask("GET", "/api/deployments"),
    Ask("GET", "/api/deployments", query={"project": "<project>"}),
    Ask("GET", "/api/deployments/{deployment_id}", path="/api/deployments/<deployment>"),
    Ask("GET", "/api/deployments/{deployment_id}", path="/api/deployments/<deployment>", query={"version": "1"}),
    Ask(
        "GET", "/api/deployments/{deployment_id}", path="/api/deployments/<deployment>", query={"project": "<project>"}
    ),
    Ask("GET", "/healthz"),
    Ask("GET", "/v1/proof", query={"nonce": "<text>"}),
    Ask("GET", "/metrics"),
    Ask("GET", "/api/keys", "admin"),
    Ask("POST", "/api/keys", "admin", body={"name": "n", "project": "<project>"}),
    Ask("DELETE", "/api/keys/{key_id}", "admin", path="/api/keys/<key>"),
    Ask("GET", "/login"),
    Ask("POST", "/login", body={"key": "<text>"}, form=True),
    Ask("POST", "/logout"),
    Ask("GET", "/", html=True),
    Ask("GET", "/traces", html=True),
    Ask("GET", "/traces", query={"project": "<project>"}, html=True),
    Ask("GET", "/traces", query={"search": "<text>"}, html=True),
    Ask("GET", "/traces.json"),
    Ask("GET", "/traces.json", query={"project": "<project>"}),
    Ask("GET", "/traces/{rest}", path="/traces/<trace>", html=True),
    Ask("GET", "/traces/{rest}", path="/traces/<trace>.json"),
    Ask("GET", "/traces/{rest}", path="/traces/<trace>", query={"record": "<record>", "part": "record"}, html=True),
    Ask("GET", "/status", html=True),
    Ask("GET", "/status.json"),
    Ask("GET", "/status.json", query={"project": "<project>"}),
    Ask("GET", "/static/{file_path}", path="/static/nothing.css"),
    Ask("GET", _DEPLOYMENT + "/versions", path="/api/deployments/<deployment>/versions"),
    Ask("GET", _DEPLOYMENT + "/activations", path="/api/deployments/<deployment>/activations"),
    Ask("GET", _DEPLOYMENT + "/diff", path="/api/deployments/<deployment>/diff"),
    Ask("GET", _DEPLOYMENT + "/diff", path="/api/deployments/<deployment>/diff", query={"project": "<project>"}),
    *(
        Ask("POST", f"{_DEPLOYMENT}/{change}", "write", path=f"/api/deployments/<deployment>/{change}", body=body)
        for change, body in (("activate", {"version": 1}), ("roll-back", {}), ("archive", {}))
    ),
    *(
        Ask(
            "PUT",
            _DEPLOYMENT,
            "write",
            path="/api/deployments/<deployment>",
            query=query,
            body={"name": "put", "model": "gpt-4o", "messages": _MESSAGES, **fields},
        )
        for query, fields in (({"dry_run": "true"}, {}), ({}, {}), ({}, {"project_name": "<project>"}))
    ),
    Ask("GET", "/deployments", html=True),
    Ask("GET", "/deployments", query={"project": "<project>"}, html=True),
    Ask("GET", "/deployments.json", query={"active": "false"}),
    Ask("GET", "/deployments/{deployment_id}", path="/deployments/<foreign_deployment>", html=True),
    Ask("GET", "/deployments/{deployment_id}", path="/deployments/<foreign_deployment>.json"),
    Ask("GET", "/deployments/{deployment_id}", path="/deployments/<foreign_deployment>", query={"version": "1"}),
    Ask("GET", "/deployments/{deployment_id}/diff", path="/deployments/<foreign_deployment>/diff", html=True),
    Ask("GET", "/deployments/{deployment_id}/diff.json", path="/deployments/<foreign_deployment>/diff.json"),
    Ask("GET", "/deployments/{deployment_id}/edit", "write", path="/deployments/<foreign_deployment>/edit", html=True),
    Ask("GET", "/deployments/new", "write", html=True),
    Ask("POST", "/deployments/new", "write", body={"action": "save", "name": "by form"}, form=True),
    Ask("POST", "/deployments/new", "write", query={"project": "<project>"}, body={"action": "save"}, form=True),
    *(
        Ask(
            "POST",
            "/deployments/{deployment_id}",
            "write",
            path="/deployments/<foreign_deployment>",
            body={"action": action, "version": "1"},
            form=True,
        )
        for action in ("run", "activate", "roll-back", "archive")
    ),
    Ask(
        "POST",
        "/deployments/{deployment_id}/stream",
        "write",
        path="/deployments/<foreign_deployment>/stream",
        body={"action": "run", "version": "1"},
        form=True,
    ),
    Ask(
        "POST",
        "/deployments/{deployment_id}/edit",
        "write",
        path="/deployments/<foreign_deployment>/edit",
        body={"action": "save", "name": "n", "model": "m"},
        form=True,
    ),
    Ask("POST", "/api/reprice", "admin", body={"since": "2020-01-01", "dry_run": False}),
    Ask("POST", "/api/reprice", "admin", body={"since": "2020-01-01", "project": "<project>", "dry_run": False}),
    Ask("PATCH", "/api/keys/{key_id}", "admin", path="/api/keys/<key>", body={"requests_per_minute": 1}),
    Ask("GET", "/openapi.json"),
]
