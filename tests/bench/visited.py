"""
What the visitors of a soak reach: a target that does with each connection what its first bytes ask for.

It remembers how each connection ended and what had come on it, so that both ends of a stream can be compared.
"""

import asyncio
import socket
import struct
from random import Random

HEAD = struct.Struct(">cII")
"""With which each stream begins: what to do, the visitor's number, and a count of bytes."""

REFUSED_NAME, REFUSED_ADDRESS = "refused.example", "127.0.0.2"
"""What the server's rules refuse."""

CHUNK = 65536
LONGEST = 600_000
_CONTENTS = Random(229).randbytes(LONGEST * 2)
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)

RESET = "reset"


def content(number, size):
    """So many bytes, which are not those of the visitors around this one."""
    start = number * 997 % LONGEST
    return _CONTENTS[start : start + size]


class Connection:
    """One end of a connection, on a socket that does not block."""

    def __init__(self, sock):
        sock.setblocking(False)
        # So that small writes are seen as such.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = sock
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def to(cls, port):
        connection = cls(socket.socket())
        try:
            await connection._loop.sock_connect(connection._socket, ("127.0.0.1", port))
        except BaseException:
            connection.close()
            raise
        return connection

    async def send(self, data):
        await self._loop.sock_sendall(self._socket, data)

    async def send_slowly(self, data):
        """One byte at a time, and others have their turn between them."""
        for number in range(len(data)):
            await self.send(data[number : number + 1])
            await asyncio.sleep(0)

    async def read_some(self):
        return await self._loop.sock_recv(self._socket, CHUNK)

    async def read(self, count):
        """So many bytes, or fewer if the end comes before."""
        received = bytearray()
        while len(received) < count:
            data = await self._loop.sock_recv(self._socket, min(CHUNK, count - len(received)))
            if not data:
                break
            received += data
        return bytes(received)

    async def read_to_end(self):
        return await self.read(LONGEST * 2)

    def end_output(self):
        self._socket.shutdown(socket.SHUT_WR)

    def reset(self):
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._socket.close()

    def close(self):
        self._socket.close()


class Target:
    """
    The target: one port of 127.0.0.1.

    :ivar port: where it listens.
    """

    def __init__(self):
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._ends = {}
        self._serving = set()

    async def serve(self):
        """Serve until this is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(self._listener)
            serving = loop.create_task(self._serve(Connection(sock)))
            self._serving.add(serving)
            serving.add_done_callback(self._serving.discard)

    async def end_of(self, number):
        """What came on a visitor's stream, if it was closed in order, or else `RESET`."""
        end = self._end(number)
        try:
            return await end
        finally:
            del self._ends[number]

    def _end(self, number):
        # Whichever of the two is first: the end, or who asks for it.
        return self._ends.setdefault(number, asyncio.get_running_loop().create_future())

    async def _serve(self, connection):
        try:
            head = await connection.read(HEAD.size)
            if len(head) == HEAD.size:
                await self._obey(connection, *HEAD.unpack(head))
        except ConnectionError:
            # Before it said who it is; that is one who leaves.
            pass
        finally:
            connection.close()

    async def _obey(self, connection, order, number, size):
        end = self._end(number)
        try:
            came = await self._ORDERS[order](self, connection, number, size)
        except (ConnectionResetError, BrokenPipeError):
            came = RESET
        if not end.done():
            end.set_result(came)

    async def _echo(self, connection, number, size):
        """Send all back, and end when the other side has."""
        received = bytearray()
        while data := await connection.read_some():
            received += data
            await connection.send(data)
        return bytes(received)

    async def _drop(self, connection, number, size):
        """Send so much back, and reset the connection."""
        received = await connection.read(size)
        await connection.send(received)
        # The answer is to arrive: a reset may overtake it.
        if await connection.read(1) == b".":
            connection.reset()
        return received

    async def _give(self, connection, number, size):
        """Send so much and the end; then take what comes."""
        await connection.send(content(number, size))
        connection.end_output()
        return await connection.read_to_end()

    async def _pour(self, connection, number, size):
        """Send until the connection breaks."""
        while True:
            await connection.send(_CONTENTS)

    _ORDERS = {b"e": _echo, b"d": _drop, b"g": _give, b"p": _pour}
