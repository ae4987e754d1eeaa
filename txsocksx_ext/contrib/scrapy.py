"""
Scrapy through SOCKS and HTTP proxies: the download handler for ``request.meta["proxy"]``.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Hashable
from copy import copy
from dataclasses import replace
from typing import Any

from scrapy import Request
from scrapy.core.downloader.handlers.http11 import HTTP11DownloadHandler
from scrapy.http import Response
from scrapy.utils.url import add_http_if_no_scheme
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.web.client import URI, HTTPConnectionPool

from ..client.proxied_reactor import UNASSUMING
from ..client.proxies import HTTP, Proxy, proxy_of
from ..client.web import AgentEndpoints, PoolOfIdentity, SOCKS5AgentEndpointFactory
from ..protocol.messages import UsernamePassword


class ProxyDownloadHandler(HTTP11DownloadHandler):
    """
    Scrapy's handler for http and https, which takes proxies of every protocol in ``request.meta["proxy"]``.

    Connections are used again only for the same proxy and login. Pages by http through an HTTP proxy are requested
    from the proxy, as scrapy does itself; everything else goes through a tunnel.

    :raises ValueError: by `download_request`: the proxy's URL is malformed, or its protocol cannot carry the login.
    """

    async def download_request(self, request: Request) -> Response:
        """See `scrapy.core.downloader.handlers.DownloadHandlerProtocol`."""
        url = request.meta.get("proxy")
        if not url:
            return await super().download_request(request)
        from twisted.internet import reactor

        url = add_http_if_no_scheme(url)
        proxy = proxy_of(reactor, url)
        if proxy.speaks == HTTP and not request.url.startswith("https:"):
            return await super().download_request(request)
        login = request.headers.get("Proxy-Authorization")
        endpoints = SOCKS5AgentEndpointFactory(
            reactor,
            _with_login(proxy, login),
            UNASSUMING,
            policy=self._contextFactory,
            allow_cleartext=self._crawler.settings.getbool("SOCKS5EXT_ALLOW_CLEARTEXT"),
        )
        through = copy(self)
        through._pool = _ProxiedPool(self._pool, (url, login), endpoints)
        # Scrapy must not see them: it would talk HTTP to the proxy, and send the login to the target.
        kept = request.meta["proxy"], request.headers.getlist("Proxy-Authorization")
        request.meta["proxy"] = None
        request.headers.pop("Proxy-Authorization", None)
        try:
            return await super(ProxyDownloadHandler, through).download_request(request)
        finally:
            request.meta["proxy"] = kept[0]
            if kept[1]:
                request.headers.setlist("Proxy-Authorization", kept[1])


def _with_login(proxy: Proxy, authorization: bytes | None) -> Proxy:
    """Return a proxy with the login that scrapy's HttpProxyMiddleware has moved from its URL to a header."""
    if authorization is None:
        return proxy
    username, _, password = b64decode(authorization.partition(b" ")[2]).partition(b":")
    return replace(proxy, login=UsernamePassword(username, password))


class _ProxiedPool(PoolOfIdentity):
    """A pool whose new connections go through a proxy, although the agent asks for direct ones."""

    def __init__(self, pool: HTTPConnectionPool, identity: Hashable, endpoints: AgentEndpoints) -> None:
        super().__init__(pool, identity)
        self._endpoints = endpoints

    def getConnection(self, key: Any, endpoint: IStreamClientEndpoint) -> Deferred[Any]:
        """See `HTTPConnectionPool`. The key of an `Agent` begins with the scheme, the host and the port."""
        scheme, host, port = key[:3]
        through = self._endpoints.endpointForURI(URI(scheme, b"", host, port, b"", b"", b"", b""))
        return super().getConnection(key, through)
