"""
The session of one client's connection, shared by server, policy and routes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress

from .errors import ConnectionNotAllowed
from .net.relay_interface import IRelay
from .net.twisted_transports import is_loopback_host, unmapped
from .protocol.codes import Method
from .protocol.messages import Request, UsernamePassword
from .protocol.pairs import NO_PAIRS, PASSWD, USERNAME, Pairs, is_among

if TYPE_CHECKING:
    from .policy.table import RouteTable
    from .route.base import IRoute

_numbers = count(1)


def is_local(address: IAddress | None) -> bool:
    """Return whether a peer's address is this machine's own: loopback, or a unix socket."""
    if isinstance(address, (IPv4Address, IPv6Address)):
        return is_loopback_host(address.host)
    return isinstance(address, UNIXAddress)


def peer_name(address: IAddress | None) -> str:
    """Return how logs and counters name a peer: its host, without the port."""
    if isinstance(address, (IPv4Address, IPv6Address)):
        return address.host
    return "unix" if isinstance(address, UNIXAddress) else type(address).__name__


def peer_group(address: IAddress | None) -> str:
    """Return what counts as one peer: an IPv4 address, or the /64 network of an IPv6 address."""
    name = peer_name(address)
    if not isinstance(address, IPv6Address):
        return name
    literal = unmapped(ipaddress.IPv6Address(name))
    if isinstance(literal, ipaddress.IPv4Address):
        return str(literal)
    return str(ipaddress.IPv6Network((int(literal) >> 64 << 64, 64)))


class KeyNotHonoured(ConnectionNotAllowed):
    """The route does not honour a key that the client requires. In the log, its name distinguishes it from a rule."""


class Session:
    """
    One client's connection, as decisions and routes see it.

    Attributes fill in as the conversation goes on. The `repr` shows neither the
    target nor the user name nor a value.

    :ivar peer: the client's address.
    :ivar is_local: whether the client is on this machine: loopback or a unix socket.
    :ivar policy: the rules by which this connection was admitted.
    :ivar protocol: what the client speaks, such as ``socks5``.
    :ivar offered: the methods that the client offered.
    :ivar method: the method selected, or ``None`` before that.
    :ivar credentials: from RFC 1929, or from USERNAME and PASSWD; ``None`` if
        there were none.
    :ivar pairs: from method 0x97, without the marks of optional keys, and
        without optional keys that this server does not know.
    :ivar required_keys: the keys among them that the route must honour: all but
        the optional ones and those for the server itself.
    :ivar avatar: the portal's avatar for the credentials.
    :ivar logout: tells the portal's realm that this user leaves; called at the end.
    :ivar request: the client's request, or ``None`` before that. An address
        literal that came as a name is replaced by the address.
    :ivar route: the route taken, or ``None`` before that.
    :ivar reply_code: the reply code sent, or ``None`` before that.
    :ivar relay: the relay of the stream, while there is one.
    :ivar relay_name: its name.
    :ivar connect_seconds: how long the request took until it succeeded, or ``None`` before that.
    :ivar number: differs from that of every other session of the process.
    :ivar began: when the connection was made, in seconds of the factory's clock.
    :ivar seconds: how long the connection lasted; 0 before its end.
    :ivar end: why the connection ended, in a few words.
    """

    def __init__(self, peer: IAddress, policy: RouteTable) -> None:
        # Create every attribute here: CPython's key-sharing dicts stay compact only if attributes appear now.
        self.policy = policy
        self._peer = peer
        self.is_local = is_local(peer)
        self.protocol = ""
        self.offered: tuple[Method, ...] = ()
        self.method: Method | None = None
        self.credentials: UsernamePassword | None = None
        self.pairs = NO_PAIRS
        self.required_keys: frozenset[str] = frozenset()
        self.avatar: object = None
        self.logout: Callable[[], object] | None = None
        self.request: Request | None = None
        self.route: IRoute | None = None
        self.reply_code: int | None = None
        self.relay: IRelay | None = None
        self.relay_name = ""
        self.connect_seconds: float | None = None
        self.number = next(_numbers)
        self._up = self._down = 0
        self.began = self.seconds = 0.0
        self.end = ""

    @property
    def peer(self) -> IAddress:
        """The client's address. Setting it changes `is_local` too."""
        return self._peer

    @peer.setter
    def peer(self, peer: IAddress) -> None:
        self._peer = peer
        self.is_local = is_local(peer)

    @property
    def user(self) -> bytes | None:
        """The client's user name, by either method; verified only if there is a portal."""
        return None if self.credentials is None else self.credentials.username

    @property
    def share(self) -> str:
        """
        Who shares limited resources, such as name look-ups, with this client.

        Clients on this machine are distinguished by their user names.
        """
        if not self.is_local:
            return peer_group(self._peer)
        return f"local {self.user!r}"

    @property
    def up(self) -> int:
        """Bytes from the client to the target so far."""
        return self._up if self.relay is None else self.relay.up

    @property
    def down(self) -> int:
        """Bytes from the target to the client so far."""
        return self._down if self.relay is None else self.relay.down

    def __repr__(self) -> str:
        method = "no method" if self.method is None else self.method.name
        return f"<Session from {peer_name(self.peer)}, {method}>"

    @property
    def route_name(self) -> str:
        """The name of the route taken, or an empty string before that."""
        if self.route is None:
            return ""
        name: str | None = getattr(self.route, "name", None)
        return type(self.route).__name__ if name is None else name

    def check_keys(self, route: IRoute) -> None:
        """
        Check that a route honours the required keys.

        Ignoring a key silently could put streams on one circuit that must not
        share one.

        :raises ConnectionNotAllowed: it does not.
        """
        honoured: frozenset[str] = getattr(route, "keys", frozenset())
        for key in self.required_keys:
            if not is_among(key, honoured):
                raise KeyNotHonoured(f"the route to this target does not honour the key {key}")

    def take_pairs(self, pairs: Pairs, required_keys: frozenset[str] = frozenset()) -> None:
        """Keep the pairs of method 0x97; USERNAME and PASSWD are credentials as RFC 1929's are."""
        self.pairs = pairs
        self.required_keys = required_keys
        username, password = pairs.get(USERNAME), pairs.get(PASSWD)
        if username is not None or password is not None:
            self.credentials = PairCredentials(username or b"", password or b"")

    def end_relay(self, reason: str) -> None:
        """Keep the relay's final counts and the reason of its end, and release it."""
        if self.relay is not None:
            self._up, self._down = self.relay.up, self.relay.down
            self.relay = None
        self.end = self.end or reason


class PairCredentials(UsernamePassword):
    """Credentials from pairs, which may be longer than RFC 1929 can carry."""

    __slots__ = ()

    def __post_init__(self) -> None:
        """Accept any length that the limits of pairs admit."""
