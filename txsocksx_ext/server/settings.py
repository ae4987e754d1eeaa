"""
What makes a server's factory, as strings and numbers alone, so that it can go to another process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from twisted.cred.strcred import makeChecker

from ..policy.table import split_rule, table_from_strings
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
    The settings of one server. Its `repr` shows none: there are passwords among them.

    :ivar auth: descriptions of checkers, as ``--auth`` takes them.
    :ivar anonymous: whether clients may come without credentials.
    :ivar rules: as ``--route`` takes them.
    :ivar limits: sizes and times.
    :ivar log_targets: whether logs may hold targets and user names.
    :ivar protocols: the names of those that are served.
    """

    auth: tuple[str, ...] = field(default=(), repr=False)
    anonymous: bool = field(default=True, repr=False)
    rules: tuple[str, ...] = field(default=(), repr=False)
    limits: Limits = field(default_factory=Limits, repr=False)
    log_targets: bool = field(default=False, repr=False)
    protocols: tuple[str, ...] = field(default=PROTOCOLS, repr=False)

    def make_factory(self, reactor: Any, routes: Mapping[str, IRoute] | None = None) -> SOCKS5ExtFactory:
        """
        Make the factory that serves like this.

        :param routes: those that are there already, by their descriptions.
        :raises ValueError: a rule is faulty; checkers raise what they like.
        """
        factory = SOCKS5ExtFactory(
            reactor,
            portal=portal_for(makeChecker(each) for each in self.auth) if self.auth else None,
            anonymous=self.anonymous,
            policy=table_from_strings(reactor, self.rules, routes),
            limits=self.limits,
            log_targets=self.log_targets,
        )
        factory.frontends = frontends_for(self.protocols)
        return factory

    def routes_run_once(self, reactor: Any) -> Iterator[tuple[str, IRoute]]:
        """
        Make the routes of which the server needs one, however many processes it has.

        :returns: each with its description.
        """
        for description in dict.fromkeys(split_rule(rule)[1] for rule in self.rules):
            route = route_from_string(reactor, description)
            if getattr(route, "service", None) is not None and not getattr(route, "is_for_each_process", False):
                yield description, route

    def as_message(self) -> dict[str, Any]:
        """Return a dict that JSON can hold, of which `from_message` makes the same settings."""
        return asdict(self)

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> ServerSettings:
        """Return the settings in a message, which JSON may have made lists of tuples in."""
        limits = message["limits"]
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in message.items()
        }
        given["limits"] = Limits(**{**limits, "pairs": PairLimits(**limits["pairs"])})
        return cls(**given)
