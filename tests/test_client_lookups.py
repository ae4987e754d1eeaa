"""Look-ups by a client: names and addresses, through a proxy."""

import pytest
from support.ways import LOGIN, NOWHERE, listening, way_to
from twisted.internet import reactor
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from txsocksx_ext import SOCKS5ExtFactory, resolve, resolve_ptr
from txsocksx_ext.errors import (
    AddressTypeNotSupported,
    HandshakeTimeout,
    HostUnreachable,
    ProtocolViolation,
    ProxyClosed,
    ProxyRefused,
)
from txsocksx_ext.protocol.codes import Command
from txsocksx_ext.protocol.messages import Address
from txsocksx_ext.protocol.socks5 import State
from txsocksx_ext.testing import Ending, FakeProxy


def look_up(proxy, ask, host, methods=None):
    """What came of asking a `FakeProxy`."""
    proxy.endpoint.clock = clock = Clock()
    found = []
    ask(host, proxy.endpoint, methods or {"anonymous": ()}, reactor=clock).addBoth(found.append)
    clock.advance(0)
    assert clock.getDelayedCalls() == []
    return found[0].value if isinstance(found[0], Failure) else found[0]


@pytest.mark.parametrize("address", ["192.0.2.9", "2001:db8::9"])
def test_a_name_is_resolved_by_the_proxy(address):
    proxy = FakeProxy(bound=Address.of(address, 0))
    assert look_up(proxy, resolve, "bücher.example", LOGIN) == address
    (request,) = proxy.requests
    assert (request.command, request.destination.host) == (Command.RESOLVE, "xn--bcher-kva.example")
    assert proxy.conversations[0].credentials.username == b"user"
    assert proxy.conversations[0].lost is not None


@pytest.mark.parametrize("address", ["192.0.2.9", "2001:db8::9", b"192.0.2.9", "[2001:db8::9]"])
def test_an_address_is_named_by_the_proxy(address):
    proxy = FakeProxy(bound=Address.of("target.example", 0))
    assert look_up(proxy, resolve_ptr, address) == "target.example"
    assert proxy.requests[0].command == Command.RESOLVE_PTR
    assert not proxy.requests[0].destination.is_name


def test_only_an_address_has_a_name_to_find():
    with pytest.raises(ValueError, match="address"):
        resolve_ptr("target.example", NOWHERE)


def test_tors_answer_to_a_look_up_that_failed():
    tor = b"\x05\x04\x00\x00\x00\x00\x00\x00\x00\x00"
    assert type(look_up(FakeProxy(code=4, instead={State.REPLY: tor}), resolve, "nowhere.example")) is HostUnreachable


def test_a_look_up_closes_a_connection_that_its_proxy_leaves_open():
    proxy = FakeProxy(bound=Address.of("192.0.2.9", 0), stop_at=State.REPLY, stop_after=10, ending=Ending.SILENCE)
    assert look_up(proxy, resolve, "target.example") == "192.0.2.9"
    assert proxy.conversations[0].lost is not None


def test_a_look_up_that_found_nothing_has_failed():
    proxy = FakeProxy(instead={State.REPLY: bytes.fromhex("05000003000000")})
    assert type(look_up(proxy, resolve, "target.example")) is ProtocolViolation


def test_look_ups_fail_as_connections_do():
    assert type(look_up(FakeProxy(code=8), resolve_ptr, "192.0.2.9")) is AddressTypeNotSupported
    assert type(look_up(FakeProxy(stop_at=State.REPLY), resolve, "target.example")) is ProxyClosed
    assert type(look_up(FakeProxy(failure=ConnectionRefusedError()), resolve, "a.example")) is ProxyRefused


def test_look_ups_have_a_deadline_and_can_be_cancelled():
    for end in (lambda clock, looking: clock.advance(7), lambda clock, looking: looking.cancel()):
        clock = Clock()
        proxy = FakeProxy(stop_at=State.REPLY, ending=Ending.SILENCE, clock=clock)
        outcome = []
        looking = resolve("target.example", proxy.endpoint, timeout=7, reactor=clock)
        looking.addErrback(outcome.append)
        clock.advance(0)
        end(clock, looking)
        clock.advance(0)
        assert outcome[0].check(HandshakeTimeout, CancelledError)
        assert proxy.conversations[0].lost is not None
        assert clock.getDelayedCalls() == []


async def test_look_ups_through_a_server_of_our_own():
    async with listening(SOCKS5ExtFactory(reactor)) as address:
        assert await resolve("127.0.0.1", way_to(address)) == "127.0.0.1"
        assert await resolve("localhost", way_to(address)) == "127.0.0.1"
