"""Ways to a proxy on a port of this machine, and what tests of endpoints do there."""

from contextlib import asynccontextmanager

from examples.raw_peers import until
from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, serverFromString
from twisted.internet.protocol import Factory

from txsocksx_ext import SOCKS5ClientEndpoint
from txsocksx_ext.testing import MemoryEndpoint, Recorder

LOGIN = {"login": ("user", "word")}
CONTENT = bytes(range(256)) * 4096
"""A megabyte, more than the buffers of sockets hold."""
NOWHERE = MemoryEndpoint(Factory.forProtocol(Recorder), failure=AssertionError("it connected"))
"""A way to a proxy that no test should take."""


@asynccontextmanager
async def listening(factory, description="tcp:0:interface=127.0.0.1"):
    """A server that listens; yields its address."""
    port = await serverFromString(reactor, description).listen(factory)
    try:
        yield port.getHost()
    finally:
        await maybeDeferred(port.stopListening)


@asynccontextmanager
async def listening_on_port(factory, description="tcp:0:interface=127.0.0.1"):
    """The same; yields its port's number."""
    async with listening(factory, description) as address:
        yield address.port


class TwistedsWay(TCP4ClientEndpoint):
    """An endpoint that is not Twisted's plain one, so that all is left to it."""


WAYS = {"at once": TCP4ClientEndpoint, "in Twisted's time": TwistedsWay}
kind_of_way = TCP4ClientEndpoint


def way_to(address):
    """The way to a server on a port of 127.0.0.1."""
    return kind_of_way(reactor, "127.0.0.1", address.port)


@asynccontextmanager
async def connected(proxy, protocol=Recorder, methods=None, **options):
    """The two ends of a stream through a `FakeProxy` that listens on a port; both are closed in the end."""
    proxy.server = Factory.forProtocol(protocol)
    async with listening(proxy) as address:
        endpoint = SOCKS5ClientEndpoint("target.example", 443, way_to(address), methods or {"anonymous": ()}, **options)
        near = await endpoint.connect(Factory.forProtocol(protocol))
        await until(lambda: proxy.conversations[0].tunnel)
        far = proxy.conversations[0].tunnel
        try:
            yield near, far
        finally:
            for end in (near, far):
                if end.lost is None:
                    end.abort()
                await end.until(lambda each: each.lost)


async def failure_of(connecting):
    """The exception with which it fails."""
    try:
        outcome = await connecting
    except Exception as error:
        return error
    raise AssertionError(f"it did not fail: {outcome}")


class Counting(Factory):
    """Counts its starts and stops."""

    protocol = Recorder
    noisy = False

    def __init__(self):
        self.events = []

    def startFactory(self):
        self.events.append("start")

    def stopFactory(self):
        self.events.append("stop")
