"""One connection through the server: every command, every failure's reply, and every way to leave."""

import socket

import pytest
from examples.raw_peers import (
    BIND,
    CONNECT,
    GREET_ANONYMOUS,
    GREET_EXTENDED,
    GREET_LOGIN,
    RESOLVE,
    RESOLVE_PTR,
    UDP_ASSOCIATE,
    HeldRoute,
    Names,
    ReactorWith,
    login,
    pairs,
    proxy,
    request,
    request_by_name,
    target,
    through_tls,
    tls_listener,
    turn,
    until,
)
from support.programs import free_port
from support.reactors import connections_read_from
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, UNIXClientEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from txsocksx_ext import Limits, RouteTable, SOCKS5ExtFactory, open_transport
from txsocksx_ext.errors import (
    HostUnreachable,
    NetworkUnreachable,
    OnionServiceNotFound,
    TransportProtocolFailure,
)
from txsocksx_ext.route.direct import DirectRoute
from txsocksx_ext.route.refuse import RefuseRoute

ZEROS = b"\x01\x00\x00\x00\x00\x00\x00"
"""ATYP, address and port of a reply that tells no address."""


def reply(code):
    return bytes((5, code, 0)) + ZEROS


def table(route):
    return RouteTable((), route)


def need_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6 on loopback")


# CONNECT.


async def test_connects_to_an_ipv4_address_and_tells_its_own_end():
    async with target() as far, proxy() as server:
        client, code, bound = await server.ask("127.0.0.1", far.port)
        end = await far.accept()
        seen_by_target = end.transport.getPeer()
        assert (code, bound) == (0, (seen_by_target.host, seen_by_target.port))
        client.send(b"question")
        assert await end.read(8) == b"question"
        end.send(b"answer")
        assert await client.read(6) == b"answer"


async def test_connects_to_an_ipv6_address_and_tells_its_own_end():
    need_ipv6()
    async with target("::1") as far, proxy() as server:
        client, code, bound = await server.ask("::1", far.port)
        end = await far.accept()
        assert (code, bound) == (0, ("::1", end.transport.getPeer().port))
        client.send(b"question")
        assert await end.read(8) == b"question"


async def test_connects_to_a_name():
    names = Names(somewhere_example=["127.0.0.1"])
    async with target() as far, proxy(reactor=ReactorWith(names=names)) as server:
        client, code, _ = await server.ask("somewhere.example", far.port)
        assert code == 0
        client.send(b"question")
        assert await (await far.accept()).read(8) == b"question"
    assert names.asked == ["somewhere.example"]


async def test_an_address_sent_as_a_name_is_taken_for_the_address():
    names = Names()
    async with target() as far, proxy(reactor=ReactorWith(names=names)) as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request_by_name("127.0.0.1", far.port))
        assert await client.read(2) == b"\x05\x00"
        assert (await client.read_reply())[0] == 0
    assert names.asked == []


async def test_rules_about_addresses_hold_for_an_address_sent_as_a_name():
    rules = RouteTable([("127.0.0.0/8", RefuseRoute())], DirectRoute(reactor))
    async with target() as far, proxy(routes=rules) as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request_by_name("127.0.0.1", far.port))
        assert await client.read_to_end() == b"\x05\x00" + reply(2)
        assert far.accepted == 0


# RESOLVE and RESOLVE_PTR.


@pytest.mark.parametrize(
    ("addresses", "found"),
    [
        (["192.0.2.1", "192.0.2.2"], "192.0.2.1"),
        (["2001:db8::1"], "2001:db8::1"),
        (["2001:db8::1", "192.0.2.1"], "192.0.2.1"),
    ],
)
async def test_resolves_a_name(addresses, found):
    names = Names(somewhere_example=addresses)
    async with proxy(reactor=ReactorWith(names=names)) as server:
        client, code, bound = await server.ask("somewhere.example", 0, RESOLVE)
        assert (code, bound) == (0, (found, 0))
        # One answer, then the end: no stream follows.
        assert await client.read_to_end() == b""


@pytest.mark.parametrize("literal", ["192.0.2.1", "2001:db8::1"])
async def test_resolving_an_address_gives_the_address(literal):
    names = Names()
    async with proxy(reactor=ReactorWith(names=names)) as server:
        _, code, bound = await server.ask(literal, 0, RESOLVE)
    assert (code, bound, names.asked) == (0, (literal, 0), [])


async def test_finds_the_name_of_an_address():
    try:
        name, _ = await deferToThread(socket.getnameinfo, ("127.0.0.1", 0), socket.NI_NAMEREQD)
    except OSError:
        pytest.skip("127.0.0.1 has no name on this machine")
    async with proxy() as server:
        for ask_by in (request, request_by_name):
            client = await server.connect()
            client.send(GREET_ANONYMOUS + ask_by("127.0.0.1", 0, RESOLVE_PTR))
            assert await client.read(2) == b"\x05\x00"
            assert await client.read_reply() == (0, (name, 0))


# Failures that the request itself holds.


@pytest.mark.parametrize(
    ("name", "bytes_of_request", "code"),
    [
        ("BIND", request("127.0.0.1", 80, BIND), 7),
        ("UDP ASSOCIATE", request("0.0.0.0", 0, UDP_ASSOCIATE), 7),
        ("UDP ASSOCIATE of a name", request("somewhere.example", 80, UDP_ASSOCIATE), 7),
        ("an unassigned command", request("127.0.0.1", 80, 0x7F), 7),
        ("port 0", request("127.0.0.1", 0), 1),
        ("port 0 of a name", request("somewhere.example", 0), 1),
        ("RESOLVE_PTR of a name", request("somewhere.example", 0, RESOLVE_PTR), 8),
        ("an unknown address type", b"\x05\x01\x00\x05", 8),
        ("address type 0", b"\x05\x01\x00\x00", 8),
        ("a reserved byte that is not 0", b"\x05\x01\x01\x01\x7f\x00\x00\x01\x00\x50", 1),
        ("another version", b"\x04\x01\x00\x01\x7f\x00\x00\x01\x00\x50", 1),
        ("an empty name", b"\x05\x01\x00\x03\x00\x00\x50", 1),
        ("a name with a NUL", b"\x05\x01\x00\x03\x03a\x00b\x00\x50", 1),
        ("a name with a space", b"\x05\x01\x00\x03\x03a b\x00\x50", 1),
        ("a name beyond ASCII", b"\x05\x01\x00\x03\x02\xc3\xa4\x00\x50", 1),
    ],
)
async def test_a_request_that_cannot_be_served_gets_its_code_at_once(name, bytes_of_request, code):
    names = Names()
    async with proxy(reactor=ReactorWith(names=names)) as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + bytes_of_request)
        assert await client.read_to_end() == b"\x05\x00" + reply(code)
    assert names.asked == []


# Failures of the way to the target.


async def test_a_port_where_nothing_listens_is_refused():
    async with proxy() as server:
        assert await server.code("127.0.0.1", free_port()) == 5


@pytest.mark.parametrize("address", ["255.255.255.255", "224.0.0.1"])
async def test_a_network_that_cannot_be_reached(address):
    # The system itself refuses both before a packet leaves.
    async with proxy() as server:
        assert await server.code(address, 80) == 3


async def test_a_name_that_does_not_exist():
    names = Names()
    async with proxy(reactor=ReactorWith(names=names)) as server:
        assert await server.code("nobody.example", 80) == 4
        assert await server.code("nobody.example", 0, RESOLVE) == 4
    assert names.asked == ["nobody.example"] * 2


@pytest.mark.parametrize(
    "name", ["abc.onion", "ABC.Onion", "abc.onion.", "onion", "www.abc.onion", "abc.onion.."], ids=str
)
async def test_onion_names_never_reach_a_resolver(name):
    names = Names(**{name.replace(".", "_"): ["127.0.0.1"]})
    async with proxy(reactor=ReactorWith(names=names)) as server:
        assert await server.code(name, 80) == 4
        assert await server.code(name, 0, RESOLVE) == 4
    assert names.asked == []


@pytest.mark.parametrize(
    "name",
    ["a..b", ".", "..", ".a", "a" * 64 + ".invalid", "a." * 127 + "a", "a" * 255, "xn--", "xn--a.invalid", "%.invalid"],
    ids=lambda name: name[:8],
)
async def test_a_name_that_no_host_can_have_is_answered_by_the_real_resolver_too(name):
    async with proxy() as server:
        assert await server.code(name, 80) == 4


async def test_a_rule_that_refuses():
    rules = RouteTable([("*.example", RefuseRoute())], DirectRoute(reactor))
    names = Names()
    async with proxy(reactor=ReactorWith(names=names), routes=rules) as server:
        for command in (CONNECT, RESOLVE):
            assert await server.code("somewhere.example", 80, command) == 2
    assert names.asked == []


async def test_a_route_that_never_answers_is_answered_in_its_stead():
    clock, route = Clock(), HeldRoute()
    limits = Limits(handshake_timeout=10, connect_timeout=45)
    async with proxy(reactor=ReactorWith(clock=clock), routes=table(route), limits=limits) as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request("192.0.2.1", 80))
        await route.asked.get()
        assert await client.read(2) == b"\x05\x00"
        # The handshake's own deadline ended with the request.
        clock.advance(44)
        await turn(3)
        assert (client.unread, client.input_ended, route.cancelled) == (b"", False, 0)
        clock.advance(1)
        assert await client.read_to_end() == reply(6)
        assert route.cancelled == 1


class FailingRoute:
    def __init__(self, error):
        self.error = error

    def connect(self, request, session):
        raise self.error

    resolve = connect


@pytest.mark.parametrize(
    ("error", "to_plain", "to_extended"),
    [
        (NetworkUnreachable(), 3, 3),
        (HostUnreachable(), 4, 4),
        (OnionServiceNotFound(), 4, 0xE0),
        (TransportProtocolFailure(), 1, 0xF1),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("command", [CONNECT, RESOLVE])
async def test_a_route_that_raises_is_answered_in_what_the_client_understands(error, to_plain, to_extended, command):
    async with proxy(routes=table(FailingRoute(error))) as server:
        assert await server.code("somewhere.example", 80, command) == to_plain
        client = await server.connect()
        client.send(GREET_EXTENDED + pairs() + request("somewhere.example", 80, command))
        assert await client.read_to_end() == b"\x05\x97" + b"\x01\x00\x00\x00" + reply(to_extended)


async def test_a_route_without_resolve_answers_that_it_has_no_such_command():
    async with proxy(routes=table(HeldRoute())) as server:
        assert await server.code("somewhere.example", 0, RESOLVE) == 7


# The conversation.


async def test_everything_in_one_segment_is_answered_in_order():
    async with target() as far, proxy() as server:
        client = await server.connect()
        client.send(b"\x05\x02\x00\x02" + login(b"user", b"password") + request("127.0.0.1", far.port) + b"first words")
        end = await far.accept()
        assert await end.read(11) == b"first words"
        bound = end.transport.getPeer().port.to_bytes(2, "big")
        assert await client.read(14) == b"\x05\x02" + b"\x01\x00" + b"\x05\x00\x00\x01\x7f\x00\x00\x01" + bound


async def test_pairs_in_one_segment_with_the_rest_are_answered_in_order():
    async with target() as far, proxy() as server:
        client = await server.connect()
        client.send(GREET_EXTENDED + pairs((b"USERNAME", b"u")) + request("127.0.0.1", far.port) + b"first words")
        assert await (await far.accept()).read(11) == b"first words"
        assert (await client.read(16))[:8] == b"\x05\x97" + b"\x01\x00\x00\x00" + b"\x05\x00"


async def test_one_byte_at_a_time():
    async with target() as far, proxy() as server:
        client = await server.connect()
        client.transport.setTcpNoDelay(True)
        for byte in GREET_EXTENDED + pairs((b"USERNAME", b"u"), (b"PASSWD", b"")) + request("127.0.0.1", far.port):
            client.send(bytes((byte,)))
            await turn()
        assert await client.read(6) == b"\x05\x97" + b"\x01\x00\x00\x00"
        assert (await client.read_reply())[0] == 0


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        (b"\x05\x00", b"\x05\xff"),
        (b"\x05\x01\x80", b"\x05\xff"),
        (b"\x05\x02\x01\x09", b"\x05\xff"),
        (b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00", b""),
        (b"GET / HTTP/1.0\r\n\r\n", b""),
        (GREET_LOGIN + b"\x05", b"\x05\x02"),
        (GREET_EXTENDED + b"\x02\x00\x00", b"\x05\x97"),
    ],
)
async def test_what_is_no_conversation_is_answered_as_far_as_it_is_one(said, heard):
    async with proxy() as server:
        client = await server.connect()
        client.send(said)
        assert await client.read_to_end() == heard


async def test_a_client_that_half_closes_during_the_connect_is_served():
    route = HeldRoute()
    async with target() as far, proxy(routes=table(route)) as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request("192.0.2.1", 80) + b"all that I have to say")
        client.half_close()
        await route.asked.get()
        (session,) = server.factory.sessions
        # Only now can the server have seen the end of the client's sending.
        await until(lambda: session.transport not in connections_read_from())
        assert route.cancelled == 0
        route.pending.callback(await open_transport(TCP4ClientEndpoint(reactor, "127.0.0.1", far.port)))
        end = await far.accept()
        assert await end.read_to_end() == b"all that I have to say"
        end.send(b"the answer")
        end.close()
        assert await client.read(2) == b"\x05\x00"
        assert (await client.read_reply())[0] == 0
        assert await client.read_to_end() == b"the answer"
        assert isinstance(await end.lost(), ConnectionDone)


async def test_a_client_that_half_closes_before_its_request_is_let_go():
    async with proxy() as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + b"\x05\x01")
        client.half_close()
        assert await client.read_to_end() == b"\x05\x00"
        await until(lambda: not server.factory.sessions)


# A client that leaves.


class Held(SOCKS5ExtFactory):
    """A server of which one decision is the test's."""

    held = ""

    def _hold(self, name):
        assert name == self.held
        self.cancelled = False
        self.decision = Deferred(lambda _: setattr(self, "cancelled", True))
        return self.decision

    def authenticate(self, session):
        return self._hold("authenticate") if self.held == "authenticate" else None

    def route(self, session):
        return self._hold("route") if self.held == "route" else super().route(session)


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ("authenticate", GREET_ANONYMOUS),
        ("authenticate", GREET_LOGIN + login(b"u", b"p")),
        ("authenticate", GREET_EXTENDED + pairs()),
        ("route", GREET_ANONYMOUS + request("192.0.2.1", 80)),
        ("route", GREET_ANONYMOUS + request("192.0.2.1", 80, RESOLVE)),
    ],
)
async def test_a_decision_is_cancelled_when_its_client_leaves(held, said):
    factory = Held(reactor)
    factory.held = held
    async with proxy(factory) as server:
        client = await server.connect()
        client.send(said)
        await until(lambda: hasattr(factory, "decision"))
        client.abort()
        await until(lambda: not factory.sessions)
        assert factory.cancelled


async def test_a_connection_on_its_way_is_given_up_when_its_client_leaves():
    route = HeldRoute()
    async with proxy(routes=table(route)) as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request("192.0.2.1", 80))
        await route.asked.get()
        client.abort()
        await until(lambda: not server.factory.sessions)
        assert route.cancelled == 1


@pytest.mark.deadline(10.0)
async def test_a_reset_that_twisted_takes_for_an_end_gives_the_connection_up_too():
    # See the test of the same in test_relay.py.
    route = HeldRoute()
    async with proxy(routes=table(route), limits=Limits(connect_timeout=600)) as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request("192.0.2.1", 80))
        await route.asked.get()
        assert await client.read(2) == b"\x05\x00"
        (session,) = server.factory.sessions
        session.transport.stopReading()
        client.abort()
        await client.lost()
        session.transport.readConnectionLost(Failure(ConnectionDone()))
        await until(lambda: not server.factory.sessions)
        assert route.cancelled == 1


class StubbornRoute:
    """A route that cannot be stopped: it connects although it was cancelled."""

    def __init__(self, port):
        self.port = port
        self.asked = Deferred()
        self.go_on = Deferred()

    def connect(self, request, session):
        return Deferred.fromCoroutine(self._connect())

    async def _connect(self):
        self.asked.callback(None)
        try:
            await Deferred()
        except CancelledError:
            await self.go_on
        return await open_transport(TCP4ClientEndpoint(reactor, "127.0.0.1", self.port))


async def test_a_connection_that_comes_too_late_is_closed():
    async with target() as far:
        route = StubbornRoute(far.port)
        async with proxy(routes=table(route)) as server:
            client = await server.connect()
            client.send(GREET_ANONYMOUS + request("192.0.2.1", 80))
            await route.asked
            client.abort()
            await until(lambda: not server.factory.sessions)
            route.go_on.callback(None)
            end = await far.accept()
            await end.lost()


# Deadlines.


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\x05",
        GREET_ANONYMOUS,
        GREET_LOGIN,
        GREET_LOGIN + b"\x01\x05use",
        GREET_EXTENDED + b"\x01\x00\x02\x00\x08USER",
        GREET_EXTENDED + pairs() + b"\x05\x01\x00\x03\x40",
    ],
)
async def test_a_client_that_stops_talking_is_closed_at_the_deadline_and_not_before(said):
    clock = Clock()
    async with proxy(reactor=ReactorWith(clock=clock), limits=Limits(handshake_timeout=10)) as server:
        client = await server.connect()
        client.send(said)
        await until(lambda: len(server.factory.sessions) == 1)
        # Answers show that the server has heard all.
        await client.until(lambda: len(said) < 3 or client.unread)
        clock.advance(9.9)
        await turn(3)
        assert not client.input_ended
        clock.advance(0.2)
        await client.lost()
        await until(lambda: not server.factory.sessions)


async def test_no_byte_sets_the_deadline_back():
    clock = Clock()
    async with proxy(reactor=ReactorWith(clock=clock), limits=Limits(handshake_timeout=10)) as server:
        client = await server.connect()
        client.send(GREET_LOGIN)
        assert await client.read(2) == b"\x05\x02"
        for byte in login(b"a very long name", b"")[:10]:
            client.send(bytes((byte,)))
            await turn(3)
            assert client.reason is None
            clock.advance(1)
        await client.lost()


async def test_a_decision_before_the_request_is_within_the_deadline():
    clock = Clock()
    factory = Held(ReactorWith(clock=clock), limits=Limits(handshake_timeout=10))
    factory.held = "authenticate"
    async with proxy(factory) as server:
        client = await server.connect()
        client.send(GREET_LOGIN + login(b"u", b"p"))
        await until(lambda: hasattr(factory, "decision"))
        clock.advance(10)
        await client.lost()
        await until(lambda: not factory.sessions)
        assert factory.cancelled


# How a failing answer arrives.


async def test_an_error_reply_arrives_although_unread_input_is_pending():
    async with proxy() as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request("127.0.0.1", 80, BIND) + bytes(1 << 20))
        assert await client.read_to_end() == b"\x05\x00" + reply(7)
        client.close()
        assert isinstance(await client.lost(), ConnectionDone)


def talk_before_reading(port, said):
    """A client of its own thread, which reads only when all it has to say is said."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(said)
        client.shutdown(socket.SHUT_WR)
        heard = b""
        while data := client.recv(4096):
            heard += data
        return heard


async def test_an_error_reply_reaches_a_client_that_was_paused():
    route = HeldRoute()
    limits = Limits(read_ahead=1024)
    async with proxy(routes=table(route), limits=limits) as server:
        said = GREET_ANONYMOUS + request("192.0.2.1", 80) + bytes(16 << 20)
        heard = deferToThread(talk_before_reading, server.port, said)
        await route.asked.get()
        (session,) = server.factory.sessions
        await until(lambda: session.transport not in connections_read_from())
        route.pending.errback(HostUnreachable())
        assert await heard == b"\x05\x00" + reply(4)


async def test_a_client_that_does_not_close_after_an_error_is_closed_after_a_while():
    clock = Clock()
    async with proxy(reactor=ReactorWith(clock=clock), limits=Limits(linger=2)) as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request("127.0.0.1", 80, BIND))
        # The server has said all and closed its sending; our own stands open.
        assert await client.read_to_end() == b"\x05\x00" + reply(7)
        clock.advance(1.9)
        await turn(3)
        assert len(server.factory.sessions) == 1
        clock.advance(0.2)
        await until(lambda: not server.factory.sessions)


async def test_a_client_that_closes_after_an_error_is_gone_at_once():
    clock = Clock()
    async with proxy(reactor=ReactorWith(clock=clock)) as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request("127.0.0.1", 80, BIND))
        await client.read_to_end()
        client.close()
        await until(lambda: not server.factory.sessions)
        assert clock.getDelayedCalls() == []


async def test_a_refused_login_arrives_although_a_request_is_pending():
    class Nobody(SOCKS5ExtFactory):
        def authenticate(self, session):
            raise HostUnreachable("any error will do")

    async with proxy(Nobody(reactor)) as server:
        client = await server.connect()
        client.send(GREET_LOGIN + login(b"u", b"p") + request("127.0.0.1", 80) + bytes(1 << 16))
        assert await client.read_to_end() == b"\x05\x02" + b"\x01\x01"


# Routes that bring something unusual.


@pytest.mark.logs_errors
async def test_a_target_that_was_lost_before_it_was_handed_over_is_no_success():
    route = HeldRoute()
    async with target() as far, proxy(routes=table(route)) as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request("192.0.2.1", 80))
        await route.asked.get()
        transport = await open_transport(TCP4ClientEndpoint(reactor, "127.0.0.1", far.port))
        await far.accept()
        transport.abortConnection()
        await turn(2)
        route.pending.callback(transport)
        assert (await client.read_to_end())[-10:-8] == b"\x05\x05"
        client.close()
        await until(lambda: not server.factory.sessions)


@pytest.mark.logs_errors
async def test_a_route_that_brings_no_transport_ends_the_connection():
    route = HeldRoute()
    async with proxy(routes=table(route)) as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request("192.0.2.1", 80))
        await route.asked.get()
        route.pending.callback("no transport")
        await client.lost()
        await until(lambda: not server.factory.sessions)


# Listeners that are not TCP.


async def one_exchange(client, far):
    client.send(GREET_ANONYMOUS + request("127.0.0.1", far.port))
    assert await client.read(2) == b"\x05\x00"
    assert (await client.read_reply())[0] == 0
    client.send(b"question")
    end = await far.accept()
    assert await end.read(8) == b"question"
    end.send(b"answer")
    end.close()
    assert await client.read_to_end() == b"answer"


async def test_serves_on_a_unix_socket(tmp_path):
    path = str(tmp_path / "socks")
    async with target() as far, proxy(listen=f"unix:{path}") as server:
        client = await server.connect(endpoint=UNIXClientEndpoint(reactor, path))
        await one_exchange(client, far)


async def test_serves_on_tls(tmp_path):
    async with target() as far, proxy(listen=tls_listener(tmp_path)) as server:
        await one_exchange(await server.connect(endpoint=through_tls(server.port)), far)
        refused = await server.connect(endpoint=through_tls(server.port))
        refused.send(GREET_ANONYMOUS + request("127.0.0.1", 80, BIND))
        assert await refused.read_to_end() == b"\x05\x00" + reply(7)
        await until(lambda: not server.factory.sessions)
