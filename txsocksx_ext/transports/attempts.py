"""
Which outgoing connection of a transport belongs to which attempt to reach a bridge.

A transport does not say for which client it connects, so overlapping attempts to
reach one bridge form a group, and an outcome counts only if all connections of
the group agree.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeoutError

from ..net.timers import clock_of
from ..net.waiters import Waiters
from ..protocol.codes import ReplyCode
from ..protocol.messages import Address

if TYPE_CHECKING:
    from .outbound_proxy import OutboundConnection


class AttemptGroup:
    """
    Overlapping attempts to reach one bridge, and the connections that may belong to them.

    :ivar attempts: the attempts.
    :ivar connections: the connections.
    """

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.connections: list[OutboundConnection] = []
        self._waiting: Waiters[None] = Waiters()

    @property
    def awaits_connection(self) -> bool:
        """Whether the transport has made fewer connections than there are attempts."""
        return len(self.connections) < len(self.attempts)

    @property
    def is_open(self) -> bool:
        """Whether a client still waits for one of the attempts."""
        return any(attempt.is_open for attempt in self.attempts)

    @property
    def has_failed(self) -> bool:
        """Whether every attempt has failed."""
        return all(attempt.has_failed for attempt in self.attempts)

    @property
    def outcome(self) -> ReplyCode | None:
        """The outcome of all connections, or ``None`` if it is not known or they differ."""
        outcomes = {connection.outcome for connection in self.connections}
        return outcomes.pop() if len(outcomes) == 1 and not self.awaits_connection else None

    def add_connection(self, connection: OutboundConnection) -> None:
        """Add a connection that may belong to one of the attempts."""
        self.connections.append(connection)
        self.check_settled()

    def check_settled(self) -> None:
        """Fire the Deferreds of `settled` if every outcome is known."""
        if self._is_settled:
            self._waiting.fire(None)

    def settled(self) -> Deferred[None]:
        """Return a Deferred that fires when every outcome is known."""
        if self._is_settled:
            return succeed(None)
        return self._waiting.wait()

    @property
    def _is_settled(self) -> bool:
        return not self.awaits_connection and all(each.outcome is not None for each in self.connections)


class Attempt:
    """
    A client that waits for the transport to reach a bridge.

    :param group: the overlapping attempts.
    :param ended: called when the client no longer waits.
    :ivar is_open: whether the client still waits.
    :ivar has_failed: whether the attempt ended without a stream.
    """

    def __init__(self, group: AttemptGroup, ended: Callable[[AttemptGroup], object]) -> None:
        self._group = group
        self._ended = ended
        self.is_open = True
        self.has_failed = False
        group.attempts.append(self)

    @property
    def outcome(self) -> ReplyCode | None:
        """The outcome of the transport's connection to the bridge; ``None`` if that is not certain."""
        return self._group.outcome

    async def certain_outcome(self, reactor: Any, seconds: float) -> ReplyCode | None:
        """
        Wait until the outcome is certain, after the transport has failed.

        :param seconds: how long to wait for the outcomes of overlapping attempts.
        :returns: `outcome`.
        """
        if self._group.connections:  # otherwise the transport has failed without one
            with suppress(DeferredTimeoutError):
                await self._group.settled().addTimeout(seconds, clock_of(reactor))
        return self.outcome

    def over(self, succeeded: bool) -> None:
        """
        End the attempt: the client no longer waits for the transport's answer.

        :param succeeded: whether the stream begins; if not, connections that the
            transport made for this client alone are reset.
        """
        group = self._group
        self.is_open = False
        self.has_failed = not succeeded
        if not group.connections:  # the transport made none for this client: later ones are for the others
            group.attempts.remove(self)
        self._ended(group)


class BridgeAttempts:
    """The attempts to reach each bridge."""

    def __init__(self) -> None:
        self._groups: dict[Address, list[AttemptGroup]] = {}

    def __contains__(self, bridge: object) -> bool:
        return bridge in self._groups

    def expect(self, bridge: Address) -> Attempt:
        """Return the attempt of a client, before the transport is asked for the bridge."""
        groups = self._groups.setdefault(bridge, [])
        group = next((each for each in groups if each.awaits_connection), None)
        if group is None:
            group = AttemptGroup()
            groups.append(group)
        return Attempt(group, lambda ended: self._attempt_ended(bridge, ended))

    def groups_of(self, bridge: Address) -> list[AttemptGroup]:
        """Return the groups to which a new connection to `bridge` may belong."""
        groups = self._groups.get(bridge, [])
        # A transport may connect again for an attempt, and does not say for which.
        return [each for each in groups if each.awaits_connection] or list(groups)

    def _attempt_ended(self, bridge: Address, group: AttemptGroup) -> None:
        if not group.is_open:
            groups = self._groups.get(bridge, [])
            if group in groups:
                groups.remove(group)
            if not groups:
                self._groups.pop(bridge, None)
        for connection in list(group.connections):
            if all(each.has_failed for each in connection.groups):
                connection.abort()
