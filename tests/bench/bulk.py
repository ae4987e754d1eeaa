"""Bytes on many streams at once, from the side of the client."""

import select
import time

from bench.outcome import Failures
from bench.pump import Counts, Stream

QUIET = 0.15
"""Seconds without a byte after which two ends that both send have nothing left on the way."""


class Transfer:
    """
    As many bytes as go through, ``up``, ``down`` or on ``both`` ways.

    It ends by closing the streams, as not every proxy passes on the end of one direction alone.
    """

    def __init__(self, sockets, direction, seconds):
        self.direction = direction
        self.counts = Counts()
        self.failures = Failures()
        self._epoll = select.epoll()
        self._streams = {}
        self.began = time.monotonic()
        self._ends = self.began + seconds
        for sock in sockets:
            stream = self._streams[sock.fileno()] = Stream(sock, self.counts)
            self._try(stream, self._begin)

    def _try(self, stream, action, *arguments):
        try:
            action(stream, *arguments)
        except OSError as error:
            self._fail(stream, error)

    def _fail(self, stream, error):
        self.failures.add(error)
        self._close(stream)

    def _close(self, stream):
        # That closing takes it out of the epoll descriptor too.
        del self._streams[stream.socket.fileno()]
        stream.socket.close()

    def _begin(self, stream):
        # What a target waits for that sends.
        stream.socket.send(b"\x00")
        stream.socket.setblocking(False)
        if self.direction != "down":
            stream.ends = self._ends
        self._epoll.register(stream.socket.fileno(), stream.events())

    def run(self, patience):
        """
        Until all is through.

        :param patience: seconds that the last bytes may take.
        """
        while self._streams and time.monotonic() < self._ends + patience:
            ready = self._epoll.poll(QUIET)
            if not ready and self._is_quiet():
                break
            for descriptor, events in ready:
                self._try(self._streams[descriptor], self._turn, events)
        for stream in list(self._streams.values()):
            if self.direction == "both":
                self._close(stream)
            else:
                self._fail(stream, TimeoutError("the end did not come"))
        self._epoll.close()
        return {"bytes": self.counts.bytes, "last": self.counts.last, "began": self.began, **self.failures.report()}

    def _is_quiet(self):
        return self.direction == "both" and time.monotonic() > self._ends

    def _turn(self, stream, events):
        if events & ~select.EPOLLOUT and not stream.receive():
            if self.direction == "down" and time.monotonic() >= self._ends:
                self._close(stream)
            else:
                self._fail(stream, EOFError("closed too soon"))
        elif events & select.EPOLLOUT and not stream.send():
            if self.direction == "up":
                self._close(stream)
            else:
                self._epoll.modify(stream.socket.fileno(), select.EPOLLIN)
