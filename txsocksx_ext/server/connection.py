"""
The life of one client's connection: its timer, its place among its peer's, its end.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.protocol import Protocol
from twisted.protocols.policies import ProtocolWrapper

from ..context import Session
from ..net.half_close import can_half_close, with_half_close
from ..net.twisted_transports import abort, peer_group

if TYPE_CHECKING:
    from .factory import SOCKS5ExtFactory


class ClientConnection(Protocol):
    """
    What a connection has whatever is said on it.

    One deadline is set at a time: for the handshake, then for the way to the
    target, or for the last words to arrive.

    :ivar session: what is known of the client.
    """

    transport: Any
    factory: SOCKS5ExtFactory
    session: Session

    _counted_as: str | None = None
    _input_ended = False
    _closing = False
    _is_wrapped = False

    def connectionMade(self) -> None:
        factory, transport = self.factory, self.transport
        self._is_wrapped = isinstance(transport, ProtocolWrapper)
        if self._is_wrapped:
            transport = self.transport = with_half_close(transport)
        session = self.session = Session(transport.getPeer(), factory.routes)
        factory.opened(self)
        self._began = factory.deadlines.start(self, factory.limits.handshake_timeout, self._handshake_expired)
        if not session.is_local:
            self._count_peer()

    def abort(self, reason: str) -> None:
        """End the connection at once."""
        self._end(reason)
        abort(self.transport)

    def stop(self) -> None:
        """End the connection because the server stops."""
        self.abort("stopped")

    def _handshake_expired(self) -> None:
        self.abort("handshake timeout")

    def _close_after(self, last_words: bytes, reason: str) -> None:
        """
        Send an answer that ends the conversation, and close so that it arrives.

        A close with unread input makes Linux reset the connection, and the reset
        can overtake the answer. So only our sending side is closed, input is
        thrown away, and the rest follows when the client closes, or soon.
        """
        self._end(reason)
        self._closing = True
        if last_words:
            self.transport.write(last_words)
        # A client that sent more than could be kept is paused; now its input is thrown away.
        self.transport.resumeProducing()
        self.factory.deadlines.start(self, self.factory.limits.linger, partial(abort, self.transport))
        if can_half_close(self.transport) and not self._input_ended:
            self.transport.loseWriteConnection()
        else:
            self.transport.loseConnection()

    def _end(self, reason: str) -> None:
        """Keep the first reason: what follows is its consequence."""
        self.session.end = self.session.end or reason

    def _closed(self) -> None:
        factory, session = self.factory, self.session
        if self._is_wrapped and not session.offered:
            # A balancer's header may have come without a byte of the client's.
            session.peer = self.transport.getPeer()
        if self._counted_as is not None:
            factory.discount_peer(self._counted_as)
        if session.logout is not None:
            maybeDeferred(session.logout).addErrback(factory.log.unexpected, session)
        # Reactors go by the time of day, which may be set back.
        factory.log.ended(session, max(0.0, factory.reactor.seconds() - self._began))
        factory.closed(self)

    # Limits for each peer.

    def _count_peer(self) -> bool:
        """Count this connection for its peer; whether that peer may have it."""
        if self.session.is_local:
            return True
        self._counted_as = peer_group(self.session.peer)
        if self.factory.count_peer(self._counted_as):
            return True
        self.abort("too many connections of this peer")
        return False

    def _is_counted_right(self) -> bool:
        """
        Count anew where the peer is another than at first; whether it may stay.

        Behind a balancer that speaks the PROXY protocol, the client's address is
        known only when its first bytes come.
        """
        peer = self.transport.getPeer()
        if peer == self.session.peer:
            return True
        if self._counted_as is not None:
            self.factory.discount_peer(self._counted_as)
            self._counted_as = None
        self.session.peer = peer
        return self._count_peer()
