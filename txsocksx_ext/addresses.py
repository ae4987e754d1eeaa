"""
What an address literal stands for, and which must not be reached by accident.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection, Container
from functools import lru_cache
from typing import Union

from .errors import AddressTypeNotSupported, HostUnreachable
from .protocol.messages import Address

IPAddress = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
IPNetwork = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

LOOPBACK_NETWORKS: tuple[IPNetwork, ...] = (ipaddress.IPv4Network("127.0.0.0/8"), ipaddress.IPv6Network("::1/128"))


def host_and_port(host: str, port: int) -> str:
    """Return ``HOST:PORT``, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


PROTECTED_NETWORKS: tuple[IPNetwork, ...] = tuple(
    map(
        ipaddress.ip_network,
        (
            "0.0.0.0/8",  # "this host": Linux connects to itself
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "168.63.129.16/32",  # a cloud's metadata service outside the private ranges
            "169.254.0.0/16",  # link-local, and most clouds' metadata services
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "224.0.0.0/4",
            "240.0.0.0/4",
            "::/128",
            "::1/128",
            "64:ff9b:1::/48",  # NAT64 of one's own network: which address it leads to, only that knows
            "2001:2::/48",  # benchmarks, as 198.18.0.0/15
            "5f00::/16",  # segment routing inside one's own network (RFC 9602)
            "fc00::/7",
            "fe80::/10",
            "fec0::/10",
            "ff00::/8",
        ),
    )
)
"""Loopback, link-local, private, metadata and multicast networks."""

_ENDS_IN_IPV4: tuple[ipaddress.IPv6Network, ...] = tuple(
    map(
        ipaddress.IPv6Network,
        (
            "::/96",  # IPv4-compatible (RFC 4291, section 2.5.5.1)
            "::ffff:0:0/96",  # IPv4-mapped (RFC 4291, section 2.5.5.2)
            "::ffff:0:0:0/96",  # IPv4-translated, of SIIT (RFC 2765, section 2.1)
            "64:ff9b::/96",  # NAT64 (RFC 6052, section 2.1)
        ),
    )
)
_ISATAP = (0x00005EFE, 0x02005EFE)
"""What stands before the IPv4 address in any prefix's interface identifier (RFC 5214, section 6.1)."""


@lru_cache(maxsize=4096)
def meanings_of(host: str) -> tuple[IPAddress, ...]:
    """
    Return an address, and the IPv4 addresses that it may lead to.

    Of prefixes that a network chooses for its NAT64 (RFC 6052, section 2.2) or its
    6rd (RFC 5969) nothing is known here.

    :param host: a literal; the scope of an IPv6 address means nothing here.
    """
    literal = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(literal, ipaddress.IPv4Address):
        return (literal,)
    meanings: list[IPAddress] = [literal]
    if literal.sixtofour is not None:
        meanings.append(literal.sixtofour)
    if literal.teredo is not None:
        meanings.extend(literal.teredo)
    if int(literal) >> 32 & 0xFFFFFFFF in _ISATAP or any(literal in network for network in _ENDS_IN_IPV4):
        meanings.append(ipaddress.IPv4Address(int(literal) & 0xFFFFFFFF))
    return tuple(meanings)


def is_protected(host: str, own: Container[IPAddress] = ()) -> bool:
    """
    Return whether an address literal is protected, or leads to an address that is.

    :param own: the addresses of this machine, protected besides `PROTECTED_NETWORKS`.
    """
    return bool(protected_meanings(host, own))


def protected_meanings(host: str, own: Container[IPAddress] = ()) -> list[IPAddress]:
    """Return the protected ones among an address and the addresses that it leads to. See `is_protected`."""
    always = _always_protected_meanings(host)
    return [meaning for meaning in meanings_of(host) if meaning in always or meaning in own]


@lru_cache(maxsize=4096)
def _always_protected_meanings(host: str) -> frozenset[IPAddress]:
    return frozenset(
        meaning for meaning in meanings_of(host) if any(meaning in network for network in PROTECTED_NETWORKS)
    )


def is_protected_network(network: IPNetwork, own: Collection[IPAddress] = ()) -> bool:
    """
    Return whether a network consists of protected addresses alone.

    :param own: as for `is_protected`.
    """
    if any(lies_in(network, protected) for protected in PROTECTED_NETWORKS):
        return True
    return network.num_addresses <= len(own) and all(address in own for address in network)


def lies_in(network: IPNetwork, other: IPNetwork) -> bool:
    """Return whether a network is a part of another one."""
    if isinstance(network, ipaddress.IPv4Network) and isinstance(other, ipaddress.IPv4Network):
        return network.subnet_of(other)
    if isinstance(network, ipaddress.IPv6Network) and isinstance(other, ipaddress.IPv6Network):
        return network.subnet_of(other)
    return False


_NUMBER = re.compile(r"(?:[0-9]+|0[xX][0-9a-fA-F]*)\Z")


def literal_of(destination: Address) -> Address | None:
    """
    Return the address that a name spells, if it is an address in truth.

    Resolvers take ``10.1``, ``167772161``, ``0x0a000001`` and ``127.0.0.1.`` for
    addresses, so rules must too, also where someone else will resolve them.

    :returns: ``None`` for a name.
    :raises HostUnreachable: it ends in a number, and is no IPv4 address.
    :raises AddressTypeNotSupported: it has a colon, and is no IPv6 address without a scope.
    """
    host = destination.host.removesuffix(".")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if ":" in host:
        literal = Address.of(host, destination.port)
        if literal.is_name:
            raise AddressTypeNotSupported()
        return literal
    if not _NUMBER.match(host.rpartition(".")[2]):
        return None
    try:
        packed = socket.inet_aton(host)
    except OSError:
        raise HostUnreachable("the name ends in a number, and is no address") from None
    return Address.of(socket.inet_ntoa(packed), destination.port)


def client_network(text: str) -> IPNetwork:
    """
    Return the network that a description of clients names.

    :param text: an address or a network, such as ``192.0.2.0/24``.
    :raises ValueError: it is neither.
    """
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither an address nor a network") from None
