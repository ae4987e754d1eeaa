"""How sockets are taken from transports, and what is written to them."""

import os
import socket

import pytest
from examples.raw_peers import Peer, target, through_tls, turn, until
from support.certificates import Authority
from support.sockets import Watching, loopback
from support.targets import MEGABYTE
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.testing import StringTransport
from twisted.protocols.policies import WrappingFactory

from txsocksx_ext import open_transport
from txsocksx_ext.net.connecting import connect_socket
from txsocksx_ext.net.poller import READABLE, poller_of
from txsocksx_ext.net.transport import SocketTransport, can_take, reset_socket, take_socket, write_now
from txsocksx_ext.net.twisted_transports import hand_over


async def plain(far):
    return await open_transport(TCP4ClientEndpoint(reactor, "127.0.0.1", far.port))


async def polled(far):
    return await connect_socket(reactor, loopback(far.port))


@pytest.fixture(params=[plain, polled], ids=lambda it: it.__name__)
def connect(request):
    return request.param


class Taker(Watching):
    """Takes the socket of a transport."""

    def __init__(self, transport):
        self.told, self.abandoned = [], []
        self.then = lambda: None
        self.poller = poller_of(reactor)
        self.socket, self.missed = take_socket(transport, self.poller, self)

    def close(self):
        self.poller.unregister(self.socket.fileno())
        self.socket.close()


async def test_a_taken_socket_is_open_and_its_transport_is_dead(connect):
    async with target() as far:
        transport = await connect(far)
        end = await far.accept()
        assert can_take(transport)
        taker = Taker(transport)
        assert transport not in {*reactor.getReaders(), *reactor.getWriters()}
        for act in (transport.loseConnection, transport.abortConnection):
            act()
        transport.write(b"lost")
        write_now(transport, b"lost")
        assert not can_take(transport)
        assert taker.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert taker.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        taker.socket.send(b"by hand")
        assert await end.read(7) == b"by hand"
        end.send(b"answer")
        await until(lambda: taker.has_heard(READABLE))
        assert taker.socket.recv(100) == b"answer"
        await turn(3)
        assert end.reason is None
        taker.close()
        await end.read_to_end()


async def test_what_the_transport_was_told_is_passed_on():
    async with target() as far:
        transport = await polled(far)
        end = await far.accept()
        end.send(b"early")
        await until(lambda: transport.events & READABLE)
        taker = Taker(transport)
        assert taker.missed & READABLE
        taker.close()


async def test_transports_that_have_more_to_do_are_not_taken(connect):
    async with target() as far:
        transport = await connect(far)
        end = await far.accept()
        peer = Peer()
        hand_over(transport, peer)
        # More than the system's own buffers take at once.
        sent = os.urandom(8 * MEGABYTE)
        transport.write(sent)
        assert not can_take(transport)
        assert await end.read(len(sent)) == sent
        await until(lambda: can_take(transport))
        transport.registerProducer(object(), True)
        assert not can_take(transport)
        transport.unregisterProducer()
        transport.loseWriteConnection()
        assert not can_take(transport)
        transport.abortConnection()
        assert not can_take(transport)
        await peer.lost()
        assert not can_take(transport)


async def test_wrapped_transports_are_not_taken():
    async with target() as far:
        factory = WrappingFactory(Factory.forProtocol(Peer))
        wrapper = await TCP4ClientEndpoint(reactor, "127.0.0.1", far.port).connect(factory)
        assert not can_take(wrapper)
        wrapper.abortConnection()
        await wrapper.wrappedProtocol.lost()
    async with target(tls=Authority().server_options("localhost")) as far:
        peer = await through_tls(far.port).connect(Factory.forProtocol(Peer))
        assert not can_take(peer.transport)
        peer.abort()
        await peer.lost()


async def test_a_transport_whose_class_sees_the_bytes_is_not_taken():
    class Counting(SocketTransport):
        def writeSomeData(self, data):
            return super().writeSomeData(data)

    class Named(SocketTransport):
        logstr = "named"

    assert not can_take(StringTransport())
    async with target() as far:
        for kind, expected in ((Counting, False), (Named, True)):
            transport = await polled(far)
            transport.__class__ = type(kind.__name__, (kind, type(transport)), {})
            assert can_take(transport) is expected
            transport.abortConnection()
            await until(lambda transport=transport: not transport.connected)


async def test_what_is_written_now_leaves_now_and_in_order(connect):
    async with target() as far:
        transport = await connect(far)
        end = await far.accept()
        peer = Peer()
        hand_over(transport, peer)
        write_now(transport, b"now ")
        assert can_take(transport)
        transport.write(b"later ")
        write_now(transport, b"last")
        assert await end.read(14) == b"now later last"
        peer.abort()
        await peer.lost()


async def test_what_does_not_fit_follows(connect):
    sent = os.urandom(8 * MEGABYTE)
    async with target() as far:
        transport = await connect(far)
        end = await far.accept()
        end.transport.pauseProducing()
        peer = Peer()
        hand_over(transport, peer)
        write_now(transport, sent)
        assert not can_take(transport)
        write_now(transport, b"end")
        end.transport.resumeProducing()
        assert await end.read(len(sent) + 3) == sent + b"end"
        peer.abort()
        await peer.lost()


async def test_a_reset_throws_away_and_is_seen():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
        with other:
            reset_socket(one)
            with pytest.raises(ConnectionResetError):
                other.recv(1)
