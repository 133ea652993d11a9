"""Which third-party packages each part may import; pyproject.toml has the contracts of our own imports."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "everycall"
INTEGRATIONS = ROOT / "integrations"

CORE = frozenset({"msgspec", "opentelemetry"})
ENCODING = frozenset({"msgspec"})
COMMANDS = frozenset({"httpx", "langchain_core", "everycall_langchain", "msgspec", "openai", "xllamacpp", "yaml"})
THIRD_PARTY: dict[str, frozenset[str] | set[str]] = {
    **dict.fromkeys(
        ("_event_stream", "_version", "_terminal", "errors", "limits", "paths", "sampling", "semconv"), frozenset()
    ),
    **dict.fromkeys(
        ("_capture", "_guard", "_ledger", "_local_server", "_patches", "_redaction", "_retry", "_usage", "dialects"),
        ENCODING,
    ),
    **dict.fromkeys(("masks", "record", "settings"), ENCODING),
    **dict.fromkeys(("_client", "_delivery", "_instrumentation", "_runtime"), CORE),
    **dict.fromkeys(("__init__", "integration", "propagation", "testing", "usage"), CORE),
    **dict.fromkeys(("_call", "_propagation"), CORE | {"wrapt"}),
    "_pricing": {"msgspec", "genai_prices"},  # which only the server imports
    "client": CORE | {"httpx"},
    "pytest_plugin": {"pytest"},
    **dict.fromkeys(("__main__", "cli", "demo"), COMMANDS),
    "server": {
        "aiohttp",
        "google",
        "h11",
        "httptools",
        "httpx",  # its TLS context, with certifi's authorities
        "jinja2",
        "litestar",
        "markupsafe",
        "msgspec",
        "opentelemetry",  # the generated classes of OTLP
        "rapidfuzz",
        "uvicorn",
        "zstandard",
    },
}
"""Module or package of everycall -> the third-party packages that it may import."""
NOT_SDK = {"__main__", "cli", "demo", "server"}
INTEGRATIONS_MAY = {"errors", "integration", "limits", "semconv"}


@dataclass(frozen=True)
class Import:
    """One import: the module it stands in (a path below src/everycall, dotted), what it names, and where."""

    module: str
    target: str
    place: str

    @property
    def own(self) -> str | None:
        """The part of everycall that is imported, such as `_spool` or `server.store`; None for other packages."""
        return self.target.removeprefix("everycall.") if self.target.startswith("everycall.") else None

    @property
    def package(self) -> str:
        return self.target.partition(".")[0]


def imports_of(path: Path, module: str, package: str) -> Iterator[Import]:
    """Every import of a file, those inside functions and under TYPE_CHECKING too; relative ones made absolute."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            for name in node.names:
                yield Import(module, name.name, where)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *([base] if base else [])])
            for name in node.names:
                # `from everycall import limits` names a module; `from everycall.record import Record` a thing in one.
                yield Import(module, f"{base}.{name.name}" if base == "everycall" else base, where)


def source_imports() -> list[Import]:
    imports: list[Import] = []
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        package = ".".join(["everycall", *parts[:-1]])
        module = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        imports.extend(imports_of(path, module, package))
    return imports


IMPORTS = source_imports()


def test_third_party_packages_stay_in_their_layer() -> None:
    """The core needs msgspec, httpx and the OpenTelemetry API; what an extra brings is imported by its part alone."""
    wrong = []
    for entry in IMPORTS:
        if entry.package in sys.stdlib_module_names or entry.package in ("everycall", "__future__"):
            continue
        if entry.package not in THIRD_PARTY[entry.module.partition(".")[0]]:
            wrong.append(f"{entry.place} imports {entry.target}")
    assert wrong == []


def test_every_module_has_its_packages() -> None:
    """Each part of the package is in the table, and the table names no part that has gone."""
    there = {path.stem if path.is_file() else path.name for path in SOURCE.iterdir() if path.suffix in (".py", "")}
    assert there - {"__pycache__"} == THIRD_PARTY.keys()


def test_few_modules_use_http() -> None:
    """The SDK's batches leave through the transport alone."""
    users = {e.module for e in IMPORTS if e.target == "http.client" and e.module.partition(".")[0] not in NOT_SDK}
    assert users == {"_delivery.connection", "_delivery.transport", "_local_server"}


def test_the_opentelemetry_sdk_is_not_imported() -> None:
    """Only the API: everycall makes its own spans and does not change the program's tracer provider."""
    assert [entry.place for entry in IMPORTS if entry.target.startswith("opentelemetry.sdk")] == []


@pytest.mark.parametrize(
    "folder", sorted(p for p in INTEGRATIONS.iterdir() if p.is_dir()), ids=lambda folder: folder.name
)
def test_an_integration_uses_the_public_seam(folder: Path) -> None:
    """An integration imports `everycall.integration`, names and errors; never a module that starts with `_`."""
    files = [p for p in folder.rglob("*.py") if "tests" not in p.parts and p.parent.name.startswith("everycall_")]
    assert files
    wrong = []
    for path in files:
        for entry in imports_of(path, path.stem, path.parent.name):
            if entry.package != "everycall":
                continue
            top = (entry.own or "").partition(".")[0]
            if top not in INTEGRATIONS_MAY:
                wrong.append(f"{entry.place} imports {entry.target}")
    assert wrong == []
