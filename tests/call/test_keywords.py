"""What users type: a misspelt keyword is refused by name, and `current()` is always a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import everycall
from everycall.testing import capture_records


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: everycall.trace(log_omit_input=True), r"trace\(\).*'log_omit_input'. Did you mean 'log_omit_inputs'"),  # type: ignore[call-overload]
        (lambda: everycall.span("x", input=1), r"span\(\).*'input'. Did you mean 'inputs'"),  # type: ignore[call-arg]
        (lambda: everycall.context(sesion_id="s"), r"context\(\).*'sesion_id'. Did you mean 'session_id'"),  # type: ignore[call-arg]
        (lambda: everycall.current().update(input_token=1), r"update\(\).*'input_token'. Did you mean 'input_tokens'"),  # type: ignore[call-arg]
        (lambda: everycall.current().update(qqq=1), r"update\(\).*'qqq'; use set_attribute\(\)"),  # type: ignore[call-arg]
    ],
)
def test_the_error_for_a_misspelt_keyword_names_the_nearest(use: Callable[[], Any], message: str) -> None:
    """Outside a call and inside one alike."""
    with pytest.raises(TypeError, match=message):
        use()
    with capture_records(), everycall.span("block"), pytest.raises(TypeError, match=message):
        use()


def test_records_with_long_labels_are_kept() -> None:
    with capture_records() as records:
        with everycall.span("block", session_id="s" * 100_000, tags=None, metadata=None):
            pass
    assert len(records) == 1


def test_outside_a_call_the_current_call_records_nothing() -> None:
    with capture_records() as records:
        call = everycall.current()
        call.update(output="lost", tags=["t"])
        call.set_attribute("a", 1)
        call.record_exception(ValueError("x"))
        call.end()
        assert isinstance(call, everycall.Call)
        assert not call.is_recording()
        assert (call.trace_id, call.inference_id, call.parent_id, call.url) == ("", "", None, "")
    assert records == []


def test_a_call_has_few_public_names() -> None:
    """Ids, `url`, `update` and OpenTelemetry's methods; what integrations need is on the seam's class alone."""
    own = {name for name in vars(everycall.Call) | everycall.Call.__annotations__ if not name.startswith("_")}
    assert own == {
        "name", "kind", "trace_id", "trace_name", "inference_id", "parent_id", "end_user_identifier", "session_id",
        "url", "update",
    }  # fmt: skip
