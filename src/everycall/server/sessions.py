"""Logins of browsers: one-time tokens for printed addresses, and signed cookies. `auth` and `login` use it.

A cookie names the key it came from by its digest and nothing else, so revoking the key ends the session, and nothing
about a session is stored. Changing the local key ends all of them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict

from everycall import limits

__all__ = ["COOKIE", "Sessions"]

COOKIE = "everycall_session"


class Sessions:
    """Makes and reads session cookies and login tokens. Safe to use from any thread."""

    def __init__(self, secret: str) -> None:
        self._key = hmac.digest(secret.encode(), b"everycall session 1", "sha256")
        self._tokens: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    def issue(self, digest: str) -> str:
        """Return a cookie's value for the holder of a key, good for `limits.SESSION_AGE_S`."""
        body = f"{digest}.{int(time.time() + limits.SESSION_AGE_S)}"
        return f"{body}.{self._sign(body)}"

    def read(self, value: str) -> str | None:
        """Return the digest of the key a cookie stands for; None when it is forged or too old."""
        body, _, signature = value.rpartition(".")
        if not body or not hmac.compare_digest(signature.encode("latin-1", "replace"), self._sign(body).encode()):
            return None
        digest, _, expires = body.rpartition(".")
        return digest if int(expires) > time.time() else None

    def token(self) -> str:
        """Return a fresh token that logs in once, within `limits.LOGIN_TOKEN_AGE_S`."""
        token = secrets.token_urlsafe(32)
        with self._lock:
            self._tokens[_digest(token)] = time.monotonic() + limits.LOGIN_TOKEN_AGE_S
            while len(self._tokens) > limits.LOGIN_TOKENS_MAX:
                self._tokens.popitem(last=False)
        return token

    def use(self, token: str) -> bool:
        """Return whether a token is good, and make it good no more."""
        with self._lock:
            expires = self._tokens.pop(_digest(token), None)
        return expires is not None and expires > time.monotonic()

    def _sign(self, body: str) -> str:
        mac = hmac.digest(self._key, body.encode("latin-1", "replace"), "sha256")
        return base64.urlsafe_b64encode(mac).decode().rstrip("=")


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
