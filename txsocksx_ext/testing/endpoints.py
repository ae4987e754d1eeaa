"""
An endpoint that connects in memory.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectingCancelledError, NoProtocol, NotConnectingError
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from zope.interface import implementer

from ..checks import check_integer, check_protocol_factory, check_type
from .attributes import CheckedAttributes, anything, check_address, check_clock, check_failure
from .connections import CLIENT_ADDRESS, ROOM, SERVER_ADDRESS, Hangup, connect_in_memory, reactor_or


@implementer(IStreamClientEndpoint)
class MemoryEndpoint(CheckedAttributes):
    """
    An endpoint that connects in memory to a server's factory.

    Its parameters are attributes, and may be changed between connections.

    :param server: builds the other end of every connection.
    :param clock: by default the global reactor.
    :param address: the server's, which clients see as their peer: under
        192.0.2.0/24, say, for a server that is not on this machine.
    :param client_address: the clients'.
    :param most_at_once: how many bytes one ``dataReceived`` gets at most.
    :param failure: what connecting fails with instead.
    :param hangs: whether connecting never ends.
    :raises TypeError: a parameter is of a wrong type, when it is passed or set.
    :raises ValueError: `most_at_once` is below 1.
    :raises AttributeError: an unknown attribute is set.
    :ivar servers: the protocols that `server` built, one for each connection.
    :ivar connecting: what is begun, and neither connected nor given up.
    """

    checks = {
        "server": check_protocol_factory,
        "clock": check_clock,
        "address": check_address,
        "client_address": check_address,
        "most_at_once": lambda name, value: check_integer(name, value, 1),
        "failure": check_failure,
        "hangs": lambda name, value: check_type(name, value, bool),
        "servers": anything,
        "connecting": anything,
    }

    def __init__(
        self,
        server: IProtocolFactory,
        *,
        clock: IReactorTime | None = None,
        address: IAddress = SERVER_ADDRESS,
        client_address: IAddress = CLIENT_ADDRESS,
        most_at_once: int = ROOM,
        failure: Exception | None = None,
        hangs: bool = False,
    ) -> None:
        self.server = server
        self.clock = clock
        self.address = address
        self.client_address = client_address
        self.most_at_once = most_at_once
        self.failure = failure
        self.hangs = hangs
        self.servers: list[IProtocol] = []
        self.connecting: list[Deferred[IProtocol]] = []

    def connect(self, protocol_factory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        Connect, in a later turn of the reactor.

        :returns: fires with the protocol that `protocol_factory` built, or
            fails with `failure`, or with `NoProtocol` where it built none.
        """
        turn: IDelayedCall | None = None

        def cancel(connecting: Deferred[IProtocol]) -> None:
            error = ConnectingCancelledError(self.address)
            if connecting not in self.connecting:
                # As Twisted's own endpoints do, inside the connectionMade that precedes their result.
                connecting.errback(error)
                raise NotConnectingError("it is connected already")
            if turn is not None:
                turn.cancel()
            self._give_up(protocol_factory, connecting, error)

        connecting: Deferred[IProtocol] = Deferred(cancel)
        self.connecting.append(connecting)
        protocol_factory.doStart()
        if not self.hangs:
            turn = reactor_or(self.clock).callLater(0, self._connect, protocol_factory, connecting)
        return connecting

    def _connect(self, protocol_factory: IProtocolFactory, connecting: Deferred[IProtocol]) -> None:
        try:
            if self.failure is not None:
                raise self.failure
            client = protocol_factory.buildProtocol(self.address)
            if client is None:
                raise NoProtocol()
        except Exception as error:
            self._give_up(protocol_factory, connecting, error)
            return
        self.connecting.remove(connecting)
        server = self.server.buildProtocol(self.client_address)
        if server is not None:
            self.servers.append(server)
        transport, _ = connect_in_memory(
            client,
            Hangup() if server is None else server,
            clock=self.clock,
            client_address=self.client_address,
            server_address=self.address,
            most_at_once=self.most_at_once,
        )
        transport.when_lost(protocol_factory.doStop)
        connecting.callback(client)

    def _give_up(
        self, protocol_factory: IProtocolFactory, connecting: Deferred[IProtocol], error: BaseException
    ) -> None:
        self.connecting.remove(connecting)
        protocol_factory.doStop()
        connecting.errback(error)
