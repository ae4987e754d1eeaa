"""
Both sides of a pluggable transport, connected in memory.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from ..checks import check_integer, check_subclass, check_type
from ..failures import row_of
from ..net.twisted_transports import hand_over, open_transport
from ..protocol.messages import Address
from ..pt.adapter import TransportAdapter
from ..pt.client import OwnTransportRoute
from ..pt.outgoing import Outgoing
from ..pt.protocol import Side, TransportProtocol
from ..pt.server import TransportServerFactory
from ..transports.arguments import Arguments
from .attributes import check_clock
from .connections import ROOM, reactor_or
from .endpoints import MemoryEndpoint
from .recorders import HalfCloseRecorder

BRIDGE = Address.of("192.0.2.1", 443)
"""The address of the bridge on the client's side."""


class TransportPair:
    """
    Two connected sides, as `connect_transports` returns them.

    :ivar client: a `HalfCloseRecorder` in the place of the tor on the client's side.
    :ivar bridge: the same on the bridge's side; its ``transport`` is ``None`` until
        the bridge's side is ready.
    :ivar failure: why there is no connection: the exception of the client's side, or
        that of a bridge's side that could not start; otherwise ``None``.
    :ivar code: the reply code for a client of method 0x97; 0 when the connection is
        established, ``None`` before that.
    """

    def __init__(self) -> None:
        self.client = HalfCloseRecorder()
        self.bridge = HalfCloseRecorder()
        self.failure: BaseException | None = None
        self.code: int | None = None

    def opened(self, transport: Any) -> None:
        """Connect the client's recorder."""
        self.code = 0
        hand_over(transport, self.client)
        transport.resumeProducing()
        self.client.happened()

    def failed(self, failure: Failure) -> None:
        """Record why there is no connection."""
        self.failure = failure.value
        self.code = row_of(failure.value).number
        self.client.happened()


class _ToBridge(Outgoing):
    """Connects to the bridge, whatever the address."""

    def __init__(self, bridge: MemoryEndpoint) -> None:
        self._bridge = bridge

    def endpoint(self, host: str, port: int) -> MemoryEndpoint:
        return self._bridge


def connect_transports(
    client: type[TransportProtocol],
    server: type[TransportProtocol],
    *,
    arguments: Mapping[str, str] | None = None,
    options: Mapping[str, str] | None = None,
    state: os.PathLike[str] | str | None = None,
    clock: IReactorTime | None = None,
    most_at_once: int = ROOM,
) -> TransportPair:
    """
    Connect both sides of a transport in memory, as tor would have them connect.

    Then ``pair.client.write(b"...")``, and look at ``pair.bridge.received``.

    :param client: the class of the client's side.
    :param server: the class of the bridge's; it may be the same.
    :param arguments: of the bridge line; by default what the bridge's ``set_up`` returns.
    :param options: the options of the bridge's operator.
    :param state: a folder for transports that keep a state.
    :param clock: the global reactor by default; with a `Clock`, everything that needs
        no waiting has happened when this returns.
    :param most_at_once: the most bytes that one ``dataReceived`` gets.
    :raises TypeError: an argument is of a wrong type.
    :raises ValueError: `most_at_once` is below 1.
    """
    check_subclass("client", client, TransportProtocol)
    check_subclass("server", server, TransportProtocol)
    check_type("state", state, os.PathLike, str, NoneType)
    check_clock("clock", clock)
    check_integer("most_at_once", most_at_once, 1)
    given = None if arguments is None else Arguments(arguments)
    configured = Arguments(options or ())
    reactor = reactor_or(clock)
    pair = TransportPair()

    def side_of(is_client: bool, **settings: Any) -> Side:
        folder = None if state is None else Path(state) / ("client" if is_client else "bridge")
        return Side(reactor, "tested", is_client, state_location=folder, **settings)

    def connect_to_tor(name: str, address: IAddress) -> Deferred[Any]:
        to_tor = Factory()
        # A type checker takes the method of an instance for a fault.
        to_tor.buildProtocol = lambda addr: pair.bridge  # type: ignore[method-assign]
        return open_transport(MemoryEndpoint(to_tor, clock=reactor))

    async def connect() -> None:
        bridge = side_of(False, options=configured)
        published = Arguments(await maybeDeferred(server.set_up, bridge) or ())
        bridge.publish(published)
        TransportAdapter(bridge, server(), bridge.arguments, None).prepare()
        factory = TransportServerFactory(bridge, server, connect_to_tor)
        to_bridge = MemoryEndpoint(factory, clock=reactor, most_at_once=most_at_once)
        side = side_of(True, outgoing=_ToBridge(to_bridge))
        await maybeDeferred(client.set_up, side)
        route = OwnTransportRoute(side, client)
        opening = Deferred.fromCoroutine(route.open(published if given is None else given, BRIDGE))
        opening.addTimeout(client.handshake_timeout, reactor, lambda *_: Failure(route.out_of_time()))
        pair.opened(await opening)

    Deferred.fromCoroutine(connect()).addErrback(pair.failed)
    advance = getattr(clock, "advance", None)
    if advance is not None:
        advance(0)
    return pair
