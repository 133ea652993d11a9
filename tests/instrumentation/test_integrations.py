"""Integrations by name: `everycall.instrument("openai")` switches installed ones on, real libraries and all."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from types import FunctionType
from typing import Any

import openai
import pytest

import everycall
from everycall.errors import ConfigurationError
from everycall.testing import capture_records


@pytest.fixture(autouse=True)
def uninstrument_after_test() -> Any:
    yield
    everycall.uninstrument()


def ask(provider: Any) -> None:
    client = openai.OpenAI(api_key="k", base_url=provider.base_url)
    client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "hi"}])


def test_a_named_integration_records_until_uninstrument(provider: Any) -> None:
    with capture_records() as records:
        assert everycall.instrument("openai", trace_name="named", tags=["a"]) == ("openai",)
        ask(provider)
        everycall.uninstrument("openai")
        ask(provider)
    assert [(record.scope, record.trace_name, record.tags) for record in records] == [
        ("everycall_openai", "named", ["a"])
    ]


@pytest.mark.slow
def test_without_names_all_installed_integrations_are_enabled(provider: Any) -> None:
    with capture_records() as records:
        assert everycall.instrument() == ("anthropic", "google", "langchain", "openai")
        ask(provider)
        everycall.uninstrument()
        ask(provider)
    assert len(records) == 1


def test_a_second_call_replaces_the_labels_and_records_once(provider: Any) -> None:
    with capture_records() as records:
        everycall.instrument("openai", session_id="first")
        everycall.instrument("openai", session_id="second")
        ask(provider)
    assert [record.session_id for record in records] == ["second"]


def test_the_error_for_an_unknown_name_lists_the_integrations(provider: Any) -> None:
    with (
        capture_records() as records,
        pytest.raises(ConfigurationError, match=r"no integration 'nope'.*anthropic, google, langchain, openai.*pip"),
    ):
        everycall.instrument("openai", "nope")
    with capture_records() as records:
        ask(provider)
    assert list(records) == []


def test_an_unknown_label_raises() -> None:
    with pytest.raises(TypeError, match="sesion_id"):
        everycall.instrument("openai", sesion_id="s")  # type: ignore[call-arg]


@pytest.mark.process
def test_a_library_that_is_not_installed(tmp_path: Path) -> None:
    """By name it is an error with the reason; among all, it is skipped with a warning."""
    (tmp_path / "openai.py").write_text("raise ImportError('openai is broken here')")
    code = """
import everycall, logging
logging.basicConfig(format="%(message)s")
on = everycall.instrument()
assert "openai" not in on and "langchain" in on, on
try:
    everycall.instrument("openai")
except everycall.errors.ConfigurationError as error:
    print(error)
"""
    completed = subprocess.run(
        [sys.executable, "-c", "import sys; sys.path.insert(0, sys.argv[1])\nimport everycall.errors" + code, tmp_path],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "the integration 'openai' cannot be imported: openai is broken here" in completed.stdout
    assert "the integration openai cannot be imported: openai is broken here" in completed.stderr


def test_instrument_is_a_function_and_integration_a_module(caplog: pytest.LogCaptureFixture) -> None:
    """`everycall.integration` is what integrations import from; `everycall.instrument` is a plain function."""
    from everycall.integration import start_call

    assert everycall.integration.start_call is start_call
    with caplog.at_level(logging.WARNING):
        assert isinstance(everycall.instrument, FunctionType)
    assert not caplog.records
