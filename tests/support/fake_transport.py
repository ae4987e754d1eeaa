"""A transport that says and does what a test wants, with a server of ours in front of it."""

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from support.targets import failure_of, local, talk_to
from txsocksx_ext import RouteTable, SOCKS5ExtFactory, TransportRoute
from txsocksx_ext.protocol.messages import Reply
from txsocksx_ext.testing import FakeProxy

BRIDGE = "192.0.2.1"


class FakeTransport(FakeProxy):
    """
    What the child's SOCKS port says; the child itself only names it. Clients reach it by `ask`.

    :param takes_proxy: whether it says PROXY DONE.
    :param then: what the child does when it is ready, as a shell script.
    """

    def __init__(self, takes_proxy=True, then="exec cat", **options):
        super().__init__(**options)
        self.takes_proxy = takes_proxy
        self._then = then

    async def start(self, **options):
        self._listener = reactor.listenTCP(0, self, interface="127.0.0.1")
        port = self._listener.getHost().port
        proxy = "echo PROXY DONE" if self.takes_proxy else "[ -z $TOR_PT_PROXY ] || { echo PROXY-ERROR; exit 1; }"
        script = f"echo VERSION 1; {proxy}; echo CMETHOD test socks5 127.0.0.1:{port}; echo CMETHODS DONE; {self._then}"
        self.route = TransportRoute(reactor, "test", "sh", ["-c", script])
        self.route.service.startService()
        self.life = await self.route.service.when_ready()
        self.factory = SOCKS5ExtFactory(reactor, policy=RouteTable((), self.route), **options)
        self._server = reactor.listenTCP(0, self.factory, interface="127.0.0.1")
        self.proxy = local(self._server.getHost().port)

    async def stop(self):
        await self._server.stopListening()
        await self.factory.drain(0)
        await self.route.service.stopService()
        await self._listener.stopListening()

    # The client.

    def ask(self, pairs=None, host=BRIDGE, port=443, **methods):
        """Ask for a bridge, with pairs or by other methods."""
        return talk_to(host, port, self.proxy, methods or {"extended": pairs or {}})

    async def failures(self, **options):
        """What clients of both dialects hear: the code of a plain one, and the exception of the other."""
        plain, extended = await gatherResults(
            Deferred.fromCoroutine(failure_of(asking))
            for asking in (self.ask(anonymous=(), **options), self.ask(**options))
        )
        return plain.code, extended

    # What it does.

    async def asked(self, count=1):
        """Wait until it was asked so often."""
        while len(self.requests) < count:
            await deferLater(reactor, 0.005)

    async def dial(self, host=BRIDGE, port=443):
        """Connect to somewhere through the way out."""
        proxy = self.life.outbound_proxy.proxy
        return await talk_to(host, port, local(proxy.port), {"login": (proxy.username, proxy.password)})

    def answer(self, code):
        """Answer all who were left waiting."""
        for conversation in self.conversations:
            conversation.transport.write(Reply(code).encode())
            conversation.transport.loseConnection()
