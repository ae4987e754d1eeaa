"""
The way out of a transport that is our child: its outgoing connections pass through us.

So we know what came of each, which the transport itself does not tell.
"""

from __future__ import annotations

import secrets
from typing import Any

from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.interfaces import ITransport
from twisted.python.failure import Failure

from ..addresses import is_protected
from ..context import Session
from ..failures import row_of
from ..policy.table import RouteTable
from ..protocol import codes
from ..protocol.codes import ReplyCode
from ..protocol.messages import Address, Request
from ..route.base import IRoute, Route
from ..route.direct import DirectRoute
from ..server.access_log import SessionLog
from ..server.auth import portal_for
from ..server.factory import SOCKS5ExtFactory
from ..server.limits import Limits
from .upstream import UpstreamProxy

DIAL_TIMEOUT = 120.0
"""Seconds for one outgoing connection: longer than servers give by default."""


class Dial:
    """
    One outgoing connection of the transport.

    :param session: the transport's own, with our way out.
    :ivar outcome: what came of it: a row of the reply codes, that of success
        where the address was reached, ``None`` while nothing is known.
    """

    def __init__(self, session: Session, bursts: list[_Burst]) -> None:
        self.session = session
        self.outcome: ReplyCode | None = None
        self._bursts = bursts
        for burst in bursts:
            burst.dials.append(self)
            burst.changed()

    @property
    def is_given_up(self) -> bool:
        """Whether all attempts that it may be for have failed."""
        return all(attempt.has_failed for burst in self._bursts for attempt in burst.attempts)

    def came_to(self, outcome: ReplyCode) -> None:
        """It is known what came of it."""
        self.outcome = outcome
        for burst in self._bursts:
            burst.changed()


class _Burst:
    """
    Attempts to reach one bridge that were asked for before the transport had dialled for those before.

    Which dial is whose cannot be told, so only what they have in common counts.
    """

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.dials: list[Dial] = []
        self._waiting: list[Deferred[None]] = []

    @property
    def awaits_dial(self) -> bool:
        return len(self.dials) < len(self.attempts)

    @property
    def is_open(self) -> bool:
        return any(attempt.is_open for attempt in self.attempts)

    @property
    def is_settled(self) -> bool:
        return not self.awaits_dial and all(dial.outcome is not None for dial in self.dials)

    @property
    def outcome(self) -> ReplyCode | None:
        outcomes = {dial.outcome for dial in self.dials}
        return outcomes.pop() if len(outcomes) == 1 and not self.awaits_dial else None

    def changed(self) -> None:
        """Let those look again who wait."""
        if self.is_settled:
            waiting, self._waiting = self._waiting, []
            for each in waiting:
                each.callback(None)

    def settled(self) -> Deferred[None]:
        """Fires when it is known what came of all of them."""
        if self.is_settled:
            return succeed(None)
        waiting: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(waiting)
        return waiting


class Attempt:
    """
    A client that waits for the transport to reach a bridge.

    :ivar is_open: whether somebody still waits.
    :ivar has_failed: whether it is over without a stream.
    """

    def __init__(self, way_out: WayOut, bridge: Address, burst: _Burst) -> None:
        self._way_out = way_out
        self._bridge = bridge
        self._burst = burst
        self.is_open = True
        self.has_failed = False
        burst.attempts.append(self)

    @property
    def outcome(self) -> ReplyCode | None:
        """
        What came of the transport's own connection to the bridge.

        :returns: a row of the reply codes, that of success where the bridge was
            reached; ``None`` where that is not certain.
        """
        return self._burst.outcome

    def certain_outcome(self, reactor: Any, seconds: float) -> Deferred[ReplyCode | None]:
        """
        What came of it, when the transport has failed.

        Attempts of others may blur it, and soon do so no more.

        :param seconds: how long to wait for that.
        :returns: fires with what `outcome` says then.
        """
        if not self._burst.dials:  # the transport failed without one
            return succeed(None)
        settled: Deferred[Any] = self._burst.settled().addTimeout(seconds, reactor)
        settled.addErrback(lambda failure: failure.trap(DeferredTimeoutError))
        return settled.addCallback(lambda _: self.outcome)

    def over(self, succeeded: bool) -> None:
        """
        Nobody waits for the transport's answer any more.

        :param succeeded: whether the stream begins; if not, what the transport
            opened for it, and for nobody else, is closed.
        """
        burst = self._burst
        self.is_open = False
        self.has_failed = not succeeded
        if not burst.dials:  # so it did without, and the dials to come are the others'
            burst.attempts.remove(self)
        self._way_out.forget_burst(self._bridge, burst)
        self._way_out.abort([dial for dial in burst.dials if dial.is_given_up])


class WayOut:
    """
    A SOCKS5 listener on loopback for one life of one transport, with a login that nobody else knows.

    The transport reaches the bridges that clients wait for, wherever those
    are. What else it dials, a client may have named in its arguments: so
    once a client from elsewhere was served, no private address is among it.

    :param reactor: provides TCP, time, threads and a name resolver.
    """

    def __init__(self, reactor: Any) -> None:
        self._bursts: dict[Address, list[_Burst]] = {}
        self._serves_strangers = False
        username, password = secrets.token_hex(16), secrets.token_hex(16)
        checker = InMemoryUsernamePasswordDatabaseDontUse(**{username: password.encode()})
        direct = DirectRoute(reactor)
        self._factory = _WayOutFactory(
            reactor,
            portal=portal_for([checker]),
            routes=_AdmittedAddresses(self, direct),
            limits=Limits(connect_timeout=DIAL_TIMEOUT),
        )
        self._factory.log = _Silence(with_targets=False)
        self._factory.way = _WatchedRoute(self, direct)
        self._port = reactor.listenTCP(0, self._factory, interface="127.0.0.1")
        self.proxy = UpstreamProxy("socks5", "127.0.0.1", self._port.getHost().port, username, password)

    def __repr__(self) -> str:
        return "<WayOut>"

    async def close(self) -> None:
        """Stop listening, and end every connection."""
        await maybeDeferred(self._port.stopListening)
        await self._factory.drain(0)

    # What the route tells.

    def expect(self, bridge: Address, is_local: bool) -> Attempt:
        """
        Note that the transport is about to be asked for a bridge.

        :param is_local: whether the client is on this machine.
        """
        self._serves_strangers = self._serves_strangers or not is_local
        bursts = self._bursts.setdefault(bridge, [])
        burst = next((each for each in bursts if each.awaits_dial), None)
        if burst is None:
            burst = _Burst()
            bursts.append(burst)
        return Attempt(self, bridge, burst)

    def forget_burst(self, bridge: Address, burst: _Burst) -> None:
        """Forget a burst when nobody waits for it any more."""
        if burst.is_open:
            return
        bursts = self._bursts.get(bridge, [])
        if burst in bursts:
            bursts.remove(burst)
        if not bursts:
            self._bursts.pop(bridge, None)

    def abort(self, dials: list[Dial]) -> None:
        """End outgoing connections."""
        sessions = {id(dial.session) for dial in dials}
        for connection in list(self._factory.sessions):
            if id(connection.session) in sessions:
                connection.abort("given up")

    # What the transport does.

    def dialled(self, destination: Address, session: Session) -> Dial:
        """Note that the transport begins to connect to somewhere."""
        bursts = self._bursts.get(destination, [])
        # One that was dialled for already may be dialled for again, and which, nobody knows.
        return Dial(session, [each for each in bursts if each.awaits_dial] or list(bursts))

    def may_reach(self, address: Address) -> bool:
        """Whether the transport may connect to an address."""
        return address in self._bursts or not self._serves_strangers or not is_protected(address.host)


class _WatchedRoute(Route):
    """Goes straight to where the transport wants to go, and notes what comes of it."""

    name = "way out"

    def __init__(self, way_out: WayOut, direct: DirectRoute) -> None:
        self._way_out = way_out
        self._direct = direct

    def connect(self, request: Request, session: Session) -> Deferred[ITransport]:
        """See `IRoute`."""
        dial = self._way_out.dialled(request.destination, session)

        def reached(transport: ITransport) -> ITransport:
            dial.came_to(codes.SUCCEEDED)
            return transport

        def failed(failure: Failure) -> Failure:
            dial.came_to(row_of(failure.value))
            return failure

        return self._direct.connect(request, session).addCallbacks(reached, failed)


class _AdmittedAddresses(RouteTable):
    """The rules of a way out."""

    def __init__(self, way_out: WayOut, direct: DirectRoute) -> None:
        super().__init__((), direct)
        self._way_out = way_out

    def may_reach(self, address: Address, session: Session, route: IRoute) -> bool:
        """See `RouteTable`."""
        return self._way_out.may_reach(address)


class _WayOutFactory(SOCKS5ExtFactory):
    way: IRoute

    def route(self, session: Session) -> IRoute:
        """Every way is watched."""
        return self.way


class _Silence(SessionLog):
    """The client's own line in the log says it all."""

    def ended(self, session: Session, seconds: float) -> None:
        """Nothing is written."""

    def login_failed(self, session: Session, reason: str) -> None:
        """Nothing is written: its peer is no client of the server."""
