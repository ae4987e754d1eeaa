"""
Connections to addresses given as numbers, by the shortest way.
"""

from __future__ import annotations

import os
import socket
from errno import EINPROGRESS
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectBindError, ConnectError, ConnectingCancelledError, getConnectError
from twisted.internet.interfaces import ITransport

from ..transports import keep_socket_alive, open_transport
from ..wire.codes import AddressType
from ..wire.messages import Address
from .poller import FAILED, INPUT_ENDED, WRITABLE, Poller, poller_of
from .transport import ConnectedTransport, twisted_address_of

ATTEMPT_TIMEOUT = 120.0
"""Seconds for one attempt: beyond any time that a server gives to it."""


def connect_socket(reactor: Any, address: Address) -> Deferred[ITransport]:
    """
    Connect to an IPv4 or IPv6 address, without a turn of the reactor more than it takes.

    Where the reactor has no poller, or something stands before its
    ``connectTCP``, Twisted's own endpoint does it.

    :returns: fires with a paused transport, as `open_transport` does, in the
        very turn in which it is connected; or fails with one of Twisted's
        connection errors. Cancelling it closes the socket.
    """
    poller = poller_of(reactor)
    if poller is None or getattr(reactor.connectTCP, "__self__", None) is not poller.reactor:
        endpoint = TCP6ClientEndpoint if address.type == AddressType.IPV6 else TCP4ClientEndpoint
        return open_transport(endpoint(reactor, address.host, address.port, timeout=ATTEMPT_TIMEOUT))
    family = socket.AF_INET6 if address.type == AddressType.IPV6 else socket.AF_INET
    try:
        connecting = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError as error:
        return fail(ConnectBindError(error.errno, error.strerror))
    keep_socket_alive(connecting)
    return _Attempt(connecting, address, poller).begin()


class _Attempt:
    """One connection that is being made."""

    __slots__ = ("_address", "_connected", "_poller", "_socket")

    def __init__(self, connecting: socket.socket, address: Address, poller: Poller) -> None:
        self._socket = connecting
        self._address = address
        self._poller = poller
        self._connected: Deferred[ITransport] = Deferred(self._cancel)

    def begin(self) -> Deferred[ITransport]:
        result = self._socket.connect_ex((self._address.host, self._address.port))
        if result not in (0, EINPROGRESS):
            self._socket.close()
            return fail(_error_of(result))
        try:
            self._poller.watch(self._socket.fileno(), self)
        except OSError as error:
            self._socket.close()
            return fail(getConnectError((error.errno, error.strerror)))
        if not result:
            self._succeed(events=0)
        return self._connected

    def ready(self, events: int) -> None:
        if events & (FAILED | INPUT_ENDED):
            problem = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if problem:
                self._fail(_error_of(problem))
                return
        if events & WRITABLE:
            self._succeed(events)

    def abandon(self, why: str) -> None:
        self._fail(ConnectError(string=why))

    def _succeed(self, events: int) -> None:
        transport = ConnectedTransport(self._socket, self._address, self._poller, events)
        self._poller.replace(self._socket.fileno(), transport)
        self._connected.callback(transport)

    def _fail(self, error: Exception) -> None:
        self._close()
        self._connected.errback(error)

    def _cancel(self, connected: Deferred[ITransport]) -> None:
        self._close()
        connected.errback(ConnectingCancelledError(twisted_address_of(self._address)))

    def _close(self) -> None:
        self._poller.forget(self._socket.fileno())
        self._socket.close()


def _error_of(number: int) -> Exception:
    """Twisted's exception for the system's number."""
    error: Exception = getConnectError((number, os.strerror(number)))
    return error
