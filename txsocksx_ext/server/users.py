"""
What users share: a number of connections, and rates.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..errors import ConnectionNotAllowed
from ..net.rate_limit import RateLimit, Rates
from ..net.recent import RecentDict
from .limits import Limits

REMEMBERED = 4096
"""Users without a connection whose rates are remembered, so that reconnecting does not renew the allowance."""


class TooManyConnectionsOfUser(ConnectionNotAllowed):
    """A user has ``max_per_user`` connections already. In the log its name tells it from a rule."""


class User:
    """
    A user's share.

    :ivar connections: the number of open connections with a request.
    """

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.connections = 0
        # By direction and rate: after a reload the rate may be another one.
        self._limits: dict[tuple[str, float], RateLimit] = {}

    def limit(self, direction: str, rate: float, clock: Any) -> RateLimit:
        """Return the limit that all streams of this user share."""
        shared = self._limits.get((direction, rate))
        if shared is None:
            shared = self._limits[direction, rate] = RateLimit(clock, rate)
        return shared


class Users:
    """The users of a factory."""

    def __init__(self) -> None:
        self._present: dict[bytes, User] = {}
        self._left: RecentDict[bytes, User] = RecentDict(REMEMBERED)

    def join(self, name: bytes, limits: Limits) -> User:
        """
        Count one more connection of a user.

        :raises TooManyConnectionsOfUser: the user may not have it.
        """
        user = self._present.get(name) or self._left.pop(name, None) or User(name)
        if limits.max_per_user is not None and user.connections >= limits.max_per_user:
            raise TooManyConnectionsOfUser()
        self._present[name] = user
        user.connections += 1
        return user

    def leave(self, user: User) -> None:
        """Count one connection of a user less."""
        user.connections -= 1
        if not user.connections:
            self._left[user.name] = self._present.pop(user.name)


def rates_of(limits: Limits, user: User | None, clock: Any) -> Rates:
    """
    Return the rate limits of a new stream.

    :param user: ``None`` if the client has no name.
    """

    def of(direction: str, each: float | None, shared: float | None) -> Iterator[RateLimit]:
        if each is not None:
            yield RateLimit(clock, each)
        if shared is not None and user is not None:
            yield user.limit(direction, shared, clock)

    return (
        tuple(of("up", limits.connection_rate_up, limits.user_rate_up)),
        tuple(of("down", limits.connection_rate_down, limits.user_rate_down)),
    )
