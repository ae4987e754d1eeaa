"""Many streams of bytes at once: as fast as they go, until a time; and a count of what comes."""

import contextlib
import select
import time

CHUNK = 256 * 1024
_SENT = memoryview(bytes(CHUNK))
_RECEIVED = bytearray(1024 * 1024)


class Stream:
    """
    One end of a stream, on a socket that does not block.

    :ivar ends: when to stop sending, by `time.monotonic`; ``None`` while it has not to send.
    """

    def __init__(self, sock, counts):
        self.socket = sock
        self.counts = counts
        self.ends = None

    def events(self):
        """What to wait for."""
        return select.EPOLLIN | (select.EPOLLOUT if self.ends is not None else 0)

    def receive(self):
        """Take what is there. Whether more may come."""
        try:
            length = self.socket.recv_into(_RECEIVED)
        except BlockingIOError:
            return True
        if not length:
            return False
        self.counts.add(length)
        return True

    def send(self):
        """Send what goes. Whether more is to be sent."""
        if time.monotonic() >= self.ends:
            return False
        with contextlib.suppress(BlockingIOError):
            self.socket.send(_SENT)
        return True


class Counts:
    """What has been received, by all streams of a kind."""

    def __init__(self):
        self.bytes = 0
        self.last = 0.0

    def add(self, length):
        self.bytes += length
        self.last = time.monotonic()
