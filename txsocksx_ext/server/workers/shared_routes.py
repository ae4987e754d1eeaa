"""
Routes that run once, in the supervisor, and that workers reach over a private unix socket.

The protocol on that socket is SOCKS5 with method 0x97, whose pairs carry the
client's own pairs and what else the route has to know of the client. A worker
asks for the reply codes that its client understands, so that each failure reaches
the client as it would without workers.
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
from ..access_log import AccessLog
from ..auth import SOCKSUser
from ..factory import SOCKS5ExtFactory
from ..limits import Limits

if TYPE_CHECKING:
    from collections.abc import Sequence

CLIENT = "worker.client"
"""The key of the pair that describes the worker's client."""

ANSWERED_BEFORE = 1.0
"""Seconds by which the route's timeout is shorter than the worker's, so that the route can explain it."""


class SharedRouteFactory(SOCKS5ExtFactory):
    """
    Serves workers that use one route.

    :param route: the route; its ``service`` runs in this process.
    :param limits: the server's limits for its clients.
    """

    keys = frozenset({CLIENT})

    def __init__(self, reactor: Any, route: IRoute, limits: Limits, log_targets: bool = False) -> None:
        super().__init__(reactor, policy=RouteTable((), route), limits=_limits_for_workers(limits))
        self._route = route
        self.log = _FailuresOnly(log_targets)

    def methods(self, session: Session) -> Sequence[Method]:
        """Return 0x97 alone: workers always describe their client."""
        return (Method.EXTENDED,)

    def authenticate(self, session: Session) -> None:
        """Give the session the attributes that it has in the worker."""
        client = json.loads(session.pairs[CLIENT])
        session.pairs = Pairs((key, value) for key, value in session.pairs.items() if key != CLIENT)
        session.peer = _peer_of(*client["peer"])
        session.method = Method(client["method"])
        if client["credentials"] is not None:
            session.credentials = PairCredentials(*map(b64decode, client["credentials"]))
        if client["is_known"]:
            session.avatar = SOCKSUser(session.credentials.username if session.credentials else b"")

    def route(self, session: Session) -> IRoute:
        """Return the one route: the worker's rules have decided."""
        return self._route


def _limits_for_workers(limits: Limits) -> Limits:
    """Return the server's limits for its clients, with room for what the worker adds."""
    pairs = PairLimits(
        pairs=min(limits.pairs.pairs + 2, MAX_FIELD_LENGTH),
        key_bytes=limits.pairs.key_bytes + len(OPTIONAL_MARK),
        value_bytes=MAX_FIELD_LENGTH,
        total_bytes=3 * limits.pairs.total_bytes + MAX_FIELD_LENGTH,
    )
    time = limits.connect_timeout
    earlier = max(time - ANSWERED_BEFORE, 0.9 * time)
    return Limits(handshake_timeout=limits.handshake_timeout, connect_timeout=earlier, pairs=pairs)


class _FailuresOnly(AccessLog):
    """Logs failures only: the worker logs each connection, but sees only the code of a failure."""

    def _log_end(self, session: Session, when: float) -> None:
        if session.reply_code:
            super()._log_end(session, when)


class SharedRoute(SOCKSRoute):
    """
    A worker's route to a route that runs in the supervisor.

    :param path: the path of the unix socket.
    :param name: the route's name.
    :param keys: the keys that the route honours.
    :param uses_credentials: as in `IRoute`.
    """

    def __init__(self, reactor: Any, path: str, name: str, keys: Iterable[str], uses_credentials: bool) -> None:
        super().__init__(reactor, UNIXClientEndpoint(reactor, path), ClientMethods())
        self.name = name
        self.keys = frozenset(keys)
        self.uses_credentials = uses_credentials

    def methods_for(self, session: Session) -> ClientMethods:
        """Return pairs: the client's own, its description, and which codes it understands."""
        pairs = {
            (key if key in session.required_keys else OPTIONAL_MARK + key): value
            for key, value in session.pairs.items()
            if key not in SERVER_KEYS
        }
        pairs[TOR_ERRORS] = session.pairs.get(TOR_ERRORS, b"229") if Method.EXTENDED in session.offered else b"none"
        pairs[CLIENT] = json.dumps(_description_of(session)).encode("ascii")
        return ClientMethods(pairs=Pairs(pairs))


def _description_of(session: Session) -> dict[str, Any]:
    credentials, peer = session.credentials, session.peer
    is_known = session.avatar is not None
    encoded = None
    if credentials is not None:
        # The route does not need a password that was verified.
        password = b"" if is_known else credentials.password
        encoded = [b64encode(part).decode("ascii") for part in (credentials.username, password)]
    host_and_port = [peer.host, peer.port] if isinstance(peer, (IPv4Address, IPv6Address)) else []
    return {
        "peer": [type(peer).__name__, *host_and_port],
        "method": session.method,
        "credentials": encoded,
        "is_known": is_known,
    }


def _peer_of(kind: str, *host_and_port: Any) -> IAddress:
    for address in (IPv4Address, IPv6Address):
        if kind == address.__name__:
            return address("TCP", *host_and_port)
    return UNIXAddress(None)
