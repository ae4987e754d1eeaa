"""
Any proxy, for programs that were written for a `txtorcon.Tor`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IStreamClientEndpoint
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.iweb import IPolicyForHTTPS

from ..errors import CommandNotSupported
from . import endpoints
from .any_proxy import endpoint_through
from .endpoints import DEFAULT_TIMEOUT
from .methods import ClientMethods
from .proxied_reactor import methods_of
from .proxies import SOCKS5, AnyProxy, proxy_of
from .web import web_agent


class ProxiedTor:
    """
    A proxy with the methods that programs call on a `txtorcon.Tor` to connect and to resolve names.

    :param reactor: provides time.
    :param proxy: the endpoint of a SOCKS5 proxy, its endpoint string, or the URL of a proxy of any protocol.
    :param methods: see `SOCKS5ClientEndpoint`; by default no credentials but those of the URL, and extended reply
        codes.
    :param timeout: seconds until a target is connected; ``None`` for no deadline.
    :param isolation: keeps all that this object connects on circuits of its own.
    :param allow_cleartext: see `SOCKS5ClientEndpoint`.
    :raises ValueError: an argument is faulty.
    :raises TypeError: an argument is of a wrong type.
    """

    def __init__(
        self,
        reactor: Any,
        proxy: AnyProxy,
        methods: Mapping[str, Any] | ClientMethods | None = None,
        *,
        timeout: float | None = DEFAULT_TIMEOUT,
        isolation: bytes | str | None = None,
        allow_cleartext: bool = False,
    ) -> None:
        self._reactor = reactor
        self._given = proxy
        self._proxy = proxy_of(reactor, proxy)
        self._methods = methods_of(methods, isolation)
        self._options: dict[str, Any] = {"timeout": timeout, "allow_cleartext": allow_cleartext}
        # An endpoint checks all of it, which would be told too late by the first connection.
        self.stream_via("host.invalid", 80)

    def stream_via(
        self,
        host: str | bytes,
        port: int,
        tls: bool | IOpenSSLClientConnectionCreator = False,
        socks_endpoint: None = None,
    ) -> IStreamClientEndpoint:
        """
        Return an endpoint for a target.

        :param tls: whether to speak TLS with the target; or an `IOpenSSLClientConnectionCreator` to do it with.
        :param socks_endpoint: there is no other proxy to choose.
        :raises ValueError: the proxy's protocol cannot carry the target.
        """
        _refuse_choice(socks_endpoint)
        return endpoint_through(self._proxy, host, port, self._methods, tls=tls, reactor=self._reactor, **self._options)

    def web_agent(
        self,
        pool: HTTPConnectionPool | None = None,
        socks_endpoint: None = None,
        tls_context_factory: IPolicyForHTTPS | None = None,
    ) -> Agent:
        """
        Return an agent.

        :param pool: keeps connections; by default none is kept.
        :param tls_context_factory: decides how to speak TLS with a host; by default as browsers do.
        """
        _refuse_choice(socks_endpoint)
        return web_agent(
            self._reactor, self._given, self._methods, policy=tls_context_factory, pool=pool, **self._options
        )

    def dns_resolve(self, hostname: str | bytes) -> Deferred[str]:
        """Have the proxy resolve a name. Fails with `CommandNotSupported` unless that is tor, or like it."""
        return self._look_up(endpoints.resolve, hostname)

    def dns_resolve_ptr(self, ip: str | bytes) -> Deferred[str]:
        """Have the proxy find the name of an address; see `dns_resolve`."""
        return self._look_up(endpoints.resolve_ptr, ip)

    def _look_up(self, ask: Callable[..., Deferred[str]], host: str | bytes) -> Deferred[str]:
        if self._proxy.speaks != SOCKS5:
            return fail(CommandNotSupported())
        return maybeDeferred(ask, host, self._proxy, self._methods, reactor=self._reactor, **self._options)


def _refuse_choice(socks_endpoint: object) -> None:
    if socks_endpoint is not None:
        raise ValueError("socks_endpoint cannot be chosen here: everything goes through the one proxy")
