"""One request to Gemini's API or Vertex AI, and its answer. Begun by the wrapped clients."""

from __future__ import annotations

from typing import Any, Final

from everycall.integration import (
    OMIT_INPUTS,
    Call,
    Exchange,
    Options,
    Reading,
    follow,
    read,
    recorded_by_framework,
    report,
)
from everycall.semconv import SERVICE_TIER
from everycall_google._endpoints import Request, request_of
from everycall_google._responses import body_of

__all__ = ["SCOPE", "GoogleExchange", "begin"]

SCOPE: Final = "everycall_google"
_NAMES: Final = ("http_method", "path", "request_dict")


class GoogleExchange(Exchange):
    """One request under way: one that the library sends, of which one call of a user's may need several."""

    __slots__ = ("_followed", "_request")

    adds = (SERVICE_TIER,)

    def __init__(self, provider: str, request: Request, options: Options, framework: Call | None) -> None:
        self._request = request
        self._followed: Any = None
        super().__init__(SCOPE, request.name, request.endpoint.kind, options, provider, framework)

    def describe(self) -> None:
        """Record the request."""
        fields = {} if self.call.omit & OMIT_INPUTS else self._request.fields(self.provider)
        self.call.update(model=self._request.model, provider=self.provider, **fields)

    def answered(self, answer: Any) -> dict[str, Any] | None:
        """Read an answer that is whole; follow one that is a generator of pieces."""
        gathers = self._request.endpoint.gathers
        if gathers is not None and (hasattr(answer, "__next__") or hasattr(answer, "__anext__")):
            self._followed = follow(answer, Reading(self, gathers(self.keeps_outputs)))
            return None
        return self._request.endpoint.answers(body_of(answer))

    def handed(self, answer: Any) -> Any:
        """Return what the library's own generators read in the place of the pieces."""
        followed, self._followed = self._followed, None  # held here, it would hold itself
        return answer if followed is None else followed

    def about(self, error: BaseException) -> dict[str, Any]:
        """Return the status, as a number and as Google's name of it."""
        return {"http.response.status_code": read(error, "code"), "google.error.status": read(error, "status")}


def begin(
    api: Any, _method: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: Options
) -> GoogleExchange | None:
    """Begin the exchange of a request; None for one that is not to a model, or is recorded as a framework's.

    Never raises: a request that cannot be described goes out all the same.
    """
    exchange = None
    try:
        request = request_of(*(args[at] if len(args) > at else kwargs.get(name) for at, name in enumerate(_NAMES)))
        if request is None:
            return None
        framework = recorded_by_framework(SCOPE, request.endpoint.kind)
        provider = "gcp.vertex_ai" if getattr(api, "vertexai", False) else "gcp.gemini"
        exchange = GoogleExchange(provider, request, options, framework)
        if exchange.records and framework is None:
            exchange.describe()
    except Exception as error:  # noqa: BLE001 - the guard
        report("google request", error)
    return exchange
