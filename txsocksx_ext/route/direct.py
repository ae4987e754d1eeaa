"""
The route that goes straight to the target: ``direct``. It alone resolves names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import ITransport

from ..descriptions import refuse_unknown
from ..errors import ConnectionNotAllowed
from ..net.connecting import connect_socket
from ..policy.resolver import Lookups
from ..protocol.codes import AddressType, Command
from ..protocol.messages import Address, Request
from .base import IRoute, Route
from .happy_eyeballs import connect_first

if TYPE_CHECKING:
    from ..context import Session


_DOMAINNAME = AddressType.DOMAINNAME


class DirectRoute(Route):
    """
    Connects from this machine, to addresses as happy eyeballs tries them.

    :param reactor: provides TCP, time, threads and a name resolver.
    """

    name = "direct"

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._lookups = Lookups(reactor)

    def connect(self, request: Request, session: Session) -> Deferred[ITransport]:
        """See `IRoute`: the connection goes to the very address that the rules admitted."""
        destination = request.destination
        if destination.type == _DOMAINNAME:
            return Deferred.fromCoroutine(self._connect_to_name(request, session))
        if not session.rules.may_reach(destination, session, self):
            return fail(ConnectionNotAllowed())
        return connect_socket(self._reactor, destination)

    async def _connect_to_name(self, request: Request, session: Session) -> ITransport:
        route, addresses = await self._admitted(request.destination, session)
        if route is self:
            return await connect_first(self._reactor, addresses)
        session.take_route(route)
        return await route.connect(Request(request.command, addresses[0]), session)

    async def _admitted(self, destination: Address, session: Session) -> tuple[IRoute, list[Address]]:
        """Resolve a name, and see what the rules make of its addresses."""
        addresses = await self._lookups.look_up(destination)
        return session.rules.way_to_resolved(destination, addresses, session)

    def resolve(self, request: Request, session: Session) -> Deferred[Address]:
        """See `IRoute`."""
        destination = request.destination
        if not destination.is_name and not session.rules.may_reach(destination, session, self):
            return fail(ConnectionNotAllowed())
        if request.command == Command.RESOLVE_PTR:
            return Deferred.fromCoroutine(self._lookups.name_of(destination))
        return Deferred.fromCoroutine(self._resolve(destination, session))

    async def _resolve(self, destination: Address, session: Session) -> Address:
        if not destination.is_name:
            return Address.of(destination.host, 0)
        _, addresses = await self._admitted(destination, session)
        # Tor asks for IPv4 first, and clients of RESOLVE expect that.
        first = next((found for found in addresses if found.type == AddressType.IPV4), addresses[0])
        return Address.of(first.host, 0)


def from_description(reactor: Any, arguments: Sequence[str], keywords: Mapping[str, str]) -> DirectRoute:
    """Make the route of ``direct``."""
    if arguments:
        raise ValueError("the route direct takes no arguments")
    refuse_unknown(keywords, frozenset(), "the route direct")
    return DirectRoute(reactor)
