"""
Rules: which targets and which clients each matches, and the route that it names.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import translate
from typing import NamedTuple

from twisted.internet.address import IPv4Address, IPv6Address

from ..addresses import PROTECTED_NETWORKS, IPNetwork, client_network, literal_of, meanings_of
from ..checks import check_type
from ..context import Session
from ..errors import AddressTypeNotSupported, HostUnreachable
from ..net.twisted_transports import unmapped
from ..protocol.codes import AddressType
from ..protocol.messages import Address
from ..route.base import IRoute, check_route
from ..route.refuse import RefuseRoute

PRIVATE = "private"
"""Stands for all protected networks in `RuleSpec.to`."""


class RuleSpec(NamedTuple):
    """
    A rule as strings, which can be sent to another process. An empty tuple matches everything.

    :ivar to: patterns of targets as in `Rule.of`; besides, ``:PORT`` for every host, and ``private``.
    :ivar route: the description of a route.
    :ivar sources: addresses and networks of clients.
    :ivar users: their user names.
    :ivar protocols: what they speak, such as ``http``.
    """

    to: tuple[str, ...]
    route: str
    sources: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ()

    @classmethod
    def of(cls, rule: str) -> RuleSpec:
        """
        Read ``PATTERN=ROUTE``.

        :raises ValueError: the rule is not written like that.
        """
        pattern, equals, description = rule.partition("=")
        if not equals or not description:
            raise ValueError(f"the rule {pattern!r} says no route: it is written PATTERN=ROUTE")
        return cls((pattern,), description)

    def __str__(self) -> str:
        """Return the conditions, as errors and logs show them."""
        conditions = {"from": self.sources, "user": self.users, "protocol": self.protocols}
        shown = [f"{name} {', '.join(values)}" for name, values in conditions.items() if values]
        return " ".join([", ".join(self.to) or "*", *shown])

    def rules(self, route: IRoute) -> list[Rule]:
        """
        Return a rule for each pattern.

        :param route: the route of which `route` is the description.
        :raises ValueError: a pattern or a client's network is malformed.
        """
        condition = None
        if self.sources or self.users or self.protocols:
            sources = tuple(map(client_network, self.sources))
            users = frozenset(user.encode("utf-8") for user in self.users)
            condition = Condition(sources, users, frozenset(self.protocols))
        return [Rule.of(each, route, condition) for to in self.to or ("*",) for each in _spelt_patterns(to)]


def _spelt_patterns(to: str) -> Iterable[str]:
    host, colon, ports = to.partition(":")
    if host == PRIVATE:
        return [
            f"[{each}]{colon}{ports}" if each.version == 6 else f"{each}{colon}{ports}" for each in PROTECTED_NETWORKS
        ]
    return [f"*{to}"] if not host and colon and ":" not in ports else [to]


class Condition(NamedTuple):
    """
    Which clients a rule is for. What is empty matches every client.

    :ivar sources: the networks of their addresses. Unix sockets have none.
    :ivar users: their user names, which only a portal verifies.
    :ivar protocols: what they speak.
    """

    sources: tuple[IPNetwork, ...] = ()
    users: frozenset[bytes] = frozenset()
    protocols: frozenset[str] = frozenset()

    def holds(self, session: Session) -> bool:
        """Return whether a client is one of these."""
        if self.users and session.user not in self.users:
            return False
        if self.protocols and session.protocol not in self.protocols:
            return False
        return not self.sources or self._is_source(session.peer)

    def _is_source(self, peer: object) -> bool:
        if not isinstance(peer, (IPv4Address, IPv6Address)):
            return False
        address = unmapped(ipaddress.ip_address(peer.host.partition("%")[0]))
        return any(address in network for network in self.sources)


@dataclass(frozen=True, slots=True)
class Rule:
    """
    One line of the table.

    :ivar route: where a match goes.
    :ivar name: matches host names, or ``None`` in a rule about addresses.
    :ivar network: holds the addresses that match, or ``None`` in a rule about names.
    :ivar is_any: whether every name and every address matches: the pattern ``*``,
        with the root's dot or without.
    :ivar ports: the ports that match.
    :ivar condition: which clients the rule is for; ``None`` for all.
    :ivar text: the pattern of `name`.
    """

    route: IRoute
    name: re.Pattern[str] | None
    network: IPNetwork | None
    is_any: bool
    ports: range
    condition: Condition | None = None
    text: str = ""

    @classmethod
    def of(cls, pattern: str, route: IRoute, condition: Condition | None = None) -> Rule:
        """
        Read a pattern: ``HOST``, ``HOST:PORT`` or ``HOST:PORT-PORT``.

        HOST is a name in which ``*`` and ``?`` stand for any characters and for
        one, an address, or a network such as ``192.0.2.0/24``; with a port, an
        IPv6 address or network stands in brackets.

        :raises ValueError: it is none of these.
        :raises TypeError: the pattern is not str, or the route does not provide `IRoute`.
        """
        check_type("a pattern", pattern, str)
        check_route(f"the route for {pattern!r}", route)
        host, ports = _split_pattern(pattern)
        network = _as_network(_spelt_out(host))
        if network is not None:
            return cls(route, None, network, False, ports, condition)
        if not re.fullmatch(r"[A-Za-z0-9._*?-]+", host):
            raise ValueError(f"{pattern!r} is no pattern: a host name with wildcards, an address or a network")
        if _LOOKS_LIKE_ADDRESSES.fullmatch(host):
            # It would match no address, and perhaps should have kept one closed.
            raise ValueError(f"{pattern!r} is no pattern: addresses are written as a network, such as 10.0.0.0/8")
        folded = _folded(host)
        if not folded:
            raise ValueError(f"the pattern {pattern!r} names no host but the root")
        return cls(route, re.compile(translate(folded)), None, not folded.strip("*"), ports, condition, folded)

    def matches(self, name: str | None, literal: str | None, port: int | None) -> bool:
        """
        Return whether a target is this rule's.

        :param name: its name, if it has one.
        :param literal: its address, if that is known.
        :param port: its port; ``None`` for a look-up, which has none, and so
            goes where some stream to that name would go: what refuses some
            ports refuses no look-up.
        """
        if port is None:
            if isinstance(self.route, RefuseRoute) and self.ports != ANY_PORT:
                return False
        elif port not in self.ports:
            return False
        if self.is_any:
            return True
        if self.network is not None:
            return literal is not None and any(meaning in self.network for meaning in meanings_of(literal))
        assert self.name is not None
        return name is not None and self.name.match(_folded(name)) is not None

    def is_for(self, session: Session) -> bool:
        """Return whether the rule is for a client."""
        return self.condition is None or self.condition.holds(session)


ANY_PORT = range(0x10000)


# Names do not end in a number, and no address is matched by wildcards.
_LOOKS_LIKE_ADDRESSES = re.compile(
    r"(?=.*\d)(?=.*\.)(?:0x[\da-f]*|[\d*?]+)(?:\.(?:0x[\da-f]*|[\d*?]+))*\.?|.*\.(?:0x[\da-f]*|\d+)\.?", re.IGNORECASE
)


def _split_pattern(pattern: str) -> tuple[str, range]:
    bracketed = re.fullmatch(r"\[([^]]*)\](?::(.*))?", pattern)
    if bracketed:
        host, ports = bracketed.groups()
        if host and ":" not in host:
            raise ValueError(f"the pattern {pattern!r} has brackets, which are for IPv6 addresses and networks alone")
    elif pattern.count(":") > 1:  # an IPv6 address or network without a port
        host, ports = pattern, None
    else:
        host, colon, after = pattern.partition(":")
        ports = after if colon else None
    if not host:
        raise ValueError(f"the pattern {pattern!r} names no host; * is any")
    if ports is None:
        return host, ANY_PORT
    numbers = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", ports)
    if not numbers:
        raise ValueError(f"the ports of {pattern!r} are neither PORT nor PORT-PORT")
    first = int(numbers[1])
    last = int(numbers[2] or first)
    if first > last or last > 0xFFFF:
        raise ValueError(f"the ports of {pattern!r} are not in order, or beyond 65535")
    # Nothing connects to port 0.
    return host, ANY_PORT if (first, last) == (1, 0xFFFF) else range(first, last + 1)


def _as_network(host: str) -> IPNetwork | None:
    try:
        return ipaddress.ip_network(host)
    except ValueError as error:
        if "has host bits set" in str(error):
            raise ValueError(f"{host} is no network: its address has bits beyond the prefix") from None
        return None


def _spelt_out(host: str) -> str:
    """
    Return an address as it is usually written, since rules see targets so; anything else as it is.

    :raises ValueError: it ends in a number, and is no address: nothing would ever match.
    """
    if not host.isascii() or any(character in host for character in "*?/"):
        return host
    try:
        address = literal_of(Address(AddressType.DOMAINNAME, host, 0))
    except AddressTypeNotSupported:
        return host
    except HostUnreachable:
        raise ValueError(f"{host!r} ends in a number, and is no address") from None
    return host if address is None else address.host


def _folded(name: str) -> str:
    """Return a name as it is compared: case and the root's dot mean nothing."""
    return name.lower().rstrip(".")
