"""Logins of browsers: one-time tokens for printed addresses, and signed cookies. `auth` and `login` use it.

A cookie names the key it came from by its digest, so revoking the key ends the session. A session that goes on is
stored nowhere; one that was ended by logging out is remembered until it would have ended by itself, so that a copy of
its cookie is worth nothing. Changing the local key ends all of them.
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
    """Makes and reads session cookies and login tokens. Safe to use from any thread."""

    def __init__(self, secret: str) -> None:
        self._key = hmac.digest(secret.encode(), b"everycall session 2", "sha256")
        self._tokens: OrderedDict[str, float] = OrderedDict()
        self._ended: dict[str, int] = {}
        self._lock = threading.Lock()

    def load(self, ended: Mapping[str, int]) -> None:
        """Take over the sessions that were ended before this process, as `end` gave them."""
        with self._lock:
            self._ended.update(ended)

    def issue(self, digest: str) -> str:
        """Return a cookie's value for the holder of a key, good for `limits.SESSION_AGE_S`."""
        body = f"{digest}.{int(time.time() + limits.SESSION_AGE_S)}.{secrets.token_urlsafe(12)}"
        return f"{body}.{self._sign(body)}"

    def read(self, value: str) -> str | None:
        """Return the digest of the key a cookie stands for; None when it is forged, too old or ended."""
        found = self._read(value)
        return None if found is None or _digest(value) in self._ended else found[0]

    def end(self, value: str) -> tuple[str, int] | None:
        """End a session; return what to remember: its name and the second when it would have ended by itself.

        None when the cookie stands for no session. What is returned tells nobody the cookie.
        """
        found = self._read(value)
        if found is None:
            return None
        name, now = _digest(value), int(time.time())
        with self._lock:
            self._ended = {one: expires for one, expires in self._ended.items() if expires > now}
            self._ended[name] = found[1]
        return name, found[1]

    def _read(self, value: str) -> tuple[str, int] | None:
        body, _, signature = value.rpartition(".")
        if not body or not hmac.compare_digest(signature.encode("latin-1", "replace"), self._sign(body).encode()):
            return None
        digest, expires, *_ = body.split(".")
        return (digest, int(expires)) if int(expires) > time.time() else None

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
