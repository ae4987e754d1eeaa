"""What both ends know of transports: whose they are, whom they can be handed to, what they can do."""

import pytest
from twisted.internet import reactor
from twisted.internet.address import HostnameAddress, IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import CancelledError
from twisted.internet.endpoints import TCP4ClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectingCancelledError, ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock, deferLater
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from txsocksx_ext import SOCKS5ClientEndpoint, open_transport
from txsocksx_ext.context import is_local, peer_name
from txsocksx_ext.net.half_close import can_half_close
from txsocksx_ext.net.twisted_transports import (
    bound_address,
    hand_over,
    is_encrypted,
    keep_alive,
)
from txsocksx_ext.testing import (
    FakeProxy,
    HalfCloseRecorder,
    MemoryEndpoint,
    Recorder,
    connect_in_memory,
)


def pair(near=None, far=None, **options):
    """Two connected recorders, and the clock that carries their bytes."""
    clock = Clock()
    near, far = near or Recorder(), far or Recorder()
    connect_in_memory(near, far, clock=clock, **options)
    return near, far, clock


def ip(host, port=80):
    return (IPv6Address if ":" in host else IPv4Address)("TCP", host, port)


# Addresses.


@pytest.mark.parametrize(
    ("address", "local"),
    [
        (ip("127.0.0.1"), True),
        (ip("127.255.255.254"), True),
        (ip("128.0.0.1"), False),
        (ip("0.0.0.0"), False),
        (ip("10.0.0.1"), False),
        (ip("192.0.2.1"), False),
        (ip("::1"), True),
        (ip("::1%lo"), True),
        (ip("::ffff:127.0.0.1"), True),
        (ip("::ffff:192.0.2.1"), False),
        (ip("::"), False),
        (ip("fe80::1%eth0"), False),
        (ip("2001:db8::1"), False),
        (UNIXAddress("/run/socket"), True),
        (UNIXAddress(None), True),
        # A name says nothing of where it leads.
        (HostnameAddress(b"localhost", 80), False),
        (IPv4Address("TCP", "localhost", 80), False),
        (None, False),
    ],
    ids=repr,
)
def test_which_peers_are_on_this_machine(address, local):
    assert is_local(address) is local


@pytest.mark.parametrize(
    ("address", "name"),
    [
        (ip("192.0.2.1", 5000), "192.0.2.1"),
        (ip("2001:db8::1", 5000), "2001:db8::1"),
        (UNIXAddress("/home/someone/socket"), "unix"),
        (HostnameAddress(b"someone.example", 80), "HostnameAddress"),
        (None, "NoneType"),
    ],
)
def test_a_peers_name_is_its_host_alone(address, name):
    assert peer_name(address) == name


@pytest.mark.parametrize(
    ("host", "encoded"),
    [
        (ip("192.0.2.1", 0x1234), "01c00002011234"),
        (ip("2001:db8::1", 0x1234), "0420010db80000000000000000000000011234"),
        (ip("fe80::1%eth0", 0x1234), "04fe8000000000000000000000000000011234"),
        (UNIXAddress("/run/socket"), "01000000000000"),
        (HostnameAddress(b"localhost", 80), "01000000000000"),
    ],
    ids=repr,
)
def test_our_own_end_as_a_reply_carries_it(host, encoded):
    near, _, _ = pair(client_address=host)
    assert bound_address(near.transport).encode().hex() == encoded


def test_tcp_is_kept_alive_and_prompt():
    near, _, _ = pair()
    keep_alive(near.transport)
    assert near.transport.getTcpKeepAlive()
    assert near.transport.getTcpNoDelay()


def test_a_unix_socket_has_nothing_to_keep_alive():
    near, _, _ = pair(server_address=UNIXAddress("/run/socket"))
    keep_alive(near.transport)
    assert not near.transport.getTcpKeepAlive()


# Handing over.


def test_the_successor_gets_all_that_the_predecessor_would_have_got():
    predecessor, successor, far = Recorder(), HalfCloseRecorder(), HalfCloseRecorder()
    pair(predecessor, far)
    far.write(b"before")
    hand_over(predecessor.transport, successor)
    far.write(b"after")
    assert (predecessor.received, successor.received) == (b"before", b"after")
    # It hears of a half-close, though its predecessor could not have.
    far.end()
    assert successor.read_ended
    successor.write(b"answer")
    assert far.received == b"answer"
    successor.close()
    assert successor.lost.type is ConnectionDone
    assert predecessor.lost is None


def test_a_wrapper_of_twisteds_policies_stays_between():
    predecessor, successor, far = Recorder(), Recorder(), Recorder()
    wrapper = ProtocolWrapper(WrappingFactory(Factory()), predecessor)
    pair(wrapper, far)
    hand_over(predecessor.transport, successor)
    assert successor.transport is wrapper
    far.write(b"data")
    assert (predecessor.received, successor.received) == (b"", b"data")
    far.close()
    assert successor.lost.type is ConnectionDone
    assert predecessor.lost is None


def test_a_connection_can_be_handed_on_again():
    first, second, third, far = Recorder(), Recorder(), Recorder(), Recorder()
    pair(first, far)
    for each, successor in ((first, second), (second, third)):
        hand_over(each.transport, successor)
    far.write(b"data")
    assert (first.received, second.received, third.received) == (b"", b"", b"data")
    far.close()
    assert (first.lost, second.lost) == (None, None)
    assert third.lost.type is ConnectionDone


async def test_the_wrapper_that_an_endpoint_put_between_is_gone():
    far = Recorder()
    port = reactor.listenTCP(0, Factory.forProtocol(lambda: far), interface="127.0.0.1")
    way = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
    predecessor = await way.connect(Factory.forProtocol(Recorder))
    assert predecessor.transport.protocol is not predecessor
    successor = HalfCloseRecorder()
    hand_over(predecessor.transport, successor)
    assert successor.transport.protocol is successor
    await far.until(lambda each: each.connected)
    far.write(b"data")
    far.transport.loseWriteConnection()
    await successor.until(lambda each: each.read_ended)
    assert successor.received == b"data"
    successor.close()
    await successor.until(lambda each: each.lost)
    assert predecessor.lost is None
    await port.stopListening()


async def test_tls_stays_between(authority):
    far = Recorder()
    secured = TLSMemoryBIOFactory(authority.server_options("far.example"), False, Factory.forProtocol(lambda: far))
    way = wrapClientTLS(authority.client_for("far.example"), MemoryEndpoint(secured))
    predecessor = await way.connect(Factory.forProtocol(Recorder))
    successor = Recorder()
    hand_over(predecessor.transport, successor)
    successor.write(b"question")
    await far.until(lambda each: each.received == b"question")
    far.write(b"answer")
    await successor.until(lambda each: each.received == b"answer")
    far.close()
    await successor.until(lambda each: each.lost)
    assert successor.lost.type is ConnectionDone
    assert predecessor.received == b""
    assert predecessor.lost is None


async def test_tls_that_was_begun_on_a_transport_stays_between(authority):
    near, far = Recorder(), Recorder()
    connect_in_memory(near, far)
    near.transport.startTLS(authority.client_for("far.example"))
    far.transport.startTLS(authority.server_options("far.example"))
    successor = Recorder()
    hand_over(far.transport, successor)
    near.write(b"hello")
    await successor.until(lambda each: each.received)
    assert (successor.received, far.received) == (b"hello", b"")
    near.transport.abortConnection()
    await successor.until(lambda each: each.lost)


async def test_what_can_be_closed_by_half(authority):
    near, _, _ = pair()
    assert can_half_close(near.transport)
    assert not is_encrypted(near.transport)
    secured = TLSMemoryBIOFactory(authority.server_options("far.example"), False, Factory.forProtocol(Recorder))
    way = wrapClientTLS(authority.client_for("far.example"), MemoryEndpoint(secured))
    protocol = await way.connect(Factory.forProtocol(Recorder))
    wrapped = ProtocolWrapper(WrappingFactory(Factory()), Recorder())
    wrapped.makeConnection(protocol.transport)
    for transport in (protocol.transport, wrapped):
        assert is_encrypted(transport)
        assert not can_half_close(transport)
    protocol.abort()
    await protocol.until(lambda each: each.lost)
    opened = await open_transport(way)
    assert is_encrypted(opened)
    assert can_half_close(opened)
    opened.abortConnection()


# Opening.


def opened(endpoint, clock):
    """What `open_transport` fires with."""
    found = []
    open_transport(endpoint).addBoth(found.append)
    clock.advance(0)
    return found[0].value if isinstance(found[0], Failure) else found[0]


def test_nothing_is_read_from_an_opened_transport_before_it_is_handed_over():
    clock = Clock()
    endpoint = MemoryEndpoint(Factory.forProtocol(HalfCloseRecorder), clock=clock)
    transport = opened(endpoint, clock)
    (far,) = endpoint.servers
    far.write(b"x" * 200_000)
    far.end()
    successor = HalfCloseRecorder()
    hand_over(transport, successor)
    clock.advance(0)
    assert successor.received == b""
    transport.resumeProducing()
    clock.advance(0)
    assert successor.received == b"x" * 200_000
    assert successor.read_ended
    assert successor.lost is None


def test_an_end_before_the_hand_over_is_seen_after_it():
    clock = Clock()
    for end, reason in ((Recorder.close, ConnectionDone), (Recorder.abort, ConnectionLost)):
        endpoint = MemoryEndpoint(Factory.forProtocol(Recorder), clock=clock)
        transport = opened(endpoint, clock)
        end(endpoint.servers[0])
        successor = Recorder()
        hand_over(transport, successor)
        transport.resumeProducing()
        clock.advance(0)
        assert successor.lost.type is reason


def test_what_came_with_a_proxys_reply_comes_first():
    clock = Clock()
    proxy = FakeProxy(joined=b"first ", clock=clock)
    transport = opened(SOCKS5ClientEndpoint("target.example", 443, proxy.endpoint, reactor=clock), clock)
    proxy.conversations[0].tunnel.write(b"second")
    successor = Recorder()
    hand_over(transport, successor)
    transport.resumeProducing()
    clock.advance(0)
    assert successor.received == b"first second"


async def test_nothing_is_lost_where_the_way_is_tls(authority):
    class Greeting(Recorder):
        def connectionMade(self):
            self.transport.write(b"220 welcome\r\n")

    secured = TLSMemoryBIOFactory(authority.server_options("far.example"), False, Factory.forProtocol(Greeting))
    way = wrapClientTLS(authority.client_for("far.example"), MemoryEndpoint(secured))
    transport = await open_transport(way)
    for _ in range(10):
        await deferLater(reactor, 0)
    successor = Recorder()
    hand_over(transport, successor)
    transport.resumeProducing()
    await successor.until(lambda each: each.received)
    assert successor.received == b"220 welcome\r\n"
    successor.abort()
    await successor.until(lambda each: each.lost)


def test_opening_fails_as_its_endpoint_does():
    clock = Clock()
    endpoint = MemoryEndpoint(Factory.forProtocol(Recorder), clock=clock, failure=ConnectionRefusedError())
    assert opened(endpoint, clock) is endpoint.failure


def test_opening_can_be_cancelled():
    endpoint = MemoryEndpoint(Factory.forProtocol(Recorder), clock=Clock(), hangs=True)
    opening = open_transport(endpoint)
    outcome = []
    opening.addErrback(outcome.append)
    opening.cancel()
    assert outcome[0].check(CancelledError, ConnectingCancelledError)
    assert endpoint.connecting == []
