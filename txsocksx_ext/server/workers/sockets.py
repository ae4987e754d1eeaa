"""
Listening sockets that the supervisor opens and workers inherit.

Both use Twisted's endpoint strings. The supervisor passes the endpoint a reactor
that opens sockets without accepting; a worker passes one that accepts from
inherited sockets.
"""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import dataclass, field
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.abstract import isIPv6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.internet.protocol import Factory
from twisted.protocols.tls import TLSMemoryBIOFactory

from ...net.listening import ACCEPTS_IN_A_TURN
from ..listeners import BACKLOG, WRAPPER, ListenerString, listener_endpoint, set_inherited_options
from ..start_failures import ListenerFailed

SHAREABLE_KINDS = ("tcp", "tcp6", "unix", "ssl", "systemd")
"""
The kinds that workers can share, also behind ``haproxy:``: those that leave the socket to the reactor.

Only Twisted's own kinds are known to do so.
"""

ACCEPTS_AT_ONCE = 8
"""Connections that a worker accepts in one turn from a socket that all workers share."""


def can_share_sockets() -> bool:
    """Return whether this system spreads connections over the sockets of one port."""
    return sys.platform == "linux" and hasattr(socket, "SO_REUSEPORT")


@dataclass
class SharedListener:
    """
    The open sockets of one listener.

    :ivar description: the endpoint string.
    :ivar sockets: one for each worker on TCP, over which the system spreads
        connections (SO_REUSEPORT); a single one, shared by all, for other kinds.
    :ivar where: the address, for the log.
    :ivar path: the file of a unix socket, or ``""``.
    """

    description: str
    sockets: list[socket.socket]
    where: str
    path: str = ""
    _port: unix.Port | None = field(default=None, repr=False)

    @property
    def family(self) -> int:
        """The address family of the sockets."""
        return self.sockets[0].family

    def files(self) -> list[tuple[str, int]]:
        """Return the files of a unix socket and its lock, with their inodes."""
        paths = (self.path, f"{self.path}.lock") if self.path else ()
        return [(path, os.lstat(path).st_ino) for path in paths if os.path.lexists(path)]

    def close(self) -> Deferred[None]:
        """Close the sockets here: connections are refused once the workers have closed theirs too."""
        if self._port is not None:
            closing: Deferred[None] = self._port.stopListening()
            return closing
        for each in self.sockets:
            each.close()
        return succeed(None)


def open_listener(reactor: Any, description: str, workers: int) -> SharedListener:
    """
    Open the sockets of a listener.

    :param description: a Twisted server endpoint string of a kind that workers can share.
    :raises ListenerFailed: a socket cannot be opened.
    """
    opening = _OpeningReactor(reactor, workers)
    failures: list[Any] = []
    serverFromString(opening, ListenerString(description).with_backlog).listen(_NoConnections()).addErrback(
        failures.append
    )
    for failure in failures:
        raise ListenerFailed(description, failure.value)
    assert opening.opened is not None
    opening.opened.description = description
    return opening.opened


class _ReactorWrapper:
    """A reactor with ``listen…`` methods of its own."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)


class _OpeningReactor(_ReactorWrapper):
    """A reactor whose ``listen…`` methods open sockets and accept nothing."""

    def __init__(self, reactor: Any, workers: int) -> None:
        super().__init__(reactor)
        self._workers = workers
        self.opened: SharedListener | None = None

    def listenTCP(
        self, port: int, factory: IProtocolFactory, backlog: int = BACKLOG, interface: str = ""
    ) -> SharedListener:
        """See `IReactorTCP`."""
        family = socket.AF_INET6 if isIPv6Address(interface) else socket.AF_INET
        sockets: list[socket.socket] = []
        try:
            for _ in range(self._workers):
                sockets.append(_bound(family, interface, port, is_first=not sockets))
                port = sockets[0].getsockname()[1]
            # Listen last: connections are spread over the sockets that listen.
            for each in sockets:
                each.listen(backlog)
        except OSError as error:
            for each in sockets:
                each.close()
            raise CannotListenError(interface, port, error) from None
        return self._keep(sockets, f"port {port}")

    def listenSSL(
        self, port: int, factory: IProtocolFactory, contextFactory: Any, backlog: int = BACKLOG, interface: str = ""
    ) -> SharedListener:
        """See `IReactorSSL`. The workers do TLS."""
        return self.listenTCP(port, factory, backlog, interface)

    def listenUNIX(
        self, address: str, factory: IProtocolFactory, backlog: int = BACKLOG, mode: int = 0o666, wantPID: bool = False
    ) -> SharedListener:
        """See `IReactorUNIX`. Twisted's port here owns the file and its lock."""
        path = os.path.abspath(address)
        port = _UnreadPort(path.encode(), factory, backlog, mode, self._reactor, wantPID)
        port.startListening()
        kept = self._keep([port.socket], path)
        kept.path, kept._port = path, port
        return kept

    def adoptStreamPort(self, fileDescriptor: int, addressFamily: int, factory: IProtocolFactory) -> SharedListener:
        """See `IReactorSocket`. The endpoint closes the descriptor that it passes."""
        adopted = socket.socket(fileno=os.dup(fileDescriptor))
        return self._keep([adopted], "a socket from systemd")

    def _keep(self, sockets: list[socket.socket], where: str) -> SharedListener:
        for each in sockets:
            set_inherited_options(each)
        self.opened = SharedListener("", sockets, where)
        return self.opened


def _bound(family: int, interface: str, port: int, *, is_first: bool) -> socket.socket:
    """Return a bound socket; more sockets can be bound to its port."""
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if not is_first:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind((interface, port))
        # Set it on the first socket only after bind(), so that a port of another server is refused even if that
        # server would share it.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError:
        made.close()
        raise
    return made


class _NoConnections(Factory):
    """A factory for a port from which nothing is accepted."""

    noisy = False


class _UnreadPort(unix.Port):
    """A unix port that listens but accepts nothing: workers accept from its socket."""

    def startReading(self) -> None:
        """Do nothing: reading a port accepts its connections."""


class InheritedListener:
    """
    A worker's listener: the endpoint of a description, on sockets that the supervisor has opened.

    :param description: a Twisted server endpoint string.
    :param family: the address family of the sockets.
    """

    def __init__(self, reactor: Any, description: str, family: int) -> None:
        self._adopting = _AdoptingReactor(reactor, family)
        accepts_in_a_turn = ACCEPTS_IN_A_TURN
        listener = ListenerString(description)
        if listener.kind == "systemd":
            # Its index counts sockets that only the supervisor has inherited.
            description = f"{WRAPPER}:tcp:0" if listener.is_wrapped else "tcp:0"
            accepts_in_a_turn = ACCEPTS_AT_ONCE
        self._endpoint = listener_endpoint(self._adopting, description, accepts_in_a_turn)

    def listen(self, factory: IProtocolFactory, descriptor: int, *, is_spare: bool = False) -> Deferred[IListeningPort]:
        """
        Accept from a socket.

        :param descriptor: the socket's; the port duplicates it.
        :param is_spare: whether the port accepts only when its ``doRead`` is called.
        """
        self._adopting.descriptor, self._adopting.is_spare = descriptor, is_spare
        listening: Deferred[IListeningPort] = self._endpoint.listen(factory)
        return listening


class _AdoptingReactor(_ReactorWrapper):
    """A reactor whose ``listen…`` methods accept from a socket that is open already."""

    descriptor = -1
    is_spare = False

    def __init__(self, reactor: Any, family: int) -> None:
        super().__init__(reactor)
        self._family = family

    def listenTCP(
        self, port: int, factory: IProtocolFactory, backlog: int = BACKLOG, interface: str = ""
    ) -> IListeningPort:
        """See `IReactorTCP`."""
        if self._family == socket.AF_UNIX:  # of a systemd: listener
            return self.listenUNIX("", factory, backlog)
        if self.is_spare:
            spare: IListeningPort = _SparePort._fromListeningDescriptor(
                self._reactor, self.descriptor, self._family, factory
            )
            spare.startListening()
            return spare
        adopted: IListeningPort = self._reactor.adoptStreamPort(self.descriptor, self._family, factory)
        return adopted

    def listenSSL(
        self, port: int, factory: IProtocolFactory, contextFactory: Any, backlog: int = BACKLOG, interface: str = ""
    ) -> IListeningPort:
        """See `IReactorSSL`."""
        return self.listenTCP(port, TLSMemoryBIOFactory(contextFactory, False, factory), backlog, interface)

    def listenUNIX(
        self, address: str, factory: IProtocolFactory, backlog: int = BACKLOG, mode: int = 0o666, wantPID: bool = False
    ) -> IListeningPort:
        """See `IReactorUNIX`."""
        port = _AdoptedUNIXPort(self.descriptor, factory, backlog, self._reactor)
        port.startListening()
        return port


class _SparePort(tcp.Port):
    """A port that accepts only when its ``doRead`` is called."""

    def startReading(self) -> None:
        """Do nothing: the reactor would accept at once."""


class _AdoptedUNIXPort(unix.Port):
    """
    A port that accepts from an inherited unix socket and leaves its file alone.

    Twisted's ``adoptStreamPort`` would change the file's mode, and remove it at the end.
    """

    # As Twisted's own adopted TCP port: shutting the socket down would end it for all processes that have it.
    _shouldShutdown = False

    def __init__(self, descriptor: int, factory: IProtocolFactory, backlog: int, reactor: Any) -> None:
        # An abstract name, so that Twisted looks for no file.
        super().__init__(b"\0adopted", factory, backlog, reactor=reactor)
        self._preexistingSocket = socket.fromfd(descriptor, socket.AF_UNIX, socket.SOCK_STREAM)

    def doRead(self) -> None:
        """Accept a few connections, and leave the others of a burst to the other workers."""
        self.numberAccepts = ACCEPTS_AT_ONCE
        super().doRead()
