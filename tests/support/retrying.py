"""A transport that fails as often as a test wants, and what is tried with it."""

from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from txsocksx_ext import RetryingEndpoint, SOCKS5ClientEndpoint
from txsocksx_ext.testing import FakeProxy, Recorder

EXTENDED = {"extended": {"pt.cert": "AAAA"}}
F0, F1, F2 = 0xF0, 0xF1, 0xF2
SUCCESS = 0


class Transport(FakeProxy):
    """A transport that answers these codes, one after another, and the last one again and again."""

    def __init__(self, *codes, **options):
        self.codes = list(codes)
        super().__init__(**options)

    def buildProtocol(self, addr):
        self.code = self.codes.pop(0) if len(self.codes) > 1 else self.codes[0]
        return super().buildProtocol(addr)

    @property
    def tries(self):
        return len(self.conversations)


def pauses(number):
    """Ten seconds, then twenty, ..."""
    return 10 * number


class Attempt:
    """One call of a `RetryingEndpoint`'s ``connect``."""

    def __init__(self, transport, methods=EXTENDED, **options):
        self.transport = transport
        self.clock = transport.endpoint.clock = Clock()
        self.outcome = None
        endpoint = SOCKS5ClientEndpoint("bridge.example", 443, transport.endpoint, methods, reactor=self.clock)
        retrying = RetryingEndpoint(endpoint, self.clock, **{"pauses": pauses, **options})
        self.connecting = retrying.connect(Factory.forProtocol(Recorder))
        self.connecting.addBoth(self._ended)
        self.run(0)

    def _ended(self, outcome):
        self.outcome = outcome.value if isinstance(outcome, Failure) else outcome

    def run(self, seconds):
        self.clock.advance(seconds)
        # What is done at once, takes turns of the clock without time.
        for _ in range(20):
            self.clock.advance(0)

    @property
    def tries(self):
        return self.transport.tries

    @property
    def has_left_nothing(self):
        return not self.clock.getDelayedCalls() and not self.transport.endpoint.connecting


def bridge_behind(port):
    way = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
    return SOCKS5ClientEndpoint("bridge.example", 443, way, EXTENDED)


async def end_of(*protocols):
    for each in protocols:
        each.abort()
        await each.until(lambda it: it.lost)
