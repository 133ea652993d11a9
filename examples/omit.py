"""What is not logged: by a call, by everything below a call, and by a mask."""

from typing import Any

import everycall
from everycall import context, span, trace


def mask(field: str, value: Any) -> Any:
    """Replace what looks like a card number, wherever it is in a text."""
    if isinstance(value, str):
        return value.replace("4111 1111 1111 1111", "[card]")
    if isinstance(value, dict):
        return {name: mask(field, part) for name, part in value.items()}
    if isinstance(value, list):
        return [mask(field, part) for part in value]
    return value


everycall.init(mask=mask)


@trace(log_omit_inputs=True)
def check_password(password: str) -> str:
    return "long enough" if len(password) > 12 else "too short"


@trace(log_omit_outputs=True)
def make_token() -> str:
    return "a secret that is not logged"


@trace(log_omit=True)
def not_logged_at_all() -> str:
    return "no record of this"


@trace
def pay(card: str) -> str:
    return f"paid with {card}"


print(check_password("correct horse battery staple"))
print(make_token())
print(not_logged_at_all())
print(pay("4111 1111 1111 1111"))

with context(trace_name="private", log_omit_outputs=True), span("outer") as outer:
    outer.update(output="not logged, for the flag is inherited")

print(everycall.flush())
