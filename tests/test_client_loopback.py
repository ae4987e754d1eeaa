"""The shortest way to a proxy on this machine is the same connection as Twisted's own way."""

import asyncio
import socket
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Thread

import pytest
from support.certificates import Authority
from support.ways import Counting, listening_on_port
from twisted.internet import reactor, tcp
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import NoProtocol, TimeoutError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater

import txsocksx_ext
from txsocksx_ext import SOCKS5ClientEndpoint, SOCKS5ExtClientFactory, SOCKS5ExtClientProtocol
from txsocksx_ext.client.loopback import LoopbackClient
from txsocksx_ext.errors import ProxyClosed
from txsocksx_ext.testing import FakeProxy, Recorder

PACKAGE = str(Path(txsocksx_ext.__file__).parent)
CONTENT = bytes(range(256)) * 4096


class OwnWay(TCP4ClientEndpoint):
    """Not Twisted's plain endpoint, so that all is left to it."""


each_way = pytest.mark.parametrize("way", [TCP4ClientEndpoint, OwnWay], ids=["at once", "in Twisted's time"])


def recorders():
    return Factory.forProtocol(Recorder)


def target_behind(way, *arguments, factory=SOCKS5ExtClientFactory, **options):
    """An endpoint for ``target.example`` behind a proxy on a port of 127.0.0.1."""
    endpoint = SOCKS5ClientEndpoint("target.example", 443, way(reactor, "127.0.0.1", *arguments, **options))
    endpoint.factory = factory
    return endpoint


async def end_of(*protocols):
    for each in protocols:
        each.abort()
        await each.until(lambda it: it.lost)


async def test_a_connection_at_once_is_twisteds_client_connection():
    proxy = FakeProxy()
    async with listening_on_port(proxy) as port:
        # A system that has much to do may take its time now and then.
        for _ in range(100):
            near = await target_behind(TCP4ClientEndpoint, port).connect(recorders())
            transport = near.transport
            if type(transport) is LoopbackClient:
                break
            await end_of(near)
        else:
            raise AssertionError("no connection was made at once")
        assert isinstance(transport, tcp.Client)
        assert (transport.getPeer().host, transport.getPeer().port) == ("127.0.0.1", port)
        assert transport.getHost().port == transport.getHandle().getsockname()[1]
        await end_of(near)


def echo_behind_socks(listener):
    """One connection of a SOCKS5 proxy whose target sends all back, in a thread, so that none of it is ours."""
    connection, _ = listener.accept()
    with connection:
        assert connection.recv(3, socket.MSG_WAITALL) == b"\x05\x01\x00"
        connection.sendall(b"\x05\x00")
        assert connection.recv(21, socket.MSG_WAITALL)[:4] == b"\x05\x01\x00\x03"
        connection.sendall(b"\x05\x00\x00\x01" + bytes(6))
        while data := connection.recv(65536):
            connection.sendall(data)


class Watching(Protocol):
    """Sends a byte, then `CONTENT`; and looks which functions of ours are called while that comes back."""

    def __init__(self):
        self.called = []
        self.received = 0
        self.done = Deferred()
        self.lost = Deferred()

    def connectionMade(self):
        self.transport.write(b"x")

    def dataReceived(self, data):
        self.received += len(data)
        if self.received == 1:
            sys.setprofile(self._note)
            self.transport.write(CONTENT)
        elif self.received == 1 + len(CONTENT):
            sys.setprofile(None)
            self.done.callback(None)

    def connectionLost(self, reason):
        self.lost.callback(None)

    def _note(self, frame, event, argument):
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            self.called.append(frame.f_code.co_qualname if sys.version_info >= (3, 11) else frame.f_code.co_name)


@each_way
async def test_nothing_of_ours_is_in_the_applications_data_path(way):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Thread(target=echo_behind_socks, args=(listener,))
        server.start()
        application = await target_behind(way, listener.getsockname()[1]).connect(Factory.forProtocol(Watching))
        await application.done
        application.transport.loseConnection()
        await application.lost
        server.join()
    assert application.called == []


@each_way
async def test_the_application_may_start_tls_as_a_client(way):
    authority = Authority()

    class Secured(Recorder):
        def connectionMade(self):
            self.transport.startTLS(authority.server_options("target.example"))
            super().connectionMade()

    class Securing(Recorder):
        def connectionMade(self):
            super().connectionMade()
            self.transport.startTLS(authority.client_for("target.example"))

    proxy = FakeProxy(Factory.forProtocol(Secured))
    async with listening_on_port(proxy) as port:
        near = await target_behind(way, port).connect(Factory.forProtocol(Securing))
        far = proxy.conversations[0].tunnel
        near.write(b"question")
        await far.until(lambda end: end.received == b"question")
        far.write(b"answer")
        await near.until(lambda end: end.received == b"answer")
        assert near.transport.getPeerCertificate() is not None
        near.close()
        for end in (near, far):
            await end.until(lambda it: it.lost)


# What does not connect at once.


@asynccontextmanager
async def overfull():
    """A listening socket with no place for one more; yields it and a function that serves it after all."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        ports, waiting = [], [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))

        def serve(factory):
            for each in waiting:
                each.close()
            listener.setblocking(False)
            listener.listen(50)
            ports.append(reactor.adoptStreamPort(listener.fileno(), socket.AF_INET, factory))

        try:
            yield port, serve
        finally:
            for each in waiting:
                each.close()
            for each in ports:
                await maybeDeferred(each.stopListening)


async def test_a_connection_that_takes_time_is_gone_on_with():
    proxy = FakeProxy()
    async with overfull() as (port, serve):
        connecting = target_behind(TCP4ClientEndpoint, port).connect(recorders())
        serve(proxy)
        near = await connecting
        assert type(near.transport) is not LoopbackClient
        near.write(b"hello")
        (far,) = [each.tunnel for each in proxy.conversations if each.tunnel]
        await far.until(lambda end: end.received == b"hello")
        await end_of(near)
        await far.until(lambda end: end.lost)


async def test_a_connection_that_takes_too_long_fails_as_twisteds_does():
    async with overfull() as (port, _):
        with pytest.raises(TimeoutError):
            await target_behind(TCP4ClientEndpoint, port, timeout=0.05).connect(recorders())


async def test_cancelling_a_connection_that_takes_time():
    async with overfull() as (port, _):
        connecting = target_behind(TCP4ClientEndpoint, port).connect(recorders())
        await deferLater(reactor, 0)
        connecting.cancel()
        with pytest.raises(CancelledError):
            await connecting


# What is left to Twisted.


class Counter:
    """A reactor that counts how often it is asked to connect."""

    def __init__(self):
        self.asked = 0
        self._connect = reactor.connectTCP

    def connectTCP(self, *arguments, **options):
        self.asked += 1
        return self._connect(*arguments, **options)


@pytest.mark.parametrize("kind", ["around the reactor", "in the reactor", "with an address to come from"])
async def test_who_changed_how_to_connect_is_asked(kind, monkeypatch):
    counter, options = Counter(), {}
    chosen = counter if kind == "around the reactor" else reactor
    if kind != "around the reactor":
        monkeypatch.setattr(reactor, "connectTCP", counter.connectTCP)
    if kind == "with an address to come from":
        monkeypatch.undo()
        options = {"bindAddress": ("127.0.0.3", 0)}
    async with listening_on_port(FakeProxy()) as port:
        way = TCP4ClientEndpoint(chosen, "127.0.0.1", port, **options)
        near = await SOCKS5ClientEndpoint("target.example", 443, way).connect(recorders())
        if options:
            assert near.transport.getHost().host == "127.0.0.3"
        else:
            assert counter.asked == 1
        await end_of(near)


@pytest.mark.parametrize("port", [70000, -1, "no-such-service"])
async def test_a_port_that_is_none_fails_as_it_does_with_twisted(port):
    kinds = []
    for way in (TCP4ClientEndpoint, OwnWay):
        connecting = target_behind(way, port).connect(recorders())
        connecting.addErrback(lambda failure: kinds.append(failure.type))
        await connecting
    assert len(kinds) == 2
    assert kinds[0] is kinds[1]


# Factories that fail.


async def stopped(factory):
    """Wait until all is over; the test's deadline ends a vain wait."""
    while factory.events[-1] != "stop":
        await deferLater(reactor, 0.01)
    assert factory.events == ["start", "stop"]


class Fault(Exception):
    """What a test raises."""


def raising(error):
    def step(*_):
        raise error

    return step


@pytest.fixture(params=[Fault, asyncio.CancelledError])
def error(request):
    """The second, as of a future of asyncio that was cancelled, is no `Exception`."""
    return request.param


@each_way
@pytest.mark.parametrize(
    ("build", "error"),
    [
        (lambda self, address: None, NoProtocol),
        (raising(Fault), Fault),
        (raising(asyncio.CancelledError), asyncio.CancelledError),
    ],
    ids=["none", "raises", "raises what is no Exception"],
)
async def test_a_factory_that_builds_no_protocol(way, build, error):
    events = Counting()
    async with listening_on_port(FakeProxy()) as port:
        mine = type("Mine", (SOCKS5ExtClientFactory,), {"buildProtocol": build})
        with pytest.raises(error):
            await target_behind(way, port, factory=mine).connect(events)
        await stopped(events)


@each_way
@pytest.mark.logs_errors
async def test_a_protocol_that_raises_as_it_is_connected(way, error):
    events = Counting()
    raises = type("Raises", (SOCKS5ExtClientProtocol,), {"connectionMade": raising(error)})
    async with listening_on_port(FakeProxy()) as port:
        mine = type("Mine", (SOCKS5ExtClientFactory,), {"protocol": raises})
        with pytest.raises(ProxyClosed) as caught:
            await target_behind(way, port, factory=mine).connect(events)
        assert type(caught.value.__cause__) is error
        await stopped(events)
