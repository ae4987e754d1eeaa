"""What a proxy says besides success and failure: odd names, odd answers to logins, and more than there should be."""

import contextlib
import socket

import pytest
from examples.raw_peers import CONNECT, GREET_ANONYMOUS, RESOLVE, proxy, request, target
from support.attempts import LOGIN, attempt
from support.targets import CHUNK, MEGABYTE, Target, failure_of, local
from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from txsocksx_ext import RouteTable, SOCKS5ClientEndpoint, errors, resolve, resolve_ptr, route_from_string
from txsocksx_ext.protocol.socks5 import State
from txsocksx_ext.testing import FakeProxy, Recorder

SUCCESS = b"\x05\x00\x00"
ZEROS = b"\x01" + bytes(6)


def named(name, port=0):
    """A bound address with a name, as a reply carries it."""
    return bytes((3, len(name))) + name + port.to_bytes(2, "big")


# Names.

WELL_FORMED = [
    b"target.example",
    b"target.example.",
    b"localhost",
    b"Under_Score.example",
    b"_socks._tcp.example",
    b"r3---sn-4g5e.example",
    b"xn--bcher-kva.example",
    b"7.2.0.192.in-addr.arpa",
    b"192.0.2.7",
    b"2001:db8::7",
    b".".join([b"a" * 63] * 3) + b"." + b"a" * 61,
]
ILL_FORMED = [
    b"",
    b".",
    b"a..example",
    b".example",
    b"a\x1b[31m\nroot:x",
    b"a\x00b",
    b"a b",
    b"a\n",
    b"b\xfccher.example",
    b"user@target.example",
    b"target.example:80",
    b"target.example/path",
    b"$(reboot)",
    b"a" * 64 + b".example",
    b".".join([b"a" * 63] * 3) + b"." + b"a" * 62,
]


def look_up(ask, host, bound):
    """What comes of a look-up that is answered with this bound address."""
    proxy = FakeProxy(instead={State.REPLY: SUCCESS + bound})
    proxy.endpoint.clock = clock = Clock()
    found = []
    ask(host, proxy.endpoint, reactor=clock).addBoth(found.append)
    clock.advance(0)
    assert clock.getDelayedCalls() == []
    return found[0].value if isinstance(found[0], Failure) else found[0]


LOOK_UPS = [(resolve, "target.example"), (resolve_ptr, "192.0.2.7")]
each_look_up = pytest.mark.parametrize(("ask", "host"), LOOK_UPS, ids=["resolve", "resolve_ptr"])


@each_look_up
@pytest.mark.parametrize("name", WELL_FORMED)
def test_a_look_up_finds_a_name(ask, host, name):
    assert look_up(ask, host, named(name)) == name.decode("ascii")


@each_look_up
@pytest.mark.parametrize("name", ILL_FORMED)
def test_what_is_no_name_is_not_found(ask, host, name):
    error = look_up(ask, host, named(name))
    assert type(error) is errors.ProtocolViolation
    assert str(error).isprintable()


@pytest.mark.parametrize("name", ILL_FORMED)
def test_the_bound_address_of_a_connection_is_an_address_or_a_name(name):
    tried = attempt(FakeProxy(instead={State.REPLY: SUCCESS + named(name, 80)}))
    assert isinstance(tried.outcome, Recorder)
    (address,) = tried.application.addresses
    assert (address.bound.host, address.bound.port) == ("0.0.0.0", 0)
    tried.outcome.close()


def test_the_bound_address_of_a_connection_may_be_a_name():
    tried = attempt(FakeProxy(instead={State.REPLY: SUCCESS + named(b"exit.example", 80)}))
    (address,) = tried.application.addresses
    assert (address.bound.host, address.bound.port) == ("exit.example", 80)
    tried.outcome.close()


@pytest.mark.parametrize(("command", "code"), [(CONNECT, b"\x00"), (RESOLVE, b"\x01")], ids=["CONNECT", "RESOLVE"])
async def test_a_server_does_not_pass_on_what_is_no_name(command, code):
    async with target() as other:
        route = route_from_string(reactor, f"socks:127.0.0.1:{other.port}")
        async with proxy(policy=RouteTable((), route)) as server:
            client = await server.connect()
            client.send(GREET_ANONYMOUS + request("target.example", 80, command))
            upstream = await other.accept()
            await upstream.read(4)
            upstream.send(b"\x05\x00")
            await upstream.read(21)
            upstream.send(SUCCESS + named(b"a\x1b[31m\nroot:x", 80))
            upstream.half_close()
            assert await client.read_to_end() == b"\x05\x00" + b"\x05" + code + b"\x00" + ZEROS


# Logins.


@pytest.mark.parametrize("most_at_once", [1, 65536])
def test_a_login_that_is_accepted_in_the_version_of_socks(most_at_once):
    """As the npm package socks5-server does; curl, proxychains and Java take it."""
    tried = attempt(FakeProxy(instead={State.CREDENTIALS_ANSWER: b"\x05\x00"}, most_at_once=most_at_once), LOGIN)
    assert isinstance(tried.outcome, Recorder)
    assert tried.said.request.destination.host == "target.example"
    tried.outcome.close()


@pytest.mark.parametrize("answer", [b"\x05\x01", b"\x05\xff", b"\x05\x01\x00\x01" + bytes(6)])
@pytest.mark.parametrize("most_at_once", [1, 65536])
def test_a_login_that_is_refused_in_the_version_of_socks(answer, most_at_once):
    tried = attempt(FakeProxy(instead={State.CREDENTIALS_ANSWER: answer}, most_at_once=most_at_once), LOGIN)
    assert type(tried.outcome) is errors.AuthenticationFailed
    assert tried.has_left_nothing


@pytest.mark.parametrize("answer", [b"\x00\x00", b"\x04\x00", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_an_answer_to_a_login_in_no_version_is_a_violation(answer):
    tried = attempt(FakeProxy(instead={State.CREDENTIALS_ANSWER: answer}), LOGIN)
    assert type(tried.outcome) is errors.ProtocolViolation
    assert tried.said.request is None


# Too much.

FLOOD = 512 * MEGABYTE
MORE_THAN_SOCKETS_HOLD = 32 * MEGABYTE


def flooding(reply):
    """A proxy that answers each request with this, and sends as much as it can after that: how many bytes it can."""

    def serve(connection):
        connection.recv(CHUNK)
        connection.sendall(b"\x05\x00")
        connection.recv(CHUNK)
        sent, block = 0, bytes(MEGABYTE)
        # The client resets the connection.
        with contextlib.suppress(OSError):
            connection.sendall(reply)
            while sent < FLOOD:
                sent += connection.send(block)
        return sent

    return serve


F0_WITH_AN_UNKNOWN_ADDRESS = b"\x05\xf0\x00\x09"


@pytest.mark.parametrize("command", ["connect", "resolve"])
async def test_a_client_does_not_collect_what_follows_a_malformed_f0(command):
    with Target(flooding(F0_WITH_AN_UNKNOWN_ADDRESS)) as flood:
        way = local(flood.port)
        if command == "connect":
            asking = SOCKS5ClientEndpoint("target.example", 80, way).connect(Factory.forProtocol(Recorder))
        else:
            asking = resolve("target.example", way)
        assert type(await failure_of(asking)) is errors.OnionDescriptorNotFound
        assert await flood.when_next_result() < MORE_THAN_SOCKETS_HOLD


def code_of(port):
    """The code that a server on this port answers a request for a name with."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(b"\x05\x01\x00")
        assert client.recv(2, socket.MSG_WAITALL) == b"\x05\x00"
        client.sendall(request("target.example", 80))
        return client.recv(2, socket.MSG_WAITALL)[1]


async def test_a_server_does_not_collect_what_follows_a_malformed_f0():
    with Target(flooding(F0_WITH_AN_UNKNOWN_ADDRESS)) as flood:
        route = route_from_string(reactor, f"socks:127.0.0.1:{flood.port}")
        async with proxy(policy=RouteTable((), route)) as server:
            codes = await gatherResults([deferToThread(code_of, server.port) for _ in range(3)])
            assert codes == [4, 4, 4]
            sent = await gatherResults([flood.when_next_result() for _ in range(3)])
            assert max(sent) < MORE_THAN_SOCKETS_HOLD
