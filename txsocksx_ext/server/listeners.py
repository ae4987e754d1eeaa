"""
What becomes of a listener's description: how long its queue is, and what its connections inherit.
"""

from __future__ import annotations

import socket
from typing import Any

from twisted.application.internet import StreamServerEndpointService
from twisted.application.strports import service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from zope.interface import implementer

from ..descriptions import parse_description
from ..net.listening import ACCEPTS_IN_A_TURN, polled
from ..net.twisted_transports import keep_socket_alive

BACKLOG = 1024
"""Connections that may wait to be accepted: in a burst, Twisted's 50 makes clients send again after a second."""

WRAPPER = "haproxy"
"""The kind of listener that has another one's description after it."""

_PLACE_OF_BACKLOG = {"tcp": 3, "tcp6": 3, "unix": 3, "ssl": 6}
"""Where ``backlog`` stands without its name, in each kind that takes one; the kind itself is at 0."""


def what_listens(description: str) -> tuple[list[str], dict[str, str]]:
    """The arguments, first of them the kind, and the keywords of a listener's description, without its wrappers."""
    arguments, keywords = parse_description(description)
    while len(arguments) > 1 and arguments[0] == WRAPPER:
        del arguments[0]
    return arguments, keywords


def kinds_of(description: str) -> tuple[str, str]:
    """The wrappers in a listener's description, as they stand before the rest, and the kind that they wrap."""
    arguments, _ = parse_description(description)
    inner, _ = what_listens(description)
    return f"{WRAPPER}:" * (len(arguments) - len(inner)), inner[0]


def check_wrapper(description: str) -> None:
    """
    Refuse a listener that looks for the PROXY protocol's header where no balancer sends it.

    :param description: a Twisted server endpoint string.
    :raises ValueError: it would look for it inside TLS.
    """
    wrappers, kind = kinds_of(description)
    if wrappers and kind == "ssl":
        raise ValueError(
            "Twisted would look for the PROXY header inside TLS, and balancers send it before."
            " Have the balancer do TLS, and listen on haproxy:tcp"
        )


def with_backlog(description: str) -> str:
    """
    A listener's description with a queue of `BACKLOG`, unless it says how long its own is.

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


def listener_service(description: str, factory: IProtocolFactory, reactor: Any) -> StreamServerEndpointService:
    """
    Twisted's service for a listener, with our queue, and `prepared`.

    :param description: a Twisted server endpoint string.
    :raises ValueError: it is none; parsers of plugins raise what they like.
    """
    check_wrapper(description)
    made = service(with_backlog(description), factory, reactor)
    made.endpoint = _PreparedEndpoint(made.endpoint)
    return made


@implementer(IStreamServerEndpoint)
class _PreparedEndpoint:
    """Prepares the port that an endpoint opens."""

    def __init__(self, endpoint: IStreamServerEndpoint) -> None:
        self._endpoint = endpoint

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """See `IStreamServerEndpoint`."""
        return self._endpoint.listen(protocolFactory).addCallback(prepared)
