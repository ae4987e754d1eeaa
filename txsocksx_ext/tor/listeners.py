"""
The SOCKS ports of a tor (control-spec, GETINFO net/listeners/socks).
"""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.endpoints import quoteStringArgument
from twisted.internet.interfaces import IAddress

from ..errors import ProxyUnreachable

SOCKS_LISTENERS = "net/listeners/socks"
HTTP_LISTENERS = "net/listeners/httptunnel"

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""The wildcard addresses, and where a port bound to one is reached on this machine."""


async def socks_listeners(tor: Any) -> list[str]:
    """
    Return a client endpoint string for each SOCKS port of a tor, in tor's order.

    :param tor: a `txtorcon.Tor`.
    :raises ProxyUnreachable: tor has no SOCKS port.
    """
    answer = await tor.protocol.get_info(SOCKS_LISTENERS)
    listeners = _listeners(str(answer[SOCKS_LISTENERS]))
    if not listeners:
        raise ProxyUnreachable("this tor listens on no SOCKS port: its torrc needs a SocksPort")
    return [_endpoint(each) for each in listeners]


def is_among(address: IAddress, text: str) -> bool:
    """
    Return whether an address is one of a tor's SOCKS ports.

    :param address: the peer of a connection of ours.
    :param text: tor's answer to ``net/listeners/socks``.
    """
    for listener in _listeners(text):
        if isinstance(address, UNIXAddress):
            path = os.fsdecode(address.name or b"")
            if listener.startswith("unix:") and os.path.realpath(listener[5:]) == os.path.realpath(path):
                return True
        elif isinstance(address, (IPv4Address, IPv6Address)) and not listener.startswith("unix:"):
            host, port = _split(listener)
            if port == str(address.port) and (host == address.host or host in _EVERYWHERE):
                return True
    return False


def _listeners(text: str) -> list[str]:
    # Each is quoted; txtorcon removes the first and the last quotation mark.
    return [each for each in text.strip('"').split('" "') if each]


def _split(listener: str) -> tuple[str, str]:
    host, _, port = listener.rpartition(":")
    return host.strip("[]"), port


def _endpoint(listener: str) -> str:
    if listener.startswith("unix:"):
        return f"unix:{quoteStringArgument(listener.removeprefix('unix:'))}"
    host, port = _split(listener)
    return f"tcp:{quoteStringArgument(_EVERYWHERE.get(host, host))}:{port}"
