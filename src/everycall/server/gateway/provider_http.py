"""HTTP to one provider. Used by `providers.py`.

Every failure is a `ProviderError`. No redirect is followed: a provider that is configured by its address would hand the
prompt, and perhaps the key, to any other address. Proxies are those of the environment, except to this machine.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx

from everycall import limits
from everycall.server.gateway.provider_errors import no_connection, timed_out
from everycall.server.gateway.provider_response import ProviderError
from everycall.server.provider_settings import ProviderSettings, on_loopback

__all__ = ["HttpResponse", "ProviderConnection"]

_HEADERS = {
    "Accept": "application/json",
    "Content-Type": "application/json",
    "User-Agent": f"everycall/{version('everycall')}",
}
_READ_BYTES = 64 * limits.KIB


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A whole response."""

    status: int
    headers: Mapping[str, str]
    data: bytes


class StreamedResponse:
    """A response whose body is read as it arrives."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    async def read(self) -> bytes:
        """Return the whole body. Raise `ProviderError`."""
        with _Failures():
            return await _read(self._response)

    async def chunks(self) -> AsyncGenerator[bytes]:
        """Yield the body as it arrives. Raise `ProviderError`."""
        with _Failures():
            async for chunk in self._response.content.iter_any():
                yield chunk


class ProviderConnection:
    """The connections to one provider, reused between requests. For one event loop."""

    def __init__(self, settings: ProviderSettings) -> None:
        """Raise `ValueError` for a proxy that cannot be used."""
        self._timeout = aiohttp.ClientTimeout(
            total=None, connect=settings.timeout_s, sock_connect=settings.timeout_s, sock_read=settings.timeout_s
        )
        self._proxy = _proxy(settings.base_url)
        self._tls = None if (settings.base_url or "").startswith("http://") else httpx.create_ssl_context()
        self._session: aiohttp.ClientSession | None = None

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> HttpResponse:
        """Send one request and return its response, whatever its status. Raise `ProviderError`."""
        with _Failures():
            async with self._open(url, headers, body) as response:
                return HttpResponse(response.status, response.headers, await _read(response))

    @asynccontextmanager
    async def stream(self, url: str, headers: Mapping[str, str], body: bytes) -> AsyncIterator[StreamedResponse]:
        """Send one request and give its response. A body that was not read to its end closes the connection."""
        with _Failures():
            opening = self._open(url, headers, body)
            response = await opening.__aenter__()
        try:
            yield StreamedResponse(response)
        finally:
            if not response.content.at_eof():
                response.close()
            response.release()

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self, url: str, headers: Mapping[str, str], body: bytes) -> aiohttp.client._RequestContextManager:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=limits.PROVIDER_CONNECTIONS_MAX, ssl=self._tls or True)
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=_HEADERS,
                timeout=self._timeout,
                trust_env=False,  # the proxy is chosen here, and no key is read from ~/.netrc
            )
        return self._session.post(url, headers=headers, data=body, allow_redirects=False, proxy=self._proxy)


class _Failures:
    """Turns the exceptions of the HTTP package into `ProviderError`s."""

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, TimeoutError):
            raise timed_out() from None
        if isinstance(error, aiohttp.ClientError | OSError | ssl.SSLError):
            raise no_connection() from None


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Return a body. Raise `ProviderError` above `limits.PROVIDER_BODY_BYTES_MAX`, once unpacked."""
    length = response.content_length
    if length is not None and length <= limits.PROVIDER_BODY_BYTES_MAX and "Content-Encoding" not in response.headers:
        return await response.read()
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > limits.PROVIDER_BODY_BYTES_MAX:
            response.close()
            detail = f"the answer has more than {limits.PROVIDER_BODY_BYTES_MAX} bytes"
            raise ProviderError("InvalidAnswer", None, detail)
        chunks.append(chunk)
    return b"".join(chunks)


def _proxy(base_url: str | None) -> str | None:
    """Return the proxy of the environment for this address. Raise `ValueError` for a kind that is not supported."""
    if on_loopback(base_url):
        return None
    parts = urlsplit(base_url or "https://")
    if proxy_bypass(parts.netloc):
        return None
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy and "://" not in proxy:
        proxy = f"http://{proxy}"
    if proxy and urlsplit(proxy).scheme not in ("http", "https"):
        raise ValueError(f"a proxy of kind {urlsplit(proxy).scheme} is not supported; use http")
    return proxy
