"""Streams through the private Tor network, as tests inside the reactor ask for them and look at them."""

import re
import time
from contextlib import asynccontextmanager, contextmanager

import txtorcon
from twisted.internet.endpoints import TCP4ClientEndpoint, UNIXClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.threads import deferToThread
from txtorcon.socks import SocksError

from txsocksx_ext.testing import Recorder

COOKIE_IS_LEFT_OPEN = "ignore:unclosed file .*control_auth_cookie:ResourceWarning"
"""A filter for warnings: txtorcon leaves it to the garbage collection to close the cookie's file."""


def endpoint_at(where):
    """The way to a port of 127.0.0.1, or to a unix socket."""
    from twisted.internet import reactor

    if isinstance(where, int):
        return TCP4ClientEndpoint(reactor, "127.0.0.1", where)
    return UNIXClientEndpoint(reactor, str(where))


@asynccontextmanager
async def attached(client):
    """A `txtorcon.Tor` that controls a client of the network."""
    from twisted.internet import reactor

    tor = await txtorcon.connect(reactor, endpoint_at(client.control_socket))
    try:
        yield tor
    finally:
        await detach(tor)


async def detach(tor):
    """End a control connection."""
    gone = tor.protocol.when_disconnected().addErrback(lambda _: None)
    tor.protocol.transport.loseConnection()
    await gone


async def error_of(endpoint):
    """Why an endpoint of the echo server does not connect; ``None`` where it does, and what is sent comes back."""
    try:
        application = await endpoint.connect(Factory.forProtocol(Recorder))
    except SocksError as error:
        return error
    application.write(b"hello")
    await application.until(lambda it: it.received == b"hello")
    application.close()
    await application.until(lambda it: it.lost)
    return None


class Circuits:
    """Says on which circuit each new stream of a client is, by tor's events. See `watched`."""

    def __init__(self, control, events):
        self._control = control
        self.events = events

    def of_next_stream(self):
        """
        It blocks until a stream was made.

        Of streams to onion services: through an exit, the same isolation can get another circuit, when tor has made
        a pair of them (conflux).
        """
        deadline = time.monotonic() + 30
        while True:
            kind, _, status, *rest = self.events.read(deadline, "STREAM SUCCEEDED").split()
            if (kind, status) == ("STREAM", "SUCCEEDED"):
                # A CIRC event said so too, but perhaps before we listened.
                assert re.search(rf"^{rest[0]} BUILT ", self._control.info("circuit-status"), re.M)
                return rest[0]

    async def of(self, endpoint):
        """That of a connection, which is closed then."""
        application = await endpoint.connect(Factory.forProtocol(Recorder))
        circuit = await deferToThread(self.of_next_stream)
        application.close()
        await application.until(lambda it: it.lost)
        return circuit


@contextmanager
def watched(client):
    """The `Circuits` of a client of the network."""
    with client.events("STREAM", "CIRC") as events:
        yield Circuits(client.control, events)
