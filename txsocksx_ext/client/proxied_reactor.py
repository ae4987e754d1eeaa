"""
A reactor whose TCP connections go through a proxy, for programs that know nothing of proxies.

Two objects share this: the one that `proxied_reactor` returns, and a program's own reactor after `proxy_reactor` has
replaced its methods. In both, what connects to the proxy itself uses the methods of before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from twisted.internet.defer import succeed
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import (
    IAddress,
    IHostnameResolver,
    IHostResolution,
    IResolutionReceiver,
    IStreamClientEndpoint,
)
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import directlyProvides, implementer, providedBy

from ..checks import check_reactor
from ..errors import CommandNotSupported
from .any_proxy import endpoint_through
from .connector import EndpointConnector, twisted_address
from .direct_hosts import DirectHosts
from .endpoints import DEFAULT_TIMEOUT
from .methods import ClientMethods
from .proxies import AnyProxy, proxy_of

UNASSUMING: Mapping[str, Any] = {"extended": {}, "anonymous": ()}
"""The methods of a program that has no credentials: exact reply codes where the proxy has them."""


def proxied_reactor(
    reactor: Any,
    proxy: AnyProxy,
    methods: Mapping[str, Any] | ClientMethods | None = None,
    *,
    timeout: float | None = DEFAULT_TIMEOUT,
    isolation: bytes | str | None = None,
    direct: Iterable[str] = (),
    allow_cleartext: bool = False,
) -> Any:
    """
    Return a reactor that connects through a proxy, and is `reactor` in everything else.

    Pass it to code that takes a reactor: endpoints, ``clientFromString``, ``Agent``, ``ClientCreator``. Names go to
    the proxy unresolved. UDP and multicast fail with `CommandNotSupported`. Listening for TCP, unix sockets and
    child processes are the reactor's own.

    :param reactor: Twisted's.
    :param proxy: the endpoint of a SOCKS5 proxy, its endpoint string, or the URL of a proxy of any protocol.
    :param methods: see `SOCKS5ClientEndpoint`; by default no credentials but those of the URL, and extended reply
        codes.
    :param timeout: seconds until the target is connected; ``None`` for no deadline. It replaces the timeouts that
        the code passes, which are made for direct connections.
    :param isolation: keeps the connections on circuits of their own: see "isolated" of `SOCKS5ClientEndpoint`.
    :param direct: hosts that are connected to without the proxy: names, which stand for their subdomains too,
        addresses, and networks such as ``10.0.0.0/8``, each with ``:PORT`` or without; ``*`` is every host.
    :param allow_cleartext: see `SOCKS5ClientEndpoint`.
    :raises ValueError: an argument is faulty.
    :raises TypeError: an argument is of a wrong type.
    """
    check_reactor("reactor", reactor)
    proxied = _Proxied(reactor, proxy, methods, timeout, isolation, direct, allow_cleartext)
    return ReactorView(reactor, proxied.replacements())


def proxy_reactor(reactor: Any, proxy: str, **options: Any) -> None:
    """
    Replace the methods of a reactor, for all code that uses it, with those of `proxied_reactor`. It keeps its type.

    :param options: the keywords of `proxied_reactor`, all of them.
    """
    before = ReactorView(reactor, {"connectTCP": reactor.connectTCP, "nameResolver": reactor.nameResolver})
    replacements = _Proxied(before, proxy, None, **options).replacements()
    # A read-only property.
    reactor.installNameResolver(replacements.pop("nameResolver"))
    for name, method in replacements.items():
        setattr(reactor, name, method)


class ReactorView:
    """A reactor with some attributes replaced. It provides what the reactor provides."""

    def __init__(self, reactor: Any, replacements: Mapping[str, Any]) -> None:
        self.__dict__.update(replacements)
        self._reactor = reactor
        directlyProvides(self, providedBy(reactor))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def __repr__(self) -> str:
        return f"<ReactorView of {type(self._reactor).__name__}>"


class _Proxied:
    """The methods of a reactor that goes through a proxy."""

    def __init__(
        self,
        reactor: Any,
        proxy: AnyProxy,
        methods: Mapping[str, Any] | ClientMethods | None,
        timeout: float | None,
        isolation: bytes | str | None,
        direct: Iterable[str],
        allow_cleartext: bool,
    ) -> None:
        self._reactor = reactor
        self._proxy = proxy_of(reactor, proxy)
        self._methods = methods_of(methods, isolation)
        self._options = {"timeout": timeout, "allow_cleartext": allow_cleartext, "reactor": reactor}
        self._direct = DirectHosts(direct)
        # An endpoint checks all of it, which would be told too late by the first connection.
        self._endpoint("host.invalid", 80)

    def replacements(self) -> dict[str, Any]:
        """Return the attributes of a reactor to replace, by name."""
        names = _Unresolved()
        return {
            "connectTCP": self._connect_tcp,
            "connectSSL": self._connect_ssl,
            "nameResolver": names,
            "resolve": lambda name, timeout=(): succeed(name),
            # Programs install resolvers of their own, which would send queries.
            "installResolver": lambda resolver: resolver,
            "installNameResolver": lambda resolver: names,
            **dict.fromkeys(("listenUDP", "listenMulticast", "adoptDatagramPort"), _refuse_datagrams),
        }

    def _connect_tcp(
        self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: Any = None
    ) -> EndpointConnector:
        """See `IReactorTCP`."""

        def endpoint() -> IStreamClientEndpoint:
            if self._direct.has(host, port):
                return HostnameEndpoint(self._reactor, host, port, timeout, bindAddress)
            if bindAddress is not None:
                raise CommandNotSupported("bindAddress cannot be chosen through a proxy: leave it out")
            return self._endpoint(host, port)

        connector = EndpointConnector(endpoint, twisted_address(host, port), factory, self._reactor)
        connector.connect()
        return connector

    def _connect_ssl(
        self, host: str, port: int, factory: Any, contextFactory: Any, timeout: float = 30, bindAddress: Any = None
    ) -> EndpointConnector:
        """See `IReactorSSL`."""
        over_tls = TLSMemoryBIOFactory(contextFactory, True, factory)
        return self._connect_tcp(host, port, over_tls, timeout, bindAddress)

    def _endpoint(self, host: str, port: int) -> IStreamClientEndpoint:
        return endpoint_through(self._proxy, host, port, self._methods, **self._options)


def methods_of(methods: Mapping[str, Any] | ClientMethods | None, isolation: bytes | str | None) -> ClientMethods:
    """
    Return methods, by default without credentials, with an isolation token if there is one.

    :raises ValueError: both have something to say by method 0x02.
    """
    given = ClientMethods.of(UNASSUMING if methods is None else methods)
    if isolation is None:
        return given
    if given.login is not None or given.isolation is not None:
        raise ValueError("isolation needs the user name and password, which methods already use: give one of them")
    return replace(given, isolation=ClientMethods.of({"isolated": isolation}).isolation)


def _refuse_datagrams(*arguments: object, **keywords: object) -> None:
    raise CommandNotSupported("datagrams do not go through the proxy, and are not sent without it: use TCP")


@implementer(IHostnameResolver)
class _Unresolved:
    """Returns names as if they were addresses: `connectTCP` gets them as they are."""

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        """See `IHostnameResolver`."""
        resolution = _Resolution(hostName)
        resolutionReceiver.resolutionBegan(resolution)
        address = twisted_address(hostName, portNumber)
        if addressTypes is None or type(address) in addressTypes:
            resolutionReceiver.addressResolved(address)
        resolutionReceiver.resolutionComplete()
        return resolution


@implementer(IHostResolution)
class _Resolution:
    """A resolution that is over when it begins."""

    def __init__(self, name: str) -> None:
        self.name = name

    def cancel(self) -> None:
        """See `IHostResolution`."""
