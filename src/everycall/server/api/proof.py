"""`/v1/proof`: the server proves to programs of its user that it has the local key. Needs no key."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import get
from litestar.di import NamedDependency
from msgspec import Meta

from everycall._local_server import PROOF_PATH, is_nonce, proof_of
from everycall.server.api.http import ApiRequest
from everycall.server.api.openapi import operation, query_parameter
from everycall.server.problems import bad_request
from everycall.server.services import Services

__all__ = ["handlers"]

PARAMETERS = [query_parameter("nonce", "The challenge: 64 hex digits, lower case, chosen at random.")]
PROBLEMS = {400: "The challenge does not have that form."}


class Proof(msgspec.Struct):
    """The answer to a challenge."""

    proof: Annotated[str, Meta(description="HMAC-SHA256 of the port and the challenge with the local key, in hex.")]


@get(PROOF_PATH, operation_class=operation(response=Proof, parameters=PARAMETERS, problems=PROBLEMS))
async def prove(request: ApiRequest, services: NamedDependency[Services]) -> Proof:
    """Prove that this server has the local key, without sending it. Needs no key.

    Clients on the same machine ask before they send that key: any user may listen on a port of loopback.
    """
    challenge = request.query_params.get("nonce", "")
    if not is_nonce(challenge):
        raise bad_request("Send `nonce`: 64 hex digits, lower case, chosen at random.")
    server = request.scope.get("server")
    port = (server[1] if server is not None else None) or 0
    return Proof(proof_of(services.access.local_secret, challenge, port))


handlers = [prove]
