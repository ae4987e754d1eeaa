"""
The route straight to the target: ``direct``.
"""

from __future__ import annotations

import ipaddress
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

FAMILIES = {"4": b"ipv4-only", "6": b"ipv6-only", "prefer4": b"ipv4-preferred", "prefer6": b"ipv6-preferred"}
"""The values of the argument ``family``, with those of the key ``ip.family``."""


class DirectRoute(Route):
    """
    Connects from this machine, to several addresses as RFC 8305 says.

    :param reactor: provides TCP, time, threads and a name resolver.
    :param source: the local address of connections, which limits them to its family; by default the system chooses.
    :param family: one of `FAMILIES`: the family of addresses to connect to, alone or first.
    :raises ValueError: the source is no address, or the family is not a known one.
    """

    name = "direct"
    keys = frozenset({IP_FAMILY})

    def __init__(self, reactor: Any, source: str = "", family: str = "") -> None:
        self._reactor = reactor
        self._source = source
        self._families: list[bytes] = []
        if family:
            if family not in FAMILIES:
                raise ValueError(f"direct: unknown family {family!r}; known are {', '.join(FAMILIES)}")
            self._families.append(FAMILIES[family])
        if source:
            try:
                self._families.append(FAMILIES[str(ipaddress.ip_address(source).version)])
            except ValueError:
                raise ValueError(f"direct: source is an IP address of this machine, not {source!r}") from None
        self.resolver: Resolver = resolver_of(reactor)

    def connect(self, request: Request, addresses: Sequence[Address] | None, session: Session) -> Deferred[ITransport]:
        """See `IRoute`: it connects to the very addresses that the policy admitted, and never resolves a name."""
        assert addresses
        family = None if session.pairs is NO_PAIRS else session.pairs.get(IP_FAMILY)
        if family is not None or self._families:
            # The client's last: it may prefer another family than the route, but not use one that the route excludes.
            for wanted in (*self._families, *([] if family is None else [family])):
                addresses = _of_family(addresses, wanted)
            if not addresses:
                return fail(AddressTypeNotSupported("the target has no address of a family that may be used"))
        if len(addresses) == 1:
            return connect_socket(self._reactor, addresses[0], self._source)
        return connect_first(self._reactor, addresses, self._source)

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
    """Return the addresses that are wanted, the preferred ones first. An unknown value is ``ipv4-preferred``."""
    kind = AddressType.IPV6 if wanted.startswith(b"ipv6-") else AddressType.IPV4
    preferred = [address for address in addresses if address.type == kind]
    is_only = wanted in (b"ipv4-only", b"ipv6-only")
    return preferred if is_only else preferred + [address for address in addresses if address.type != kind]


def from_description(reactor: Any, arguments: Sequence[str], keywords: Mapping[str, str]) -> DirectRoute:
    """Make the route of ``direct``."""
    if arguments:
        raise ValueError("direct takes no arguments without a name, only source=ADDRESS and family=4|6|prefer4|prefer6")
    refuse_unknown(keywords, frozenset({"source", "family"}), "the route direct")
    return DirectRoute(reactor, **keywords)
