"""The poller, the connections that it serves, and how sockets are taken from transports."""

import errno
import os
import resource
import select
import socket
from contextlib import contextmanager, suppress
from itertools import chain

import pytest
from examples.raw_peers import Peer, ReactorWith, target, through_tls, turn, until
from support.certificates import Authority
from support.programs import free_port
from support.targets import reset
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import (
    ConnectBindError,
    ConnectError,
    ConnectingCancelledError,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactor, StringTransport
from twisted.protocols.policies import WrappingFactory

from txsocksx_ext import open_transport
from txsocksx_ext.sockets import connecting, poller
from txsocksx_ext.sockets.connecting import connect_socket
from txsocksx_ext.sockets.listening import polled as accepted_by_the_poller
from txsocksx_ext.sockets.pipe import PIPE_SIZE, Pipe
from txsocksx_ext.sockets.poller import BATCH, READABLE, URGENT, WRITABLE, poller_of
from txsocksx_ext.sockets.takeover import can_take, reset_socket, take_socket, write_now
from txsocksx_ext.sockets.transport import SocketTransport
from txsocksx_ext.transports import hand_over
from txsocksx_ext.wire.messages import Address

MEGABYTE = 1 << 20


class Watching:
    """One end of a pair of sockets in the poller: `told` holds the events, and `then` is done at each."""

    def __init__(self, ends=None):
        self.poller = poller_of(reactor)
        self.socket, self.peer = ends or socket.socketpair()
        self.socket.setblocking(False)
        self.told = []
        self.abandoned = []
        self.then = lambda: None
        self.poller.watch(self.socket.fileno(), self)

    def ready(self, events):
        self.told.append(events)
        self.then()

    def abandon(self, why):
        self.abandoned.append(why)
        self.close()

    def has_heard(self, events):
        return any(told & events == events for told in self.told)

    def close(self):
        if self.socket.fileno() != -1:
            self.poller.forget(self.socket.fileno())
            self.socket.close()
        self.peer.close()


@contextmanager
def watching(count=1):
    all_of_them = [Watching() for _ in range(count)]
    try:
        yield all_of_them if count > 1 else all_of_them[0]
    finally:
        for each in all_of_them:
            each.close()


# The poller.


@pytest.mark.parametrize("other", [Clock(), MemoryReactor(), StringTransport(), None], ids=lambda it: type(it).__name__)
def test_what_takes_no_descriptors_has_no_poller(other):
    assert poller_of(other) is None


def test_a_reactor_has_one_poller_and_so_has_what_wraps_it():
    assert poller_of(reactor) is poller_of(ReactorWith(clock=Clock()))


async def test_each_change_is_told_once():
    with watching() as it:
        it.peer.send(b"x")
        await until(lambda: it.has_heard(READABLE))
        count = len(it.told)
        await turn(5)
        assert len(it.told) == count
        it.peer.shutdown(socket.SHUT_WR)
        await until(lambda: len(it.told) > count)
        assert it.has_heard(select.EPOLLRDHUP)


async def test_that_it_can_be_written_to_is_told_to_who_asks():
    with watching() as it:
        await turn(5)
        assert it.told == []
        it.poller.again(it.socket.fileno())
        await until(lambda: it.has_heard(WRITABLE))
        with suppress(BlockingIOError):
            while True:
                it.socket.send(bytes(1 << 16))
        it.told.clear()
        await turn(5)
        assert it.told == []
        while not it.has_heard(WRITABLE):
            it.peer.recv(1 << 20)
            await turn()


async def test_what_is_left_is_told_again_if_asked_for():
    with watching() as it:
        it.peer.send(b"x")
        await until(lambda: it.has_heard(READABLE))
        it.told.clear()
        it.poller.again(it.socket.fileno())
        assert it.told == []
        await until(lambda: it.has_heard(READABLE))
        it.socket.recv(1)
        it.told.clear()
        it.poller.again(it.socket.fileno())
        await until(lambda: it.told)
        assert not it.has_heard(READABLE)


async def test_another_watcher_hears_of_what_comes_later():
    with watching() as it, watching() as other:
        it.poller.replace(it.socket.fileno(), other)
        it.peer.send(b"x")
        await until(lambda: other.has_heard(READABLE))
        assert not it.has_heard(READABLE)


async def test_a_number_that_another_socket_got_meanwhile_brings_it_no_events():
    """Two sockets have events at once; the watcher told first closes the other, whose number a third socket gets."""
    third = []

    def replace(closed):
        if third:
            return
        number = closed.socket.fileno()
        spare, peer = socket.socketpair()
        closed.close()
        os.dup2(spare.fileno(), number, inheritable=False)
        spare.close()
        third.append(Watching(ends=(socket.socket(fileno=number), peer)))

    with watching(2) as (one, two):
        one.then, two.then = lambda: replace(two), lambda: replace(one)
        one.peer.send(b"x")
        two.peer.send(b"x")
        one.poller.doRead()
        assert third[0].told == []
        third[0].peer.send(b"x")
        await until(lambda: third[0].has_heard(READABLE))
        third[0].close()


@pytest.mark.logs_errors
async def test_a_fault_in_one_watcher_closes_it_alone_and_does_not_tell_its_words(logged_errors):
    words = "secret.example"

    def fail():
        raise RuntimeError(words)

    with watching(2) as (one, two):
        one.then = fail
        one.peer.send(b"x")
        two.peer.send(b"x")
        await until(lambda: one.abandoned and two.has_heard(READABLE))
        assert one.abandoned == ["fault"]
        (event,) = logged_errors
        assert "RuntimeError" in event["error"]
        assert "in fail" in event["traceback"]
        assert words not in str(event)


@pytest.mark.logs_errors
async def test_a_watcher_that_cannot_even_be_abandoned_harms_nobody(logged_errors):
    def fail(*_):
        raise RuntimeError

    with watching(2) as (one, two):
        one.then = one.abandon = fail
        one.peer.send(b"x")
        await until(lambda: len(logged_errors) >= 2)
        one.then = lambda: None
        two.peer.send(b"x")
        await until(lambda: two.has_heard(READABLE))


async def test_one_turn_serves_them_for_a_bounded_time(monkeypatch):
    with watching(2 * BATCH + 20) as all_of_them:
        for each in all_of_them:
            each.peer.send(b"x")
        monkeypatch.setattr(poller, "LONGEST_TURN", -1)
        all_of_them[0].poller.doRead()
        assert sum(1 for each in all_of_them if each.told) == BATCH
        monkeypatch.undo()
        await until(lambda: all(each.told for each in all_of_them))


# Connections.


def loopback(port, host="127.0.0.1"):
    return Address.of(host, port)


async def failure_of(connecting):
    """The exception with which a connection fails."""
    try:
        await connecting
    except Exception as error:
        return error
    raise AssertionError("it did not fail")


@pytest.fixture(params=["it is over at once", "the poller tells"])
def way_to_connect(request, monkeypatch):
    """On this machine a connection is over at once; to others it takes its time, which the poller tells."""
    if request.param == "the poller tells":
        monkeypatch.setattr(connecting, "is_loopback_host", lambda host: False)


@pytest.mark.usefixtures("way_to_connect")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_connection_is_a_whole_transport(host):
    async with target(interface=host) as far:
        transport = await connect_socket(reactor, loopback(far.port, host))
        end = await far.accept()
        assert isinstance(transport, SocketTransport)
        assert transport.connected
        assert transport.getPeer() == end.transport.getHost()
        assert transport.getHost() == end.transport.getPeer()
        assert transport.getTcpKeepAlive()
        assert transport.getTcpNoDelay()
        end.send(b"first")
        peer = Peer()
        hand_over(transport, peer)
        transport.resumeProducing()
        assert await peer.read(5) == b"first"
        peer.send(b"question")
        assert await end.read(8) == b"question"
        peer.half_close()
        assert await end.read_to_end() == b""
        end.send(b"answer")
        assert await peer.read(6) == b"answer"
        end.close()
        await peer.read_to_end()
        peer.close()
        assert isinstance(await peer.lost(), ConnectionDone)
        assert not transport.connected


async def test_on_this_machine_there_is_nothing_to_wait_for():
    async with target() as far:
        made = connect_socket(reactor, loopback(far.port))
        assert made.called
        transport = await made
        end = await far.accept()
        transport.abortConnection()
        assert isinstance(await end.lost(), ConnectionLost)
    refused = connect_socket(reactor, loopback(free_port()))
    assert refused.called
    assert isinstance(await failure_of(refused), ConnectionRefusedError)


@pytest.mark.usefixtures("way_to_connect")
async def test_a_connection_that_is_slow_is_waited_for():
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        with socket.create_connection(full.getsockname()):
            made = connect_socket(reactor, loopback(full.getsockname()[1]))
            assert not made.called
            # The system asks again after a second, when there is a place.
            full.accept()[0].close()
            transport = await made
            accepted, _ = full.accept()
            transport.write(b"here")
            assert accepted.recv(4) == b"here"
            accepted.close()
            transport.abortConnection()
            await turn()


async def test_what_is_written_to_tls_that_was_begun_is_encrypted():
    authority = Authority()
    async with target() as far:
        transport = await connect_socket(reactor, loopback(far.port))
        end = await far.accept()
        near = Peer()
        hand_over(transport, near)
        transport.resumeProducing()
        transport.write(b"plain")
        assert await end.read(5) == b"plain"
        assert transport.has_sent_all
        transport.startTLS(authority.client_for("far.example"))
        assert not transport.has_sent_all
        end.transport.startTLS(authority.server_options("far.example"))
        transport.write(b"secret")
        assert await end.read(6) == b"secret"
        assert not can_take(transport)
        near.abort()
        await end.lost()


@pytest.mark.usefixtures("way_to_connect")
async def test_nothing_is_read_until_it_is_resumed_and_nothing_is_lost():
    async with target() as far:
        transport = await connect_socket(reactor, loopback(far.port))
        end = await far.accept()
        end.send(b"early")
        end.half_close()
        await turn(5)
        peer = Peer()
        hand_over(transport, peer)
        await turn(5)
        assert peer.total == 0
        transport.resumeProducing()
        assert await peer.read_to_end() == b"early"
        peer.abort()
        assert isinstance(await end.lost(), ConnectionLost)
        await peer.lost()


async def test_megabytes_go_through_it_with_pauses_both_ways():
    sent = os.urandom(3 * MEGABYTE)
    async with target() as far:
        peer = Peer()
        transport = await connect_socket(reactor, loopback(far.port))
        end = await far.accept()
        hand_over(transport, peer)
        transport.resumeProducing()
        end.transport.pauseProducing()
        peer.send(sent)
        await turn(10)
        end.transport.resumeProducing()
        assert await end.read(len(sent)) == sent
        transport.pauseProducing()
        end.send(sent)
        await turn(10)
        assert peer.total < len(sent)
        transport.resumeProducing()
        assert await peer.read(len(sent)) == sent
        peer.close()
        await peer.lost()


async def test_what_a_producer_writes_when_it_is_stopped_is_not_sent():
    class Stopped:
        def stopProducing(self):
            transport.write(b"late")

    async with target() as far:
        transport = await connect_socket(reactor, loopback(far.port))
        end = await far.accept()
        transport.registerProducer(Stopped(), True)
        transport.abandon("stopped")
        assert await end.read_to_end() == b""
        end.close()


async def test_a_producer_of_its_is_paused_and_resumed():
    class Producer:
        def __init__(self):
            self.heard = []

        def pauseProducing(self):
            self.heard.append("pause")

        def resumeProducing(self):
            self.heard.append("resume")

        def stopProducing(self):
            self.heard.append("stop")

    async with target() as far:
        peer, producer = Peer(), Producer()
        transport = await connect_socket(reactor, loopback(far.port))
        end = await far.accept()
        hand_over(transport, peer)
        transport.registerProducer(producer, True)
        # More than the system's own buffers take at once.
        sent = os.urandom(8 * MEGABYTE)
        peer.send(sent)
        assert producer.heard == ["pause"]
        assert await end.read(len(sent)) == sent
        await until(lambda: producer.heard == ["pause", "resume"])
        peer.abort()
        await peer.lost()
        assert producer.heard == ["pause", "resume", "stop"]


async def test_a_reset_after_the_end_of_input_is_seen():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = Peer()
        transport = await connect_socket(reactor, loopback(listener.getsockname()[1]))
        end, _ = listener.accept()
        hand_over(transport, peer)
        transport.resumeProducing()
        end.shutdown(socket.SHUT_WR)
        assert await peer.read_to_end() == b""
        reset(end)
        assert isinstance(await peer.lost(), ConnectionLost)


@pytest.mark.usefixtures("way_to_connect")
async def test_an_address_that_refuses():
    assert isinstance(await failure_of(connect_socket(reactor, loopback(free_port()))), ConnectionRefusedError)


async def test_an_address_to_which_the_system_does_not_connect():
    # A socket of TCP has no way to a multicast address.
    assert isinstance(await failure_of(connect_socket(reactor, Address.of("224.0.0.1", 9))), ConnectError)


async def test_it_can_be_cancelled():
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        # A listener whose backlog is full answers nobody.
        waiting = []
        for _ in range(3):
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(full.getsockname())
        before = poller_of(reactor).watchers
        made = connect_socket(reactor, loopback(full.getsockname()[1]))
        assert len(poller_of(reactor).watchers) == len(before) + 1
        made.cancel()
        assert isinstance(await failure_of(made), ConnectingCancelledError)
        assert poller_of(reactor).watchers == before
        for each in waiting:
            each.close()


async def test_no_more_descriptors_is_an_error_of_the_connection():
    async with target() as far:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            with open(os.devnull) as lowest_free:
                resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free.fileno() + 1, limits[1]))
                error = await failure_of(connect_socket(reactor, loopback(far.port)))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert isinstance(error, ConnectBindError)
        assert error.osError == errno.EMFILE


async def test_a_reactor_that_connects_in_its_own_way_is_asked():
    class Own(ReactorWith):
        asked = 0

        def connectTCP(self, *args, **kwargs):
            self.asked += 1
            return reactor.connectTCP(*args, **kwargs)

    own = Own()
    async with target() as far:
        transport = await connect_socket(own, loopback(far.port))
        assert own.asked == 1
        assert not isinstance(transport, SocketTransport)
        peer = Peer()
        hand_over(transport, peer)
        peer.abort()
        await peer.lost()


# Sockets, taken from transports.


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
        self.poller.forget(self.socket.fileno())
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


# The pipe.


@contextmanager
def pairs_of_sockets(count):
    """So many pairs, whose sockets do not block."""
    pairs = [socket.socketpair() for _ in range(count)]
    for each in chain.from_iterable(pairs):
        each.setblocking(False)
    try:
        yield pairs
    finally:
        for each in chain.from_iterable(pairs):
            each.close()


@pytest.fixture
def pipe():
    made = Pipe()
    yield made
    made.close()


def test_bytes_are_moved(pipe):
    with pairs_of_sockets(2) as ((sender, source), (drain, receiver)):
        assert pipe.move(source.fileno(), drain.fileno(), PIPE_SIZE) == (0, b"")
        sender.send(b"some bytes")
        assert pipe.move(source.fileno(), drain.fileno(), PIPE_SIZE) == (10, b"")
        assert receiver.recv(100) == b"some bytes"
        sender.shutdown(socket.SHUT_WR)
        assert pipe.move(source.fileno(), drain.fileno(), PIPE_SIZE) == (0, b"")


def test_what_is_not_taken_comes_back_and_never_to_another(pipe):
    with pairs_of_sockets(3) as ((sender, source), (drain, _), (other_drain, other_receiver)):
        with suppress(BlockingIOError):
            while True:
                drain.send(bytes(1000))
        sender.send(b"not taken")
        assert pipe.move(source.fileno(), drain.fileno(), PIPE_SIZE) == (9, b"not taken")
        sender.send(b"of another")
        assert pipe.move(source.fileno(), other_drain.fileno(), PIPE_SIZE) == (10, b"")
        assert other_receiver.recv(100) == b"of another"
        other_receiver.close()
        sender.send(b"late")
        assert pipe.move(source.fileno(), other_drain.fileno(), PIPE_SIZE) == (4, b"late")


def test_a_closed_pipe_moves_nothing(pipe):
    with pairs_of_sockets(2) as ((sender, source), (drain, _)):
        pipe.close()
        sender.send(b"stays")
        assert pipe.move(source.fileno(), drain.fileno(), PIPE_SIZE) == (0, b"")
        assert source.recv(100) == b"stays"


def test_a_reset_of_the_source_is_told(pipe):
    """Once: who reads after that sees an end."""
    with pairs_of_sockets(1) as ((drain, _),), socket.create_server(("127.0.0.1", 0)) as listening:
        dialled = socket.create_connection(listening.getsockname())
        with dialled:
            reset(listening.accept()[0])
            assert select.select([dialled], [], [], 20)[0]
            with pytest.raises(ConnectionResetError):
                pipe.move(dialled.fileno(), drain.fileno(), PIPE_SIZE)


class FaultyFactory(Factory):
    """Its third connection is its fault."""

    built = 0
    protocol = Protocol

    def buildProtocol(self, addr):
        self.built += 1
        if self.built == 3:
            raise ValueError("a fault in a program")
        return super().buildProtocol(addr)


@pytest.mark.logs_errors
async def test_a_fault_in_one_connection_leaves_no_other_waiting():
    factory = FaultyFactory()
    port = accepted_by_the_poller(reactor.listenTCP(0, factory, interface="127.0.0.1"))
    clients = [socket.create_connection(("127.0.0.1", port.getHost().port)) for _ in range(10)]
    await until(lambda: factory.built == 10)
    for client in clients:
        client.close()
    await port.stopListening()
    await turn()


async def test_what_follows_urgent_data_is_not_held_back():
    heard = Peer()
    port = accepted_by_the_poller(reactor.listenTCP(0, Factory.forProtocol(lambda: heard), interface="127.0.0.1"))
    with socket.create_connection(("127.0.0.1", port.getHost().port)) as client:
        for _ in range(10):
            client.sendall(b"\xff\xf4")
            client.send(b"\xff", socket.MSG_OOB)
            client.sendall(b"\xf2")
            # The urgent byte itself is lost, as it is with Twisted's own transports.
            assert await heard.read(3) == b"\xff\xf4\xf2"
        # Nor is it asked in vain from then on.
        await until(lambda: not heard.transport.events & URGENT)
    heard.abort()
    await heard.lost()
    await port.stopListening()
