"""
What becomes of a listener's description: how long its queue is, and what its connections inherit.
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
from ..net.twisted_transports import keep_socket_alive
from .proxy_protocol import ProxyProtocolFactory
from .start_failures import ListenerFailed

BACKLOG = 1024
"""Connections that may wait to be accepted: in a burst, Twisted's 50 makes clients send again after a second."""

WRAPPER = "haproxy"
"""The kind of listener that has another one's description after it: see `txsocksx_ext.server.proxy_protocol`."""

_PLACE_OF_BACKLOG = {"tcp": 3, "tcp6": 3, "unix": 3, "ssl": 6}
"""Where ``backlog`` stands without its name, in each kind that takes one; the kind itself is at 0."""


def split_wrapper(description: str) -> tuple[bool, str]:
    """Return whether a description begins with ``haproxy:``, and what follows."""
    kind, colon, rest = description.partition(":")
    is_wrapper = bool(colon) and parse_description(kind)[0] == [WRAPPER]
    return is_wrapper, rest if is_wrapper else description


def what_listens(description: str) -> tuple[list[str], dict[str, str]]:
    """Return the arguments of a listener's description, the kind first, and its keywords, without its wrapper."""
    return parse_description(split_wrapper(description)[1])


def check_listener(description: str) -> None:
    """
    Refuse a listener that would not work, or not as it is described.

    :param description: a Twisted server endpoint string.
    :raises ValueError: it would wait for the PROXY protocol's header inside TLS,
        or for a second one; or systemd passed another socket than it says.
    """
    is_wrapped, inner = split_wrapper(description)
    kind = what_listens(description)[0][0]
    if is_wrapped and kind in ("ssl", "tls"):
        raise ValueError(
            "balancers send the PROXY header before TLS begins, and this would look for it inside."
            " Have the balancer do TLS, and listen on haproxy:tcp"
        )
    if is_wrapped and split_wrapper(inner)[0]:
        raise ValueError("haproxy: stands once, because a connection begins with one PROXY header")
    if kind == "systemd":
        inherited_socket(description).close()


def inherited_socket(description: str) -> socket.socket:
    """
    Duplicate the socket that a ``systemd:`` listener accepts from.

    :raises ValueError: there is none that listens in the domain that the description says. With another one,
        Twisted would misread the peers' addresses: those of TCP for unix sockets, which count as this machine.
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
    Return a listener's description with a queue of `BACKLOG`, unless it says how long its own is.

    Only ``tcp``, ``tcp6``, ``unix`` and ``ssl`` are changed, also behind ``haproxy``. The
    system cuts the queue to its own limit (``net.core.somaxconn`` on Linux).

    :param description: a Twisted server endpoint string.
    """
    arguments, keywords = what_listens(description)
    place = _PLACE_OF_BACKLOG.get(arguments[0])
    if place is None or len(arguments) > place or "backlog" in keywords:
        return description
    return f"{description}:backlog={BACKLOG}"


def set_inherited_options(listening: socket.socket) -> None:
    """
    Set on a listening TCP socket what each accepted connection shall have: keep-alive, and no delay of small writes.

    On Linux a connection inherits both, so that they cost no system call for each.
    Elsewhere, and on other kinds of sockets, this does nothing, or nothing that lasts.
    """
    if listening.family in (socket.AF_INET, socket.AF_INET6):
        keep_socket_alive(listening)


def prepared(port: Any, accepts_in_a_turn: int = ACCEPTS_IN_A_TURN) -> Any:
    """
    Have a port's connections inherit our options, and be accepted the fast way, where that is possible.

    :param port: what an endpoint's ``listen`` fires with.
    :param accepts_in_a_turn: how many connections are then accepted before others have their turn.
    :returns: the port to be stopped instead of `port`.
    """
    opened = getattr(port, "socket", None)
    if isinstance(opened, socket.socket):
        set_inherited_options(opened)
    return polled(port, accepts_in_a_turn)


def listener_endpoint(
    reactor: Any, description: str, accepts_in_a_turn: int = ACCEPTS_IN_A_TURN
) -> IStreamServerEndpoint:
    """
    Make the endpoint of a listener, with our queue, and whose port is `prepared`.

    Behind ``haproxy:`` connections begin with the PROXY protocol's header, which
    `ProxyProtocolFactory` reads.

    :param description: a Twisted server endpoint string.
    :param accepts_in_a_turn: as for `prepared`.
    :raises ValueError: the description is faulty; parsers of plugins may raise anything else.
    """
    check_listener(description)
    is_wrapped, inner = split_wrapper(description)
    endpoint = serverFromString(reactor, with_backlog(inner))
    return _ListenerEndpoint(endpoint, description, is_wrapped, accepts_in_a_turn)


def listener_service(description: str, factory: IProtocolFactory, reactor: Any) -> StreamServerEndpointService:
    """
    Twisted's service for a listener, with its `listener_endpoint`.

    :param description: a Twisted server endpoint string.
    :raises ValueError: the description is faulty; parsers of plugins may raise anything else.
    """
    endpoint = listener_endpoint(reactor, description)
    made = service(description, factory, reactor)
    made.endpoint = endpoint
    return made


@implementer(IStreamServerEndpoint)
class _ListenerEndpoint:
    """
    Prepares the port that an endpoint opens, and has its connections begin with a PROXY header, if they do.

    Its failure names the listener.
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
