"""
The route straight to the target: ``direct``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import ITransport

from ..context import Session
from ..descriptions import refuse_unknown
from ..errors import AddressTypeNotSupported
from ..net.connecting import connect_socket
from ..net.happy_eyeballs import connect_first
from ..net.resolver import Resolver, resolver_of
from ..protocol.codes import AddressType, Command
from ..protocol.messages import Address, Request
from ..protocol.pairs import IP_FAMILY, NO_PAIRS
from .base import Route


class DirectRoute(Route):
    """
    Connects from this machine, to several addresses as RFC 8305 says.

    :param reactor: provides TCP, time, threads and a name resolver.
    """

    name = "direct"
    keys = frozenset({IP_FAMILY})

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.resolver: Resolver = resolver_of(reactor)

    def connect(self, request: Request, addresses: Sequence[Address] | None, session: Session) -> Deferred[ITransport]:
        """See `IRoute`: it connects to the very addresses that the policy admitted, and never resolves a name."""
        assert addresses
        family = None if session.pairs is NO_PAIRS else session.pairs.get(IP_FAMILY)
        if family is not None:
            addresses = _of_family(addresses, family)
            if not addresses:
                return fail(AddressTypeNotSupported("the name has no address of the family that the client asks for"))
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


def _of_family(addresses: Sequence[Address], wanted: bytes) -> Sequence[Address]:
    """Return the addresses that a client takes, the preferred ones first. An unknown value is ``ipv4-preferred``."""
    kind = AddressType.IPV6 if wanted.startswith(b"ipv6-") else AddressType.IPV4
    preferred = [address for address in addresses if address.type == kind]
    is_only = wanted in (b"ipv4-only", b"ipv6-only")
    return preferred if is_only else preferred + [address for address in addresses if address.type != kind]


def from_description(reactor: Any, arguments: Sequence[str], keywords: Mapping[str, str]) -> DirectRoute:
    """Make the route of ``direct``."""
    if arguments:
        raise ValueError("direct takes no arguments")
    refuse_unknown(keywords, frozenset(), "the route direct")
    return DirectRoute(reactor)
