"""
Names to addresses, by the reactor's own resolver.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IHostResolution, IResolutionReceiver
from zope.interface import implementer

from ..errors import HostUnreachable
from ..wire.messages import Address


def lookup_host(reactor: Any, destination: Address) -> Deferred[list[Address]]:
    """
    Resolve a name.

    Names under ``.onion`` are never asked for: RFC 7686, section 2.

    :returns: fires with one address or more, in the resolver's order, each with
        the destination's port.
    :raises HostUnreachable: (in the Deferred) there are none.
    """
    receiver = _Receiver(destination.port)
    if destination.is_onion or not _is_host_name(destination.host):
        receiver.resolutionComplete()
    else:
        reactor.nameResolver.resolveHostName(receiver, destination.host, destination.port)
    return receiver.found


def _is_host_name(host: str) -> bool:
    """Whether getaddrinfo can take the name: it raises, where Twisted expects a failed look-up."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


@implementer(IResolutionReceiver)
class _Receiver:
    """Collects what a resolver finds. A resolver cannot be stopped, so late answers fall away."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._addresses: list[Address] = []
        self.found: Deferred[list[Address]] = Deferred()

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        """The resolver has begun."""

    def addressResolved(self, address: IAddress) -> None:
        """One address was found."""
        if isinstance(address, (IPv4Address, IPv6Address)):
            self._addresses.append(Address.of(address.host.split("%")[0], self._port))

    def resolutionComplete(self) -> None:
        """No more addresses follow."""
        if self.found.called:
            return
        if self._addresses:
            self.found.callback(self._addresses)
        else:
            self.found.errback(HostUnreachable("the name has no address"))
