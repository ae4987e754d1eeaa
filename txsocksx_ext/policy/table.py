"""
The table of rules that decides the route of each target, and the protection of private addresses.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import CancelledError

from ..addresses import IPAddress, is_protected_network, protected_meanings
from ..checks import check_type, checked_pair, kind_of
from ..context import Session
from ..errors import ConnectionNotAllowed, HostUnreachable, TTLExpired
from ..net.own_addresses import own_addresses
from ..net.resolver import Resolver
from ..protocol.codes import AddressType, Command
from ..protocol.messages import Address, Request
from ..protocol.pairs import SERVER_KEYS
from ..route import route_from_string
from ..route.base import IRoute, check_route
from ..route.refuse import RefuseRoute
from .rules import ANY_PORT, Rule, RuleSpec

_CONNECT, _DOMAINNAME = Command.CONNECT, AddressType.DOMAINNAME


class ResolutionTimeout(TTLExpired):
    """The name was not resolved in time. In the log, its name distinguishes it from a target that does not answer."""


class Decision:
    """
    Where a request goes.

    :ivar route: the route.
    :ivar addresses: the admitted addresses of the target; ``None`` if the route
        takes names as they are, or if the name was not resolved yet.
    :ivar policy: the table that decided, and that judges what the name resolves to.
    :ivar is_override: whether the route was chosen outside the table. Then only rules that refuse addresses apply.
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
        Return the first arguments of the route's methods: the request, and the addresses if it takes any.

        A rule about addresses may send a resolved name to a route that takes
        names: it gets the first admitted address instead.
        """
        if self.addresses is None or getattr(self.route, "resolver", None) is not None:
            return request, self.addresses
        first = self.addresses[0]
        return Request(request.command, Address(first.type, first.host.partition("%")[0], first.port)), None


class RouteTable:
    """
    The policy of a server: an ordered table of rules; the first that matches a target decides.

    Names are matched by rules about names. If the route of a name takes
    addresses, as ``direct`` does, the name is resolved and each address is
    matched again, now with the rules about addresses too: one of those that
    stands before the name's rule wins over it.

    Targets that no rule matches take `default`.

    :param rules: patterns, in their order, with their routes; or `Rule` objects, which can be for some clients only.
    :param default: the route for the rest.
    :raises ValueError: a pattern is malformed.
    :raises TypeError: a rule is not a pattern and a route, or a route does not provide `IRoute`.
    :ivar routes: every route that a target can take, each once, in the order of the rules.
    :ivar keys: the keys of pairs that any of them honours.
    :ivar known_keys: those, and the ones that the server itself understands.
    :ivar uses_credentials: whether any of them does something with credentials.
    :ivar made_of: the routes that `table_from_specs` made, by their descriptions.
    """

    def __init__(self, rules: Iterable[tuple[str, IRoute] | Rule], default: IRoute) -> None:
        check_route("default", default)
        self._rules = [
            rule if isinstance(rule, Rule) else Rule.of(*checked_pair("rules", rule, "(pattern, route)"))
            for rule in _checked_rules(rules)
        ]
        self._rules.append(Rule.of("*", default))
        # What stands behind a rule that matches everything is never reached: no key of its routes is honoured.
        matches_all = [rule.is_any and rule.ports == ANY_PORT and rule.condition is None for rule in self._rules]
        del self._rules[matches_all.index(True) + 1 :]
        # If that is the first rule, nothing has to be matched.
        self._for_all = self._rules[0].route if matches_all[0] else None
        self._address_rules = [rule for rule in self._rules if rule.network is not None]
        self.made_of: Mapping[str, IRoute] = {}
        # By identity: a foreign route may be equal to another, or not hashable.
        self.routes: list[IRoute] = list({id(rule.route): rule.route for rule in self._rules}.values())
        self.keys: frozenset[str] = frozenset().union(*(getattr(route, "keys", ()) for route in self.routes))
        self.known_keys = self.keys | SERVER_KEYS
        self.uses_credentials = any(getattr(route, "uses_credentials", False) for route in self.routes) or any(
            rule.condition is not None and rule.condition.users for rule in self._rules
        )

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
            route = self._first(name, literal, _port_of(destination, session), session)
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
        resolver: Resolver = decision.route.resolver  # type: ignore[assignment]  # it has one
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
            route = self._first(name.host, address.host, _port_of(address, session), session)
            is_refused = isinstance(route, RefuseRoute)
        return None if is_refused or not self.may_reach(address, session, route) else route

    def _refuses_address(self, address: Address, session: Session) -> bool:
        """Return whether the first rule about addresses that matches one refuses it."""
        port = _port_of(address, session)
        matching = (rule for rule in self._address_rules if rule.matches(None, address.host, port))
        first = next((rule for rule in matching if rule.is_for(session)), None)
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
        return all(self._opens(each, port, route, own, session) for each in protected_meanings(address.host, own))

    def _opens(
        self, address: IPAddress, port: int | None, route: IRoute, own: Collection[IPAddress], session: Session
    ) -> bool:
        rules = (rule for rule in self._address_rules if (port is None or port in rule.ports) and rule.is_for(session))
        opener = next((rule for rule in rules if rule.network is not None and address in rule.network), None)
        if opener is None or opener.network is None or not is_protected_network(opener.network, own):
            return False
        return opener.route is route and not isinstance(route, RefuseRoute)

    def _first(self, name: str | None, literal: str | None, port: int | None, session: Session) -> IRoute:
        for rule in self._rules:
            if rule.matches(name, literal, port) and (rule.condition is None or rule.condition.holds(session)):
                return rule.route
        raise AssertionError("the last rule matches everything")


class ChosenTable(RouteTable):
    """
    The policy of a server whose table depends on the client.

    :param choose: returns the table for a session, whose login and ``request`` are known. It is called for each
        request and must return at once.
    :param default: the route of this table itself, whose keys the server accepts.
    """

    def __init__(self, choose: Callable[[Session], RouteTable], default: IRoute) -> None:
        super().__init__((), default)
        self._choose = choose
        # `choose` may read them.
        self.uses_credentials = True

    def route_of(self, destination: Address, session: Session) -> Decision:
        """See `RouteTable`."""
        return self._table_for(session).route_of(destination, session)

    def admit(self, route: IRoute, destination: Address, session: Session) -> Decision:
        """See `RouteTable`."""
        return self._table_for(session).admit(route, destination, session)

    def _table_for(self, session: Session) -> RouteTable:
        table = self._choose(session)
        check_type("the policy for a session", table, RouteTable)
        return table


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


def table_from_specs(reactor: Any, specs: Iterable[RuleSpec], made: Mapping[str, IRoute] | None = None) -> RouteTable:
    """
    Make a table of rules as strings, with ``direct`` for the rest.

    :param made: routes that exist already, by their descriptions.
    :raises ValueError: a rule is malformed.
    """
    routes: dict[str, IRoute] = {"direct": route_from_string(reactor, "direct"), **(made or {})}
    rules: list[Rule] = []
    for spec in specs:
        try:
            # Rules with the same route share it, and what it holds.
            if spec.route not in routes:
                routes[spec.route] = route_from_string(reactor, spec.route)
            rules += spec.rules(routes[spec.route])
        except ValueError as error:
            raise ValueError(f"the rule for {spec}: {error}") from None
    table = RouteTable(rules, routes["direct"])
    table.made_of = routes
    return table
