"""A SOCKS port that says what a test wants, made by hand, so that it understands nothing as our own code does."""

from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from zope.interface import implementer

SUCCESS = b"\x05\x00\x00\x01" + bytes(6)


class ScriptedConnection(Protocol):
    """
    One client's connection: ``offered`` methods, ``login``, ``asked`` (its request), ``received`` (what came after).
    """

    def __init__(self, port):
        self.port = port
        self.offered = self.login = None
        self.asked = self.received = b""
        self.has_replied = self.input_ended = self.is_lost = False
        self._unread = b""

    def dataReceived(self, data):
        self._unread += data
        if self.offered is None and len(self._unread) >= 2 + self._unread[1]:
            self.offered = self._take(2 + self._unread[1])[2:]
            if not self.port.is_silent:
                self.transport.write(b"\x05\x02" if b"\x02" in self.offered else b"\x05\x00")
        if self.offered and b"\x02" in self.offered and self.login is None and self._unread[:1] == b"\x01":
            user_end = 2 + self._unread[1]
            self.login = self._take(user_end + 1 + self._unread[user_end])[2:]
            self.transport.write(b"\x01\x00")
        if self.has_replied:
            self.received += self._take(len(self._unread))
        elif self.offered is not None:
            self.asked = self._unread
            if len(self.asked) >= 5 and len(self.asked) >= {1: 10, 3: 7 + self.asked[4], 4: 22}[self.asked[3]]:
                self.reply()

    def _take(self, count):
        taken, self._unread = self._unread[:count], self._unread[count:]
        return taken

    def reply(self):
        if self.port.reply is None:
            return
        self._unread = b""
        self.has_replied = True
        self.transport.write(self.port.reply)
        if self.port.closes:
            self.transport.loseConnection()

    def connectionLost(self, reason):
        self.is_lost = True


@implementer(IStreamClientEndpoint)
class ScriptedPort(Factory):
    """The port, and the endpoint that leads there. ``reply`` None: the request is not answered."""

    noisy = False
    reply = SUCCESS
    closes = is_silent = False

    def __init__(self):
        from twisted.internet import reactor

        self.connections = []
        self._clients = []
        self._listening = reactor.listenTCP(0, self, interface="127.0.0.1")
        self._endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self._listening.getHost().port)

    def buildProtocol(self, address):
        self.connections.append(ScriptedConnection(self))
        return self.connections[-1]

    def connect(self, factory):
        def keep(protocol):
            self._clients.append(protocol)
            return protocol

        return self._endpoint.connect(factory).addCallback(keep)

    @property
    def connection(self):
        return self.connections[-1]

    async def close(self):
        for each in [*self.connections, *self._clients]:
            each.transport.abortConnection()
        await self._listening.stopListening()
        await settle(lambda: all(each.is_lost for each in self.connections))


async def settle(condition=lambda: False, turns=20):
    """Wait until something is so, or nothing happens any more: turns of the reactor count, not the clock."""
    from twisted.internet import reactor

    for _ in range(turns):
        if condition():
            return True
        await deferLater(reactor, 0.01)
    return bool(condition())
