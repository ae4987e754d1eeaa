"""
The addresses of this machine's interfaces.

They are read by getifaddrs(3), and read again when they change. On Linux a netlink
socket (rtnetlink(7)) reports changes; checking it takes one non-blocking system
call and no reactor. On other systems, addresses older than a second are read again.
"""

from __future__ import annotations

import ctypes
import ipaddress
import os
import socket
import sys
from collections.abc import Iterator
from errno import ENOBUFS
from time import monotonic

from twisted.logger import Logger

from ..addresses import IPAddress

OLDEST = 1.0
"""Seconds for which addresses are cached if the system does not report changes."""

_RTMGRP_IPV4_IFADDR, _RTMGRP_IPV6_IFADDR = 0x10, 0x100
"""From linux/rtnetlink.h: the multicast groups of RTM_NEWADDR and RTM_DELADDR."""

_log = Logger(namespace="txsocksx_ext.net")


def own_addresses() -> frozenset[IPAddress]:
    """
    Return the current addresses of this machine's interfaces.

    If they cannot be read, log that once, and return an empty set.
    """
    return _known.current()


class _KnownAddresses:
    def __init__(self) -> None:
        self._addresses: frozenset[IPAddress] = frozenset()
        self._changes: int | None = None
        self._read_at = -OLDEST
        self._has_warned = False

    def current(self) -> frozenset[IPAddress]:
        if self._are_outdated():
            # The socket is open, so it reports any change after this.
            self._read_at = monotonic()
            try:
                self._addresses = frozenset(_interface_addresses())
            except OSError as error:
                self._warn(error)
        return self._addresses

    def _are_outdated(self) -> bool:
        if self._changes is None:
            self._changes = _open_changes()
            return self._changes is not None or monotonic() - self._read_at >= OLDEST
        have_changed = False
        while True:
            try:
                # A change is one datagram, whose content does not matter.
                os.read(self._changes, 1)
            except BlockingIOError:
                return have_changed
            except OSError as error:
                if error.errno != ENOBUFS:  # ENOBUFS: there were more changes than the socket buffers
                    os.close(self._changes)
                    self._changes = None
                    return True
            have_changed = True

    def _warn(self, error: OSError) -> None:
        if not self._has_warned:
            self._has_warned = True
            _log.warn(
                "this machine's addresses cannot be read, so clients elsewhere may reach its public ones: {error}"
                " (a sandbox has to allow AF_NETLINK)",
                error=os.strerror(error.errno) if error.errno else str(error),
            )


def _open_changes() -> int | None:
    """Return the descriptor of a netlink socket that reports changes; ``None`` if the system has none."""
    if sys.platform != "linux":
        return None
    try:
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
    except OSError:
        return None
    try:
        opened.bind((0, _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR))
    except OSError:
        opened.close()
        return None
    # It stays open as long as the process.
    return opened.detach()


class _InterfaceAddress(ctypes.Structure):
    """The beginning of ``struct ifaddrs``, which is the same on Linux, macOS and the BSDs."""


_InterfaceAddress._fields_ = [
    ("next", ctypes.POINTER(_InterfaceAddress)),
    ("name", ctypes.c_char_p),
    ("flags", ctypes.c_uint),
    ("address", ctypes.c_void_p),
]


def _interface_addresses() -> Iterator[IPAddress]:
    """
    Yield each address of each interface.

    :raises OSError: the addresses cannot be read.
    """
    library = ctypes.CDLL(None, use_errno=True)
    first = ctypes.POINTER(_InterfaceAddress)()
    if library.getifaddrs(ctypes.byref(first)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    try:
        entry = first
        while entry:
            if entry.contents.address:
                yield from _decoded(entry.contents.address)
            entry = entry.contents.next
    finally:
        library.freeifaddrs(first)


def _decoded(pointer: int) -> Iterator[IPAddress]:
    """Yield the address in a ``struct sockaddr``, if it is one of IP."""
    start = ctypes.string_at(pointer, 2)
    # On the BSDs the first byte is the length of the structure.
    family = int.from_bytes(start, sys.byteorder) if sys.platform == "linux" else start[1]
    if family == socket.AF_INET:
        yield ipaddress.IPv4Address(ctypes.string_at(pointer + 4, 4))
    elif family == socket.AF_INET6:
        yield ipaddress.IPv6Address(ctypes.string_at(pointer + 8, 16))


_known = _KnownAddresses()


def _forget() -> None:
    """Start again in a child process: it must not share the socket, from which each change is read once."""
    global _known
    _known = _KnownAddresses()


os.register_at_fork(after_in_child=_forget)
