"""The extras that commands need, checked before their modules are imported."""

from __future__ import annotations

from importlib.util import find_spec

from everycall.cli.errors import CommandFailed

__all__ = ["EXTRAS", "require"]

EXTRAS = {
    "server": ("anthropic", "genai_prices", "jinja2", "litestar", "openai", "uvicorn", "zstandard"),
    "deploy": ("yaml",),
    "langchain": ("everycall_langchain", "langchain_core"),
}
"""The modules that each extra installs, as in the package's metadata."""


def require(command: str, *extras: str) -> None:
    """Raise `CommandFailed` with the `pip install` to run if a module of these extras is missing."""
    missing = {extra: [m for m in EXTRAS[extra] if find_spec(m) is None] for extra in extras}
    modules = [module for names in missing.values() for module in names]
    if modules:
        raise CommandFailed(
            f"`everycall {command}` needs {', '.join(modules)}, not installed here. "
            f'Install them with: pip install "everycall[{",".join(extra for extra in extras if missing[extra])}]"'
        )
