"""What a browser's form sends, read under bounds. Called by the pages' routes.

`auth.Guard` makes sure that a form comes from a page of this server, as for every request that changes something: by
`Sec-Fetch-Site`, `Origin`, and a session cookie that browsers send from this server's pages alone.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

import msgspec

from everycall import limits
from everycall.server.api.http import ApiRequest
from everycall.server.problems import bad_request
from everycall.server.request_bodies import Bodies

__all__ = ["FieldError", "Form", "read_form"]

_FIELDS_MAX = 1_000


class FieldError(Exception):
    """A field of a form is not valid: `field` is its name, `detail` says what it must be."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(detail)
        self.field = field
        self.detail = detail


class Form:
    """The fields of a form, by name. Line ends are one character, as in the text that was shown."""

    def __init__(self, fields: dict[str, str]) -> None:
        self.fields = fields

    def text(self, name: str, default: str = "") -> str:
        """Return a field as it was written."""
        return self.fields.get(name, default)

    def line(self, name: str) -> str:
        """Return a field without spaces around it."""
        return self.text(name).strip()

    def number(self, name: str, *, whole: bool = False) -> float | int | None:
        """Return a number, or None for an empty field. Raise `FieldError`."""
        text = self.line(name)
        if not text:
            return None
        try:
            return int(text) if whole else float(text)
        except ValueError:
            raise FieldError(name, f"must be a {'whole ' if whole else ''}number, or empty") from None

    def json(self, name: str) -> Any:
        """Return the decoded JSON of a field, or None for an empty field. Raise `FieldError`."""
        text = self.line(name)
        if not text:
            return None
        try:
            return msgspec.json.decode(text)
        except (ValueError, RecursionError) as error:
            raise FieldError(name, f"must be JSON, or empty: {error}") from None

    def version(self, name: str) -> int | None:
        """Return the number of a version, or None when the form has none. Raise 400."""
        text = self.line(name)
        if not text:
            return None
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise bad_request(f"{name} must be the number of a version.", field=name)
        return int(text)


async def read_form(request: ApiRequest, bodies: Bodies) -> Form:
    """Return the form in the body. Raise 400, or 413 beyond `limits.FORM_BYTES_MAX`."""
    async with bodies.body(request.scope, request.receive, limits.FORM_BYTES_MAX) as data:
        try:
            fields = parse_qs(
                data.decode("latin-1"), keep_blank_values=True, max_num_fields=_FIELDS_MAX, errors="replace"
            )
        except ValueError as error:
            raise bad_request(f"The form has more than {_FIELDS_MAX:,} fields.") from error
    return Form({name: values[-1].replace("\r\n", "\n") for name, values in fields.items()})
