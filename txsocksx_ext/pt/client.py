"""
The client's side: a SOCKS5 listener for tor, and the streams through the transport.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import connectProtocol
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import ITransport

from ..context import Session
from ..errors import AuthenticationFailed, InvalidArguments, TTLExpired
from ..policy.table import RouteTable
from ..protocol.codes import Method
from ..protocol.messages import Address, Request
from ..protocol.pairs import TRANSPORT_ARGUMENT
from ..route.base import Route
from ..server.factory import SOCKS5ExtFactory
from ..server.frontends import frontends_for
from ..server.limits import Limits
from ..transports.arguments import Arguments, from_credentials, from_pairs
from .adapter import TransportAdapter
from .payload import PayloadTransport
from .protocol import Side, TransportProtocol


def arguments_of(session: Session) -> Arguments:
    """
    Return the arguments of one connection, by RFC 1929 or by method 0x97.

    :raises ValueError: they are malformed.
    """
    if session.method == Method.EXTENDED:
        return from_pairs(session.pairs)
    if session.method == Method.USERNAME_PASSWORD and session.credentials is not None:
        return from_credentials(session.credentials)
    return Arguments()


class OwnTransportRoute(Route):
    """
    The route through a transport of this program. It connects when the transport's handshake is done.

    :param side: the transport.
    :param protocol: the class of its connections.
    """

    keys = frozenset({TRANSPORT_ARGUMENT})
    uses_credentials = True

    def __init__(self, side: Side, protocol: type[TransportProtocol]) -> None:
        self.name = side.name
        self._side = side
        self._protocol = protocol

    def connect(self, request: Request, addresses: Sequence[Address] | None, session: Session) -> Deferred[ITransport]:
        """See `IRoute`."""
        return Deferred.fromCoroutine(self._connect(request, session))

    async def _connect(self, request: Request, session: Session) -> ITransport:
        try:
            return await self.open(arguments_of(session), request.destination)
        except (CancelledError, ConnectingCancelledError):
            if session.end:  # the client left
                raise
            raise self.out_of_time() from None

    def out_of_time(self) -> TTLExpired:
        """Return the exception of a handshake that takes too long, and log it."""
        error = TTLExpired(f"the bridge did not answer within {self._protocol.handshake_timeout:g} seconds")
        self._log(error)
        return error

    async def open(self, arguments: Arguments, bridge: Address) -> PayloadTransport:
        """
        Connect through the transport.

        :returns: the payload, paused.
        :raises SOCKS5Error: the user protocol failed.
        """
        adapter = TransportAdapter(self._side, self._protocol(), arguments, bridge)
        try:
            adapter.prepare()
            await connectProtocol(adapter.endpoint(), adapter)
            return await adapter.opened
        except Exception as error:
            # If it did not come to awaiting `opened`, nobody else handles its failure.
            adapter.opened.addErrback(lambda _: None)
            self._log(error)
            raise

    def _log(self, error: Exception) -> None:
        """Log a failure for tor's user: tor itself does not tell one failure from another."""
        if not isinstance(error, (CancelledError, ConnectingCancelledError)):
            text = str(error) or type(error).__name__
            self._side.log.info("{transport} has no connection: {error}", transport=self._side.name, error=text)


class TransportSOCKSFactory(SOCKS5ExtFactory):
    """
    The SOCKS5 server of one transport, for tor and for clients that offer method 0x97.

    :param side: the transport.
    :param protocol: the class of its connections.
    """

    # The only protocol that CMETHOD announces.
    frontends = frontends_for(["socks5"])

    def __init__(self, side: Side, protocol: type[TransportProtocol]) -> None:
        super().__init__(
            side.reactor,
            policy=RouteTable((), OwnTransportRoute(side, protocol)),
            limits=Limits(connect_timeout=protocol.handshake_timeout),
        )

    def authenticate(self, session: Session) -> None:
        """Refuse malformed arguments before the request."""
        try:
            arguments_of(session)
        except ValueError as error:
            kind = InvalidArguments if session.method == Method.EXTENDED else AuthenticationFailed
            raise kind(str(error)) from None
