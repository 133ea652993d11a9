"""What the format of each provider's API offers to `providers.py`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

from everycall.server.gateway.provider_request import ProviderRequest
from everycall.server.gateway.provider_response import ProviderError, ProviderResponse
from everycall.server.problems import ProblemError, problem

__all__ = ["ApiFormat", "StreamParser", "check_members", "refused"]


class StreamParser(Protocol):
    """Puts the events of one streamed response together."""

    finished: bool
    """Whether the provider has said that the response is complete."""
    has_begun: bool
    """Whether something of a response has arrived."""

    def feed(self, data: bytes) -> str:
        """Read one event and return the text it adds. Raise `ProviderError` if it reports one."""
        ...

    def end(self) -> str:
        """Return text that was held back, after the last event."""
        ...

    def response(self) -> ProviderResponse:
        """Return the response as far as it has arrived. Counts that were not reported are None."""
        ...


class ApiFormat(Protocol):
    """How to speak to one configured provider."""

    def url(self, request: ProviderRequest) -> str:
        """Return the address that the request is sent to."""
        ...

    def headers(self, api_key: str | None) -> Mapping[str, str]:
        """Return the headers beside those of HTTP itself."""
        ...

    def body(self, request: ProviderRequest, *, stream: bool) -> dict[str, Any]:
        """Return the body to send. Raise `ProblemError` 422 for what this provider cannot be asked."""
        ...

    def adapt(self, request: ProviderRequest, body: Mapping[str, Any], error: ProviderError) -> bool:
        """Learn from a refusal. Return whether `body` is now another one, which is worth sending."""
        ...

    def response(self, body: Mapping[str, Any], request: ProviderRequest) -> ProviderResponse:
        """Read a response. Raise `ProviderError` if it is not one, or reports an error."""
        ...

    def stream_parser(self, request: ProviderRequest) -> StreamParser:
        """Return a parser for one streamed response."""
        ...


def refused(field: str, title: str, detail: str, code: str = "unsupported_parameter") -> ProblemError:
    """Return the 422 to raise for a part of a request that a provider cannot take; `field` is its place."""
    return problem(code, 422, title, detail, field=field)


def check_members(value: Mapping[str, Any], known: Collection[str], place: str) -> None:
    """Raise `ProblemError` 422 for a member that would be lost on the way, unless it is null or empty."""
    for name, member in value.items():
        if name not in known and member not in (None, [], {}, ""):
            allowed = ", ".join(sorted(known))
            raise refused(f"{place}.{name[:64]}", "An unknown member", f"{place} may have {allowed}.")
