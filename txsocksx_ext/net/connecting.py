"""
Connecting to address literals in the poller.
"""

from __future__ import annotations

import os
import socket
import sys
from errno import EALREADY, ECONNREFUSED, EINPROGRESS
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectBindError, ConnectError, ConnectingCancelledError, getConnectError
from twisted.internet.interfaces import ITransport

from ..protocol.codes import AddressType
from ..protocol.messages import Address
from .poller import FAILED, INPUT_ENDED, WRITABLE, Poller, poller_of
from .transport import QUIET, SocketTransport, keep_socket_alive, reset_socket, twisted_address_of
from .twisted_transports import endpoint_to, is_loopback_host, open_transport

ATTEMPT_TIMEOUT = 120.0
"""Seconds for one attempt of Twisted's endpoints: longer than any time that a server gives it."""

IPV6 = AddressType.IPV6
_KIND = int(socket.SOCK_STREAM) | getattr(socket, "SOCK_NONBLOCK", 0) | getattr(socket, "SOCK_CLOEXEC", 0)
_UNDER_WAY = (EINPROGRESS, EALREADY)
_OVER = FAILED | INPUT_ENDED


_BIND_ADDRESS_NO_PORT = 24
"""Linux's IP_BIND_ADDRESS_NO_PORT, which Python does not name: the port is chosen by connect(), for each target."""


def connect_socket(reactor: Any, address: Address, source: str = "") -> Deferred[ITransport]:
    """
    Connect to an IPv4 or IPv6 address, without waiting for another iteration of the reactor.

    If the reactor has no poller, or a wrapper has its own ``connectTCP``, connect by
    Twisted's endpoint.

    :param source: the local address, of the same family; by default the system chooses.
    :returns: fires with a paused transport, as `open_transport` does, or fails with one
        of Twisted's connection errors: a socket that is connected to itself (see
        `is_connected_to_itself`) counts as refused. Cancelling it closes the socket.
    """
    poller = poller_of(reactor)
    is_ipv6 = address.type == IPV6
    if poller is None or getattr(reactor.connectTCP, "__self__", None) is not poller.reactor:
        return open_transport(
            endpoint_to(reactor, address.host, address.port, ATTEMPT_TIMEOUT, (source, 0) if source else None)
        )
    try:
        there: Any = (address.host, address.port) if "%" not in address.host else _with_scope(address)
        connecting = socket.SocketType(socket.AF_INET6 if is_ipv6 else socket.AF_INET, _KIND)
    except OSError as error:
        return fail(ConnectBindError(error.errno, error.strerror))
    keep_socket_alive(connecting)
    if source:
        try:
            if sys.platform == "linux":
                connecting.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
            connecting.bind((source, 0))
        except OSError as error:
            connecting.close()
            return fail(ConnectBindError(error.errno, error.strerror))
    problem = connecting.connect_ex(there)
    if problem == EINPROGRESS and is_loopback_host(address.host):
        # On loopback the connection is complete by now: a second call returns its outcome.
        problem = connecting.connect_ex(there)
    if not problem:
        name = connecting.getsockname()
        if name[1] == address.port and _is_name_of_peer(name, connecting):
            reset_socket(connecting)
            return fail(_error_of(ECONNREFUSED))
    elif problem not in _UNDER_WAY:
        connecting.close()
        return fail(_error_of(problem))
    watcher: Any = (
        _Attempt(connecting, address, poller)
        if problem
        else SocketTransport(connecting, QUIET, address, poller, name=name)
    )
    try:
        poller.watch(connecting.fileno(), watcher)
        if problem:
            poller.rearm(connecting.fileno())
    except OSError as error:
        connecting.close()
        return fail(getConnectError((error.errno, error.strerror)))
    return watcher.connected if problem else _fired(watcher)


def _with_scope(address: Address) -> tuple[str, int, int, int]:
    """Return the socket address of a link-local address, in which the scope is a number."""
    host, _, scope = address.host.partition("%")
    return host, address.port, 0, int(scope) if scope.isdigit() else socket.if_nametoindex(scope)


def _is_name_of_peer(name: tuple[Any, ...], connected: socket.SocketType) -> bool:
    """Return whether a socket with this name is connected to itself. Ask only if our port is the target's."""
    try:
        return bool(name == connected.getpeername())
    except OSError:  # the peer has reset it already
        return False


def _fired(result: ITransport) -> Deferred[ITransport]:
    """Return a Deferred that has fired. Twisted's ``succeed`` takes as long as connecting."""
    fired: Deferred[ITransport] = Deferred()
    fired.called, fired.result = True, result
    return fired


class _Attempt:
    """
    A connection in progress.

    :ivar connected: fires with the transport.
    """

    __slots__ = ("_address", "_poller", "_socket", "connected")

    def __init__(self, connecting: socket.SocketType, address: Address, poller: Poller) -> None:
        self._socket = connecting
        self._address = address
        self._poller = poller
        self.connected: Deferred[ITransport] = Deferred(self._cancel)

    def ready(self, events: int) -> None:
        """See `txsocksx_ext.net.poller.Watcher`."""
        if events & _OVER:
            problem = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if problem:
                self._fail(_error_of(problem))
                return
        if events & WRITABLE:
            name = self._socket.getsockname()
            if name[1] == self._address.port and _is_name_of_peer(name, self._socket):
                self._poller.unregister(self._socket.fileno())
                reset_socket(self._socket)
                self.connected.errback(_error_of(ECONNREFUSED))
                return
            transport = SocketTransport(self._socket, QUIET, self._address, self._poller, events, name=name)
            self._poller.replace(self._socket.fileno(), transport)
            self.connected.callback(transport)

    def abandon(self, why: str) -> None:
        """See `txsocksx_ext.net.poller.Watcher`."""
        self._fail(ConnectError(string=why))

    def _fail(self, error: Exception) -> None:
        self._close()
        self.connected.errback(error)

    def _cancel(self, connected: Deferred[ITransport]) -> None:
        self._close()
        connected.errback(ConnectingCancelledError(twisted_address_of(self._address)))

    def _close(self) -> None:
        self._poller.unregister(self._socket.fileno())
        self._socket.close()


def _error_of(number: int) -> Exception:
    """Return Twisted's exception for a system error number."""
    error: Exception = getConnectError((number, os.strerror(number)))
    return error
