"""The words are true: Python in README and docs runs, requests in docs are answered as shown, commands can be parsed.

The blocks of a page are taken in their order, against one real server that has the deployment which the pages name.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from everycall._pricing.price_book import PriceBook
from everycall.cli import build_parser
from everycall.demo.stand_in import StandInModel
from everycall.server.options import DATABASE, ServerOptions
from everycall.server.provider_settings import ProviderSettings, provider_settings
from everycall.server.runner import Server
from everycall.server.store.sqlite import SqliteStore
from everycall.server.store.values import Deployment

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DEPLOYMENT = Deployment(
    deployment_id="p-qZrnFesaeCpqcXJ_yL3wi",
    version=0,
    project_name="default",
    name="hello-world",
    messages=({"role": "user", "content": "I want a Hello World program in {{x}}. Using the {{y}} framework."},),
    model="gpt-4o-mini",
    provider="openai",
)


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, language, text and first line."""

    page: Path
    language: str
    text: str
    line: int

    @property
    def label(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    result = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            result.append(Block(page, match[1], match[2], text.count("\n", 0, match.start()) + 1))
    return [block for block in result if not languages or block.language in languages]


async def _deploy(data: Path) -> None:
    store = SqliteStore(data / DATABASE)
    await store.open()
    await store.put_deployment(DEPLOYMENT)
    await store.close()


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the deployment that the pages name, and a provider that answers at once."""
    data = tmp_path_factory.mktemp("documented")
    asyncio.run(_deploy(data))
    with StandInModel() as model:
        provider = ProviderSettings("openai", "openai", base_url=model.base_url, api_key="local")
        options = ServerOptions(data, port=0, local_key="ek_of_the_documents", providers={"openai": provider})
        with Server(options) as server:
            yield server


def test_every_block_has_a_language() -> None:
    """A block without a language would not be checked."""
    languages = {"python", "console", "http", "json", "text", "toml", "yaml"}
    assert [b.label for b in blocks() if b.language not in languages and b.page.name != "architecture.md"] == []


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.label)
def test_python_examples_run(block: Block, documented: Server, tmp_path: Path) -> None:
    """In a child process with only the endpoint's URL and key set; the following text block is its output."""
    script = tmp_path / "block.py"
    script.write_text(block.text, encoding="utf-8")
    done = subprocess.run(
        # A short script closes nothing, and need not: its end does.
        [sys.executable, "-W", "error", "-W", "ignore::ResourceWarning", str(script)],
        env={
            **os.environ,
            "EVERYCALL_ENDPOINT": documented.address,
            "EVERYCALL_API_KEY": documented.key,
            "OPENAI_API_KEY": "sk-not-used",  # clients cannot be created without one; no request is sent
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    following = [b for b in blocks() if b.page == block.page and b.line > block.line]
    if following and following[0].language == "text":
        assert done.stdout == following[0].text


@pytest.mark.parametrize("block", blocks("console"), ids=lambda block: block.label)
def test_commands_can_be_parsed(block: Block) -> None:
    """Each line that runs everycall is one its parser takes; each script named is there."""
    parser = build_parser()
    for line in block.text.splitlines():
        assert line.startswith("$ "), f"{block.label}: {line}"
        for command in re.split(r"&&|\|", line.removeprefix("$ ")):
            words = shlex.split(command)
            words = words[2:] if words[:2] == ["uv", "run"] else words
            if words[0] == "everycall":
                parser.parse_args(words[1:])
            elif words[0].startswith("scripts/"):
                assert os.access(ROOT / words[0], os.X_OK), line
            elif words[0] == "export":
                assert words[1].startswith(("OTEL_", "EVERYCALL_")), line
            else:
                assert words[0] in ("pip", "pytest"), line


INLINE = sorted({command for page in PAGES for command in re.findall(r"`(everycall [^`]+)`", page.read_text("utf-8"))})


LEFT_OUT = {"key create": ["NAME"], "deploy": ["PATH"], "reprice": ["--since", "2026-01-01"]}
"""What these commands need, where a sentence only names them."""


@pytest.mark.parametrize("command", INLINE)
def test_commands_in_the_text_can_be_parsed(command: str) -> None:
    """A command named in a sentence exists; its required arguments may be left out there."""
    words = shlex.split(command)[1:]
    words += LEFT_OUT.get(" ".join(words), [])
    build_parser().parse_args(words)


def requests() -> list[tuple[Block, Block]]:
    """Each request of docs/api.md with the answer that follows it."""
    request_blocks = [block for block in blocks("http", "json") if block.page.name == "api.md"]
    assert [block.language for block in request_blocks] == ["http", "json"] * (len(request_blocks) // 2)
    return list(zip(request_blocks[::2], request_blocks[1::2], strict=True))


def test_requests_are_answered_as_shown(documented: Server) -> None:
    """Status, fields and types of every answer are those of the page; the requests are sent in its order."""
    with httpx.Client(base_url=documented.address, headers={"x-api-key": documented.key}, timeout=30) as client:
        for request, answer in requests():
            head, _, body = request.text.partition("\n\n")
            start, *headers = head.strip().splitlines()
            match = re.fullmatch(r"(\w+) (\S+) → (\d+)", start)
            assert match, request.label
            request_headers = dict(line.split(": ") for line in headers)
            response = client.request(match[1], match[2], content=body or None, headers=request_headers)
            assert response.status_code == int(match[3]), f"{request.label}: {response.text}"
            assert fits(response.json(), json.loads(answer.text)), f"{answer.label}: {response.text}"


def fits(actual: Any, expected: Any) -> bool:
    """Whether an answer has the shown fields in the shown types; a list shown empty stands for any."""
    if isinstance(expected, dict):
        return (
            isinstance(actual, dict)
            and actual.keys() == expected.keys()
            and all(fits(actual[n], expected[n]) for n in expected)
        )
    if isinstance(expected, list):
        return isinstance(actual, list) and (
            not expected or (len(actual) == len(expected) and all(map(fits, actual, expected)))
        )
    numbers = isinstance(actual, int | float) and isinstance(expected, int | float)
    return type(actual) is type(expected) or (
        numbers and not isinstance(actual, bool) and not isinstance(expected, bool)
    )


@pytest.mark.parametrize("block", blocks("toml"), ids=lambda block: block.label)
def test_settings_files_can_be_read(block: Block, tmp_path: Path) -> None:
    """The examples of providers.toml and prices.toml are such that the server takes them."""
    if block.page.name == "money.md":
        (tmp_path / "prices.toml").write_text(block.text, encoding="utf-8")
        PriceBook(tmp_path / "prices.toml", required=True)
        return
    path = tmp_path / "providers.toml"
    path.write_text(block.text, encoding="utf-8")
    assert set(provider_settings({"LOCAL_KEY": "k"}, path)) == set(tomllib.loads(block.text))


def test_links_are_valid() -> None:
    """Every relative link of a page names a file that is there, and a heading that it has."""
    wrong = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if "://" in target:
                continue
            name, _, anchor = target.partition("#")
            path = (page.parent / name).resolve() if name else page
            headings: list[str] = []
            if path.suffix == ".md" and path.is_file():
                headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
            if not path.exists() or (anchor and anchor not in anchors):
                wrong.append(f"{page.name}: {target}")
    assert wrong == []


def test_the_routes_are_documented(documented: Server) -> None:
    """Every path of the OpenAPI document is named in docs/api.md."""
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    document = httpx.get(f"{documented.address}/openapi.json", headers={"x-api-key": documented.key}, timeout=30).json()
    names = {re.sub(r"\{\w+\}", "{", path).split("{")[0] for path in document["paths"]}
    assert [name for name in sorted(names) if name not in text] == []


def test_the_readme_shows_the_two_durabilities() -> None:
    """The guarantee is given in the words of the design, in README and in docs/architecture.md alike."""
    words = (
        "a returned call survives the death of its process (page cache); it survives the loss of power once the sender "
        "has synced it (`SYNC_INTERVAL`, group `fdatasync`, never on the caller's thread)"
    )
    for page in (ROOT / "README.md", ROOT / "docs" / "architecture.md"):
        assert words in " ".join(page.read_text(encoding="utf-8").split()).replace("A returned", "a returned")
