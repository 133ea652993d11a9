"""The cursor of a list: where the page before ended, signed, so that only cursors made here for this list are taken."""

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
_SEAL_BYTES = 12


class Cursors:
    """Makes and reads cursors with a secret that is the database's own, so that they outlive a restart."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def make(self, scope: object, time: int, number: int) -> str:
        """Return a cursor for the list that `scope` names (its kind, project and filters; any JSON value)."""
        position = _POSITION.pack(time, number)
        return base64.urlsafe_b64encode(position + self._seal(scope, position)).decode()

    def read(self, scope: object, cursor: str) -> tuple[int, int]:
        """Return the position. Raises `StoreError` for a cursor that was not made here for the same list."""
        try:
            body = base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True)
        except (UnicodeEncodeError, binascii.Error):
            body = b""
        position, seal = body[: _POSITION.size], body[_POSITION.size :]
        if len(position) != _POSITION.size or not hmac.compare_digest(seal, self._seal(scope, position)):
            raise StoreError(
                "This cursor does not belong to this list. "
                "Send the next_cursor of the previous page, with the same filters."
            )
        time, number = _POSITION.unpack(position)
        return time, number

    def _seal(self, scope: object, position: bytes) -> bytes:
        seal = hashlib.blake2b(position, key=self._secret, digest_size=_SEAL_BYTES)
        seal.update(msgspec.json.encode(scope))
        return seal.digest()
