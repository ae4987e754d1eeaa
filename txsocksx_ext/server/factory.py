"""
The server's factory: it holds the pieces that decide, each of which can be replaced.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from time import monotonic
from typing import Any

from twisted.cred.error import LoginFailed, Unauthorized
from twisted.cred.portal import Portal
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from ..context import Session
from ..errors import AuthenticationFailed
from ..failures import row_of
from ..net.twisted_transports import peer_group
from ..policy.table import RouteTable
from ..protocol.codes import Method, ReplyCode
from ..protocol.pairs import SERVER_KEYS, Pairs
from ..protocol.socks5 import DEFAULT_PREFERENCE
from ..route.base import IRoute
from ..route.direct import DirectRoute
from .access_log import SessionLog
from .auth import CheckersFailed, ISOCKSUser, SOCKSCredentials
from .connection import ClientConnection
from .draining import Draining
from .failed_logins import CHECKER_FAILED, INVALID_CREDENTIALS, MISSING_CREDENTIALS, FailedLogins, FailureLog
from .keys import meaning_of
from .limits import Limits
from .protocol import SOCKS5ExtProtocol
from .stats import Counters
from .timers import Deadlines

_WITH_CREDENTIALS = tuple(method for method in DEFAULT_PREFERENCE if method != Method.NO_AUTHENTICATION)
_ANONYMOUS_FIRST = (Method.EXTENDED, Method.NO_AUTHENTICATION, Method.USERNAME_PASSWORD)

ANSWERED_WITHIN = 0.9
"""The part of the handshake's time after which no failed login waits for its answer any more."""


class SOCKS5ExtFactory(Factory):
    """
    A SOCKS5 server with method 97 and the extended reply codes.

    To change one decision, override one of `methods`, `authenticate`, `route`
    and `reply_for`; or pass in a piece.

    :param reactor: provides TCP, time, threads and a name resolver.
    :param portal: checks credentials; without one any are taken, and only
        separate streams.
    :param anonymous: whether clients may come without credentials; ``None``
        means where there is no portal.
    :param routes: the ways out; by default everything goes ``direct``.
    :param limits: sizes and times.
    :param log_targets: whether logs may hold targets and user names.
    :ivar sessions: the protocols of all open connections; that of a stream has
        no transport any more, but its ``session``.
    :ivar counters: what has been done so far.
    """

    protocol = SOCKS5ExtProtocol  # type: ignore[assignment]
    noisy = False

    keys: frozenset[str] = frozenset()
    """Keys of pairs that an `authenticate` of your own understands."""

    fast_relay = True
    """Whether plain sockets may be joined past Twisted's transports. Where it is false, all bytes go through those."""

    def __init__(
        self,
        reactor: Any,
        *,
        portal: Portal | None = None,
        anonymous: bool | None = None,
        routes: RouteTable | None = None,
        limits: Limits | None = None,
        log_targets: bool = False,
    ) -> None:
        self.reactor = reactor
        self.portal = portal
        self.anonymous = portal is None if anonymous is None else anonymous
        self.routes = RouteTable((), DirectRoute(reactor)) if routes is None else routes
        self.limits = Limits() if limits is None else limits
        self.log = SessionLog(log_targets, reactor)
        self.deadlines = Deadlines(reactor)
        self.sessions: set[ClientConnection] = set()
        self.counters = Counters()
        self._peers: Counter[str] = Counter()
        self._draining = Draining()
        self._is_full = False
        self._failed_logins = FailedLogins()
        self._portal_failures = FailureLog("the portal")
        self._know_routes(self.routes.routes)

    # Decisions.

    def methods(self, session: Session) -> Sequence[Method]:
        """
        The methods that this client may come in by, the preferred first.

        0x02 goes before 0x00 only where credentials matter: programs that offer both
        ask their users for a password otherwise. They matter with a portal, with a
        route that uses them (`IRoute.uses_credentials`), and to an override of
        `authenticate` or `route`, which may read them.

        :returns: perhaps fewer than the client offered; the first that it did
            offer is selected.
        """
        if not self.anonymous:
            return _WITH_CREDENTIALS
        if self.portal is not None or self._may_use_credentials:
            return DEFAULT_PREFERENCE
        return _ANONYMOUS_FIRST

    def authenticate(self, session: Session) -> Any:
        """
        Decide whether the client may come in.

        Called once, whatever the method, with `Session.credentials` and
        `Session.pairs` filled in. Keys that neither this server, nor one of its
        routes, nor `keys` knows were refused before.

        :returns: pairs to answer with (a mapping of str to bytes or str, or
            ``None``), or a Deferred or coroutine of them.
        :raises AuthenticationFailed: or `UnauthorizedLogin`: the client may not.
        :raises InvalidArguments: its pairs are wrong; the message goes to it.
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
        left = session.began + ANSWERED_WITHIN * limits.handshake_timeout - monotonic()
        delay = min(self._failed_logins.add(peer), limits.login_delay, left)
        if delay > 0:
            await deferLater(self.reactor, delay)

    def route(self, session: Session) -> Any:
        """
        Decide which way the client's request goes.

        :returns: an `IRoute` (anything with ``connect(request, session)``), or a
            Deferred or coroutine of one.
        :raises ConnectionNotAllowed: or any other exception that has a code: none.
        """
        assert session.request is not None
        return self.routes.route_of(session.request.destination, session)

    def reply_for(self, failure: Failure, session: Session) -> ReplyCode | int:
        """
        Decide what a client is told of a failure.

        :param failure: of the route, or of the way to it.
        :returns: a row of `txsocksx_ext.protocol.codes`, or a number from 1 to 255,
            at once: anything else is answered with 01, and logged as a fault.
            What this client does not understand becomes the nearest that it
            does, after this.
        """
        return row_of(failure.value)

    # What the protocol asks for.

    def _know_routes(self, routes: Collection[IRoute]) -> None:
        self._known_keys = SERVER_KEYS.union(*(getattr(route, "keys", ()) for route in routes))
        own, base = type(self), SOCKS5ExtFactory
        is_overridden = own.authenticate is not base.authenticate or own.route is not base.route
        self._may_use_credentials = is_overridden or any(getattr(route, "uses_credentials", False) for route in routes)

    def sift(self, pairs: Pairs) -> tuple[Pairs, frozenset[str]]:
        """
        Hold a client's pairs against the keys that this server knows.

        :returns: the pairs without the marks of optional keys, and without the
            optional ones that are unknown; and the keys that the route must honour.
        :raises InvalidArguments: another key is unknown, or a key stands twice.
        """
        kept, required = meaning_of(tuple(pairs.keys()), self._known_keys, frozenset(self.keys))
        return pairs.renamed(kept), required

    def buildProtocol(self, addr: IAddress | None) -> SOCKS5ExtProtocol | None:  # type: ignore[override]
        """Build a protocol, or ``None`` where there are too many."""
        if len(self.sessions) >= self.limits.max_connections:
            # Said once, until one has left: those who come too many must not fill the log.
            if not self._is_full:
                self.log.refused(addr)
            self._is_full = True
            return None
        built: SOCKS5ExtProtocol = self.protocol()
        built.factory = self
        return built

    def count_peer(self, name: str) -> bool:
        """Count one more connection of a peer; whether it may have it."""
        self._peers[name] += 1
        return self._peers[name] <= self.limits.max_per_peer

    def discount_peer(self, name: str) -> None:
        """Count one connection of a peer less."""
        self._peers[name] -= 1
        if not self._peers[name]:
            del self._peers[name]

    def opened(self, protocol: ClientConnection) -> None:
        """A connection has begun."""
        self.sessions.add(protocol)
        counters = self.counters
        counters.now += 1
        counters.connections += 1

    def closed(self, protocol: ClientConnection) -> None:
        """A connection, and the one to its target, have ended."""
        self.sessions.discard(protocol)
        counters, session = self.counters, protocol.session
        counters.now -= 1
        counters.up += session.up
        counters.down += session.down
        if session.code:
            counters.failed += 1
        self._is_full = False
        if not self.sessions:
            self.deadlines.rest()
            self.log.write()
            self._draining.emptied()

    def drain(self, seconds: float) -> Deferred[None]:
        """
        End every connection: handshakes at once, streams by themselves or after `seconds`.

        To be called when nothing listens any more.

        :returns: fires when none is left.
        """
        for protocol in list(self.sessions):
            protocol.stop()
        if not self.sessions:
            return succeed(None)
        if seconds:
            self.log.draining(len(self.sessions), seconds)
        return self._draining.wait(self.reactor, seconds, self.abort_all)

    def abort_all(self) -> None:
        """End every connection at once, with a reset."""
        for protocol in list(self.sessions):
            protocol.abort("drained")
