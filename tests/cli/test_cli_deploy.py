"""`everycall deploy` and `everycall deployment`: prompt files, a real server, and the messages for each file."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from everycall import limits
from everycall.cli import main
from everycall.cli.prompt_files import (
    FALLBACK_FIELDS,
    FIELDS,
    MESSAGE_FIELDS,
    PARAMETERS,
    PromptFileError,
    find,
    load,
    parse,
    written,
)
from everycall.server.deployments import DeploymentRequest, Fallback
from everycall.server.gateway.request import Message, ModelParams

EXAMPLES = Path(__file__).parents[2] / "examples" / "prompts"
PROMPT = """\
name: Support reply
model: gpt-4o-mini
model_params:
  temp: 0.3
messages:
  - role: system
    content: |-
      You work for {{company}}.
      Be kind.
  - role: user
    content: "{{question}}"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one prompt."""
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    (prompts / "support.yaml").write_text(PROMPT)
    return prompts


@pytest.fixture
def run(
    server: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a command against `server` in this process; returns its exit code and what it wrote."""
    monkeypatch.setenv("EVERYCALL_ENDPOINT", server.address)
    monkeypatch.setenv("COLUMNS", "160")

    def running(*arguments: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        return code, output.out, output.err

    return running


Run = Callable[..., tuple[int, str, str]]


def served(client: httpx.Client, deployment_id: str = "support") -> dict[str, Any]:
    answer = client.get(f"/api/deployments/{deployment_id}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


# --- deploy ---


def test_files_are_deployed_and_deploying_again_changes_nothing(run: Run, client: httpx.Client, folder: Path) -> None:
    code, out, err = run("deploy", folder)
    assert (code, err) == (0, "")
    assert "created" in out
    assert out.endswith("1 deployed.\n")
    deployments = served(client)
    assert (deployments["name"], deployments["model"], deployments["model_params"]) == (
        "Support reply",
        "gpt-4o-mini",
        {"temp": 0.3},
    )
    assert deployments["messages"][0]["content"] == "You work for {{company}}.\nBe kind."
    code, out, _ = run("deploy", folder)
    assert (code, "unchanged" in out) == (0, True)
    assert out.endswith("Nothing to do: the server already serves these files.\n")
    assert len(client.get("/api/deployments/support/versions").json()["versions"]) == 1


def test_the_examples_can_be_deployed(run: Run, client: httpx.Client) -> None:
    code, out, err = run("deploy", EXAMPLES)
    assert (code, err) == (0, ""), out
    assert served(client, "support-reply")["messages"][0]["content"].startswith("You answer customers of {{company}}")
    assert served(client, "topic")["fallbacks"] == [{"model": "gpt-4o", "provider": "openai"}]


def test_a_dry_run_shows_the_differences_and_changes_nothing(run: Run, client: httpx.Client, folder: Path) -> None:
    run("deploy", folder)
    (folder / "support.yaml").write_text(PROMPT.replace("Be kind.", "Be brief.").replace("temp: 0.3", "temp: 0.5"))
    code, out, _ = run("deploy", folder, "--dry-run")
    assert (code, served(client)["version"]) == (0, 1)
    for line in ("-model_params.temp: 0.3", "+model_params.temp: 0.5", "-  Be kind.", "+  Be brief."):
        assert line in out.splitlines(), out
    assert out.endswith("1 would be deployed.\n")
    assert run("deploy", folder, "--check")[0] == 1
    assert served(client)["version"] == 1
    assert "changed" in run("deploy", folder)[1]
    assert run("deploy", folder, "--check")[0] == 0
    assert served(client)["version"] == 2


def test_a_version_can_be_created_without_serving_it(run: Run, client: httpx.Client, folder: Path) -> None:
    run("deploy", folder)
    (folder / "support.yaml").write_text(PROMPT.replace("gpt-4o-mini", "gpt-4o"))
    code, out, _ = run("deploy", folder / "support.yaml", "--no-activate")
    assert (code, out.splitlines()[-1]) == (0, "1 deployed, not activated.")
    assert served(client)["version"] == 1
    assert "activated" in run("deploy", folder)[1]
    assert served(client)["version"] == 2


def test_nothing_is_deployed_if_a_file_is_invalid(run: Run, client: httpx.Client, folder: Path) -> None:
    """With one file that cannot be read and one that the server refuses, the good one waits too."""
    (folder / "a.yaml").write_text("model: gpt-4o\nmessages: [{role: user, content: hi}]\n")
    (folder / "broken.yaml").write_text("model: [\n")
    (folder / "misspelt.yml").write_text("model: m\nmodel_params:\n  temperature: 1\nmessages: [{content: x}]\n")
    code, out, err = run("deploy", folder)
    assert (code, out) == (1, "")
    assert err.splitlines()[0] == "everycall: nothing was deployed."
    assert f"{folder / 'broken.yaml'}:2: invalid YAML" in err
    assert f"{folder / 'misspelt.yml'}:3: unknown key 'temperature': did you mean temp?" in err
    (folder / "broken.yaml").unlink()
    (folder / "misspelt.yml").write_text("model: m\nmessages:\n  - role: user\n    content: x\n  - role: boss\n")
    code, out, err = run("deploy", folder)
    assert (code, out) == (1, "")
    assert f"{folder / 'misspelt.yml'}:5: messages[1].role may be system" in err
    assert client.get("/api/deployments").json()["deployments"] == []


def test_two_files_with_one_id(run: Run, folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "support.yaml").write_text(PROMPT)
    code, _, err = run("deploy", folder)
    assert code == 1
    assert "has the same deployment_id" in err
    (folder / "sub" / "support.yaml").write_text(f"deployment_id: other\n{PROMPT}")
    assert run("deploy", folder)[0] == 0


def test_projects(run: Run, client: httpx.Client, folder: Path, monkeypatch: pytest.MonkeyPatch, make_key: Any) -> None:
    assert run("deploy", folder, "--project", "shop")[0] == 0
    assert client.get("/api/deployments/support", params={"project": "shop"}).status_code == 200
    assert client.get("/api/deployments/support").status_code == 404
    monkeypatch.setenv("EVERYCALL_API_KEY", make_key("alpha"))
    assert run("deploy", folder)[0] == 0
    assert client.get("/api/deployments/support", params={"project": "alpha"}).status_code == 200
    code, _, err = run("deploy", folder, "--project", "beta")
    assert (code, "403" in err) == (1, True)
    monkeypatch.setenv("EVERYCALL_API_KEY", make_key("alpha", "read"))
    code, _, err = run("deploy", folder)
    assert (code, "needs a key with the role write" in err) == (1, True)


def test_the_environments_key_is_sent_to_no_other_endpoint(
    run: Run, server: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERYCALL_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("EVERYCALL_API_KEY", "ek_of_that_endpoint")
    assert run("deploy", folder, "--endpoint", server.address)[0] == 0  # with the local key
    code, _, err = run("deploy", folder)
    assert (code, "no server is running at http://127.0.0.1:9" in err) == (1, True)
    code, _, err = run("deploy", folder, "--endpoint", "ftp://x")
    assert (code, "endpoint must be an http or https URL" in err) == (2, True)


def test_a_missing_path_is_an_error(run: Run, tmp_path: Path) -> None:
    assert "there is no such file" in run("deploy", tmp_path / "none")[2]
    (tmp_path / "empty").mkdir()
    assert "there is no file here" in run("deploy", tmp_path / "empty")[2]


def test_without_the_yaml_package(tmp_path: Path, folder: Path) -> None:
    """The one line says what to install; nothing else of the command line needs it."""
    (tmp_path / "stub").mkdir()
    (tmp_path / "stub" / "sitecustomize.py").write_text(
        "import importlib.util as u\nfound = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'yaml' else found(name, *rest)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "everycall", "deploy", str(folder)],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "stub")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert 'pip install "everycall[deploy]"' in done.stderr


# --- deployment ---


def test_deployments_are_listed_and_changed(run: Run, client: httpx.Client, folder: Path) -> None:
    run("deploy", folder)
    (folder / "support.yaml").write_text(PROMPT.replace("gpt-4o-mini", "gpt-4o"))
    run("deploy", folder)
    assert "support" in run("deployment", "list")[1]
    assert "-model: gpt-4o-mini" in run("deployment", "diff", "support")[1].splitlines()
    assert "are the same" in run("deployment", "diff", "support", "--from", "2", "--to", "2")[1]
    assert run("deployment", "roll-back", "support")[:2] == (0, "Version 1 of support is active.\n")
    code, _, err = run("deployment", "roll-back", "support")
    assert (code, "409" in err) == (1, True)
    assert run("deployment", "activate", "support", "2")[:2] == (0, "Version 2 of support is active.\n")
    assert run("deployment", "activate", "support", "7")[0] == 1
    history = [line.split("│")[2].strip() for line in run("deployment", "history", "support")[1].splitlines()[3:-1]]
    assert history == ["2", "1", "2", "1"]
    assert run("deployment", "archive", "support")[0] == 0
    assert run("deployment", "list")[1] == "There is no active deployment.\n"
    assert "support" in run("deployment", "list", "--inactive")[1]
    assert run("deployment", "show", "support")[0] == 1
    text = run("deployment", "show", "support", "--version", "1")[1]
    assert "model: gpt-4o-mini" in text
    assert run("deployment", "roll-back", "support")[0] == 0
    assert served(client)["version"] == 2


def test_pulled_files_deploy_unchanged(run: Run, client: httpx.Client, folder: Path, tmp_path: Path) -> None:
    run("deploy", folder, EXAMPLES)
    client.post("/api/deployments", json={"name": "made on the page", "model": "m", "messages": [{"content": " x \n"}]})
    away = tmp_path / "away"
    code, out, err = run("deployment", "pull", away)
    assert (code, err, len(list(away.iterdir()))) == (0, "", 4), out
    assert run("deploy", away)[1].endswith("Nothing to do: the server already serves these files.\n")
    assert "unchanged" in run("deployment", "pull", away)[1]
    (away / "support.yaml").write_text(PROMPT.replace("kind", "mine"))
    code, out, _ = run("deployment", "pull", away)
    assert (code, "its content differs" in out) == (1, True)
    assert "mine" in (away / "support.yaml").read_text()
    assert run("deployment", "pull", away, "--overwrite")[0] == 0
    assert "kind" in (away / "support.yaml").read_text()


# --- files ---


def test_the_keys_of_a_file_are_those_of_the_api() -> None:
    own = {"activate", "expected_version", "project_name"}
    assert set(FIELDS) == set(DeploymentRequest.__struct_fields__) - own
    assert set(PARAMETERS) == set(ModelParams.__struct_fields__) - {
        "temperature",
        "max_tokens",
        "max_completion_tokens",
        "model",  # only repeated there, by Parea's oldest clients
    }
    assert set(MESSAGE_FIELDS) == {*Message.__struct_fields__, "content_file"}
    assert set(FALLBACK_FIELDS) == set(Fallback.__struct_fields__)


GOOD = "model: m\nmessages:\n  - content: x\n"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "must be a mapping"),
        ("- a\n", 1, "must be a mapping"),
        ("messages: []\n", 0, "model is missing"),
        ("model: m\nmessages: []\n", 2, "messages is missing"),
        (GOOD + "modle: x\n", 4, "unknown key 'modle': did you mean model?"),
        (GOOD + "tools: []\n", 4, "did you mean functions?"),
        (GOOD + "stop: x\n", 4, "unknown key 'stop'"),
        (GOOD + "model_params:\n  max_tokens: 1\n", 5, "did you mean max_length?"),
        (GOOD + "    rol: user\n", 4, "did you mean role?"),
        ("model: m\nmessages:\n  - x\n", 3, "messages[0] must be a mapping"),
        ("model: m\nmessages: x\n", 2, "messages must be a list"),
        (GOOD + "fallbacks:\n  - modell: x\n", 5, "did you mean model?"),
        (GOOD + "model: twice\n", 4, "'model' appears twice"),
        (GOOD + "description: [\n", 5, "invalid YAML"),
        (GOOD + "\tx: 1\n", 4, "invalid YAML"),
        (GOOD + "---\nmodel: b\n", 4, "invalid YAML"),
        (GOOD + "metadata: !!python/object/apply:os.system ['id']\n", 4, "tag"),
        (GOOD + "metadata: !!python/name:os.system x\n", 4, "tag"),
        (GOOD + "metadata: !!set {a}\n", 4, "tag"),
        (GOOD + "metadata: {a: !!binary aGk=}\n", 4, "tag"),
        (GOOD + "metadata: {a: .inf}\n", 4, "not a JSON number"),
        (GOOD + "metadata: {[a]: 1}\n", 4, "a key must be a word"),
        (GOOD + "base: &b {a: 1}\nmetadata:\n  <<: *b\n", 6, "merging"),
        (GOOD + "metadata: &a [*a]\n", 4, "nested more than"),
        (GOOD + "    content_file: x\n", 4, "not both"),
        ("model: m\nmessages:\n  - content_file: 7\n", 3, "the name of a file"),
        ("model: m\nmessages:\n  - content_file: none.md\n", 3, "cannot be read"),
        ("deployment_id: a b\n" + GOOD, 1, "invalid deployment_id"),
    ],
    ids=range(28),
)
def test_errors_in_a_file_name_their_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(PromptFileError) as raised:
        load(path)
    assert message in raised.value.detail
    assert raised.value.line == line


def test_a_file_that_is_nested_too_deeply(tmp_path: Path) -> None:
    """Whichever gives out first: the bound, or the room on the stack."""
    path = tmp_path / "p.yaml"
    path.write_text(GOOD + "metadata: " + "[" * 5_000 + "]" * 5_000 + "\n")
    with pytest.raises(PromptFileError, match="nested"):
        load(path)


def test_aliases_do_not_expand_to_millions_of_values(tmp_path: Path) -> None:
    """Aliases of aliases ("a billion laughs"): what each stands for is counted each time."""
    layers = "".join(f"l{n + 1}: &l{n + 1} [{', '.join([f'*l{n}'] * 10)}]\n  " for n in range(9))
    path = tmp_path / "p.yaml"
    path.write_text(f"{GOOD}metadata:\n  l0: &l0 [x]\n  {layers}\n")
    with pytest.raises(PromptFileError, match=f"more than {limits.DEPLOY_VALUES_MAX} values"):
        load(path)


def test_a_file_is_data(tmp_path: Path) -> None:
    """Words that older YAML turned into something else stay words."""
    path = tmp_path / "p.yaml"
    path.write_text(
        GOOD + "metadata: {country: no, on: yes, day: 2026-01-31, time: 12:30, version: 1.0, octal: 010, big: 1_000,"
        " yes: 1e3, empty: , text: '{{x}}', nothing: ~}\n"
    )
    assert load(path).body["metadata"] == {
        "country": "no",
        "on": "yes",
        "day": "2026-01-31",
        "time": "12:30",
        "version": 1.0,
        "octal": 10,
        "big": "1_000",
        "yes": 1000.0,
        "empty": None,
        "text": "{{x}}",
        "nothing": None,
    }


def test_no_file_outside_the_folder_is_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret")
    folder = tmp_path / "prompts"
    (folder / "parts").mkdir(parents=True)
    (folder / "link.md").symlink_to(secret)
    (folder / "out").symlink_to(tmp_path)
    (folder / "parts" / "in.md").write_text("inside {{x}}\n\n")
    path = folder / "p.yaml"
    for name in ("../secret.txt", str(secret), "link.md", "out/secret.txt", "parts/../../secret.txt", "/etc/passwd"):
        path.write_text(f"model: m\nmessages:\n  - content_file: {name}\n")
        with pytest.raises(PromptFileError, match="not in the folder") as raised:
            load(path)
        assert "the secret" not in str(raised.value)
    path.write_text("model: m\nmessages:\n  - content_file: parts/in.md\n")
    assert load(path).body["messages"] == [{"content": "inside {{x}}\n"}]
    for name in (".", "parts"):
        path.write_text(f"model: m\nmessages:\n  - content_file: {name}\n")
        with pytest.raises(PromptFileError):
            load(path)


def test_files_are_found(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.yml", "sub/c.yaml", ".hidden.yaml", ".git/d.yaml", "notes.md", "x.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(GOOD)
    assert [str(path.relative_to(tmp_path)) for path in find([tmp_path])] == ["a.yml", "b.yaml", "sub/c.yaml"]
    assert find([tmp_path / "x.json", tmp_path / "x.json"]) == [tmp_path / "x.json"]


def test_files_that_are_not_text_or_too_large_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(PromptFileError, match="not UTF-8"):
        load(path)
    path.write_bytes(b"#" * (limits.DEPLOYMENT_BYTES_MAX + 1))
    with pytest.raises(PromptFileError, match="larger than"):
        load(path)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    name=TEXT.filter(bool),
    content=TEXT
    | st.just("two\nlines\n")
    | st.just("  {{x}}: - # \t\n\n")
    | st.sampled_from(["no", "0o17", "1e3", "~"]),
    metadata=st.dictionaries(TEXT, JSON, max_size=4),
)
def test_written_files_are_read_back_unchanged(name: str, content: str, metadata: dict[str, Any]) -> None:
    deployment = {
        "deployment_id": "d",
        "name": name,
        "model": "m",
        "messages": [{"role": "user", "content": content}],
        "metadata": metadata,
        "active": True,
        "version": 3,
    }
    body = parse(written(deployment), Path("d.yaml")).body
    assert body["name"] == name
    assert body["messages"] == deployment["messages"]
    assert body.get("metadata", {}) == metadata


def test_written_files_are_readable() -> None:
    text = written({"name": "n", "model": "m", "messages": [{"role": "user", "content": "one {{x}}\ntwo — ü"}]})
    assert text == "name: n\nmodel: m\nmessages:\n- role: user\n  content: |-\n    one {{x}}\n    two — ü\n"
    assert yaml.safe_load(text)["model"] == "m"


def test_the_documented_file_can_be_deployed(run: Run, client: httpx.Client, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "deployments.md").read_text(encoding="utf-8")
    blocks = [block.partition("```")[0] for block in text.split("```yaml\n")[1:]]
    assert len(blocks) == 1
    (tmp_path / "support-reply.yaml").write_text(blocks[0])
    assert run("deploy", tmp_path / "support-reply.yaml")[0] == 0
    assert served(client, "support-reply")["fallbacks"][0]["provider"] == "anthropic"
