"""
Which target goes which way: rules, and what no rule may open by accident.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import translate
from typing import Any

from twisted.internet.defer import CancelledError

from ..addresses import IPAddress, IPNetwork, is_protected_network, literal_of, meanings_of, protected_meanings
from ..checks import check_type, checked_pair, kind_of
from ..context import Session
from ..errors import AddressTypeNotSupported, ConnectionNotAllowed, HostUnreachable, TTLExpired
from ..net.own_addresses import own_addresses
from ..net.resolver import Resolver
from ..protocol.codes import AddressType, Command
from ..protocol.messages import Address, Request
from ..protocol.pairs import SERVER_KEYS
from ..route import route_from_string
from ..route.base import IRoute, check_route
from ..route.refuse import RefuseRoute


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
    """

    route: IRoute
    name: re.Pattern[str] | None
    network: IPNetwork | None
    is_any: bool
    ports: range

    @classmethod
    def of(cls, pattern: str, route: IRoute) -> Rule:
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
            return cls(route, None, network, False, ports)
        if not re.fullmatch(r"[A-Za-z0-9._*?-]+", host):
            raise ValueError(f"{pattern!r} is no pattern: a host name with wildcards, an address or a network")
        if _LOOKS_LIKE_ADDRESSES.fullmatch(host):
            # It would match no address, and perhaps should have kept one closed.
            raise ValueError(f"{pattern!r} is no pattern: addresses are written as a network, such as 10.0.0.0/8")
        folded = _folded(host)
        if not folded:
            raise ValueError(f"the pattern {pattern!r} names no host but the root")
        return cls(route, re.compile(translate(folded)), None, not folded.strip("*"), ports)

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


ANY_PORT = range(0x10000)
_CONNECT, _DOMAINNAME = Command.CONNECT, AddressType.DOMAINNAME


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


class ResolutionTimeout(TTLExpired):
    """The name was not resolved in time. In the log its name tells it from a target that does not answer."""


class Decision:
    """
    Where a request goes.

    :ivar route: the route.
    :ivar addresses: the admitted addresses of the target; ``None`` if the route
        takes names as they are, or if the name was not resolved yet.
    :ivar policy: the table that decided, and that judges what the name resolves to.
    :ivar is_override: whether the route was chosen outside the table. Then of the table's rules those that refuse
        addresses hold, and no other.
    """

    __slots__ = ("addresses", "is_override", "policy", "route")

    def __init__(
        self, route: IRoute, addresses: Sequence[Address] | None, policy: RouteTable, is_override: bool = False
    ) -> None:
        self.route = route
        self.addresses = addresses
        self.policy = policy
        self.is_override = is_override

    def request_for_route(self, request: Request) -> tuple[Request, Sequence[Address] | None]:
        """
        Return what the route is asked: the request, and the addresses if it takes any.

        A rule about addresses may send a resolved name to a route that takes
        names: it gets the first admitted address instead.
        """
        if self.addresses is None or getattr(self.route, "resolver", None) is not None:
            return request, self.addresses
        first = self.addresses[0]
        return Request(request.command, Address(first.type, first.host.partition("%")[0], first.port)), None


class RouteTable:
    """
    The policy of a server: an ordered table of rules, of which the first that matches a target decides.

    Names are matched by rules about names. If the route of a name takes
    addresses, as ``direct`` does, the name is resolved and each address is
    matched again, now with the rules about addresses too: one of those that
    stands before the name's rule wins over it.

    Targets that no rule matches take `default`.

    :param rules: patterns, in their order, with their routes.
    :param default: the route for the rest.
    :raises ValueError: a pattern is malformed.
    :raises TypeError: a rule is not a pattern and a route, or a route does not provide `IRoute`.
    :ivar routes: every route, each once, in the order of the rules.
    :ivar keys: the keys of pairs that any of them honours.
    :ivar known_keys: those, and the ones that the server itself understands.
    :ivar uses_credentials: whether any of them does something with credentials.
    """

    def __init__(self, rules: Iterable[tuple[str, IRoute]], default: IRoute) -> None:
        check_route("default", default)
        self._rules = [Rule.of(*checked_pair("rules", rule, "(pattern, route)")) for rule in _checked_rules(rules)]
        self._rules.append(Rule.of("*", default))
        first = self._rules[0]
        # If the first rule matches everything, nothing has to be matched.
        self._for_all = first.route if first.is_any and first.ports == ANY_PORT else None
        self._address_rules = [rule for rule in self._rules if rule.network is not None]
        # By identity: a foreign route may be equal to another, or not hashable.
        self.routes: list[IRoute] = list({id(rule.route): rule.route for rule in self._rules}.values())
        self.keys: frozenset[str] = frozenset().union(*(getattr(route, "keys", ()) for route in self.routes))
        self.known_keys = self.keys | SERVER_KEYS
        self.uses_credentials = any(getattr(route, "uses_credentials", False) for route in self.routes)

    def route_of(self, destination: Address, session: Session) -> Decision:
        """
        Decide by the rules.

        :returns: the decision, in which a name is not resolved yet.
        :raises ConnectionNotAllowed: it is an address that this client may not reach.
        """
        is_name = destination.type == _DOMAINNAME
        route = self._for_all
        if route is None:
            host = destination.host
            name, literal = (host, None) if is_name else (None, host)
            route = self._first(name, literal, _port_of(destination, session))
        if is_name:
            return Decision(route, None, self)
        if not self.may_reach(destination, session, route):
            raise ConnectionNotAllowed()
        return Decision(route, None if getattr(route, "resolver", None) is None else (destination,), self)

    def admit(self, route: IRoute, destination: Address, session: Session) -> Decision:
        """
        Bind a route that was chosen outside the table to it.

        :returns: the decision, in which a name is not resolved yet.
        :raises ConnectionNotAllowed: the destination is an address that a rule refuses, or that this client may not
            reach.
        """
        if destination.type == _DOMAINNAME:
            return Decision(route, None, self, True)
        if self._refuses_address(destination, session) or not self.may_reach(destination, session, route):
            raise ConnectionNotAllowed()
        return Decision(route, None if getattr(route, "resolver", None) is None else (destination,), self, True)

    async def resolve(self, decision: Decision, destination: Address, session: Session) -> Decision:
        """
        Resolve the name of a decision whose route takes addresses, and match the addresses.

        Names under ``.onion`` are never resolved (RFC 7686, section 2).

        :returns: the route of the first address that is not refused, with all
            addresses that take the same route.
        :raises HostUnreachable: the name has no address.
        :raises ResolutionTimeout: the look-up was cancelled.
        :raises ConnectionNotAllowed: all its addresses are refused.
        """
        resolver: Resolver = decision.route.resolver  # type: ignore[assignment]
        if destination.is_onion:
            raise HostUnreachable("an onion service is reached through tor only")
        try:
            hosts = await resolver.addresses_of(destination.host, session.share)
        except CancelledError:
            raise ResolutionTimeout("the name was not resolved in time") from None
        routes = [
            (self._route_of_resolved(destination, address, decision, session), address)
            for address in (_address(host, destination.port) for host in hosts)
        ]
        first = next((route for route, _ in routes if route is not None), None)
        if first is None:
            raise ConnectionNotAllowed()
        return Decision(first, [address for route, address in routes if route is first], self, decision.is_override)

    def _route_of_resolved(
        self, name: Address, address: Address, decision: Decision, session: Session
    ) -> IRoute | None:
        """Return the route to an address that a name resolved to; ``None`` if it is refused."""
        if decision.is_override:
            route = decision.route
            is_refused = self._refuses_address(address, session)
        else:
            route = self._first(name.host, address.host, _port_of(address, session))
            is_refused = isinstance(route, RefuseRoute)
        return None if is_refused or not self.may_reach(address, session, route) else route

    def _refuses_address(self, address: Address, session: Session) -> bool:
        """Return whether the first rule about addresses that matches one refuses it."""
        port = _port_of(address, session)
        first = next((rule for rule in self._address_rules if rule.matches(None, address.host, port)), None)
        return first is not None and isinstance(first.route, RefuseRoute)

    def may_reach(self, address: Address, session: Session, route: IRoute) -> bool:
        """
        Return whether a client may reach an address by a route.

        The addresses of this machine, and private ones of its networks, are refused
        to remote clients. They are opened by a rule that names them, and nothing
        wider, and only for that rule's route.
        """
        if session.is_local:
            return True
        own = own_addresses()
        port = _port_of(address, session)
        # Of an address with others inside, each that is protected must be opened.
        return all(self._opens(each, port, route, own) for each in protected_meanings(address.host, own))

    def _opens(self, address: IPAddress, port: int | None, route: IRoute, own: Collection[IPAddress]) -> bool:
        rules = (rule for rule in self._address_rules if port is None or port in rule.ports)
        opener = next((rule for rule in rules if rule.network is not None and address in rule.network), None)
        if opener is None or opener.network is None or not is_protected_network(opener.network, own):
            return False
        return opener.route is route and not isinstance(route, RefuseRoute)

    def _first(self, name: str | None, literal: str | None, port: int | None) -> IRoute:
        for rule in self._rules:
            if rule.matches(name, literal, port):
                return rule.route
        raise AssertionError("the last rule matches everything")


def _checked_rules(rules: object) -> Iterable[object]:
    if isinstance(rules, (str, bytes, Mapping)) or not isinstance(rules, Iterable):
        raise TypeError(f"rules must be a sequence of (pattern, route), not {kind_of(rules)}")
    return rules


def _address(host: str, port: int) -> Address:
    return Address(AddressType.IPV6 if ":" in host else AddressType.IPV4, host, port)


def _port_of(destination: Address, session: Session) -> int | None:
    """Return the port that rules match: a look-up has none."""
    request = session.request
    return destination.port if request is None or request.command == _CONNECT else None


def table_from_strings(reactor: Any, rules: Iterable[str], made: Mapping[str, IRoute] | None = None) -> RouteTable:
    """
    Make a table of ``PATTERN=ROUTE`` strings, with ``direct`` for the rest.

    :param made: routes that are there already, by their descriptions.
    :raises ValueError: a rule is not written like that.
    """
    routes: dict[str, IRoute] = {"direct": route_from_string(reactor, "direct"), **(made or {})}
    pairs: list[tuple[str, IRoute]] = []
    for rule in rules:
        pattern, description = split_rule(rule)
        try:
            # Rules with the same route share it, and what it holds.
            if description not in routes:
                routes[description] = route_from_string(reactor, description)
        except ValueError as error:
            raise ValueError(f"the rule for {pattern}: {error}") from None
        pairs.append((pattern, routes[description]))
    return RouteTable(pairs, routes["direct"])


def split_rule(rule: str) -> tuple[str, str]:
    """
    Return the pattern and the route's description in ``PATTERN=ROUTE``.

    :raises ValueError: it is not written like that.
    """
    pattern, equals, description = rule.partition("=")
    if not equals or not description:
        raise ValueError(f"the rule {pattern!r} says no route: it is written PATTERN=ROUTE")
    return pattern, description
