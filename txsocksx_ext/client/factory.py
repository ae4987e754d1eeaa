"""
The client's factory: it holds the choices of one conversation, each of which can be overridden.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import NoneType
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IProtocolFactory
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from zope.interface import implementer

from ..checks import check_protocol_factory, check_reactor, check_type
from ..errors import HandshakeTimeout
from ..failures import authentication_error, reply_error
from ..protocol.codes import DESCRIPTOR_NOT_FOUND, Dialect, Method
from ..protocol.messages import (
    UNSPECIFIED,
    Address,
    ExtendedResponse,
    Reply,
    Request,
    UsernamePassword,
    UsernamePasswordResponse,
)
from ..protocol.pairs import DEFAULT_PAIR_LIMITS, NO_PAIRS, PairLimits, Pairs
from ..protocol.socks5 import Initiator
from .diagnosis import NEVER_ANSWERED, NOT_CONNECTED
from .methods import ClientMethods
from .protocol import SOCKS5ExtClientProtocol


@implementer(IAddress)
class SOCKS5Address:
    """
    What an application's factory gets as the address of its connection.

    :ivar host: the target's, as it was asked for.
    :ivar port: the target's.
    :ivar bound: the address that the proxy says it used.
    :ivar method: the authentication method that the proxy selected.
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


class SOCKS5ExtClientFactory(Factory):
    """
    One request to a proxy (the proposal's initiator).

    To change one choice, override one of `offer`, `credentials`, `pairs` and
    `error_for`.

    :param request: what to ask the proxy for.
    :param methods: what to offer: see `SOCKS5ClientEndpoint`.
    :param application: builds the protocol that gets the connection; ``None``
        where the reply is the result, as for RESOLVE.
    :param dialect: how to read extended codes; ``None`` decides by what the
        proxy selects and confirms.
    :param allow_cleartext: whether secrets may go to a proxy that is not seen to
        be on this machine or behind TLS.
    :param limits: how much the proxy may answer.
    :param reactor: provides time; by default the global one.
    :raises ValueError: the methods are faulty.
    :raises TypeError: an argument, or what `methods` holds, is of a wrong type.
    :ivar request: what the proxy is asked for: an onion service's name has no dot at its end.
    :ivar proxy_address: what the proxy's endpoint says it connected to; ``None`` before that.
    :ivar was_built: whether the proxy's endpoint has asked for a protocol.
    :ivar result: fires with the application's protocol, or with the address
        that the reply holds; or fails with an exception of `txsocksx_ext.errors`.
    """

    protocol = SOCKS5ExtClientProtocol  # type: ignore[assignment]
    noisy = False

    def __init__(
        self,
        request: Request,
        methods: Mapping[str, Any] | ClientMethods,
        application: IProtocolFactory | None = None,
        *,
        dialect: Dialect | None = None,
        allow_cleartext: bool = False,
        limits: PairLimits = DEFAULT_PAIR_LIMITS,
        reactor: Any = None,
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor
        check_type("request", request, Request)
        check_type("limits", limits, PairLimits)
        check_type("dialect", dialect, Dialect, NoneType)
        check_type("allow_cleartext", allow_cleartext, bool)
        check_reactor("reactor", reactor)
        if application is not None:
            check_protocol_factory("application", application)
        self.reactor = reactor
        self.request = _as_tor_knows_it(request)
        self.methods = ClientMethods.of(methods)
        self.application = application
        self.allow_cleartext = allow_cleartext
        self._dialect = dialect
        self._limits = limits
        self.result: Deferred[Any] = Deferred(lambda _: self._cancel())
        self.proxy_address: IAddress | None = None
        self.was_built = False
        self._connection: SOCKS5ExtClientProtocol | None = None

    # Choices.

    def offer(self) -> tuple[Method, ...]:
        """Return the methods to offer, the preferred first."""
        return self.methods.offer()

    def credentials(self) -> UsernamePassword:
        """Return what to send if the proxy selected method 0x02."""
        credentials = self.methods.credentials()
        if credentials is None:
            raise ValueError("method 02 was offered without a user name and password")
        return credentials

    def pairs(self) -> Pairs:
        """Return what to send if the proxy selected method 0x97."""
        return self.methods.pairs_to_send()

    def error_for(self, answer: UsernamePasswordResponse | ExtendedResponse | Reply, initiator: Initiator) -> Exception:
        """
        Return the exception for a failing answer.

        :param answer: what the proxy said.
        :param initiator: our end of the conversation: its ``dialect`` says how
            to read a reply's code.
        """
        if isinstance(answer, Reply):
            return reply_error(answer.code, initiator.dialect)
        assert initiator.selected is not None
        pairs = answer.pairs if isinstance(answer, ExtendedResponse) else NO_PAIRS
        return authentication_error(initiator.selected, answer.status, pairs)

    def error_of_timeout(self) -> Exception:
        """
        Return the exception for a deadline that has passed.

        Of an onion service nothing is known then: tor may wait for it, or may not have bootstrapped.
        """
        connection = self._connection
        if connection is None:
            return HandshakeTimeout(NOT_CONNECTED)
        return HandshakeTimeout("" if connection.has_heard else NEVER_ANSWERED)

    # What endpoints and the protocol ask for.

    def may_be_success(self, reply: Reply, initiator: Initiator) -> bool:
        """
        Return whether a failing reply may come with a connection that stands.

        If one directory does not have a descriptor and another has, tor's port
        with ExtendedErrors answers F0 and connects. After a failure it closes.
        """
        is_doubtful = initiator.dialect is Dialect.TOR and reply.code == DESCRIPTOR_NOT_FOUND.number
        return is_doubtful and self.application is not None

    def startFactory(self) -> None:
        """The application's factory starts and stops with this one."""
        _call_if_there(self.application, "doStart")

    def stopFactory(self) -> None:
        """The application's factory starts and stops with this one."""
        _call_if_there(self.application, "doStop")

    def buildProtocol(self, addr: IAddress | None) -> SOCKS5ExtClientProtocol | None:  # type: ignore[override]
        """Build the protocol, unless the result has fired or was cancelled."""
        if self.result.called:
            return None
        self.proxy_address = addr
        connection: SOCKS5ExtClientProtocol = self.protocol(Initiator(self._dialect, self._limits))
        connection.factory = self
        self._connection = connection
        self.was_built = True
        return connection

    def address(self, bound: Address, method: Method, pairs: Pairs) -> SOCKS5Address:
        """Return what the application is told of its connection."""
        destination = self.request.destination
        return SOCKS5Address(destination.host, destination.port, bound, method, pairs)

    def give_up(self, error: BaseException | Failure) -> None:
        """Fail the result, if it stands open, and close the connection, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
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

    def _cancel(self) -> None:
        """The result was cancelled: close the connection, and build nothing later."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()


def _as_tor_knows_it(request: Request) -> Request:
    """
    Return a request, without the dot at the end of an onion service's name.

    With it tor takes the name for one of the DNS, and tells it to exits, one after the other (RFC 7686).
    """
    destination = request.destination
    if not destination.host.endswith(".") or not destination.is_onion:
        return request
    return replace(request, destination=Address.of(destination.host.rstrip("."), destination.port))


def _call_if_there(application: IProtocolFactory | None, name: str) -> None:
    if application is not None:
        getattr(application, name)()
