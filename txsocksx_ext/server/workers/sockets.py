"""
Listening sockets: opened by one process, accepted from by others.

Endpoint strings stay what opens and uses them. An endpoint asks its reactor to
listen, and is given one that opens sockets and does not accept, or one that
accepts from sockets that are open.
"""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import dataclass, field
from typing import Any

from twisted.internet import unix
from twisted.internet.abstract import isIPv6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.internet.protocol import Factory
from twisted.protocols.tls import TLSMemoryBIOFactory

from ...net.listening import ACCEPTS_IN_A_TURN
from ..listeners import (
    BACKLOG,
    WRAPPER,
    listener_endpoint,
    set_inherited_options,
    split_wrapper,
    what_listens,
    with_backlog,
)
from ..start_failures import ListenerFailed

SHAREABLE_KINDS = ("tcp", "tcp6", "unix", "ssl", "systemd")
"""Also behind ``haproxy:``."""

ACCEPTS_AT_ONCE = 8
"""Connections that a worker takes at a time from a socket that all share."""


def kind_that_cannot_be_shared(description: str) -> str | None:
    """
    Return the kind of listener in a description if workers cannot share it, else ``None``.

    Sharing needs the kind to leave the socket to the reactor, which is known of
    Twisted's own kinds alone.
    """
    kind = what_listens(description)[0][0]
    return None if kind in SHAREABLE_KINDS else kind


def can_share_sockets() -> bool:
    """Return whether this system spreads connections over the sockets of one port."""
    return sys.platform == "linux" and hasattr(socket, "SO_REUSEPORT")


@dataclass
class SharedListener:
    """
    The open sockets of one listener.

    :ivar description: what a worker makes its endpoint of.
    :ivar sockets: of TCP one for each worker, over which the system spreads
        connections; of any other kind a single one, from which all accept.
    :ivar where: the address, for the log.
    :ivar path: the file of a unix socket, or ``""``.
    """

    description: str
    sockets: list[socket.socket]
    where: str
    path: str = ""
    _port: Any = field(default=None, repr=False)

    @property
    def family(self) -> int:
        """The address family of the sockets."""
        return self.sockets[0].family

    def files(self) -> list[tuple[str, int]]:
        """Return the files of a unix socket and its lock, with their inodes."""
        paths = (self.path, f"{self.path}.lock") if self.path else ()
        return [(path, os.lstat(path).st_ino) for path in paths if os.path.lexists(path)]

    def close(self) -> Deferred[None]:
        """Close the sockets here: connections are refused when the workers have closed theirs too."""
        if self._port is not None:
            closing: Deferred[None] = self._port.stopListening()
            return closing
        for each in self.sockets:
            each.close()
        return succeed(None)


def open_listener(reactor: Any, description: str, workers: int) -> SharedListener:
    """
    Open the sockets that a description asks for.

    :param description: a Twisted server endpoint string of a kind that can be shared.
    :raises ListenerFailed: the system does not allow it.
    """
    opening = _OpeningReactor(reactor, workers)
    failures: list[Any] = []
    _, inner = split_wrapper(description)
    serverFromString(opening, with_backlog(inner)).listen(_Nobody()).addErrback(failures.append)
    for failure in failures:
        raise ListenerFailed(description, failure.value)
    assert opening.opened is not None
    opening.opened.description = description
    return opening.opened


class _OpeningReactor:
    """Opens sockets where it is asked to listen, and accepts nothing."""

    def __init__(self, reactor: Any, workers: int) -> None:
        self._reactor = reactor
        self._workers = workers
        self.opened: SharedListener | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(self, port: int, factory: Any, backlog: int = BACKLOG, interface: str = "") -> SharedListener:
        """See `IReactorTCP`."""
        family = socket.AF_INET6 if isIPv6Address(interface) else socket.AF_INET
        sockets: list[socket.socket] = []
        try:
            for _ in range(self._workers):
                sockets.append(_bound(family, interface, port, is_first=not sockets))
                port = sockets[0].getsockname()[1]
            # Connections are spread over those that listen: first all are there.
            for each in sockets:
                each.listen(backlog)
        except OSError as error:
            for each in sockets:
                each.close()
            raise CannotListenError(interface, port, error) from None
        return self._keep(sockets, f"port {port}")

    def listenSSL(
        self, port: int, factory: Any, contextFactory: Any, backlog: int = BACKLOG, interface: str = ""
    ) -> SharedListener:
        """See `IReactorSSL`: the workers do TLS."""
        return self.listenTCP(port, factory, backlog, interface)

    def listenUNIX(
        self, address: str, factory: Any, backlog: int = BACKLOG, mode: int = 0o666, wantPID: bool = False
    ) -> SharedListener:
        """See `IReactorUNIX`: Twisted's own port keeps the file, and its lock."""
        path = os.path.abspath(address)
        port = _UnreadPort(path.encode(), factory, backlog, mode, self._reactor, wantPID)
        port.startListening()
        kept = self._keep([port.socket], path)
        kept.path, kept._port = path, port
        return kept

    def adoptStreamPort(self, fileDescriptor: int, addressFamily: int, factory: Any) -> SharedListener:
        """See `IReactorSocket`: the endpoint closes the descriptor that it gives."""
        adopted = socket.socket(fileno=os.dup(fileDescriptor))
        return self._keep([adopted], "a socket of systemd's")

    def _keep(self, sockets: list[socket.socket], where: str) -> SharedListener:
        for each in sockets:
            set_inherited_options(each)
        self.opened = SharedListener("", sockets, where)
        return self.opened


def _bound(family: int, interface: str, port: int, *, is_first: bool) -> socket.socket:
    """Return a socket that is bound, so that further ones can be bound to the same port."""
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if not is_first:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind((interface, port))
        # Of the first only now: so a port that another server uses is refused, even if that one would share it.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except BaseException:
        made.close()
        raise
    return made


class _Nobody(Factory):
    """Serves nothing, since nothing is accepted for it."""

    noisy = False


class _UnreadPort(unix.Port):
    """Listens, and leaves it to others to accept."""

    def startReading(self) -> None:
        """Do not: what is read here is a connection that is accepted here."""


class AdoptingEndpoint:
    """
    A worker's endpoint: what a description asks for, on sockets that are open already.

    :param description: a Twisted server endpoint string.
    :param family: the address family of the sockets.
    """

    def __init__(self, reactor: Any, description: str, family: int) -> None:
        self._adopting = _AdoptingReactor(reactor, family)
        accepts_in_a_turn = ACCEPTS_IN_A_TURN
        if what_listens(description)[0][0] == "systemd":  # which numbers sockets that only the supervising process has
            description = f"{WRAPPER}:tcp:0" if split_wrapper(description)[0] else "tcp:0"
            accepts_in_a_turn = ACCEPTS_AT_ONCE
        self._endpoint = listener_endpoint(self._adopting, description, accepts_in_a_turn)

    def listen(self, factory: IProtocolFactory, descriptor: int) -> Deferred[IListeningPort]:
        """Accept from the socket `descriptor`, of which the port makes a copy."""
        self._adopting.descriptor = descriptor
        listening: Deferred[IListeningPort] = self._endpoint.listen(factory)
        return listening


class _AdoptingReactor:
    """Accepts from a socket that is open, where it is asked to open one."""

    descriptor = -1

    def __init__(self, reactor: Any, family: int) -> None:
        self._reactor = reactor
        self._family = family

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(self, port: int, factory: Any, backlog: int = BACKLOG, interface: str = "") -> Any:
        """See `IReactorTCP`."""
        if self._family == socket.AF_UNIX:  # one of systemd's
            return self.listenUNIX("", factory, backlog)
        return self._reactor.adoptStreamPort(self.descriptor, self._family, factory)

    def listenSSL(
        self, port: int, factory: Any, contextFactory: Any, backlog: int = BACKLOG, interface: str = ""
    ) -> Any:
        """See `IReactorSSL`."""
        return self.listenTCP(port, TLSMemoryBIOFactory(contextFactory, False, factory), backlog, interface)

    def listenUNIX(
        self, address: str, factory: Any, backlog: int = BACKLOG, mode: int = 0o666, wantPID: bool = False
    ) -> Any:
        """See `IReactorUNIX`."""
        port = _AdoptedUNIXPort(self.descriptor, factory, backlog, self._reactor)
        port.startListening()
        return port


class _AdoptedUNIXPort(unix.Port):
    """Accepts from a socket whose file is not ours to change or remove."""

    # As Twisted's TCP port has it of a socket that it was given: to shut it down would end it for all who have it.
    _shouldShutdown = False

    def __init__(self, descriptor: int, factory: Any, backlog: int, reactor: Any) -> None:
        # A name that is no file's: Twisted would set its mode, and remove it at the end.
        super().__init__(b"\0adopted", factory, backlog, reactor=reactor)
        self._preexistingSocket = socket.fromfd(descriptor, socket.AF_UNIX, socket.SOCK_STREAM)

    def doRead(self) -> None:
        """Accept a few: of a burst, the other workers shall have their part."""
        self.numberAccepts = ACCEPTS_AT_ONCE
        super().doRead()
