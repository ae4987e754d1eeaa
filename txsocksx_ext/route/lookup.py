"""
Names to addresses, by the reactor's own resolver.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.interfaces import IAddress, IHostResolution, IResolutionReceiver
from zope.interface import implementer

from ..errors import HostUnreachable
from ..wire.messages import Address

LOOKUPS_AT_ONCE = 8
"""A look-up holds one of the reactor's ten threads, and cannot be stopped: slow names must not take all."""


class Lookups:
    """
    Resolves names by a reactor's resolver, a few at a time.

    :param reactor: has the resolver.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._turns = DeferredSemaphore(LOOKUPS_AT_ONCE)

    async def look_up(self, destination: Address) -> list[Address]:
        """
        Resolve a name.

        Names under ``.onion`` are never asked for: RFC 7686, section 2. A client
        that leaves gives up its place in the queue.

        :returns: one address or more, in the resolver's order, each with the
            destination's port.
        :raises HostUnreachable: there are none.
        """
        if destination.is_onion or not _is_host_name(destination.host):
            raise HostUnreachable("the name has no address")
        await self._turns.acquire()
        receiver = _Receiver(destination.port, self._turns.release)
        self._reactor.nameResolver.resolveHostName(receiver, destination.host, destination.port)
        return await receiver.found


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

    def __init__(self, port: int, done: Callable[[], object]) -> None:
        self._port = port
        self._done = done
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
        self._done()
        if self.found.called:
            return
        if self._addresses:
            self.found.callback(self._addresses)
        else:
            self.found.errback(HostUnreachable("the name has no address"))
