"""A raw blocking SOCKS client: it shows the very byte that tor answers."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from pathlib import Path

CONNECT, RESOLVE, RESOLVE_PTR = 0x01, 0xF0, 0xF1


@dataclass
class Answer:
    """
    What a SOCKS port answered; a context manager that closes the connection.

    ``code`` is None where it closed, or said nothing in time. ``bound`` is the address of the reply, as text.
    """

    code: int | None
    seconds: float
    connection: socket.socket
    bound: str = ""

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def echoes(self, data: bytes = b"hello through tor") -> bool:
        """Whether the far end sends back what we send."""
        self.connection.sendall(data)
        return _exactly(self.connection, len(data)) == data

    def is_open(self, wait: float = 1.0) -> bool:
        """Whether the far end leaves the connection open for ``wait`` seconds: tor closes after a failure."""
        self.connection.settimeout(wait)
        try:
            return self.connection.recv(1, socket.MSG_PEEK) != b""
        except TimeoutError:
            return True
        except OSError:
            return False


def request(
    proxy: int | Path,
    host: str,
    port: int,
    *,
    command: int = CONNECT,
    user: str | None = None,
    password: str = "",
    timeout: float = 30.0,
) -> Answer:
    """
    Ask a SOCKS port, and tell what it answers.

    :param proxy: a port of 127.0.0.1, or the path of a unix socket.
    :param user: with one, offer method 02 only.
    """
    if isinstance(proxy, int):
        connection = socket.create_connection(("127.0.0.1", proxy), timeout)
    else:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout)
    begun = time.monotonic()
    try:
        if isinstance(proxy, Path):
            connection.connect(str(proxy))
        code, bound = _converse(connection, host, port, command, user, password)
    except (TimeoutError, ConnectionError):
        code, bound = None, ""
    except BaseException:
        connection.close()
        raise
    return Answer(code, time.monotonic() - begun, connection, bound)


def _converse(
    connection: socket.socket, host: str, port: int, command: int, user: str | None, password: str
) -> tuple[int | None, str]:
    connection.sendall(b"\x05\x01\x00" if user is None else b"\x05\x01\x02")
    if _exactly(connection, 2)[1:] == b"\xff":
        return None, ""
    if user is not None:
        name, secret = user.encode(), password.encode()
        connection.sendall(b"\x01" + bytes([len(name)]) + name + bytes([len(secret)]) + secret)
        version, status = _exactly(connection, 2)
        if version != 1 or status != 0:
            # Tor refuses a user name with a SOCKS reply, not with a status.
            return status, ""
    target = host.encode()
    connection.sendall(bytes([5, command, 0, 3, len(target)]) + target + port.to_bytes(2, "big"))
    _, code, _, kind = _exactly(connection, 4)
    # Tor says address type 0, with four bytes of address, where a name does not resolve.
    length = _exactly(connection, 1)[0] if kind == 3 else {0: 4, 1: 4, 4: 16}[kind]
    address = _exactly(connection, length)
    _exactly(connection, 2)
    if kind == 3:
        return code, address.decode()
    return code, socket.inet_ntop(socket.AF_INET6 if kind == 4 else socket.AF_INET, address)


def _exactly(connection: socket.socket, length: int) -> bytes:
    received = b""
    while len(received) < length:
        more = connection.recv(length - len(received))
        if not more:
            raise ConnectionError("closed before the answer was whole")
        received += more
    return received
