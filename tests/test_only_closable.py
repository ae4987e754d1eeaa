"""Connections that cannot be reset: a client on standard input and output, a target that is a process."""

import os
import sys

import pytest
from examples.raw_peers import GREET_ANONYMOUS, proxy, request, target, until
from support.answers import reply, table
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import ProcessEndpoint
from twisted.internet.error import ProcessTerminated
from twisted.internet.stdio import StandardIO

from txsocksx_ext import Limits, Route, RouteTable, SOCKS5ExtFactory, open_transport
from txsocksx_ext.net.twisted_transports import close_result
from txsocksx_ext.route.direct import DirectRoute
from txsocksx_ext.route.refuse import RefuseRoute


class Pipes:
    """A client of a factory on standard input and output, as ``stdio:`` has one."""

    def __init__(self, factory):
        its_input, self._to_it = os.pipe()
        self._from_it, its_output = os.pipe()
        self._descriptors = (self._to_it, self._from_it, its_output)
        os.set_blocking(self._from_it, False)
        self.protocol = factory.buildProtocol(None)
        StandardIO(self.protocol, its_input, its_output, reactor)

    def send(self, data):
        os.write(self._to_it, data)

    def heard(self):
        try:
            return os.read(self._from_it, 4096)
        except BlockingIOError:
            return b""

    def close(self):
        for descriptor in self._descriptors:
            os.close(descriptor)


@pytest.fixture
def pipes():
    opened = []

    def open_pipes(factory):
        opened.append(Pipes(factory))
        return opened[-1]

    yield open_pipes
    for each in opened:
        each.close()


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        (b"\x05", b""),
        (b"\x04\x01", b""),
        (b"\x05\x01\x55", b"\x05\xff"),
        (GREET_ANONYMOUS + request("192.0.2.1", 80), b"\x05\x00" + reply(0x02)),
    ],
    ids=["silence", "a violation", "no method", "a refused target"],
)
async def test_a_client_on_standard_input_and_output_is_answered_and_closed(pipes, said, heard):
    limits = Limits(handshake_timeout=0.3, linger=0.1)
    factory = SOCKS5ExtFactory(reactor, limits=limits, policy=table(RefuseRoute()))
    client = pipes(factory)
    client.send(said)
    await until(lambda: factory.counters.now == 0)
    assert client.heard() == heard
    assert not factory.connections


@pytest.mark.parametrize("end", ["an end", "a reset"])
async def test_a_stream_from_standard_input_and_output_ends_with_its_target(pipes, end):
    # Who is at the other end of a pipe may be anywhere, so this machine has to be opened to it.
    factory = SOCKS5ExtFactory(reactor, policy=RouteTable([("127.0.0.1", DirectRoute(reactor))], RefuseRoute()))
    async with target() as far:
        client = pipes(factory)
        client.send(GREET_ANONYMOUS + request("127.0.0.1", far.port))
        peer = await far.accept()
        client.send(b"question")
        assert await peer.read(8) == b"question"
        peer.send(b"answer")
        await until(lambda: factory.connections and next(iter(factory.connections)).session.down == 6)
        if end == "an end":
            peer.close()
        else:
            peer.abort()
        await until(lambda: not factory.connections)
        heard = client.heard()
        assert heard[:6] == b"\x05\x00" + reply(0x00)[:4]
        assert heard[12:] == b"answer"


class ProcessRoute(Route):
    """Streams to a process that says in capitals what it hears."""

    name = "process"
    program = "import os\nwhile heard := os.read(0, 100): os.write(1, heard.upper())"

    def connect(self, request, addresses, session):
        return open_transport(ProcessEndpoint(reactor, sys.executable, [sys.executable, "-c", self.program]))


@pytest.mark.parametrize("end", ["half_close", "abort"])
async def test_a_target_that_is_a_process(end):
    async with proxy(policy=table(ProcessRoute())) as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request("192.0.2.1", 80) + b"early")
        assert await client.read(2 + 10 + 5) == b"\x05\x00" + reply(0x00) + b"EARLY"
        client.send(b", late")
        assert await client.read(6) == b", LATE"
        getattr(client, end)()
        await until(lambda: not server.factory.connections)
        assert await client.read_to_end() == b""


async def test_a_process_that_does_not_heed_its_end_is_ended():
    class Deaf(ProcessRoute):
        program = "import time\nprint('here', flush=True)\ntime.sleep(1000)"

    async with proxy(policy=table(Deaf())) as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request("192.0.2.1", 80))
        assert await client.read(2 + 10 + 5) == b"\x05\x00" + reply(0x00) + b"here\n"
        client.abort()
        await until(lambda: not server.factory.connections)


async def test_a_process_that_ends_ends_the_stream():
    class Brief(ProcessRoute):
        program = "print('once')"

    async with proxy(policy=table(Brief())) as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request("192.0.2.1", 80))
        assert await client.read_to_end() == b"\x05\x00" + reply(0x00) + b"once\n"
        client.half_close()
        await until(lambda: not server.factory.connections)


async def test_a_process_that_is_for_nobody_is_closed():
    process = await ProcessRoute().connect(None, None, None)
    ended = Deferred()
    process.protocol.connectionLost = ended.callback
    close_result(process)
    with pytest.raises(ProcessTerminated):
        await ended
