"""
The server's factory: it holds the pieces that decide, each of which can be replaced.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import NoneType
from typing import Any, Protocol, Union

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.error import LoginFailed, Unauthorized
from twisted.cred.portal import Portal
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from ..addresses import LOOPBACK_NETWORKS, IPNetwork
from ..checks import check_method, check_reactor, check_type
from ..context import Session, peer_group
from ..errors import AuthenticationFailed
from ..failures import row_of
from ..net.timers import Deadlines, clock_of
from ..policy.keys import classify_keys
from ..policy.table import ChosenTable, Decision, RouteTable
from ..protocol.codes import Method, ReplyCode
from ..protocol.pairs import Pairs
from ..protocol.socks5 import DEFAULT_PREFERENCE
from ..route.base import IRoute
from ..route.direct import DirectRoute
from .access_log import AccessLog
from .auth import CheckersFailed, ISOCKSUser, SOCKSCredentials
from .commands import COMMANDS
from .connection import Command, SOCKS5ExtProtocol
from .draining import Draining
from .failed_logins import CHECKER_FAILED, INVALID_CREDENTIALS, MISSING_CREDENTIALS, FailedLogins, FailureLog
from .frontends import FRONTENDS, Frontends
from .limits import Limits
from .stats import Counters
from .users import Users

_WITH_CREDENTIALS = tuple(method for method in DEFAULT_PREFERENCE if method != Method.NO_AUTHENTICATION)
_ANONYMOUS_FIRST = (Method.EXTENDED, Method.NO_AUTHENTICATION, Method.USERNAME_PASSWORD)

ANSWERED_WITHIN = 0.9
"""The part of the handshake's time after which no failed login waits for its answer any more."""

AnsweredPairs = Union[Mapping[str, Union[bytes, str]], None]
"""Pairs to answer a client with."""


class PolicyObserver(Protocol):
    """Observes the replacement of a factory's policy."""

    def policy_changed(self, old: RouteTable, new: RouteTable, unused: Deferred[None]) -> None:
        """
        Act on the change.

        :param unused: fires when the last connection under the old policy has ended.
        """


class SOCKS5ExtFactory(Factory):
    """
    A SOCKS5 server with method 0x97 and the extended reply codes.

    To change one decision, override one of `methods`, `authenticate`, `route`
    and `reply_for`; `closed` is told of each connection's end. Or pass in a piece.

    :param reactor: provides TCP, time, threads and a name resolver.
    :param portal: checks credentials; without one any are accepted, and only
        separate streams.
    :param anonymous: whether clients may come without credentials; by default
        only if there is no portal.
    :param policy: the rules, or a function of the session that returns them, called for each request; by default
        everything goes ``direct``.
    :param limits: sizes and times.
    :param log_targets: whether logs may hold targets and user names.
    :raises TypeError: an argument is of a wrong type.
    :ivar checkers: the portal's checkers, by their descriptions, if it was made of such.
    :ivar connections: all open connections; that of a stream has no transport
        any more, but its ``session``.
    """

    protocol = SOCKS5ExtProtocol  # type: ignore[assignment]  # Twisted declares a function
    noisy = False

    keys: frozenset[str] = frozenset()
    """Keys of pairs that an `authenticate` of your own understands."""

    fast_relay = True
    """Whether plain sockets may be joined past Twisted's transports. If false, all bytes go through those."""

    trusted_balancers: Sequence[IPNetwork] = LOOPBACK_NETWORKS
    """The networks whose PROXY headers are believed, besides unix sockets. See `ProxyProtocolFactory`."""

    frontends: Frontends = FRONTENDS
    """The protocols that are served."""

    commands: Mapping[Any, Command] = COMMANDS
    """The commands that are served."""

    def __init__(
        self,
        reactor: Any,
        *,
        portal: Portal | None = None,
        anonymous: bool | None = None,
        policy: RouteTable | Callable[[Session], RouteTable] | None = None,
        limits: Limits | None = None,
        log_targets: bool = False,
    ) -> None:
        check_reactor("reactor", reactor)
        if portal is not None:
            check_method("portal", portal, "login", "a twisted.cred portal")
        check_type("anonymous", anonymous, bool, NoneType)
        check_type("limits", limits, Limits, NoneType)
        check_type("log_targets", log_targets, bool)
        self.reactor = reactor
        self.portal = portal
        self.checkers: Mapping[str, ICredentialsChecker] = {}
        self.anonymous = portal is None if anonymous is None else anonymous
        self._policy = self._table_of(policy)
        self.limits = Limits() if limits is None else limits
        self.clock = clock_of(reactor)
        self.log = AccessLog(log_targets, self.clock)
        self.deadlines = Deadlines(self.clock)
        self.connections: set[SOCKS5ExtProtocol] = set()
        self._done = Counters()
        self.policy_observers: list[PolicyObserver] = []
        # Connections under a replaced policy, and the Deferred that fires when the last of them has ended.
        self._outlived: list[tuple[set[SOCKS5ExtProtocol], Deferred[None]]] = []
        self._peers: Counter[str] = Counter()
        self.users = Users()
        self._draining: Draining | None = None
        self._failed_logins = FailedLogins(self.clock.seconds)
        self._portal_failures = FailureLog("the portal")
        self._is_full = False
        own, base = type(self), SOCKS5ExtFactory
        self._has_own_end = own.closed is not base.closed
        self._has_own_decisions = own.authenticate is not base.authenticate or own.route is not base.route

    @property
    def policy(self) -> RouteTable:
        """
        The rules for new connections.

        When another table is assigned, open connections keep the rules that
        admitted them, and the services of routes that only the old table has stop
        when the last of those connections ends.
        """
        return self._policy

    @policy.setter
    def policy(self, policy: RouteTable) -> None:
        check_type("policy", policy, RouteTable)
        old, self._policy = self._policy, policy
        unused: Deferred[None] = Deferred()
        remaining = {each for each in self.connections if each.session.policy is old}
        for observer in self.policy_observers:
            observer.policy_changed(old, policy, unused)
        if remaining:
            self._outlived.append((remaining, unused))
        else:
            unused.callback(None)

    def _table_of(self, policy: RouteTable | Callable[[Session], RouteTable] | None) -> RouteTable:
        if isinstance(policy, RouteTable):
            return policy
        direct = DirectRoute(self.reactor)
        if callable(policy) and not isinstance(policy, type):
            return ChosenTable(policy, direct)
        check_type("policy", policy, RouteTable, NoneType)
        return RouteTable((), direct)

    def take_settings_of(self, other: SOCKS5ExtFactory) -> None:
        """Serve new connections as another factory would. Open ones keep the policy that admitted them."""
        self.portal, self.checkers, self.anonymous = other.portal, other.checkers, other.anonymous
        self.limits, self.frontends = other.limits, other.frontends
        self.trusted_balancers = other.trusted_balancers
        self.log.with_targets = other.log.with_targets
        self.policy = other.policy

    # Decisions.

    def methods(self, session: Session) -> Sequence[Method]:
        """
        Return the methods that this client may use, the preferred first.

        0x02 goes before 0x00 only where credentials matter: programs that offer both
        ask their users for a password otherwise. They matter with a portal, with a
        route that uses them (`IRoute.uses_credentials`), and to an override of
        `authenticate` or `route`, which may read them.

        :returns: any number of methods; the first that the client offered is selected.
        """
        if not self.anonymous:
            return _WITH_CREDENTIALS
        if self.portal is not None or session.policy.uses_credentials or self._has_own_decisions:
            return DEFAULT_PREFERENCE
        return _ANONYMOUS_FIRST

    def authenticate(self, session: Session) -> AnsweredPairs | Awaitable[AnsweredPairs]:
        """
        Decide whether the client may come in.

        Called once, whatever the method, with `Session.credentials` and
        `Session.pairs` filled in. Keys that neither this server, nor one of its
        routes, nor `keys` knows were refused before.

        :returns: pairs to answer with, or a Deferred or coroutine of them.
        :raises AuthenticationFailed: or `UnauthorizedLogin`: the client may not.
        :raises InvalidArguments: its pairs are wrong; the client is sent the message.
        """
        credentials = session.credentials
        if credentials is None:
            if self.anonymous:
                return None
            if self.portal is not None:
                self.log.login_failed(session, MISSING_CREDENTIALS)
            raise AuthenticationFailed()
        if self.portal is None:
            return None
        return self._login(self.portal, session, credentials.username, credentials.password)

    async def _login(self, portal: Portal, session: Session, username: bytes, password: bytes) -> None:
        peer = peer_group(session.peer)
        credentials = SOCKSCredentials(username, password, peer)
        try:
            _, session.avatar, session.logout = await portal.login(credentials, None, ISOCKSUser)
        except CancelledError:
            raise
        except (LoginFailed, Unauthorized, AuthenticationFailed):
            self.log.login_failed(session, INVALID_CREDENTIALS)
            await self._delay_refusal(session, peer)
            raise
        except Exception as error:
            if not isinstance(error, CheckersFailed):
                self._portal_failures.note(error)
            self.log.login_failed(session, CHECKER_FAILED)
            raise AuthenticationFailed() from None
        self._portal_failures.ended()

    async def _delay_refusal(self, session: Session, peer: str) -> None:
        """Wait the longer the more logins of this peer have failed, but not past the handshake's time."""
        limits = self.limits
        left = session.began + ANSWERED_WITHIN * limits.handshake_timeout - self.clock.seconds()
        delay = min(self._failed_logins.add(peer), limits.login_delay, left)
        if delay > 0:
            await deferLater(self.clock, delay)

    def route(self, session: Session) -> Decision | IRoute | Awaitable[Decision | IRoute]:
        """
        Decide which route the client's request takes.

        :returns: a table's decision, or a route, which the factory's policy then
            admits; or a Deferred or coroutine of either.
        :raises ConnectionNotAllowed: or any other exception that has a reply code: none.
        """
        assert session.request is not None
        return session.policy.route_of(session.request.destination, session)

    def reply_for(self, failure: Failure, session: Session) -> ReplyCode | int:
        """
        Decide which reply code a client gets for a failure.

        :param failure: of the decision or of the route.
        :returns: a row of `txsocksx_ext.protocol.codes`, or a number from 1 to
            255; anything else is answered with 0x01, and logged as a bug. A code
            that this client does not understand is replaced by the nearest that
            it does, after this.
        """
        return row_of(failure.value)

    def closed(self, session: Session) -> None:
        """Act on the end of a connection. Called once; the counts, `Session.seconds` and ``end`` are final."""

    # What the connections ask for.

    def filter_pairs(self, pairs: Pairs, session: Session) -> tuple[Pairs, frozenset[str]]:
        """
        Match a client's pairs against the keys that this server knows.

        :returns: the pairs without the marks of optional keys, and without the
            optional ones that are unknown; and the keys that the route must honour.
        :raises InvalidArguments: another key is unknown, or a key stands twice.
        """
        kept, required = classify_keys(tuple(pairs.keys()), session.policy.known_keys, frozenset(self.keys))
        return pairs.renamed(kept), required

    def buildProtocol(self, addr: IAddress) -> SOCKS5ExtProtocol | None:  # type: ignore[override]  # no None
        """Build a protocol, or return ``None`` if there are ``max_connections`` already."""
        if len(self.connections) >= self.limits.max_connections:
            # Logged once until one has left: refused connections must not fill the log.
            if not self._is_full:
                self.log.refused(addr)
            self._is_full = True
            self._done.refused += 1
            return None
        built: SOCKS5ExtProtocol = self.protocol()
        built.factory = self
        built.session = Session(addr, self._policy)
        return built

    def count_peer(self, name: str) -> bool:
        """Count one more connection of a peer; return whether it may have it."""
        self._peers[name] += 1
        return self._peers[name] <= self.limits.max_per_peer

    def discount_peer(self, name: str) -> None:
        """Count one connection of a peer less."""
        self._peers[name] -= 1
        if not self._peers[name]:
            del self._peers[name]

    def connection_closed(self, connection: SOCKS5ExtProtocol) -> None:
        """Note that a connection, and the one to its target, have ended."""
        session = connection.session
        self.connections.discard(connection)
        self._done.count(session)
        self._is_full = False
        self.log.ended(session, is_last=not self.connections)
        if self._outlived:
            self._forget_outlived(connection)
        if self._has_own_end:
            try:
                self.closed(session)
            except Exception:  # the override's
                self.log.unexpected(Failure(), session)
        if not self.connections:
            self.deadlines.rest()
            if self._draining is not None:
                self._draining.emptied()

    def _forget_outlived(self, connection: SOCKS5ExtProtocol) -> None:
        for remaining, unused in list(self._outlived):
            remaining.discard(connection)
            if not remaining:
                self._outlived.remove((remaining, unused))
                unused.callback(None)

    @property
    def counters(self) -> Counters:
        """What was done so far, open streams included."""
        counters = Counters.sum_of([self._done])
        counters.now = len(self.connections)
        for connection in self.connections:
            counters.count(connection.session)
        return counters

    def when_empty(self) -> Deferred[None]:
        """Return a Deferred that fires when no connection is left."""
        if not self.connections:
            return succeed(None)
        if self._draining is None:
            self._draining = Draining()
        return self._draining.when_emptied()

    def drain(self, seconds: float) -> Deferred[None]:
        """
        End every connection: handshakes at once, streams by themselves or after `seconds`.

        Call it when nothing listens any more.

        :returns: fires when none is left.
        """
        for connection in list(self.connections):
            connection.stop()
        if not self.connections:
            return succeed(None)
        if seconds:
            self.log.draining(len(self.connections), seconds)
        if self._draining is None:
            self._draining = Draining()
        return self._draining.wait(self.clock, seconds, self.abort_all)

    def end_sessions(self, matches: Callable[[Session], bool], reason: str = "ended by the operator") -> int:
        """
        End connections at once, with a reset: one, all of a user, or whichever match.

        :param matches: whether to end a session, such as ``lambda session: session.user == b"alice"``.
        :param reason: `Session.end` of these sessions, for the log.
        :returns: how many were ended.
        """
        ending = [connection for connection in self.connections if matches(connection.session)]
        for connection in ending:
            connection.abort(reason)
        return len(ending)

    def abort_all(self) -> None:
        """End every connection at once, with a reset."""
        self.end_sessions(lambda _: True, "drained")
