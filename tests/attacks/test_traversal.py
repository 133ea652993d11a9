"""Path traversal: 60 spellings in place of every name and id, and a check of the files that the process opens."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import everycall

SECRET = "canary-outside-of-the-data"
PAREA = "/api/parea/v1"
DOTS = [
    "..", "%2e%2e", "%2E.", ".%2e", "%252e%252e", "%25252e%25252e", "%c0%ae%c0%ae", "%e0%80%ae%e0%80%ae",
    "%uff0e%uff0e", "..%00",
    "..;", "..%20", "....", "%ef%bc%8e%ef%bc%8e", "..%0d%0a",
]  # fmt: skip
SLASHES = ["/", "%2f", "%5c", "%252f"]
SPELLINGS = [slash.join([dots, dots, dots, "OUTSIDE"]) for dots in DOTS for slash in SLASHES]
PLACES = [
    ("GET", "/static/{}"),
    ("GET", "/static/x/{}"),
    ("GET", "/static/{}.css"),
    ("GET", "/api/records/{}"),
    ("GET", "/api/traces/{}"),
    ("GET", "/traces/{}"),
    ("GET", "/traces/{}.json"),
    ("GET", "/traces/x?record={}&part=record"),
    ("GET", "/{}"),
    ("GET", "/api/{}"),
    ("GET", PAREA + "/trace_log/{}"),
    ("GET", PAREA + "/collection/{}"),
    ("GET", PAREA + "/experiment/{}/stats"),
    ("POST", PAREA + "/experiment/{}/finished"),
    ("POST", PAREA + "/experiment/{}/trace_logs"),
    ("POST", PAREA + "/update_test_case/{}/1"),
    ("POST", PAREA + "/update_test_case/1/{}"),
    ("GET", "/api/deployments/{}"),
    ("DELETE", "/api/keys/{}"),
    ("GET", "/api/records?project={}"),
    ("GET", "/login?next=/{}&token={}"),
]
ABSOLUTE = [
    "/etc/passwd",
    "//etc/passwd",
    "file:///etc/passwd",
    "C:%5cwindows%5cwin.ini",
    "%2fetc%2fpasswd",
    "/proc/self/environ",
]


def test_there_are_sixty_spellings() -> None:
    assert len(set(SPELLINGS)) >= 60


def opened_outside(server: Any, since: int, allowed: list[Path]) -> list[list[str]]:
    """Return the files that the server opened besides its data and its own program."""
    paths = []
    for event in server.events(since):
        if event[0] in ("open", "os.listdir", "os.scandir", "os.remove", "os.rename", "os.link", "sqlite3.connect"):
            name = event[1]
            if name.isdigit() or any(name.startswith(str(path)) for path in allowed):
                continue
            paths.append(event)
        elif event[0] in ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen"):
            paths.append(event)
    return paths


@pytest.fixture
def watched(start_victim: Callable[..., Any]) -> Any:
    """A server that has served a page, with a secret file three levels above its program and its data."""
    server = start_victim()
    for up in range(4):
        (server.data.parents[up] / "OUTSIDE").write_text(SECRET)
        (server.data.parents[up] / "OUTSIDE.css").write_text(SECRET)
    with server.client() as client:
        for path in ("/traces", "/status", "/static/everycall.css", "/openapi.json", "/api/records"):
            client.get(path, headers={"accept": "text/html"})
    assert any(event[0] == "sqlite3.connect" for event in server.events()), "the hook sees what is opened"
    return server


def test_no_name_leads_outside_the_directory(watched: Any) -> None:
    """400 or 404 (or an empty list, where a name is only compared); no content of a file; nothing opened outside."""
    since = watched.seen()
    allowed = [watched.data, Path(str(everycall.__file__)).parent]
    statuses = set()
    connection = http.client.HTTPConnection(watched.address.removeprefix("http://"), timeout=30)
    for spelling in [*SPELLINGS, *ABSOLUTE]:
        for method, place in PLACES:
            connection.putrequest(method, place.replace("{}", spelling), skip_accept_encoding=True)
            connection.putheader("x-api-key", watched.key)
            connection.putheader("content-length", "2" if method == "POST" else "0")
            connection.endheaders(b"{}" if method == "POST" else None)
            answer = connection.getresponse()
            content = answer.read()
            assert SECRET.encode() not in content
            assert b"root:" not in content
            statuses.add(answer.status)
            expected = (200, 303, 400, 401, 404) if "?" in place or "collection" in place else (303, 400, 404, 405, 422)
            assert answer.status in expected, (method, place, spelling, answer.status, content[:300])
    connection.close()
    assert opened_outside(watched, since, allowed) == []
    assert 404 in statuses
    watched.is_well()


def test_names_in_bodies_open_no_file(watched: Any) -> None:
    """Names of projects, datasets, experiments, deployments, models and files in a body are just text."""
    since = watched.seen()
    with watched.client() as client:
        for spelling in [
            "../../../OUTSIDE",
            "/etc/passwd",
            "file:///etc/passwd",
            "..\\..\\OUTSIDE",
            "\u0000/etc/passwd",
            "~/.ssh/id_rsa",
        ]:
            message = {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": f"file://{spelling}"}},
                    {"type": "file", "file": {"file_id": spelling}},
                ],
            }
            for path, body in (
                ("/v1/records", {"inference_id": spelling, "trace_id": spelling, "project_name": spelling}),
                (f"{PAREA}/collection", {"name": spelling, "project_name": spelling}),
                (f"{PAREA}/experiment", {"name": spelling, "project_name": spelling}),
                (f"{PAREA}/deployed-prompt", {"deployment_id": spelling}),
                (f"{PAREA}/completion", {"deployment_id": spelling}),
                (
                    f"{PAREA}/completion",
                    {"llm_configuration": {"model": spelling, "provider": spelling, "messages": [message]}},
                ),
                (
                    f"{PAREA}/trace_log",
                    {"trace_id": spelling, "start_timestamp": "2026-10-18T12:00:00Z", "images": [{"url": spelling}]},
                ),
                ("/api/deployments", {"name": spelling, "model": spelling, "messages": [message]}),
                ("/api/keys", {"name": spelling, "project": spelling}),
            ):
                answer = client.post(path, json=body)
                assert answer.status_code < 500, answer.text
                assert SECRET not in answer.text
    allowed = [watched.data, Path(str(everycall.__file__)).parent]
    assert opened_outside(watched, since, allowed) == []
    watched.is_well()
