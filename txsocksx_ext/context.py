"""
What is known of one client's connection.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

from twisted.internet.interfaces import IAddress

from .errors import ConnectionNotAllowed
from .net.twisted_transports import is_local, peer_name
from .protocol.codes import Method
from .protocol.messages import Request, UsernamePassword
from .protocol.pairs import NO_PAIRS, PASSWD, USERNAME, Pairs
from .route.base import IRoute, is_among

if TYPE_CHECKING:
    from .policy.table import RouteTable


class KeyNotHonoured(ConnectionNotAllowed):
    """The way to a target does not know a key that it must honour. Its name tells it in the log from a rule."""


class Session:
    """
    One client's connection, as decisions and routes see it.

    Attributes fill in as the conversation goes on. Its `repr` shows neither the
    target nor a user name nor a value.

    :ivar peer: the client's address.
    :ivar is_local: whether the client is on this machine: loopback or a unix socket.
    :ivar rules: the server's rules, for routes that resolve names.
    :ivar offered: the methods that the client offered.
    :ivar method: the method selected, or ``None`` before that.
    :ivar credentials: what RFC 1929 carried, or USERNAME and PASSWD; ``None``
        where there were none.
    :ivar pairs: what method 97 carried, without the marks of optional keys, and
        without optional keys that this server does not know.
    :ivar required_keys: the keys among them that the way out must honour: all but
        the optional ones, and those that are the server's own business.
    :ivar avatar: what the portal made of the credentials.
    :ivar logout: tells the portal's realm that this user leaves; called at the end.
    :ivar request: the client's request, or ``None`` before that. An address
        literal that came as a name stands here as the address.
    :ivar way: the way out taken.
    :ivar route: its name.
    :ivar code: the reply code sent, or ``None`` before that.
    :ivar relay: the name of the relay that serves the stream.
    :ivar up: bytes from the client to the target.
    :ivar down: bytes from the target to the client.
    :ivar end: why the connection ended, in a few words.
    :ivar began: when it was made, in seconds of `time.monotonic`.
    """

    def __init__(self, peer: IAddress, rules: RouteTable) -> None:
        # All at once: Python keeps attributes that are added later less tightly, and finds them later.
        self.rules = rules
        self._peer = peer
        self.is_local = is_local(peer)
        self.offered: tuple[Method, ...] = ()
        self.method: Method | None = None
        self.credentials: UsernamePassword | None = None
        self.pairs = NO_PAIRS
        self.required_keys: frozenset[str] = frozenset()
        self.avatar: object = None
        self.logout: Callable[[], object] | None = None
        self.request: Request | None = None
        self.way: IRoute | None = None
        self.route = ""
        self.code: int | None = None
        self.relay = ""
        self.up = self.down = 0
        self.end = ""
        self.began = monotonic()

    @property
    def peer(self) -> IAddress:
        """The client's address. To set another one changes `is_local` too."""
        return self._peer

    @peer.setter
    def peer(self, peer: IAddress) -> None:
        self._peer = peer
        self.is_local = is_local(peer)

    @property
    def user(self) -> bytes | None:
        """The client's user name, by either method; checked only where there is a portal."""
        return None if self.credentials is None else self.credentials.username

    def __repr__(self) -> str:
        method = "no method" if self.method is None else self.method.name
        return f"<Session from {peer_name(self.peer)}, {method}>"

    def take_route(self, route: IRoute) -> None:
        """
        Note which way out is taken.

        To ignore a key in silence could put streams on one circuit that must
        not share one.

        :raises ConnectionNotAllowed: the route does not honour a key that it must.
        """
        self.way = route
        name = getattr(route, "name", None)
        self.route = type(route).__name__ if name is None else name
        if not self.required_keys:
            return
        honoured: frozenset[str] = getattr(route, "keys", frozenset())
        for key in self.required_keys:
            if not is_among(key, honoured):
                raise KeyNotHonoured(f"the way to this target does not know the key {key}")

    def take_pairs(self, pairs: Pairs, required_keys: frozenset[str] = frozenset()) -> None:
        """Keep what method 97 carried; USERNAME and PASSWD are credentials as RFC 1929's are."""
        self.pairs = pairs
        self.required_keys = required_keys
        username, password = pairs.get(USERNAME), pairs.get(PASSWD)
        if username is not None or password is not None:
            self.credentials = PairCredentials(username or b"", password or b"")


class PairCredentials(UsernamePassword):
    """Credentials from pairs, which may be longer than RFC 1929 can carry."""

    __slots__ = ()

    def __post_init__(self) -> None:
        """Any length that the limits of pairs let through."""
