"""
The settings of a server as strings and numbers, which can be sent to another process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.strcred import makeChecker

from ..addresses import LOOPBACK_NETWORKS, client_network
from ..policy.rules import RuleSpec
from ..policy.table import table_from_specs
from ..protocol.pairs import PairLimits
from ..route import route_from_string
from ..route.base import IRoute
from .auth import portal_for
from .factory import SOCKS5ExtFactory
from .frontends import PROTOCOLS, frontends_for
from .limits import Limits


@dataclass(frozen=True)
class ServerSettings:
    """
    The settings of one server. The `repr` shows none, because some hold passwords.

    :ivar auth: descriptions of checkers, as in ``--auth``.
    :ivar anonymous: whether clients may connect without credentials.
    :ivar rules: which targets and clients take which route.
    :ivar limits: sizes and times.
    :ivar log_targets: whether logs may hold targets and user names.
    :ivar protocols: the names of those that are served.
    :ivar balancers: the networks whose PROXY headers are believed.
    """

    auth: tuple[str, ...] = field(default=(), repr=False)
    anonymous: bool = field(default=True, repr=False)
    rules: tuple[RuleSpec, ...] = field(default=(), repr=False)
    limits: Limits = field(default_factory=Limits, repr=False)
    log_targets: bool = field(default=False, repr=False)
    protocols: tuple[str, ...] = field(default=PROTOCOLS, repr=False)
    balancers: tuple[str, ...] = field(default=tuple(map(str, LOOPBACK_NETWORKS)), repr=False)

    def make_factory(
        self,
        reactor: Any,
        routes: Mapping[str, IRoute] | None = None,
        checkers: Mapping[str, ICredentialsChecker] | None = None,
    ) -> SOCKS5ExtFactory:
        """
        Return a factory with these settings.

        :param routes: existing routes, by description.
        :param checkers: existing checkers, by description.
        :raises ValueError: a rule is malformed; checkers may raise anything.
        """
        made = {**dict(zip(self.auth, self.make_checkers(), strict=True)), **(checkers or {})}
        factory = SOCKS5ExtFactory(
            reactor,
            portal=portal_for(made[each] for each in self.auth) if self.auth else None,
            anonymous=self.anonymous,
            policy=table_from_specs(reactor, self.rules, routes),
            limits=self.limits,
            log_targets=self.log_targets,
        )
        factory.checkers = made
        factory.frontends = frontends_for(self.protocols)
        factory.trusted_balancers = tuple(map(client_network, self.balancers))
        return factory

    def make_checkers(self) -> list[ICredentialsChecker]:
        """Return the checkers, which read their files now. They may raise anything."""
        return [makeChecker(each) for each in self.auth]

    def routes_run_once(self, reactor: Any) -> Iterator[tuple[str, IRoute]]:
        """
        Yield the routes that run once for all processes of a server.

        :returns: each route with its description.
        """
        for description in dict.fromkeys(rule.route for rule in self.rules):
            route = route_from_string(reactor, description)
            if getattr(route, "service", None) is not None and not getattr(route, "is_for_each_process", False):
                yield description, route

    def as_message(self) -> dict[str, Any]:
        """Return a dict for JSON, from which `from_message` makes equal settings."""
        return asdict(self)

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> ServerSettings:
        """Return the settings of a message, in which JSON has replaced tuples by lists."""
        limits = message["limits"]
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in message.items()
        }
        given["rules"] = tuple(RuleSpec(tuple(to), route, *map(tuple, rest)) for to, route, *rest in message["rules"])
        given["limits"] = Limits(**{**limits, "pairs": PairLimits(**limits["pairs"])})
        return cls(**given)
