"""
Routes of which a server has one, however many workers: run in one process, reached from the others.

Between the two ends is a unix socket that only this user may open, and on it this
package's own protocol: method 97 carries the client's pairs, and what the route
has to know of the client besides. A worker asks for the codes that its client
understands, so that each failure reaches the client as it would have from the
route itself.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.interfaces import IAddress

from ...client.methods import ClientMethods
from ...context import PairCredentials, Session
from ...policy.table import RouteTable
from ...protocol.codes import Method
from ...protocol.pairs import MAX_FIELD_LENGTH, OPTIONAL_MARK, SERVER_KEYS, TOR_ERRORS, PairLimits, Pairs
from ...route.base import IRoute
from ...route.socks import SOCKSRoute
from ..access_log import SessionLog
from ..auth import SOCKSUser
from ..factory import SOCKS5ExtFactory
from ..limits import Limits

if TYPE_CHECKING:
    from collections.abc import Sequence

CLIENT = "worker.client"
"""The key of the pair that says who the worker's client is."""

ANSWERED_BEFORE = 1.0
"""Seconds by which the route's time ends before the worker's, so that the route can say what that means."""


class SharedRouteFactory(SOCKS5ExtFactory):
    """
    Lets workers use one route.

    :param route: the route; its ``service`` runs here.
    :param limits: those of the server.
    """

    keys = frozenset({CLIENT})

    def __init__(self, reactor: Any, route: IRoute, limits: Limits, log_targets: bool = False) -> None:
        super().__init__(reactor, policy=RouteTable((), route), limits=_limits_for_workers(limits))
        self._route = route
        self.log = _FailureLog(log_targets)

    def methods(self, session: Session) -> Sequence[Method]:
        """Workers say who their client is, or nothing at all."""
        return (Method.EXTENDED,)

    def authenticate(self, session: Session) -> None:
        """Make the session what it is in the worker."""
        client = json.loads(session.pairs[CLIENT])
        session.pairs = Pairs((key, value) for key, value in session.pairs.items() if key != CLIENT)
        session.peer = _peer_of(*client["peer"])
        session.method = Method(client["method"])
        if client["credentials"] is not None:
            session.credentials = PairCredentials(*map(b64decode, client["credentials"]))
        if client["is_known"]:
            session.avatar = SOCKSUser(session.credentials.username if session.credentials else b"")

    def route(self, session: Session) -> IRoute:
        """The worker's rules have decided."""
        return self._route


def _limits_for_workers(limits: Limits) -> Limits:
    """As much room as the server gives its clients, and some for what the worker adds."""
    pairs = PairLimits(
        pairs=min(limits.pairs.pairs + 2, MAX_FIELD_LENGTH),
        key_bytes=limits.pairs.key_bytes + len(OPTIONAL_MARK),
        value_bytes=MAX_FIELD_LENGTH,
        total_bytes=3 * limits.pairs.total_bytes + MAX_FIELD_LENGTH,
    )
    time = limits.connect_timeout
    earlier = max(time - ANSWERED_BEFORE, 0.9 * time)
    return Limits(handshake_timeout=limits.handshake_timeout, connect_timeout=earlier, pairs=pairs)


class _FailureLog(SessionLog):
    """Leaves the line of a connection to its worker, and adds to it why the route failed: the worker sees a code."""

    def ended(self, session: Session) -> None:
        if session.reply_code:
            super().ended(session)


class SharedRoute(SOCKSRoute):
    """
    A worker's way to a route that runs in the supervising process.

    :param path: of the unix socket.
    :param name: the route's own.
    :param keys: that the route honours.
    :param uses_credentials: as in `IRoute`.
    """

    def __init__(self, reactor: Any, path: str, name: str, keys: Iterable[str], uses_credentials: bool) -> None:
        super().__init__(reactor, UNIXClientEndpoint(reactor, path), ClientMethods())
        self.name = name
        self.keys = frozenset(keys)
        self.uses_credentials = uses_credentials

    def methods_for(self, session: Session) -> ClientMethods:
        """Return the client's pairs, who it is, and which codes it understands."""
        pairs = {
            (key if key in session.required_keys else OPTIONAL_MARK + key): value
            for key, value in session.pairs.items()
            if key not in SERVER_KEYS
        }
        pairs[TOR_ERRORS] = session.pairs.get(TOR_ERRORS, b"229") if Method.EXTENDED in session.offered else b"none"
        pairs[CLIENT] = json.dumps(_who(session)).encode("ascii")
        return ClientMethods(pairs=Pairs(pairs))


def _who(session: Session) -> dict[str, Any]:
    credentials = session.credentials
    is_known = session.avatar is not None
    said = None
    if credentials is not None:
        # A password that was checked has done its work.
        password = b"" if is_known else credentials.password
        said = [b64encode(part).decode("ascii") for part in (credentials.username, password)]
    return {"peer": _name_of(session.peer), "method": session.method, "credentials": said, "is_known": is_known}


def _name_of(peer: IAddress) -> list[Any]:
    if isinstance(peer, (IPv4Address, IPv6Address)):
        return [type(peer).__name__, peer.host, peer.port]
    return [type(peer).__name__]


def _peer_of(kind: str, *parts: Any) -> IAddress:
    if kind == IPv4Address.__name__:
        return IPv4Address("TCP", *parts)
    if kind == IPv6Address.__name__:
        return IPv6Address("TCP", *parts)
    return UNIXAddress(None)
