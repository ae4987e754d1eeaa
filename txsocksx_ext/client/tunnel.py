"""
One request to a proxy, whatever protocol that speaks: from its endpoint to the application's protocol.

A connection reads from top to bottom here: `TunnelFactory.begin` connects within
the deadline, `TunnelProtocol` carries the conversation, whose words are those of
a subclass, and then gives its transport to the application.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError, NoProtocol
from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from zope.interface import implementer

from ..context import is_local
from ..errors import CleartextRefused, HandshakeTimeout, ProxyClosed, SOCKS5Error
from ..failures import proxy_unreachable
from ..net.half_close import with_half_close
from ..net.timers import clock_of
from ..net.transport import write_now
from ..net.twisted_transports import (
    PausedProtocol,
    abort,
    hand_over,
    is_connected_to_itself,
    is_encrypted,
    renew_log_prefix,
)
from ..protocol.codes import Method
from ..protocol.decoding import MalformedMessage
from ..protocol.messages import UNSPECIFIED, Address, Request
from ..protocol.pairs import NO_PAIRS, Pairs
from . import diagnosis, loopback
from .methods import ClientMethods
from .read_ahead import ReadAheadDelivery

PROXY_NOT_REACHED = (ConnectError, DNSLookupError)
"""What Twisted's endpoints fail with."""


@implementer(IAddress)
class SOCKS5Address:
    """
    What an application's factory gets as the address of its connection, through a proxy of any protocol.

    :ivar host: the target's, as it was asked for.
    :ivar port: the target's.
    :ivar bound: the address that the proxy says it used.
    :ivar method: the authentication method that a SOCKS5 proxy selected.
    :ivar pairs: what the proxy answered to our pairs.
    """

    def __init__(
        self,
        host: str,
        port: int,
        bound: Address = UNSPECIFIED,
        method: Method = Method.NO_AUTHENTICATION,
        pairs: Pairs = NO_PAIRS,
    ) -> None:
        self.host = host
        self.port = port
        self.bound = bound
        self.method = method
        self.pairs = pairs

    def __repr__(self) -> str:
        return f"<SOCKS5Address port {self.port}>"


class TunnelFactory(Factory):
    """
    One request to a proxy.

    :param request: what to ask the proxy for.
    :param methods: what to say of ourselves.
    :param application: builds the protocol that gets the connection; ``None``
        where the reply is the result, as for RESOLVE.
    :param allow_cleartext: whether secrets may go to a proxy that is not seen to
        be on this machine or behind TLS.
    :param reactor: provides time.
    :cvar speaks: the protocol, as error messages name it.
    :ivar encoded: the bytes of the request, if the conversation begins with it.
    :ivar request: what the proxy is asked for: an onion service's name has no dot at its end.
    :ivar proxy_address: what the proxy's endpoint says it connected to; ``None`` before that.
    :ivar was_built: whether the proxy's endpoint has asked for a protocol.
    :ivar result: fires with the application's protocol, or with the address
        that the reply holds; or fails with an exception of `txsocksx_ext.errors`.
    """

    protocol: Callable[[Any], TunnelProtocol]
    speaks = "SOCKS5"
    noisy = False
    encoded: bytes

    def __init__(
        self,
        request: Request,
        methods: ClientMethods,
        application: IProtocolFactory | None,
        allow_cleartext: bool,
        reactor: Any,
    ) -> None:
        # With a dot at its end tor takes an onion service's name for one of the DNS, and tells it
        # to exits, one after the other (RFC 7686).
        destination = request.destination
        if destination.host.endswith(".") and destination.is_onion:
            request = replace(request, destination=Address.of(destination.host.rstrip("."), destination.port))
        self.request = request
        self.methods = methods
        self.application = application
        self.allow_cleartext = allow_cleartext
        self.reactor = reactor
        self.result: Deferred[Any] = Deferred(lambda _: self._close())
        self.proxy_address: IAddress | None = None
        self.was_built = False
        self._connection: TunnelProtocol | None = None

    def begin(self, proxy_endpoint: IStreamClientEndpoint, timeout: float | None) -> Deferred[Any]:
        """
        Connect to the proxy, and hold the conversation.

        :param timeout: seconds for all of it, the connection to the proxy too;
            ``None`` for no deadline.
        :returns: `result`. Fails with `ProxyUnreachable`, which names the proxy,
            where that was not reached, and with what `error_of_timeout` says when
            the time is over. Cancelling it at any moment closes the socket, and
            builds nothing later.
        """
        result = self.result
        connecting: Deferred[Any] = loopback.connect(proxy_endpoint, self)
        deadline: IDelayedCall | None = None

        def settled(value: Any) -> Any:
            if deadline is not None and deadline.active():
                deadline.cancel()
            # Still connecting: the caller cancelled, or the deadline has passed. A connection
            # that was made already is ours to close, and its endpoint is about to say so.
            if not self.was_built:
                connecting.cancel()
            return value

        def not_connected(failure: Failure) -> None:
            if result.called:
                return
            # An endpoint that leads to this proxy through another one fails with exceptions of ours.
            error = failure.value
            if isinstance(error, PROXY_NOT_REACHED) and not isinstance(error, SOCKS5Error):
                self.give_up(proxy_unreachable(error, diagnosis.place_of(proxy_endpoint)))
            else:
                self.give_up(failure)

        def expired() -> None:
            try:
                error: BaseException = self.error_of_timeout()
            except BaseException as raised:  # by an override: as the protocol takes it of the other choices
                error = raised
            self.give_up(error)

        if timeout is not None and not result.called:
            deadline = clock_of(self.reactor).callLater(timeout, expired)
        # The endpoint need not keep our protocol, which gives its transport away.
        connecting.addCallbacks(lambda _: None, not_connected)
        return result.addBoth(settled)

    def error_of_timeout(self) -> Exception:
        """
        Return the exception for a deadline that has passed.

        Of an onion service nothing is known then: tor may wait for it, or may not have bootstrapped.
        """
        connection = self._connection
        if connection is None:
            return HandshakeTimeout(diagnosis.NOT_CONNECTED)
        return HandshakeTimeout("" if connection.has_heard else diagnosis.never_answered(self.speaks))

    # What endpoints and the protocol ask for.

    def startFactory(self) -> None:
        """The application's factory starts and stops with this one."""
        if self.application is not None:
            self.application.doStart()

    def stopFactory(self) -> None:
        """The application's factory starts and stops with this one."""
        if self.application is not None:
            self.application.doStop()

    def buildProtocol(self, addr: IAddress | None) -> TunnelProtocol | None:
        """Build the protocol, unless the result has fired or was cancelled."""
        if self.result.called:
            return None
        self.proxy_address = addr
        self._connection = connection = self.protocol(self)
        self.was_built = True
        return connection

    def give_up(self, error: BaseException | Failure) -> None:
        """Fail the result, if it stands open, and close the connection, if there is one."""
        self._close()
        if not isinstance(error, (BaseException, Failure)):
            # A bug in an override: Twisted would raise here, and the result would never fire.
            error = TypeError(f"error_for() and error_of_timeout() return an exception, not {type(error).__name__}")
        if not self.result.called:
            self.result.errback(error)

    def finish(self, value: object) -> None:
        """Fire the result, unless the application cancelled it in its own callback."""
        self._connection = None
        if not self.result.called:
            self.result.callback(value)

    def _close(self) -> None:
        """Close the connection, if there is one, and build nothing later."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()


class TunnelProtocol(Protocol):
    """
    One conversation with a proxy. A subclass has its words: `_heard`, and `_begin` if the request is not the first.

    After the proxy's success the application's protocol has the transport to
    itself: its `connectionLost` sees Twisted's own reasons, its producers and
    half-close work, and data that came with the reply arrives at once.

    :param factory: the request.
    :param initiator: decodes what the proxy says.
    :ivar has_heard: whether the proxy said anything at all.
    """

    transport: Any

    def __init__(self, factory: Any, initiator: Any) -> None:
        self.factory = factory
        self.has_heard = False
        self._initiator = initiator
        self._first_words = b""
        self._is_new_tls = False
        self._is_over = False
        # Who has the connection, where the transport cannot be given away.
        self._successor: IProtocol | None = None

    # The words of a protocol.

    def _begin(self) -> bytes:
        """Return the bytes that begin the conversation."""
        encoded: bytes = self.factory.encoded
        return encoded

    def _heard(self, message: Any) -> None:
        """Go on after a message of the proxy's."""
        raise NotImplementedError

    # The conversation, from its first byte to its last.

    def connectionMade(self) -> None:
        if self._is_over:  # the caller cancelled while we connected
            abort(self.transport)
            return
        if isinstance(self.transport, ProtocolWrapper):
            self.transport = with_half_close(self.transport)
        self._attempt(self._open)

    def _open(self) -> None:
        # TLS that begins with us ends at the proxy. Older TLS may end at one whose tunnel we are in.
        self._is_new_tls = is_encrypted(self.transport) and self.transport.getPeerCertificate() is None
        if self.factory.methods.has_secrets:
            self._check_privacy()
        self._first_words = self._begin()
        self._say(self._first_words)

    def dataReceived(self, data: bytes) -> None:
        if self._successor is not None:
            self._successor.dataReceived(data)
        if not self._is_over:
            self._attempt(self._receive, data)

    def _receive(self, data: bytes) -> None:
        self.has_heard = True
        initiator = self._initiator
        initiator.feed(data)
        while initiator.buffer and not self._is_over and (message := initiator.next_message()) is not None:
            self._heard(message)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._successor is not None:
            self._successor.connectionLost(reason)
        if not self._is_over:
            self._attempt(self._lost, reason)

    def abort(self) -> None:
        """Close the connection, and do nothing more."""
        self._is_over = True
        if self.transport is not None:
            abort(self.transport)

    def _say(self, data: bytes) -> None:
        # A turn of the reactor less, where that is possible.
        write_now(self.transport, data)

    def _attempt(self, step: Callable[..., object], *arguments: object) -> None:
        """Take a step; whatever is raised in it, by a choice or by the application, ends the conversation."""
        try:
            step(*arguments)
        except MalformedMessage as violation:
            self._fail(self._violated(violation))
        except BaseException as error:
            if self._is_over:
                raise
            self._fail(error)

    # Who reads what we say.

    def _check_privacy(self) -> None:
        """Raise `CleartextRefused` where others could read what goes to the proxy."""
        transport, address = self.transport, self.factory.proxy_address
        if self._is_new_tls or self.factory.allow_cleartext:
            return
        # Any tunnel returns another address than that of its near end.
        if not (is_encrypted(transport) or is_local(address)) or address != transport.getPeer():
            raise CleartextRefused()

    # The end of the conversation.

    def _succeeded(self, address: SOCKS5Address) -> None:
        """Give the transport to the application's protocol, and then what came with the reply."""
        factory, transport = self.factory, self.transport
        application = factory.application.buildProtocol(address)
        if self._is_over:  # cancelled by the application's own factory
            return
        if application is None:
            self._fail(NoProtocol())
            return
        read_ahead = self._initiator.take_read_ahead() if self._initiator.buffer else b""
        delivery = None
        # A paused protocol keeps what comes, and is asked for it.
        if read_ahead and not isinstance(application, PausedProtocol):
            delivery = ReadAheadDelivery(factory.reactor, transport, read_ahead)
        if not hand_over(transport, application):
            self._successor = application
        renew_log_prefix(transport)
        self._is_over = True
        factory.finish(application)
        if delivery is not None:
            delivery.give_to(application)
        elif read_ahead:
            application.dataReceived(read_ahead)

    def _fail(self, error: BaseException) -> None:
        self._is_over = True
        self.factory.give_up(error)

    def _lost(self, reason: Failure) -> None:
        # Whatever else ends a TLS connection, such as a certificate of someone else.
        is_tls_fault = is_encrypted(self.transport) and not reason.check(ConnectionClosed)
        closed = ProxyClosed.message if self.has_heard else diagnosis.closed_without_answer(self.factory.speaks)
        error = ProxyClosed(diagnosis.TLS_FAULT if is_tls_fault else closed)
        error.__cause__ = reason.value
        self._fail(error)

    def _violated(self, violation: MalformedMessage) -> Exception:
        """Return the exception for an answer that the protocol does not have."""
        if not self._is_echo:
            return diagnosis.violation_error(violation, self._initiator.buffer, self.factory.speaks)
        if is_connected_to_itself(self.transport):
            return diagnosis.refused_error(self.transport.getPeer())
        return diagnosis.echo_error(self.factory.speaks)

    @property
    def _is_echo(self) -> bool:
        """Whether the proxy's answer is what we said: perhaps nothing listens there."""
        heard = bytes(self._initiator.buffer)
        return bool(heard) and self._first_words.startswith(heard)
