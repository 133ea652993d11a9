"""Keys, roles, sessions, hosts and origins: which callers have access, and what each one sees."""

from __future__ import annotations

import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from everycall import limits, paths
from everycall.errors import ConfigurationError
from everycall.server.keys import Identity, create_key, digest, local_key
from everycall.server.options import ServerOptions
from everycall.server.problems import ProblemError
from everycall.server.runner import Server
from everycall.server.security import AllowedHosts, WrongKeys, local_path


def record_line(name: str, project: str | None = None) -> str:
    project_part = f',"project_name":"{project}"' if project else ""
    return f'{{"inference_id":"{name}","trace_id":"t-{name}","name":"{name}"{project_part},"start_time_unix_nano":5}}'


@pytest.fixture
def browser(server: Any) -> Iterator[httpx.Client]:
    """A browser that logged in with a printed address."""
    with httpx.Client(base_url=server.address, follow_redirects=False) as opened:
        assert opened.get(server.login_url()).status_code == 303
        yield opened


# --- the local key ---


def test_the_local_key_is_created_once_and_readable_by_its_owner_only() -> None:
    path = paths.local_key_path()
    key = local_key(path)
    assert key.startswith("ek_")
    assert len(key) > 40
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert local_key(path) == key
    assert [file.name for file in path.parent.iterdir()] == ["local.key"]


def test_processes_that_start_together_agree_on_the_local_key(tmp_path: Path) -> None:
    """The file is created complete and once, whichever process is first."""
    path = tmp_path / "state" / "local.key"
    code = (
        "import sys; from pathlib import Path; from everycall.server.keys import local_key; "
        "print(local_key(Path(sys.argv[1])))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    keys = {process.communicate()[0].strip() for process in processes}
    assert len(keys) == 1
    assert keys == {path.read_text().strip()}


def test_a_local_key_that_others_can_read_is_made_private(tmp_path: Path) -> None:
    path = tmp_path / "local.key"
    path.write_text("ek_written_by_hand_0123456789\n")
    path.chmod(0o644)
    assert local_key(path) == "ek_written_by_hand_0123456789"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"", b"short", b"\x00" * 40, b"two\nlines of thirty characters"])
def test_a_broken_local_key_is_an_error_that_says_what_to_do(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "local.key"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"local\.key does not contain a key: delete it"):
        local_key(path)


def test_a_directory_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot store the local key"):
        local_key(tmp_path / "file" / "local.key")


def test_the_server_creates_the_key_that_clients_read(server: Any) -> None:
    assert paths.local_key_path().read_text().strip() == server.key


# --- keys of projects ---


def test_only_the_digest_of_a_key_is_stored(client: httpx.Client, tmp_path: Path) -> None:
    response = client.post("/api/keys", json={"name": "ci", "project": "alpha"})
    assert response.status_code == 201
    secret = response.json()["secret"]
    assert response.json()["id"] == digest(secret)
    assert response.json()["role"] == "write"
    listed = client.get("/api/keys").json()["keys"]
    assert [(key["name"], key["project"]) for key in listed] == [("ci", "alpha")]
    assert "secret" not in listed[0]
    stored = b"".join(path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file())
    assert digest(secret).encode() in stored
    assert secret.encode() not in stored


def test_create_key_refuses_invalid_values() -> None:
    secret, key = create_key("ci", "alpha", "read")
    assert secret.startswith("ek_")
    assert (key.digest, key.name, key.project_name, key.role) == (digest(secret), "ci", "alpha", "read")
    assert key.created_unix_nano > 0
    assert key.revoked_unix_nano is None
    for arguments in (("ci", "alpha", "owner"), ("", "alpha", "read"), ("ci", "", "read"), ("x" * 300, "a", "read")):
        with pytest.raises(ConfigurationError):
            create_key(*arguments)


@pytest.mark.parametrize(
    ("role", "reads", "writes", "manages"),
    [("read", 200, 403, 403), ("write", 200, 200, 403), ("admin", 200, 200, 200)],
)
def test_roles(server: Any, make_key: Callable[..., str], role: str, reads: int, writes: int, manages: int) -> None:
    with httpx.Client(base_url=server.address, headers={"x-api-key": make_key("alpha", role)}) as client:
        assert client.get("/api/records").status_code == reads
        assert client.get("/api/traces").status_code == reads
        assert client.post("/v1/records", content=record_line("a")).status_code == writes
        assert client.post("/api/parea/v1/project", json={"name": "default"}).status_code == writes
        assert client.get("/api/keys").status_code == manages


def test_a_key_may_come_as_a_bearer_token(server: Any, make_key: Callable[..., str]) -> None:
    secret = make_key("alpha")
    assert httpx.get(f"{server.address}/api/records", headers={"authorization": f"Bearer {secret}"}).status_code == 200
    assert httpx.get(f"{server.address}/api/records", headers={"authorization": f"Basic {secret}"}).status_code == 401


def test_a_revoked_key_is_refused_from_the_next_request_on(server: Any, client: httpx.Client) -> None:
    """Its sessions end too, and a restart does not bring them back."""
    key = client.post("/api/keys", json={"name": "ci", "project": "alpha", "role": "admin"}).json()
    headers = {"x-api-key": key["secret"]}
    with httpx.Client(base_url=server.address) as browser:
        assert browser.post("/login", data={"key": key["secret"]}).status_code == 303
        assert browser.get("/api/records").status_code == 200
        assert httpx.get(f"{server.address}/api/records", headers=headers).status_code == 200
        revoked = client.delete(f"/api/keys/{key['id'][:12]}")
        assert revoked.status_code == 200
        assert revoked.json()["revoked_unix_nano"] > 0
        assert httpx.get(f"{server.address}/api/records", headers=headers).status_code == 401
        assert browser.get("/api/records").status_code == 401
    server.stop()
    with Server(server.options) as again:
        assert httpx.get(f"{again.address}/api/records", headers=headers).status_code == 401


def test_keys_outlive_the_server(server: Any, make_key: Callable[..., str]) -> None:
    secret = make_key("alpha")
    server.stop()
    with Server(server.options) as again:
        answer = httpx.get(f"{again.address}/api/projects", headers={"x-api-key": secret})
    assert answer.json() == {"projects": ["alpha"]}


def test_an_admin_of_one_project_manages_only_its_keys(
    server: Any, client: httpx.Client, make_key: Callable[..., str]
) -> None:
    make_key("beta")
    other = next(key["id"] for key in client.get("/api/keys").json()["keys"] if key["project"] == "beta")
    with httpx.Client(base_url=server.address, headers={"x-api-key": make_key("alpha", "admin")}) as alpha:
        assert {key["project"] for key in alpha.get("/api/keys").json()["keys"]} == {"alpha"}
        assert alpha.post("/api/keys", json={"name": "more"}).json()["project"] == "alpha"
        assert alpha.post("/api/keys", json={"name": "more", "project": "beta"}).status_code == 403
        theirs, unknown = alpha.delete(f"/api/keys/{other}"), alpha.delete(f"/api/keys/{'0' * 64}")
        assert theirs.status_code == 404
        assert theirs.content == unknown.content


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"name":1}', b'{"name":"a","colour":"red"}', b'{"name":"a","role":"x"}']
)
def test_an_invalid_request_for_a_key(client: httpx.Client, body: bytes) -> None:
    assert client.post("/api/keys", content=body).status_code in (400, 422)


# --- wrong keys ---


def test_too_many_wrong_keys_get_429_and_valid_keys_do_not(server: Any, client: httpx.Client) -> None:
    answers = [
        httpx.get(f"{server.address}/api/records", headers={"x-api-key": f"ek_wrong_{number}"})
        for number in range(limits.WRONG_KEYS_MAX + 5)
    ]
    assert [answer.status_code for answer in answers] == [401] * limits.WRONG_KEYS_MAX + [429] * 5
    assert answers[0].json()["type"] == "urn:everycall:error:wrong_key"
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
    assert client.get("/api/records").status_code == 200
    form = httpx.post(f"{server.address}/login", data={"key": "ek_wrong"})
    assert form.status_code == 429


def test_wrong_keys_are_counted_per_address_and_minute() -> None:
    now = [0.0]
    counter = WrongKeys(lambda: now[0])
    assert [counter.count("a") for _ in range(limits.WRONG_KEYS_MAX)] == [0] * limits.WRONG_KEYS_MAX
    assert counter.count("a") == 60
    assert counter.count("b") == 0
    now[0] = 45.0
    assert counter.count("a") == 15
    now[0] = 60.0
    assert counter.count("a") == 0


def test_the_count_of_wrong_keys_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WRONG_KEY_ADDRESSES_MAX", 3)
    counter = WrongKeys(lambda: 0.0)
    for number in range(50):
        counter.count(f"10.0.0.{number}")
    assert len(counter._counts) == 3


# --- two projects ---


def test_a_project_sees_nothing_of_another(server: Any, client: httpx.Client, make_key: Callable[..., str]) -> None:
    """Each route answers for each id of the other project as if it did not exist, byte for byte."""
    secrets = {project: make_key(project, "admin") for project in ("alpha", "beta")}
    for project, secret in secrets.items():
        answer = httpx.post(
            f"{server.address}/v1/records",
            headers={
                "x-api-key": secret,
                "x-everycall-client": f"{project}:1:2",
                "x-everycall-balance": '{"recorded":1}',
            },
            content=f'{{"inference_id":"{project}-1","trace_id":"{project}-t","content":"canary of {project}"}}',
        )
        assert answer.json()["committed"] == 1
    with httpx.Client(base_url=server.address, headers={"x-api-key": secrets["alpha"]}) as alpha:
        for theirs, unknown in (
            ("/api/records/beta-1", "/api/records/nope-1"),
            ("/api/traces/beta-t", "/api/traces/nope-t"),
        ):
            there, nowhere = alpha.get(theirs), alpha.get(unknown)
            assert there.status_code == 404
            assert there.content == nowhere.content
            assert list(there.headers) == list(nowhere.headers)
        for path in ("/api/records", "/api/traces", "/api/clients", "/api/projects", "/api/keys"):
            assert "beta" not in alpha.get(path).text
            assert alpha.get(path, params={"project": "beta"}).status_code == 403 or path in (
                "/api/projects",
                "/api/keys",
            )
            there, nowhere = (alpha.get(path, params={"project": name}) for name in ("beta", "nope"))
            assert there.content == nowhere.content
        for filters in ({"trace_id": "beta-t"}, {"search": "canary of beta"}):
            assert alpha.get("/api/records", params=filters).json()["records"] == []
        mine = alpha.get("/api/records").json()["records"]
        assert [record["inference_id"] for record in mine] == ["alpha-1"]
        put = {"trace_id": "beta-1", "field_name_to_value_map": {"output": "overwritten"}}
        assert alpha.put("/api/parea/v1/trace_log", json=put).status_code == 200
    beta = client.get("/api/records/beta-1", params={"project": "beta"}).json()
    assert beta["content"] == "canary of beta"
    assert "output" not in beta


# --- sessions ---


def test_a_printed_url_logs_in_once(server: Any) -> None:
    address = server.login_url("/traces?status=error")
    with httpx.Client(base_url=server.address) as browser:
        answer = browser.get(address)
        assert answer.status_code == 303
        assert answer.headers["location"] == "/traces?status=error"
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert "path=/" in cookie
        assert browser.get("/api/records").status_code == 200
    with httpx.Client(base_url=server.address) as other:
        again = other.get(address)
        assert again.status_code == 401
        assert "set-cookie" not in again.headers
        assert other.get("/api/records").status_code == 401


def test_a_link_on_another_site_works_with_a_session(browser: httpx.Client, server: Any) -> None:
    """A browser sends no strict cookie when it follows such a link, but does when a page of the server forwards it."""
    cookie = browser.cookies["everycall_session"]
    browser.cookies.clear()
    html = {"accept": "text/html", "sec-fetch-dest": "document"}
    first = browser.get('/traces/a"b?cursor=<x>', headers={**html, "sec-fetch-site": "cross-site"})
    assert first.status_code == 200
    assert 'content="0; url=/traces/a%22b?cursor=%3Cx%3E"' in first.text
    with_cookie = {**html, "sec-fetch-site": "same-origin", "cookie": f"everycall_session={cookie}"}
    assert browser.get("/status", headers=with_cookie).status_code == 200
    assert browser.get("/traces", headers={**html, "sec-fetch-site": "same-origin"}).status_code == 303
    token = browser.get(server.login_url("/traces"), headers={**html, "sec-fetch-site": "cross-site"})
    assert "set-cookie" in token.headers
    assert "url=/traces" in token.text


def test_a_printed_url_expires(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOGIN_TOKEN_AGE_S", -1.0)
    assert httpx.get(server.login_url()).status_code == 401


def test_unused_tokens_are_bounded(server: Any) -> None:
    first = server.login_url()
    for _ in range(limits.LOGIN_TOKENS_MAX):
        last = server.login_url()
    assert httpx.get(first).status_code == 401
    assert httpx.get(last).status_code == 303


def test_a_key_logs_in_with_the_form(server: Any, make_key: Callable[..., str]) -> None:
    with httpx.Client(base_url=server.address) as browser:
        assert 'name="key"' in browser.get("/login").text
        wrong = browser.post("/login", data={"key": "ek_wrong", "next": "/traces"})
        assert wrong.status_code == 401
        assert "text/html" in wrong.headers["content-type"]
        right = browser.post("/login", data={"key": make_key("alpha", "read"), "next": "/traces"})
        assert (right.status_code, right.headers["location"]) == (303, "/traces")
        assert browser.get("/api/projects").json() == {"projects": ["alpha"]}
        assert browser.post("/v1/records", content=record_line("a")).status_code == 403
        assert browser.post("/logout").headers["location"] == "/login"
        assert browser.get("/api/projects").status_code == 401


@pytest.mark.parametrize(
    "change", [lambda v: v[:-2], lambda v: "0" + v[1:], lambda v: v.replace(".", ".9", 1), lambda v: ""]
)
def test_a_forged_session_is_refused(browser: httpx.Client, change: Callable[[str], str]) -> None:
    value = browser.cookies["everycall_session"]
    browser.cookies.clear()
    answer = browser.get("/api/records", headers={"cookie": f"everycall_session={change(value)}"})
    assert answer.status_code == 401
    assert browser.get("/api/records", headers={"cookie": f"everycall_session={value}"}).status_code == 200


def test_a_session_ends(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SESSION_AGE_S", -1.0)
    with httpx.Client(base_url=server.address) as browser:
        value = browser.get(server.login_url()).headers["set-cookie"].partition("=")[2].partition(";")[0]
        assert browser.get("/api/records", headers={"cookie": f"everycall_session={value}"}).status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"sec-fetch-site": "same-origin", "origin": "null"}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
    ],
)
def test_another_sites_page_cannot_use_a_session(browser: httpx.Client, headers: dict[str, str], status: int) -> None:
    assert browser.post("/v1/records", headers=headers, content=record_line("a")).status_code == status
    own = {"origin": str(browser.base_url).rstrip("/")}
    assert browser.post("/v1/records", headers=own, content=record_line("a")).status_code == 200


def test_another_sites_page_cannot_log_a_browser_in(server: Any) -> None:
    answer = httpx.post(f"{server.address}/login", data={"key": server.key}, headers={"origin": "http://evil.example"})
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/", "//evil.example", "/\\evil.example", "\\\\evil.example", "/\t/evil.example",
        "javascript:alert(1)",
        "/\n/evil.example", "evil.example", "", "///evil.example", "/\r\nset-cookie: a=b", "/ok\\..\\x",
    ],
)  # fmt: skip
def test_the_login_redirects_to_no_other_site(server: Any, target: str) -> None:
    assert local_path(target) == "/"
    token = urlsplit(server.login_url()).query.partition("&")[0].partition("=")[2]
    answer = httpx.get(f"{server.address}/login", params={"token": token, "next": target})
    assert answer.headers["location"] == "/"


def test_the_login_redirects_to_the_requested_page() -> None:
    for path in ("/", "/traces", "/traces/a%2Fb?status=error&cursor=x", "/traces/a:b"):
        assert local_path(path) == path


# --- hosts ---


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "10.0.0.1", "a b", "x:y"]
)
def test_a_request_for_a_foreign_host_is_refused(server: Any, host: str) -> None:
    """A host name that points to the loopback address (DNS rebinding) is refused, with or without a key."""
    for path in ("/api/records", "/healthz", "/login"):
        answer = httpx.get(f"{server.address}{path}", headers={"host": host, "x-api-key": server.key})
        assert answer.status_code in (400, 421), path
        assert "records" not in answer.text


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST:7410", "localhost.", "127.0.0.2"])
def test_requests_for_the_servers_names_are_accepted(server: Any, host: str) -> None:
    assert httpx.get(f"{server.address}/healthz", headers={"host": host}).status_code == 200


def test_two_host_headers_are_refused(server: Any) -> None:
    address = urlsplit(server.address)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert b" 400 " in connection.recv(4096).partition(b"\r\n")[0]


def test_hosts_of_an_open_server(tmp_path: Path) -> None:
    allowed = AllowedHosts(ServerOptions(data_dir=tmp_path, host="0.0.0.0", hosts=("llm.example",)))
    for host in ("10.1.2.3:7410", "[fe80::1]", "localhost", "llm.example", "LLM.example.:443", socket.gethostname()):
        assert allowed.allow(host), host
    for host in ("evil.example", "10.1.2.3.evil.example", ""):
        assert not allowed.allow(host), host


# --- without authentication ---


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "everycall.example"])
def test_without_authentication_only_this_machine_is_served(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigurationError, match="--no-auth"):
        ServerOptions(data_dir=tmp_path, host=host, no_auth=True)


def test_without_authentication_foreign_pages_and_names_are_still_refused(tmp_path: Path) -> None:
    with Server(ServerOptions(data_dir=tmp_path / "data", port=0, no_auth=True)) as server:
        with httpx.Client(base_url=server.address) as client:
            assert client.post("/v1/records", content=record_line("a", "beta")).json()["committed"] == 1
            assert client.get("/api/records/a", params={"project": "beta"}).status_code == 200
            assert client.get("/login").headers["location"] == "/"
            foreign = {"origin": "http://evil.example"}
            assert client.post("/v1/records", content=record_line("b"), headers=foreign).status_code == 403
            assert client.get("/api/records", headers={"host": "evil.example"}).status_code == 421


@pytest.mark.parametrize("options", [{"port": -1}, {"port": 70_000}, {"local_key": "short"}])
def test_invalid_options_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        ServerOptions(data_dir=tmp_path, **options)


def test_secrets_are_not_in_representations(tmp_path: Path) -> None:
    assert "0123456789abcdef" not in repr(ServerOptions(data_dir=tmp_path, local_key="0123456789abcdef"))


def test_projects_and_roles_of_an_identity() -> None:
    from everycall.server.auth import project_of, require

    everyone, alpha = Identity(None, "admin", "local"), Identity("alpha", "write", "ci")
    assert project_of(everyone, None) == "default"
    assert project_of(everyone, "beta") == "beta"
    assert project_of(alpha, None) == project_of(alpha, "alpha") == "alpha"
    with pytest.raises(ProblemError, match="403"):
        project_of(alpha, "beta")
    require(alpha, "read")
    require(alpha, "write")
    with pytest.raises(ProblemError, match="403"):
        require(alpha, "admin")


def test_the_key_is_checked_before_the_body(server: Any) -> None:
    """A request without permission is refused before its body arrives."""
    address = urlsplit(server.address)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(b"POST /v1/records HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\n")
        assert b" 401 " in connection.recv(4096).partition(b"\r\n")[0]
