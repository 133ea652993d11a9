"""Browser sessions: one-time tokens for printed login URLs, and signed cookies. `auth` and `login` use it.

A cookie contains the digest of the key that logged in, so revoking the key ends the session. Active sessions are not
stored. A session ended by logging out is remembered until it would have expired, so a copy of its cookie is useless.
A new local key ends all sessions.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping

from everycall import limits

__all__ = ["COOKIE", "Sessions"]

COOKIE = "everycall_session"


class Sessions:
    """Issues and verifies session cookies and login tokens. Thread-safe."""

    def __init__(self, secret: str) -> None:
        self._key = hmac.digest(secret.encode(), b"everycall session 2", "sha256")
        self._tokens: OrderedDict[str, float] = OrderedDict()
        self._ended: dict[str, int] = {}
        self._lock = threading.Lock()

    def load(self, ended: Mapping[str, int]) -> None:
        """Add the sessions that were ended before this process started, as `end` returned them."""
        with self._lock:
            self._ended.update(ended)

    def issue(self, digest: str) -> str:
        """Return a cookie value for the key with this digest, valid for `limits.SESSION_AGE_S`."""
        body = f"{digest}.{int(time.time() + limits.SESSION_AGE_S)}.{secrets.token_urlsafe(12)}"
        return f"{body}.{self._sign(body)}"

    def read(self, value: str) -> str | None:
        """Return the digest of the key a cookie was issued for; None if it is forged, expired or ended."""
        session = self._read(value)
        return None if session is None or _digest(value) in self._ended else session[0]

    def end(self, value: str) -> tuple[str, int] | None:
        """End a session. Return what to store: its name, and the second since 1970 at which it would have expired.

        Return None if the cookie is not valid. The name is a digest: it does not reveal the cookie.
        """
        session = self._read(value)
        if session is None:
            return None
        name, now = _digest(value), int(time.time())
        with self._lock:
            self._ended = {one: expires for one, expires in self._ended.items() if expires > now}
            self._ended[name] = session[1]
        return name, session[1]

    def _read(self, value: str) -> tuple[str, int] | None:
        body, _, signature = value.rpartition(".")
        if not body or not hmac.compare_digest(signature.encode("latin-1", "replace"), self._sign(body).encode()):
            return None
        digest, expires, *_ = body.split(".")
        return (digest, int(expires)) if int(expires) > time.time() else None

    def token(self) -> str:
        """Return a new token that logs in once, within `limits.LOGIN_TOKEN_AGE_S`."""
        token = secrets.token_urlsafe(32)
        with self._lock:
            self._tokens[_digest(token)] = time.monotonic() + limits.LOGIN_TOKEN_AGE_S
            while len(self._tokens) > limits.LOGIN_TOKENS_MAX:
                self._tokens.popitem(last=False)
        return token

    def use(self, token: str) -> bool:
        """Return whether a token is valid, and invalidate it."""
        with self._lock:
            expires = self._tokens.pop(_digest(token), None)
        return expires is not None and expires > time.monotonic()

    def _sign(self, body: str) -> str:
        mac = hmac.digest(self._key, body.encode("latin-1", "replace"), "sha256")
        return base64.urlsafe_b64encode(mac).decode().rstrip("=")


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
