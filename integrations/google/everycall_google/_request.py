"""One request to Gemini's API or Vertex AI. Started by the wrapped clients."""

from __future__ import annotations

from typing import Any, Final

from everycall.integration import (
    OMIT_INPUTS,
    Arguments,
    Fields,
    Keywords,
    ModelRequest,
    Options,
    OwnedCall,
    StreamRecorder,
    framework_call,
    get_member,
    report,
    wrap_iterator,
)
from everycall.semconv import SERVICE_TIER
from everycall_google._endpoints import EndpointRequest, parse_request
from everycall_google._responses import body_of

__all__ = ["SCOPE", "GoogleRequest", "start"]

SCOPE: Final = "everycall_google"
_PARAMETERS: Final = ("http_method", "path", "request_dict")


class GoogleRequest(ModelRequest):
    """One request that the library sends. One call of the user's may need several of them."""

    __slots__ = ("_request", "_stream")

    framework_attributes = (SERVICE_TIER,)

    def __init__(self, provider: str, request: EndpointRequest, options: Options, framework: OwnedCall | None) -> None:
        self._request = request
        self._stream: Any = None
        super().__init__(SCOPE, request.name, request.endpoint.kind, options, provider, framework)

    def describe(self) -> None:
        """Record the request."""
        fields = {} if self.call.omit & OMIT_INPUTS else self._request.fields(self.provider)
        self.call.set_fields(model=self._request.model, provider=self.provider, **fields)

    def read_response(self, response: object) -> Fields | None:
        """Return the fields of a complete response; record a generator of chunks as it is read."""
        accumulator = self._request.endpoint.accumulator
        if accumulator is not None and (hasattr(response, "__next__") or hasattr(response, "__anext__")):
            recorder = StreamRecorder(self, accumulator(self.captures_output))
            self._stream = wrap_iterator(response, recorder)
            return None
        return self._request.endpoint.read_response(body_of(response))

    def replace_response(self, response: object) -> Any:
        """Return what the library's own generators read in place of the chunks."""
        stream, self._stream = self._stream, None  # kept here, it would be a reference cycle
        return response if stream is None else stream

    def error_attributes(self, error: BaseException) -> Fields:
        """Return the status, as a number and as Google's name."""
        return {
            "http.response.status_code": get_member(error, "code"),
            "google.error.status": get_member(error, "status"),
        }


def start(
    api_client: object, _method: str, args: Arguments, kwargs: Keywords, options: Options
) -> GoogleRequest | None:
    """Start the recording of a request; returns None for one that is not recorded here.

    Never raises: a request that cannot be described is sent all the same.
    """
    model_request = None
    try:
        arguments = (args[index] if len(args) > index else kwargs.get(name) for index, name in enumerate(_PARAMETERS))
        request = parse_request(*arguments)
        if request is None:
            return None
        framework = framework_call(SCOPE, request.endpoint.kind)
        provider = "gcp.vertex_ai" if getattr(api_client, "vertexai", False) else "gcp.gemini"
        model_request = GoogleRequest(provider, request, options, framework)
        if model_request.is_recorded and framework is None:
            model_request.describe()
    except Exception as error:  # noqa: BLE001 - the guard
        report("a client's request", error)
    return model_request
