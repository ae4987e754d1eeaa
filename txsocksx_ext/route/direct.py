"""
The route straight to the target: ``direct``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import ITransport

from ..context import Session
from ..descriptions import refuse_unknown
from ..net.connecting import connect_socket
from ..net.happy_eyeballs import connect_first
from ..net.resolver import Resolver, resolver_of
from ..protocol.codes import AddressType, Command
from ..protocol.messages import Address, Request
from .base import Route


class DirectRoute(Route):
    """
    Connects from this machine, to several addresses as RFC 8305 says.

    :param reactor: provides TCP, time, threads and a name resolver.
    """

    name = "direct"

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.resolver: Resolver = resolver_of(reactor)

    def connect(self, request: Request, addresses: Sequence[Address] | None, session: Session) -> Deferred[ITransport]:
        """See `IRoute`: it connects to the very addresses that the policy admitted, and never resolves a name."""
        assert addresses
        if len(addresses) == 1:
            return connect_socket(self._reactor, addresses[0])
        return connect_first(self._reactor, addresses)

    def resolve(self, request: Request, addresses: Sequence[Address] | None, session: Session) -> Deferred[Address]:
        """See `IRoute`."""
        assert addresses
        if request.command == Command.RESOLVE_PTR:
            name = self.resolver.name_of(addresses[0].host, session.share)
            return name.addCallback(lambda host: Address.of(host, 0))
        # Tor asks for IPv4 first, and clients of RESOLVE expect that.
        first = next((address for address in addresses if address.type == AddressType.IPV4), addresses[0])
        return succeed(Address(first.type, first.host.partition("%")[0], 0))


def from_description(reactor: Any, arguments: Sequence[str], keywords: Mapping[str, str]) -> DirectRoute:
    """Make the route of ``direct``."""
    if arguments:
        raise ValueError("direct takes no arguments")
    refuse_unknown(keywords, frozenset(), "the route direct")
    return DirectRoute(reactor)
