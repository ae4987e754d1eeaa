"""
Agents for `twisted.web.client` and treq that reach everything through a proxy.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.web.client import URI, Agent, HTTPConnectionPool
from twisted.web.error import SchemeNotSupported
from twisted.web.iweb import IAgentEndpointFactory, IPolicyForHTTPS
from zope.interface import implementer

from ..checks import check_method
from ..protocol.messages import Address
from .any_proxy import endpoint_through
from .endpoints import ANONYMOUS, DEFAULT_TIMEOUT, target_address
from .methods import ClientMethods
from .proxies import AnyProxy, proxy_of
from .tls import checked_creator, creator_for_host


@implementer(IAgentEndpointFactory)
class AgentEndpoints:
    """
    Makes the endpoint for each URI of an `Agent`. No name is resolved on this machine.

    :param endpoint: returns the endpoint for a target, and for what speaks TLS with it, if anything does.
    :param policy: decides how to speak TLS with a host.
    :param identity: the proxy, and who we are to it: agents of equal ones may use each other's connections.
    """

    def __init__(
        self,
        endpoint: Callable[[Address, IOpenSSLClientConnectionCreator | None], IStreamClientEndpoint],
        policy: IPolicyForHTTPS,
        identity: Hashable,
    ) -> None:
        self._endpoint = endpoint
        self._policy = policy
        self._identity = identity

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """
        See `twisted.web.iweb.IAgentEndpointFactory`.

        :returns: an endpoint; if the proxy's protocol cannot carry the host or the port, or
            TLS cannot verify the host, one that fails with the exception that says so.
        :raises SchemeNotSupported: it is neither http nor https.
        """
        try:
            return self._endpoint(*target_and_tls(uri, self._policy))
        except (TypeError, ValueError) as error:
            return FaultyEndpoint(error)

    def agent(self, reactor: Any, pool: HTTPConnectionPool | None) -> Agent:
        """
        Return an agent with these endpoints.

        :param pool: keeps connections; by default none is kept. Agents may share one.
        """
        own_part: Any = None if pool is None else PoolOfIdentity(pool, self._identity)
        agent: Agent = Agent.usingEndpointFactory(reactor, self, own_part)
        return agent


class PoolOfIdentity:
    """A pool as one identity sees it: an `Agent` tells it only the scheme, the host and the port."""

    def __init__(self, pool: HTTPConnectionPool, identity: Hashable) -> None:
        self._pool = pool
        self._identity = identity

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def getConnection(self, key: Hashable, endpoint: IStreamClientEndpoint) -> Deferred[Any]:
        """See `HTTPConnectionPool`."""
        connection: Deferred[Any] = self._pool.getConnection((self._identity, key), endpoint)
        return connection


class SOCKS5AgentEndpointFactory(AgentEndpoints):
    """
    Makes the endpoint for each URI of an `Agent`. No name is resolved on this machine.

    :param reactor: provides time.
    :param proxy_endpoint: the endpoint of a SOCKS5 proxy, its endpoint string, or the URL of a proxy of any protocol.
    :param methods: see `SOCKS5ClientEndpoint`; a proxy of another protocol gets what it has for them.
    :param policy: decides how to speak TLS with a host.
    :param options: further keywords of `SOCKS5ClientEndpoint`, but ``tls``.
    :raises ValueError: the methods or the options are faulty.
    :raises TypeError: an argument, or what `methods` holds, is of a wrong type, or an option is unknown.
    """

    def __init__(
        self,
        reactor: Any,
        proxy_endpoint: AnyProxy,
        methods: Mapping[str, Any] | ClientMethods = ANONYMOUS,
        policy: IPolicyForHTTPS | None = None,
        **options: Any,
    ) -> None:
        proxy = proxy_of(reactor, proxy_endpoint)
        # Once: an agent without a token of its own gets one, not one for each request.
        given = ClientMethods.of(methods)

        def endpoint(target: Address, tls: IOpenSSLClientConnectionCreator | None) -> IStreamClientEndpoint:
            return endpoint_through(
                proxy, target.host, target.port, given, tls=tls or False, reactor=reactor, **options
            )

        # An endpoint checks all of it, which would be told too late by the first request.
        endpoint(Address.of("host.invalid", 80), None)
        super().__init__(endpoint, checked_policy("policy", policy), (proxy_endpoint, given))


def checked_policy(name: str, policy: IPolicyForHTTPS | None) -> IPolicyForHTTPS:
    """
    Return an agent's policy for TLS, by default what browsers do.

    :raises TypeError: the argument is of another type.
    """
    if policy is None:
        return PlatformTrust()
    check_method(name, policy, "creatorForNetloc", "an IPolicyForHTTPS")
    return policy


def check_pool(pool: HTTPConnectionPool | None) -> None:
    """
    Check an agent's pool.

    :raises TypeError: the argument is of another type.
    """
    if pool is not None:
        check_method("pool", pool, "getConnection", "an HTTPConnectionPool")


@implementer(IPolicyForHTTPS)
class PlatformTrust:
    """The policy of agents that were given none: what Twisted's ``BrowserLikePolicyForHTTPS`` does, for every name."""

    def creatorForNetloc(self, hostname: bytes, port: int) -> IOpenSSLClientConnectionCreator:
        """See `IPolicyForHTTPS`."""
        return creator_for_host(hostname.decode("ascii"))


@implementer(IStreamClientEndpoint)
class FaultyEndpoint:
    """Fails with what was wrong with a URI: of what makes its endpoints, an `Agent` expects no such exception."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See `IStreamClientEndpoint`."""
        return fail(self._error)


def target_and_tls(uri: URI, policy: IPolicyForHTTPS) -> tuple[Address, IOpenSSLClientConnectionCreator | None]:
    """
    Return where a URI leads, and how to speak TLS there; ``None`` for http.

    :raises SchemeNotSupported: it is neither http nor https.
    :raises ValueError: SOCKS5 cannot carry the host or the port, or TLS cannot name the host.
    :raises TypeError: what the policy made checks no host name.
    """
    if uri.scheme not in (b"http", b"https"):
        raise SchemeNotSupported(f"unsupported URL scheme {uri.scheme.decode()!r}; supported are http and https")
    # Before the policy sees it, whose errors repeat what is no name: a password may stand there.
    target = target_address(uri.host, uri.port)
    if uri.scheme == b"http":
        return target, None
    # As certificates hold it: without the dot at the end.
    name = target.host.removesuffix(".").encode("ascii")
    return target, checked_creator(policy.creatorForNetloc(name, uri.port))


def web_agent(
    reactor: Any,
    proxy_endpoint: AnyProxy,
    methods: Mapping[str, Any] | ClientMethods = ANONYMOUS,
    *,
    policy: IPolicyForHTTPS | None = None,
    pool: HTTPConnectionPool | None = None,
    timeout: float | None = DEFAULT_TIMEOUT,
    dialect: str = "auto",
    allow_cleartext: bool = False,
) -> Agent:
    """
    Return an agent whose every request goes through a proxy.

    Agents may share a `pool`: a connection is used again only for the same proxy and methods.

    :param proxy_endpoint: see `SOCKS5AgentEndpointFactory`.
    :param policy: decides how to speak TLS with a host, whose name it gets without a
        dot at its end; by default as browsers do.
    :param pool: keeps connections; by default none is kept.

    The other parameters are those of `SOCKS5ClientEndpoint`.

    :raises ValueError: the methods, the timeout or the dialect are faulty.
    :raises TypeError: an argument, or what `methods` holds, is of a wrong type.
    """
    check_pool(pool)
    endpoints = SOCKS5AgentEndpointFactory(
        reactor,
        proxy_endpoint,
        methods,
        policy,
        timeout=timeout,
        dialect=dialect,
        allow_cleartext=allow_cleartext,
    )
    return endpoints.agent(reactor, pool)
