"""
The protocols that a listener serves, chosen by a connection's first byte.

A front end is the server's end of a protocol without I/O, and adds how a
request is received: with which questions to the factory, in which order. To
add a protocol is to add its file in ``protocol``, its front end beside this
file, and an entry here.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Protocol

from ..protocol.codes import ReplyCode
from ..protocol.decoding import Fault, MalformedMessage
from ..protocol.messages import SOCKS_VERSION, Address, Request
from ..protocol.socks4 import SOCKS4_VERSION
from .http_frontend import HTTPFrontend
from .socks4_frontend import SOCKS4Frontend
from .socks5_frontend import SOCKS5Frontend

if TYPE_CHECKING:
    from .connection import SOCKS5ExtProtocol
    from .limits import Limits


class Frontend(Protocol):
    """
    What a connection needs of a protocol.

    :cvar name: in logs.
    :ivar buffer: what was fed and not decoded yet.
    :ivar replied: the reply code that was sent, or ``None`` before that.
    :ivar final_reply: after a violation, the bytes to send before closing.
    :ivar has_request: whether the client has sent its request, or bytes that may be one.
    """

    name: ClassVar[str]
    buffer: bytes | bytearray
    replied: int | None
    final_reply: bytes

    def __init__(self, limits: Limits) -> None: ...
    @property
    def buffered(self) -> int: ...
    @property
    def has_request(self) -> bool: ...
    def feed(self, data: bytes) -> None:
        """Add bytes that came from the client."""

    def next_message(self) -> Any:
        """Decode the client's next message; ``None`` while bytes are missing."""

    async def receive_request(self, connection: SOCKS5ExtProtocol) -> Request | None:
        """
        Conduct the handshake, with `connection.next_message`, `send`, `accepted_methods` and `authenticate`.

        :returns: the client's request, or ``None`` if it was refused by `connection.close_after`.
        """

    def success(self, bound: Address) -> bytes:
        """Return the bytes of the reply that the request succeeded. A command may send several."""

    def failure(self, code: ReplyCode | int, error: BaseException | None) -> bytes:
        """
        Return the bytes of the reply that the request failed.

        :param code: from `SOCKS5ExtFactory.reply_for`.
        :param error: the exception that the decision or the route failed with, if there was one.
        """

    def take_read_ahead(self) -> bytes:
        """Remove and return the bytes behind the request."""

    def close(self) -> None:
        """Decode nothing more."""


class Frontends(dict[int, type[Frontend]]):
    """
    The protocols of a listener, by the first byte that announces each.

    :param default: the front end for all other bytes; it refuses them.
    """

    def __init__(self, by_first_byte: Mapping[int, type[Frontend]], default: type[Frontend]) -> None:
        super().__init__(by_first_byte)
        self._default = default

    def __missing__(self, first_byte: int) -> type[Frontend]:
        return self._default


class _UnknownProtocol(SOCKS5Frontend):
    """Closes the connection without a byte; the log says what the bytes look like."""

    name: ClassVar[str] = ""

    def next_message(self) -> NoReturn:
        """See `Frontend`."""
        raise MalformedMessage("Greeting", Fault.VERSION)


_PROTOCOLS: dict[str, tuple[type[Frontend], Iterable[int]]] = {
    "socks5": (SOCKS5Frontend, (SOCKS_VERSION,)),
    "socks4": (SOCKS4Frontend, (SOCKS4_VERSION,)),
    "http": (HTTPFrontend, string.ascii_letters.encode()),
}
PROTOCOLS = tuple(_PROTOCOLS)
"""The names of the protocols."""


def frontends_for(protocols: Iterable[str]) -> Frontends:
    """
    Return the front ends of some protocols, for `SOCKS5ExtFactory.frontends`.

    :param protocols: one or more of ``socks5``, ``socks4`` and ``http``. Connections
        that begin with other bytes are closed without an answer.
    :raises ValueError: a protocol is unknown, or there is none.
    """
    names = [protocols] if isinstance(protocols, str) else list(protocols)
    unknown = next((name for name in names if name not in _PROTOCOLS), None)
    if unknown is not None or not names:
        given = "none" if unknown is None else repr(unknown)
        raise ValueError(f"give one or more of the protocols {', '.join(PROTOCOLS)}, not {given}")
    chosen = [_PROTOCOLS[name] for name in names]
    return Frontends({byte: frontend for frontend, first in chosen for byte in first}, _UnknownProtocol)


FRONTENDS = frontends_for(PROTOCOLS)
