"""Connections by our client through a proxy in memory, and the applications that they are for."""

import pytest
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from txsocksx_ext import SOCKS5ClientEndpoint, SOCKS5ExtClientFactory
from txsocksx_ext.protocol.socks5 import State
from txsocksx_ext.testing import Recorder

ANONYMOUS = {"anonymous": ()}
LOGIN = {"login": ("user", "word")}
EXTENDED = {"extended": {"tor.isolation": "alice"}}
WAYS = {"anonymous": ANONYMOUS, "login": LOGIN, "extended": EXTENDED}
each_way = pytest.mark.parametrize("methods", WAYS.values(), ids=WAYS)

REPLY_LENGTH = 10


class Application(Factory):
    """
    An application's factory.

    :ivar events: what happened to it and to its protocols, in order.
    """

    noisy = False

    def __init__(self, protocol=Recorder):
        self.protocol = protocol
        self.addresses = []
        self.events = []

    def startFactory(self):
        self.events.append("start")

    def stopFactory(self):
        self.events.append("stop")

    def buildProtocol(self, addr):
        self.events.append("build")
        self.addresses.append(addr)
        return super().buildProtocol(addr)


class Attempt:
    """One connection to ``target.example:443`` through a `FakeProxy`."""

    def __init__(self, proxy, methods=ANONYMOUS, application=None, *, clock=None, factory=None, **options):
        self.proxy = proxy
        self.clock = proxy.endpoint.clock = Clock() if clock is None else clock
        self.application = Application() if application is None else application
        self.outcome = None
        endpoint = SOCKS5ClientEndpoint("target.example", 443, proxy.endpoint, methods, reactor=self.clock, **options)
        if factory is not None:
            endpoint.factory = factory
        self.connecting = endpoint.connect(self.application)
        self.connecting.addBoth(self._ended)

    def _ended(self, outcome):
        self.outcome = outcome.value if isinstance(outcome, Failure) else outcome

    def run(self, seconds=0):
        self.clock.advance(seconds)
        return self

    @property
    def said(self):
        """What the proxy heard."""
        (conversation,) = self.proxy.conversations
        return conversation

    @property
    def has_left_nothing(self):
        """Whether no connection, no timer and no protocol of the application is left."""
        closed = all(each.lost or (each.tunnel and each.tunnel.lost) for each in self.proxy.conversations)
        return closed and not self.clock.getDelayedCalls() and not self.proxy.endpoint.connecting


def attempt(proxy, *arguments, **options):
    """The same, gone on with until something has to be waited for."""
    return Attempt(proxy, *arguments, **options).run()


each_message = pytest.mark.parametrize(
    ("methods", "state", "length"),
    [
        (ANONYMOUS, State.SELECTION, 2),
        (LOGIN, State.CREDENTIALS_ANSWER, 2),
        (EXTENDED, State.PAIRS_ANSWER, 4 + 5),
        (ANONYMOUS, State.REPLY, REPLY_LENGTH),
    ],
    ids=lambda value: value.name if isinstance(value, State) else "",
)
"""Every message of a proxy's whose pairs are one key of one byte without a value, and its length."""


class Fault(Exception):
    """What a test raises."""


def raising(*_):
    raise Fault


def choosing(**overrides):
    """A subclass with these."""
    return type("Mine", (SOCKS5ExtClientFactory,), overrides)


def outcome_of(waiting):
    """What a Deferred fired with, exceptions too; ``None`` while it waits."""
    found = []
    waiting.addBoth(found.append)
    if not found:
        return None
    return found[0].value if isinstance(found[0], Failure) else found[0]
