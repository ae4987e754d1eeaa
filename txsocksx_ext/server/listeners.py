"""
Listeners: the checks of their endpoint strings, their backlog, and the options that their connections inherit.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from twisted.application.internet import StreamServerEndpointService
from twisted.application.strports import service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.python.failure import Failure
from zope.interface import implementer

from ..descriptions import parse_description
from ..net.listening import ACCEPTS_IN_A_TURN, polled
from ..net.transport import keep_socket_alive
from .proxy_protocol import ProxyProtocolFactory
from .start_failures import ListenerFailed

BACKLOG = 1024
"""Connections that may wait to be accepted. With Twisted's 50, clients of a burst retransmit after a second."""

WRAPPER = "haproxy"
"""The kind that wraps another listener. See `txsocksx_ext.server.proxy_protocol`."""

_PLACE_OF_BACKLOG = {"tcp": 3, "tcp6": 3, "unix": 3, "ssl": 6}
"""The position of ``backlog`` among the arguments of each kind that takes one; the kind itself is at 0."""


def split_wrapper(description: str) -> tuple[bool, str]:
    """Return whether an endpoint string begins with ``haproxy:``, and the string without that."""
    kind, colon, rest = description.partition(":")
    is_wrapper = bool(colon) and parse_description(kind)[0] == [WRAPPER]
    return is_wrapper, rest if is_wrapper else description


def what_listens(description: str) -> tuple[list[str], dict[str, str]]:
    """Return the arguments of an endpoint string, the kind first, and its keywords, without ``haproxy:``."""
    return parse_description(split_wrapper(description)[1])


def check_listener(description: str) -> None:
    """
    Refuse a listener that cannot work as it is described.

    :param description: a Twisted server endpoint string.
    :raises ValueError: the listener would expect a PROXY header inside TLS, or two
        of them; or the socket from systemd is not the described one.
    """
    is_wrapped, inner = split_wrapper(description)
    kind = what_listens(description)[0][0]
    if is_wrapped and kind in ("ssl", "tls"):
        raise ValueError(
            "balancers send the PROXY header before TLS begins, and this would look for it inside."
            " Have the balancer do TLS, and listen on haproxy:tcp"
        )
    if is_wrapped and split_wrapper(inner)[0]:
        raise ValueError("write haproxy: once, because a connection begins with one PROXY header")
    if kind == "systemd":
        inherited_socket(description).close()


def inherited_socket(description: str) -> socket.socket:
    """
    Return a duplicate of the socket of a ``systemd:`` listener.

    :raises ValueError: systemd passed no listening socket of the described domain. With a wrong domain, Twisted would
        take TCP peers for unix sockets, which count as this machine.
    """
    try:
        endpoint: Any = serverFromString(None, split_wrapper(description)[1])
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
        raise ValueError("the socket that systemd passed accepts no connections: it needs ListenStream= and Accept=no")
    raise ValueError(f"the socket that systemd passed is of another domain: write domain={domain}")


def with_backlog(description: str) -> str:
    """
    Return an endpoint string with a backlog of `BACKLOG`, unless it has one.

    Only ``tcp``, ``tcp6``, ``unix`` and ``ssl`` are changed, also behind ``haproxy``. The
    system reduces the backlog to its own limit (``net.core.somaxconn`` on Linux).

    :param description: a Twisted server endpoint string.
    """
    arguments, keywords = what_listens(description)
    place = _PLACE_OF_BACKLOG.get(arguments[0])
    if place is None or len(arguments) > place or "backlog" in keywords:
        return description
    return f"{description}:backlog={BACKLOG}"


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
    reactor: Any, description: str, accepts_in_a_turn: int = ACCEPTS_IN_A_TURN
) -> IStreamServerEndpoint:
    """
    Return the endpoint of a listener, with our backlog, whose port is `prepared`.

    Behind ``haproxy:`` connections begin with a PROXY header, which
    `ProxyProtocolFactory` reads.

    :param description: a Twisted server endpoint string.
    :param accepts_in_a_turn: see `prepared`.
    :raises ValueError: the string is malformed; parsers of plugins may raise anything else.
    """
    check_listener(description)
    is_wrapped, inner = split_wrapper(description)
    endpoint = serverFromString(reactor, with_backlog(inner))
    return _ListenerEndpoint(endpoint, description, is_wrapped, accepts_in_a_turn)


def listener_service(description: str, factory: IProtocolFactory, reactor: Any) -> StreamServerEndpointService:
    """
    Return Twisted's service for a listener, with our `listener_endpoint`.

    :param description: a Twisted server endpoint string.
    :raises ValueError: the string is malformed; parsers of plugins may raise anything else.
    """
    endpoint = listener_endpoint(reactor, description)
    made = service(description, factory, reactor)
    made.endpoint = endpoint
    return made


@implementer(IStreamServerEndpoint)
class _ListenerEndpoint:
    """
    An endpoint whose port is `prepared`, whose connections may begin with a PROXY header, and whose errors name it.
    """

    def __init__(
        self, endpoint: IStreamServerEndpoint, description: str, is_behind_balancer: bool, accepts_in_a_turn: int
    ) -> None:
        self._endpoint = endpoint
        self._description = description
        self._is_behind_balancer = is_behind_balancer
        self._accepts_in_a_turn = accepts_in_a_turn

    def listen(self, protocolFactory: Any) -> Deferred[IListeningPort]:
        """See `IStreamServerEndpoint`."""
        factory = ProxyProtocolFactory(protocolFactory) if self._is_behind_balancer else protocolFactory
        listening = self._endpoint.listen(factory)
        return listening.addCallbacks(prepared, self._failed, callbackArgs=(self._accepts_in_a_turn,))

    def _failed(self, failure: Failure) -> Failure:
        error = failure.value
        if not isinstance(error, Exception) or isinstance(error, CancelledError):
            return failure
        return Failure(ListenerFailed(self._description, error))
