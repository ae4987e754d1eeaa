"""What the tests of sockets share: a watcher in the poller, and addresses on this machine."""

import socket

from twisted.internet import reactor

from txsocksx_ext.net.poller import poller_of
from txsocksx_ext.protocol.messages import Address


class Watching:
    """One end of a pair of sockets in the poller: `told` holds the events, and `then` is done at each."""

    def __init__(self, ends=None):
        self.poller = poller_of(reactor)
        self.socket, self.peer = ends or socket.socketpair()
        self.socket.setblocking(False)
        self.told = []
        self.abandoned = []
        self.then = lambda: None
        self.poller.watch(self.socket.fileno(), self)

    def ready(self, events):
        self.told.append(events)
        self.then()

    def abandon(self, why):
        self.abandoned.append(why)
        self.close()

    def has_heard(self, events):
        return any(told & events == events for told in self.told)

    def close(self):
        if self.socket.fileno() != -1:
            self.poller.unregister(self.socket.fileno())
            self.socket.close()
        self.peer.close()


def loopback(port, host="127.0.0.1"):
    return Address.of(host, port)


def bind_to_target(monkeypatch, port):
    """
    Have each socket that connects to `port` start from that same port.

    The system chooses it by chance, once in some thousand connections to a port of this machine
    where nothing listens. The socket is then connected to itself.
    """

    def connect_ex(self, address):
        if address[1] == port and not self.getsockname()[1]:
            self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.bind(address[:2])
        return super(type(self), self).connect_ex(address)

    for name in ("socket", "SocketType"):
        kind = type(name, (getattr(socket, name),), {"connect_ex": connect_ex})
        monkeypatch.setattr(socket, name, kind)
