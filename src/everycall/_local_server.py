"""Proof that the process on a loopback port is this user's server, before it is sent the local key or a record.

Any user of a machine may listen on a free port. So a client that would use the local key sends a random challenge
first, and the server answers with an HMAC of it, made with that key. This proves that it has the key, which is not
sent. The port is part of the signed text, so a program that listens on another port cannot pass on the real response.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
from urllib.parse import urlsplit

from everycall import limits

__all__ = ["PROOF_PATH", "UNPROVEN", "is_nonce", "is_proof", "nonce", "proof_of", "proves"]

PROOF_PATH = "/v1/proof"
UNPROVEN = (
    "the process that listens there did not prove that it is your own server. Start it with `everycall serve`, or set "
    "EVERYCALL_API_KEY to send to another one"
)
_PURPOSE = b"everycall: this server has the local key\n"


def nonce() -> str:
    """Return a new challenge: 64 hex digits."""
    return os.urandom(32).hex()


def is_nonce(text: str) -> bool:
    """Return whether a text has the form of a challenge."""
    return re.fullmatch("[0-9a-f]{64}", text) is not None


def proof_of(key: str, challenge: str, port: int) -> str:
    """Return a server's answer to a challenge that came in on its port: 64 hex digits."""
    return hmac.new(key.encode(), _PURPOSE + f"{port}\n{challenge}".encode(), hashlib.sha256).hexdigest()


def is_proof(answer: bytes, key: str, challenge: str, port: int) -> bool:
    """Return whether the body of a response is the proof for a challenge."""
    try:
        proof = str(json.loads(answer)["proof"])
    except (ValueError, KeyError, TypeError):
        return False
    return hmac.compare_digest(proof.encode(), proof_of(key, challenge, port).encode())


def proves(endpoint: str, key: str | None) -> bool:
    """Request a server's proof, on a separate connection. Raise `OSError` if nothing answers there."""
    import http.client

    parts = urlsplit(endpoint)
    if key is None or parts.hostname is None:
        return False
    port = parts.port or 80
    challenge = nonce()
    connection = http.client.HTTPConnection(parts.hostname, port, timeout=limits.CONNECT_TIMEOUT_S)
    try:
        connection.request("GET", f"{parts.path.rstrip('/')}{PROOF_PATH}?nonce={challenge}")
        response = connection.getresponse()
        return response.status == 200 and is_proof(response.read(limits.ANSWER_BYTES_MAX), key, challenge, port)
    except http.client.HTTPException:
        return False
    finally:
        connection.close()
