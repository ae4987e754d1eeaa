"""
The extended ORPort: tells tor a client's address, and the transport by which it came (ext-orport-spec).

The conversation is a generator without I/O. It yields the bytes to send and how
many bytes to read next, and is sent exactly those.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Generator
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import connectProtocol
from twisted.internet.interfaces import IStreamClientEndpoint, ITransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from ..errors import GeneralServerFailure
from ..net.twisted_transports import PausedProtocol, abort, hand_over

Exchange = Generator[tuple[bytes, int], bytes, None]

COOKIE_HEADER = b"! Extended ORPort Auth Cookie !\n"
COOKIE_LENGTH = 32
NONCE_LENGTH = 32
HASH_LENGTH = 32

SAFE_COOKIE = 1
"""The only type of authentication."""

DONE = 0x0000
USERADDR = 0x0001
TRANSPORT = 0x0002
OKAY = 0x1000
DENY = 0x1001

MOST_COMMANDS = 64
"""Unknown commands that are ignored before the answer."""


class ExtendedORPortRefused(GeneralServerFailure):
    """Tor refuses the connection, or the port is not an extended ORPort."""

    message = "tor's extended ORPort did not take the connection: see tor's log"


def read_cookie(path: Path) -> bytes:
    """
    Return the cookie in tor's cookie file.

    :raises ValueError: the file cannot be read, or holds no cookie; the text does not name it.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    if len(content) != len(COOKIE_HEADER) + COOKIE_LENGTH or not content.startswith(COOKIE_HEADER):
        raise ValueError("is not the cookie of an extended ORPort")
    return content[len(COOKIE_HEADER) :]


def server_hash(cookie: bytes, client_nonce: bytes, server_nonce: bytes) -> bytes:
    """Return the hash by which tor proves that it knows the cookie (section 3.1)."""
    text = b"ExtORPort authentication server-to-client hash"
    return hmac.digest(cookie, text + client_nonce + server_nonce, "sha256")


def client_hash(cookie: bytes, client_nonce: bytes, server_nonce: bytes) -> bytes:
    """Return the hash by which the transport proves that it knows the cookie."""
    text = b"ExtORPort authentication client-to-server hash"
    return hmac.digest(cookie, text + client_nonce + server_nonce, "sha256")


def frame(command: int, body: bytes = b"") -> bytes:
    """Return a message: COMMAND, LENGTH, BODY (section 4)."""
    return command.to_bytes(2, "big") + len(body).to_bytes(2, "big") + body


def introduce(cookie: bytes, transport: str, client: str | None, nonce: bytes | None = None) -> Exchange:
    """
    Introduce the client to an extended ORPort.

    :param cookie: from `read_cookie`.
    :param transport: the transport's name.
    :param client: the client's ``IP:port``, or ``None`` if it is not known.
    :param nonce: `NONCE_LENGTH` bytes; random by default.
    :raises ExtendedORPortRefused: tor denies the connection, or does not know the cookie.
    """
    yield from _authenticate(cookie, secrets.token_bytes(NONCE_LENGTH) if nonce is None else nonce)
    words = b"" if client is None else frame(USERADDR, client.encode("ascii"))
    # Nothing may follow DONE until tor has answered.
    words += frame(TRANSPORT, transport.encode("ascii")) + frame(DONE)
    for _ in range(MOST_COMMANDS):
        header = yield words, 4
        words = b""
        command, length = int.from_bytes(header[:2], "big"), int.from_bytes(header[2:], "big")
        if length:
            yield b"", length
        if command == OKAY:
            return
        if command == DENY:
            raise ExtendedORPortRefused("tor's extended ORPort denied the connection")
    raise ExtendedORPortRefused()


def _authenticate(cookie: bytes, nonce: bytes) -> Exchange:
    offered = set()
    for _ in range(0x100):
        kind = yield b"", 1
        if kind == b"\0":
            break
        offered.add(kind[0])
    if SAFE_COOKIE not in offered:
        raise ExtendedORPortRefused("tor's extended ORPort offers no authentication by cookie")
    proof = yield bytes([SAFE_COOKIE]) + nonce, HASH_LENGTH + NONCE_LENGTH
    hashed, server_nonce = proof[:HASH_LENGTH], proof[HASH_LENGTH:]
    if not hmac.compare_digest(hashed, server_hash(cookie, nonce, server_nonce)):
        raise ExtendedORPortRefused("the extended ORPort does not know its own cookie: the file is another tor's")
    status = yield client_hash(cookie, nonce, server_nonce), 1
    if status != b"\x01":
        raise ExtendedORPortRefused("tor's extended ORPort did not accept the cookie")


async def connect_introduced(endpoint: IStreamClientEndpoint, exchange: Exchange) -> ITransport:
    """
    Connect to an extended ORPort, and hold a conversation.

    :param exchange: from `introduce`.
    :returns: the transport, paused.
    :raises ExtendedORPortRefused: the conversation failed, or tor closed the connection.
    """
    introduction = _Introduction(exchange)
    await connectProtocol(endpoint, introduction)
    return await introduction.done


class _Introduction(Protocol):
    """
    Conducts one conversation.

    :ivar done: fires with the transport, paused. Cancelling it resets the connection.
    """

    transport: Any

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._received = b""
        self._needed = 0
        self.done: Deferred[ITransport] = Deferred(lambda _: abort(self.transport))

    def connectionMade(self) -> None:
        self._step(None)

    def dataReceived(self, data: bytes) -> None:
        self._received += data
        while not self.done.called and len(self._received) >= self._needed:
            part, self._received = self._received[: self._needed], self._received[self._needed :]
            self._step(part)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.done.called:
            self.done.errback(ExtendedORPortRefused("tor's extended ORPort closed the connection"))

    def _step(self, part: bytes | None) -> None:
        try:
            data, self._needed = next(self._exchange) if part is None else self._exchange.send(part)
        except StopIteration:
            paused = PausedProtocol()
            hand_over(self.transport, paused)
            paused.dataReceived(self._received)
            transport: Any = paused.transport
            self.done.callback(transport)
        except ExtendedORPortRefused as error:
            abort(self.transport)
            self.done.errback(error)
        else:
            self.transport.write(data)
