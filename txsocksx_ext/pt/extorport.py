"""
The extended ORPort: to tell tor where a bridge's client comes from, and by which transport (ext-orport-spec).
"""

from __future__ import annotations

import hmac
import secrets
from pathlib import Path

from ..errors import GeneralServerFailure
from .exchange import Exchange

COOKIE_HEADER = b"! Extended ORPort Auth Cookie !\n"
COOKIE_LENGTH = 32
NONCE_LENGTH = 32
HASH_LENGTH = 32

SAFE_COOKIE = 1
"""The one type of authentication that there is."""

DONE = 0x0000
USERADDR = 0x0001
TRANSPORT = 0x0002
OKAY = 0x1000
DENY = 0x1001

MOST_COMMANDS = 64
"""How many unknown commands are passed over before the answer."""


class ExtendedORPortRefused(GeneralServerFailure):
    """The extended ORPort refuses the connection, or the port is not an extended ORPort."""

    message = "tor's extended ORPort did not take the connection: see tor's log"


def read_cookie(path: Path) -> bytes:
    """
    Return the cookie in a file of tor's.

    :raises ValueError: it cannot be read, or is none; the text does not name the file.
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
    return _hash(cookie, b"ExtORPort authentication server-to-client hash", client_nonce, server_nonce)


def client_hash(cookie: bytes, client_nonce: bytes, server_nonce: bytes) -> bytes:
    """Return the hash by which the transport proves that it knows the cookie."""
    return _hash(cookie, b"ExtORPort authentication client-to-server hash", client_nonce, server_nonce)


def _hash(cookie: bytes, *parts: bytes) -> bytes:
    return hmac.digest(cookie, b"".join(parts), "sha256")


def frame(command: int, body: bytes = b"") -> bytes:
    """COMMAND, LENGTH, BODY (section 4)."""
    return command.to_bytes(2, "big") + len(body).to_bytes(2, "big") + body


def introduce(cookie: bytes, transport: str, client: str | None, nonce: bytes | None = None) -> Exchange:
    """
    Introduce the client to an extended ORPort.

    :param cookie: as `read_cookie` reads it.
    :param transport: the transport's name.
    :param client: the client's ``IP:port``, or ``None`` where it is not known.
    :param nonce: by default a new one (bytes of `NONCE_LENGTH`).
    :raises ExtendedORPortRefused: tor denies it, or does not know the cookie itself.
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
