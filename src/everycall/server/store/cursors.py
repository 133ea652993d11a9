"""Cursors of lists: the position where a page ended, signed so that a list accepts only its own cursors."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct

import msgspec

from everycall.server.store.errors import StoreError

__all__ = ["Cursors"]

_POSITION = struct.Struct(">qq")
_SIGNATURE_BYTES = 12


class Cursors:
    """Makes and reads cursors. The secret is stored in the database, so cursors stay valid after a restart."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def make(self, scope: object, time: int, number: int) -> str:
        """Return a cursor for a list. `scope` identifies the list: its kind, project and filters, as any JSON value."""
        position = _POSITION.pack(time, number)
        return base64.urlsafe_b64encode(position + self._signature(scope, position)).decode()

    def read(self, scope: object, cursor: str) -> tuple[int, int]:
        """Return the position in a cursor. Raise `StoreError` if it was not made here for the same list."""
        try:
            body = base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True)
        except (UnicodeEncodeError, binascii.Error):
            body = b""
        position, signature = body[: _POSITION.size], body[_POSITION.size :]
        if len(position) != _POSITION.size or not hmac.compare_digest(signature, self._signature(scope, position)):
            raise StoreError(
                "This cursor does not belong to this list. "
                "Send the next_cursor of the previous page, with the same filters."
            )
        time, number = _POSITION.unpack(position)
        return time, number

    def _signature(self, scope: object, position: bytes) -> bytes:
        signature = hashlib.blake2b(position, key=self._secret, digest_size=_SIGNATURE_BYTES)
        signature.update(msgspec.json.encode(scope))
        return signature.digest()
