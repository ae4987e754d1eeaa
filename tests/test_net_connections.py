"""The connections that the poller serves: those that are made, and those that are accepted."""

import errno
import os
import resource
import socket

import pytest
from examples.raw_peers import Peer, ReactorWith, target, turn, until
from support.certificates import Authority
from support.programs import free_port
from support.sockets import loopback
from support.targets import MEGABYTE, reset
from twisted.internet import reactor
from twisted.internet.error import (
    ConnectBindError,
    ConnectError,
    ConnectingCancelledError,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
)
from twisted.internet.protocol import Factory, Protocol

from txsocksx_ext.net import connecting
from txsocksx_ext.net.connecting import connect_socket
from txsocksx_ext.net.listening import polled as accepted_by_the_poller
from txsocksx_ext.net.poller import URGENT, poller_of
from txsocksx_ext.net.transport import SocketTransport, can_take
from txsocksx_ext.net.twisted_transports import hand_over
from txsocksx_ext.protocol.messages import Address


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


async def test_nothing_is_read_after_an_abort():
    async with target() as far:
        transport = await connect_socket(reactor, loopback(far.port))
        end = await far.accept()

        class Hasty(Peer):
            heard = 0

            def dataReceived(self, data):
                self.heard += 1
                self.transport.abortConnection()
                self.transport.resumeProducing()

        peer = Hasty()
        hand_over(transport, peer)
        end.send(b"x" * MEGABYTE)
        transport.resumeProducing()
        await peer.lost()
        assert peer.heard == 1


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


# Connections that are accepted.


class FaultyFactory(Factory):
    """Its third connection is its fault."""

    built = 0
    protocol = Protocol
    words = "secret.example"

    def buildProtocol(self, addr):
        self.built += 1
        if self.built == 3:
            raise ValueError(self.words)
        return super().buildProtocol(addr)


@pytest.mark.logs_errors
async def test_a_fault_in_one_connection_leaves_no_other_waiting_and_is_logged(logged_errors):
    factory = FaultyFactory()
    port = accepted_by_the_poller(reactor.listenTCP(0, factory, interface="127.0.0.1"))
    clients = [socket.create_connection(("127.0.0.1", port.getHost().port)) for _ in range(10)]
    await until(lambda: factory.built == 10)
    (event,) = logged_errors
    assert event["error"] == "ValueError"
    assert "in buildProtocol" in event["traceback"]
    assert factory.words not in str(event)
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
