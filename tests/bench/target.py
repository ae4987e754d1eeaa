"""
What the proxies connect to: a process of its own, with a port for each kind of target.

It takes commands as lines of JSON, and answers each with one; it ends with its standard input.
"""

import json
import os
import select
import socket
import sys
import time
from functools import partial

from bench.pump import Counts, Stream

KINDS = ("echo", "sink", "source", "both")
"""Sends all back; takes; sends; sends and takes. Those that send wait for the first byte."""


class Target:
    def __init__(self):
        self.epoll = select.epoll()
        self.handlers = {}
        self.counts = Counts()
        self.streams = set()
        self.seconds = 0.0
        self.running = True
        self.ports = {kind: self._listen(kind) for kind in KINDS}
        self._watch(sys.stdin.fileno(), self._commands)

    def _watch(self, descriptor, handler):
        self.handlers[descriptor] = handler
        self.epoll.register(descriptor, select.EPOLLIN)

    def _listen(self, kind):
        listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        listener.setblocking(False)
        accept = partial(self._accept_echo, listener) if kind == "echo" else partial(self._accept, listener, kind)
        self._watch(listener.fileno(), accept)
        return listener.getsockname()[1]

    def _accept(self, listener, kind, _):
        while True:
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                return
            sock.setblocking(False)
            self.streams.add(sock)
            self._watch(sock.fileno(), partial(self._stream, Stream(sock, self.counts), kind))

    def _accept_echo(self, listener, _):
        """Accept as `socket.accept` does, without making objects: of these there are thousands in a second."""
        while True:
            try:
                descriptor, _ = listener._accept()
            except BlockingIOError:
                return
            self._watch(descriptor, partial(self._echo, descriptor))

    def _echo(self, descriptor, _):
        try:
            data = os.read(descriptor, 65536)
            if data:
                os.write(descriptor, data)
                return
        except OSError:
            pass
        del self.handlers[descriptor]
        os.close(descriptor)

    def _close(self, sock):
        # That closing takes it out of the epoll descriptor too.
        del self.handlers[sock.fileno()]
        self.streams.discard(sock)
        sock.close()

    def _stream(self, stream, kind, events):
        try:
            self._serve(stream, kind, events)
        except OSError:
            self._close(stream.socket)

    def _serve(self, stream, kind, events):
        if events & ~select.EPOLLOUT and not stream.receive():
            self._close(stream.socket)
            return
        if stream.ends is None and kind != "sink":
            stream.ends = time.monotonic() + self.seconds
            self.epoll.modify(stream.socket.fileno(), stream.events())
        if events & select.EPOLLOUT and not stream.send():
            if kind == "source":
                self._close(stream.socket)
            else:
                # Closed by the other end, when nothing comes any more.
                self.epoll.modify(stream.socket.fileno(), select.EPOLLIN)

    def _commands(self, _):
        lines = os.read(0, 65536)
        if not lines:
            self.running = False
        for line in lines.splitlines():
            command = json.loads(line)
            answer = getattr(self, command.pop("do"))(**command)
            print(json.dumps(answer), flush=True)

    def where(self):
        """The port of each kind."""
        return self.ports

    def begin(self, seconds):
        """Count anew; streams that send do so for these seconds."""
        self.counts.bytes = 0
        self.counts.last = 0.0
        self.seconds = seconds

    def counted(self, patience):
        """The bytes that came until all streams had ended, when the last came, and the streams that did not end."""
        deadline = time.monotonic() + patience
        while self.streams and time.monotonic() < deadline:
            self._turn(0.01)
        left = {"failed": len(self.streams), "error": "streams did not end at the target"}
        return {"bytes": self.counts.bytes, "last": self.counts.last, **left}

    def run(self):
        while self.running:
            self._turn()

    def _turn(self, timeout=None):
        for descriptor, events in self.epoll.poll(timeout):
            # One that a handler before it has closed.
            handler = self.handlers.get(descriptor)
            if handler:
                handler(events)


if __name__ == "__main__":
    Target().run()
