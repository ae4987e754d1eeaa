"""
Listeners: the checks of their endpoint strings, their backlog, and the options that their connections inherit.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from twisted.application.internet import StreamServerEndpointService
from twisted.application.strports import service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import (
    IListeningPort,
    IOpenSSLServerConnectionCreator,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from zope.interface import implementer

from ..checks import check_method
from ..descriptions import parse_description
from ..net.listening import ACCEPTS_IN_A_TURN, polled
from ..net.transport import keep_socket_alive
from ..net.twisted_transports import is_loopback_host
from .proxy_protocol import ProxyProtocolFactory
from .start_failures import ListenerFailed

BACKLOG = 1024
"""Connections that may wait to be accepted. With Twisted's 50, clients of a burst retransmit after a second."""

WRAPPER = "haproxy"
"""The kind that wraps another listener. See `txsocksx_ext.server.proxy_protocol`."""

_BACKLOG_POSITIONS = {"tcp": 2, "tcp6": 2, "unix": 2, "ssl": 5}
"""The position of ``backlog`` among the arguments of each kind that takes one."""

_DEFAULT_INTERFACES = {"tcp": "0.0.0.0", "tcp6": "::", "ssl": "0.0.0.0"}
_PRIVATE_KINDS = frozenset({"unix", "ssl", "tls"})


class ListenerString:
    """
    A server endpoint string of Twisted's, perhaps behind ``haproxy:``.

    :ivar text: the whole string.
    :ivar inner: the string without ``haproxy:``.
    :ivar is_wrapped: whether connections begin with a PROXY header.
    :ivar kind: the kind without ``haproxy:``, such as ``tcp``.
    """

    def __init__(self, text: str) -> None:
        wrapper, colon, rest = text.partition(":")
        self.text = text
        self.is_wrapped = bool(colon) and parse_description(wrapper)[0] == [WRAPPER]
        self.inner = rest if self.is_wrapped else text
        (self.kind, *self._arguments), self._keywords = parse_description(self.inner)

    def _argument(self, position: int, name: str) -> str | None:
        given = self._arguments[position] if len(self._arguments) > position else None
        return self._keywords.get(name, given)

    @property
    def port(self) -> int | None:
        """The port; ``None`` if the listener has none, or is of an unknown kind."""
        if self.kind not in ("tcp", "tcp6", "ssl"):
            return None
        try:
            return int(self._argument(0, "port") or "")
        except ValueError:
            return None

    @property
    def place(self) -> str:
        """The text without the files of ``ssl:``, which can change while the listener is open."""
        if self.kind != "ssl" or self.is_wrapped:
            return self.text
        return f"ssl:{self._argument(0, 'port')}:{self._argument(4, 'interface')}"

    @property
    def is_exposed(self) -> bool:
        """
        Whether other machines can reach the listener or read its connections (proposal 229, section 4).

        Unix sockets, TLS and TCP on loopback are safe. A socket from systemd is
        inspected. Unknown kinds count as exposed.
        """
        return self.kind not in _PRIVATE_KINDS and not self._is_on_loopback()

    @property
    def is_reachable(self) -> bool:
        """Whether clients on other machines can connect, by TLS or through a balancer too."""
        return self.is_wrapped or (self.kind != "unix" and not self._is_on_loopback())

    def _is_on_loopback(self) -> bool:
        if self.kind == "systemd":
            try:
                with self.inherited_socket() as inherited:
                    return inherited.family == socket.AF_UNIX or is_loopback_host(inherited.getsockname()[0])
            except ValueError:  # systemd passed none
                return False
        if self.kind not in _DEFAULT_INTERFACES:
            return False
        interface = self._argument(4 if self.kind == "ssl" else 1, "interface") or _DEFAULT_INTERFACES[self.kind]
        return interface == "localhost" or is_loopback_host(interface)

    @property
    def with_backlog(self) -> str:
        """
        `inner` with a backlog of `BACKLOG`, unless it has one.

        Only ``tcp``, ``tcp6``, ``unix`` and ``ssl`` are changed. The system reduces the
        backlog to its own limit (``net.core.somaxconn`` on Linux).
        """
        position = _BACKLOG_POSITIONS.get(self.kind)
        if position is None or self._argument(position, "backlog") is not None:
            return self.inner
        return f"{self.inner}:backlog={BACKLOG}"

    def check(self) -> None:
        """
        Refuse a listener that cannot work as it is described.

        :raises ValueError: the listener would expect a PROXY header inside TLS, or two
            of them; or the socket from systemd is not the described one.
        """
        if self.is_wrapped and self.kind in ("ssl", "tls"):
            raise ValueError(
                "balancers send the PROXY header before TLS begins, and this would look for it inside."
                " Have the balancer do TLS, and listen on haproxy:tcp"
            )
        if self.is_wrapped and ListenerString(self.inner).is_wrapped:
            raise ValueError("write haproxy: once, because a connection begins with one PROXY header")
        if self.kind == "systemd":
            self.inherited_socket().close()

    def inherited_socket(self) -> socket.socket:
        """
        Return a duplicate of the socket of a ``systemd:`` listener.

        :raises ValueError: systemd passed no listening socket of the described domain. With a wrong domain, Twisted
            would take TCP peers for unix sockets, which count as this machine.
        """
        try:
            endpoint: Any = serverFromString(None, self.inner)
        except LookupError:
            raise ValueError("systemd passed no socket of this index or name") from None
        try:
            inherited = socket.socket(fileno=os.dup(endpoint.fileno))
        except OSError as error:
            raise ValueError(f"systemd passed no socket: {error.strerror}") from None
        listens = inherited.type == socket.SOCK_STREAM and inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if listens and inherited.family == endpoint.addressFamily:
            return inherited
        domain = socket.AddressFamily(inherited.family).name.removeprefix("AF_")
        inherited.close()
        if not listens:
            raise ValueError(
                "the socket that systemd passed accepts no connections: it needs ListenStream= and Accept=no"
            )
        raise ValueError(f"the socket that systemd passed is of another domain: write domain={domain}")


def set_inherited_options(listening: socket.socket) -> None:
    """
    Set SO_KEEPALIVE and TCP_NODELAY on a listening TCP socket.

    On Linux each accepted connection inherits both, which saves two system calls.
    Does nothing for other kinds of sockets.
    """
    if listening.family in (socket.AF_INET, socket.AF_INET6):
        keep_socket_alive(listening)


def prepared(port: Any, accepts_in_a_turn: int = ACCEPTS_IN_A_TURN) -> Any:
    """
    Set the inherited options of a port, and have the poller accept its connections if it can.

    :param port: the result of an endpoint's ``listen``.
    :param accepts_in_a_turn: connections that the poller accepts in one turn.
    :returns: the port to stop instead of `port`.
    """
    opened = getattr(port, "socket", None)
    if isinstance(opened, socket.socket):
        set_inherited_options(opened)
    return polled(port, accepts_in_a_turn)


def listener_endpoint(
    reactor: Any, listener: str | IStreamServerEndpoint, accepts_in_a_turn: int = ACCEPTS_IN_A_TURN
) -> ListenerEndpoint:
    """
    Return the endpoint of a listener, with our backlog, whose port is `prepared`.

    Behind ``haproxy:`` connections begin with a PROXY header, which
    `ProxyProtocolFactory` reads.

    :param listener: a Twisted server endpoint string, or an endpoint, whose backlog is its own.
    :param accepts_in_a_turn: see `prepared`.
    :raises ValueError: the string is malformed; parsers of plugins may raise anything else.
    :raises TypeError: it is neither.
    """
    if not isinstance(listener, str):
        check_method("a listener", listener, "listen", "a server endpoint or its string")
        # Not its `repr`, which may show a path or a key.
        return ListenerEndpoint(listener, type(listener).__name__, False, accepts_in_a_turn)
    described = ListenerString(listener)
    described.check()
    with_certificate = _CertificateReactor(reactor) if described.kind == "ssl" else None
    endpoint = serverFromString(with_certificate or reactor, described.with_backlog)
    return ListenerEndpoint(endpoint, described.text, described.is_wrapped, accepts_in_a_turn, with_certificate)


@implementer(IOpenSSLServerConnectionCreator)
class _CertificateReactor:
    """A reactor whose TLS ports take their certificate from here at each connection, so that it can be replaced."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.options: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenSSL(self, port: int, factory: Any, contextFactory: Any, backlog: int, interface: str) -> Any:
        """See `IReactorSSL`. Without a reactor, only keep the certificate."""
        self.options = contextFactory
        return self._reactor and self._reactor.listenSSL(port, factory, self, backlog, interface)

    def serverConnectionForTLS(self, protocol: object) -> SSL.Connection:
        """See `IOpenSSLServerConnectionCreator`."""
        return SSL.Connection(self.options.getContext(), None)


@implementer(IStreamServerEndpoint)
class ListenerEndpoint:
    """
    An endpoint whose port is `prepared`, whose connections may begin with a PROXY header, and whose errors name it.

    :param is_wrapped: whether connections begin with a PROXY header.
    :ivar name: its string, or the class of an endpoint.
    :ivar port: what listens; ``None`` before that.
    """

    def __init__(
        self,
        endpoint: IStreamServerEndpoint,
        name: str,
        is_wrapped: bool,
        accepts_in_a_turn: int,
        with_certificate: _CertificateReactor | None = None,
    ) -> None:
        self.name = name
        self.port: IListeningPort | None = None
        self._endpoint = endpoint
        self._is_wrapped = is_wrapped
        self._accepts_in_a_turn = accepts_in_a_turn
        self._with_certificate = with_certificate

    def read_certificate(self, description: str) -> Callable[[], None]:
        """
        Read key and certificate of an ``ssl:`` listener again.

        :param description: the listener's, perhaps with other files.
        :returns: a function that uses them from now on.
        :raises Exception: they cannot be used.
        """
        certificate = self._with_certificate
        if certificate is None:
            return lambda: None
        read = _CertificateReactor(None)
        serverFromString(read, description).listen(Factory())
        return lambda: setattr(certificate, "options", read.options)

    def service(self, factory: IProtocolFactory, reactor: Any) -> StreamServerEndpointService:
        """Return a service that listens on it."""
        # Of Twisted's services, only those of this function raise at the start if they cannot listen.
        made = service("tcp:0", factory, reactor)
        made.endpoint = self
        return made

    def listen(self, protocolFactory: Any) -> Deferred[IListeningPort]:
        """See `IStreamServerEndpoint`."""
        factory = ProxyProtocolFactory(protocolFactory) if self._is_wrapped else protocolFactory
        return self._endpoint.listen(factory).addCallbacks(self._listens, self._failed)

    def _listens(self, port: IListeningPort) -> IListeningPort:
        self.port = port = prepared(port, self._accepts_in_a_turn)
        return port

    def _failed(self, failure: Failure) -> Failure:
        error = failure.value
        if not isinstance(error, Exception) or isinstance(error, CancelledError):
            return failure
        return Failure(ListenerFailed(self.name, error))
