"""A tor with a control connection in memory, and what programs do with it."""

from collections import defaultdict
from contextlib import contextmanager

import txtorcon
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.protocol import Factory

from txsocksx_ext.testing import Recorder
from txsocksx_ext.tor import streams as streams_module

SERVICE = "oufiwc7giqrrjlb5zhg7vr3jtqxgbwns5ner577ncb6jxnhh2kvr7kqd"
ONION = f"{SERVICE}.onion"
PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\na page"


class FakeControl:
    """
    What is used of a txtorcon control protocol. As there, a command after its end is never answered.

    :param listeners: what it says of the SOCKS ports, as tor writes it.
    :ivar commands: those that were queued, and not by its own methods.
    """

    def __init__(self, listeners=""):
        self.socks_listeners = listeners
        self.asked_for = []
        self.commands = []
        self.answer = "OK"
        self.refuses_events = False
        self._listeners = defaultdict(list)
        self._gone = []
        self._is_gone = False

    def get_info(self, key):
        self.asked_for.append(key)
        if self._is_gone:
            return Deferred()
        known = {
            "net/listeners/socks": self.socks_listeners,
            "status/bootstrap-phase": "NOTICE BOOTSTRAP PROGRESS=100 TAG=done",
        }
        return succeed({key: known[key]})

    def add_event_listener(self, name, act):
        if self.refuses_events:
            return fail(txtorcon.TorProtocolError(552, "Unrecognized event"))
        self._listeners[name].append(act)
        return succeed(None)

    def queue_command(self, command):
        self.commands.append(command)
        return Deferred() if self._is_gone else succeed(self.answer)

    def when_disconnected(self):
        gone = Deferred()
        self._gone.append(gone)
        if self._is_gone:
            self.disconnect()
        return gone

    def disconnect(self):
        self._is_gone = True
        gone, self._gone = self._gone, []
        for each in gone:
            each.errback(RuntimeError("Tor connection terminated"))

    @property
    def listening(self):
        return {name: len(acts) for name, acts in self._listeners.items()}

    def show(self, name, line):
        for act in self._listeners[name]:
            act(line)


class FakeTor:
    """What is used of a `txtorcon.Tor`; ``protocol`` is None where nobody controls it."""

    def __init__(self, protocol=None):
        self.protocol = protocol


@contextmanager
def controlled_tor():
    """One with a control connection, whose events nobody asks for in the end."""
    tor = FakeTor(FakeControl())
    try:
        yield tor
    finally:
        tor.protocol.disconnect()
    assert streams_module._events == {}


async def connected(endpoint):
    return await endpoint.connect(Factory.forProtocol(Recorder))


async def end(*clients):
    for each in clients:
        each.close()
        await each.until(lambda it: it.lost)
