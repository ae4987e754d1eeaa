"""Ways out: direct, refuse, and another SOCKS5 proxy whose failures are translated, never copied."""

import pytest
from examples.raw_peers import (
    CONNECT,
    GREET_ANONYMOUS,
    GREET_EXTENDED,
    RESOLVE,
    RESOLVE_PTR,
    HeldRoute,
    Names,
    ReactorWith,
    login,
    pairs,
    proxy,
    request,
    target,
    until,
)
from support.programs import free_port
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import fail, succeed
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint
from twisted.internet.error import (
    ConnectError,
    ConnectionLost,
    ConnectionRefusedError,
    DNSLookupError,
    NoRouteError,
    TimeoutError,
    UnknownHostError,
)
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from txsocksx_ext import RouteTable, route_from_string
from txsocksx_ext.client.methods import ClientMethods
from txsocksx_ext.errors import CommandNotSupported, ConnectionNotAllowed
from txsocksx_ext.failures import row_of
from txsocksx_ext.protocol.codes import Command, Dialect
from txsocksx_ext.protocol.messages import Address, Request
from txsocksx_ext.route import route_kinds
from txsocksx_ext.route.base import Route
from txsocksx_ext.route.socks import SOCKSRoute
from txsocksx_ext.server.auth import portal_for

SELECT_ANONYMOUS = b"\x05\x00"
ZEROS = b"\x00\x01\x00\x00\x00\x00\x00\x00"


def table(route):
    return RouteTable((), route)


def through(port, *, methods=None, dialect=None):
    """The rules of a proxy that sends everything to another on this port."""
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
    offered = ClientMethods.of({"extended": {}, "anonymous": ()} if methods is None else methods)
    return table(SOCKSRoute(reactor, endpoint, offered, dialect))


# Descriptions.


def test_the_kinds_of_route_are_the_modules_that_make_them():
    assert {"direct", "refuse", "socks"} <= set(route_kinds())
    assert not {"interface", "lookup", "happy_eyeballs"} & set(route_kinds())


@pytest.mark.parametrize("kind", ["", "interface", "lookup", "__init__", "direct.direct", "../direct", "Direct"])
def test_what_is_no_kind_of_route_is_named_and_the_kinds_are_listed(kind):
    with pytest.raises(ValueError, match="direct") as caught:
        route_from_string(reactor, kind)
    assert repr(kind) in str(caught.value)


@pytest.mark.parametrize("description", ["=direct", "b=direct", "exec=/bin/true:arg=x"])
def test_a_description_without_a_kind_is_told_which_there_are(description):
    with pytest.raises(ValueError, match="unknown route kind ''; known kinds are direct"):
        route_from_string(reactor, description)


@pytest.mark.parametrize(
    "description",
    [
        "socks:127.0.0.1:{port}",
        "socks:localhost:{port}",
        "socks:tcp:127.0.0.1:{port}",
        "socks:tcp\\:127.0.0.1\\:{port}",
        "socks:tcp\\:host\\=127.0.0.1\\:port\\={port}:dialect=tor",
    ],
)
async def test_the_ways_to_write_the_other_proxys_endpoint(description):
    async with target() as far, proxy() as other:
        route = route_from_string(reactor, description.format(port=other.port))
        async with proxy(policy=table(route)) as server:
            assert await server.code("127.0.0.1", far.port) == 0


async def test_the_other_proxy_may_be_on_a_unix_socket(tmp_path):
    async with target() as far, proxy(listen=f"unix:{tmp_path}/other"):
        route = route_from_string(reactor, f"socks:unix:{tmp_path}/other")
        async with proxy(policy=table(route)) as server:
            assert await server.code("127.0.0.1", far.port) == 0


async def test_the_login_for_the_other_proxy_comes_from_its_description(tmp_path):
    (tmp_path / "password").write_bytes(b"secret:with a colon\nand a second line\n")
    portal = portal_for([InMemoryUsernamePasswordDatabaseDontUse(alice="secret:with a colon")])
    description = "socks:127.0.0.1:{}:username={}:password-file={}/password"
    async with target() as far, proxy(portal=portal) as other:
        for name, code in (("alice", 0), ("bob", 1)):
            route = route_from_string(reactor, description.format(other.port, name, tmp_path))
            async with proxy(policy=table(route)) as server:
                assert await server.code("127.0.0.1", far.port) == code


# Through another proxy.


async def test_a_stream_through_another_proxy():
    async with target() as far, proxy() as other, proxy(policy=through(other.port)) as server:
        client, code, bound = await server.ask("127.0.0.1", far.port)
        end = await far.accept()
        assert code == 0
        assert bound[0] == "127.0.0.1"
        client.send(b"question")
        client.half_close()
        assert await end.read_to_end() == b"question"
        end.send(b"answer")
        end.close()
        assert await client.read_to_end() == b"answer"


async def test_the_other_proxy_gets_the_name_and_nobody_resolves_it_here():
    names, route = Names(somewhere_example=["127.0.0.1"]), HeldRoute()
    async with (
        proxy(policy=table(route)) as other,
        proxy(reactor=ReactorWith(names=names), policy=through(other.port)) as server,
    ):
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request("somewhere.example", 80))
        asked = await route.asked.get()
        assert asked == Request(Command.CONNECT, Address.of("somewhere.example", 80))
        # Our client leaves, so the other proxy's work is over too.
        client.abort()
        await until(lambda: route.cancelled == 1)
    assert names.asked == []


async def test_onion_names_go_to_another_proxy():
    route = HeldRoute()
    async with proxy(policy=table(route)) as other, proxy(policy=through(other.port)) as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request("abc.onion", 80))
        assert (await route.asked.get()).destination.host == "abc.onion"


async def hear_request(end):
    """Be the other proxy, up to its reply: what was offered, and the request."""
    version, count = await end.read(2)
    offered = await end.read(count)
    assert version == 5
    end.send(SELECT_ANONYMOUS)
    asked = await end.read(10)
    return offered, asked


async def test_data_that_comes_with_the_other_proxys_reply_reaches_the_client():
    async with target() as other, proxy(policy=through(other.port)) as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request("192.0.2.1", 80))
        end = await other.accept()
        _, asked = await hear_request(end)
        assert asked == request("192.0.2.1", 80)
        end.send(b"\x05\x00" + ZEROS + b"220 hello, and it all came in one segment")
        assert (await client.read(12))[:4] == b"\x05\x00" + b"\x05\x00"
        assert await client.read(41) == b"220 hello, and it all came in one segment"
        client.send(b"question")
        assert await end.read(8) == b"question"


async def test_data_and_the_end_that_come_with_the_other_proxys_reply():
    async with target() as other, proxy(policy=through(other.port)) as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request("192.0.2.1", 80))
        end = await other.accept()
        await hear_request(end)
        end.send(b"\x05\x00" + ZEROS + b"all of it")
        end.close()
        assert (await client.read_to_end())[12:] == b"all of it"


@pytest.mark.parametrize(
    ("command", "host", "answer", "found"),
    [
        (RESOLVE, "somewhere.example", b"\x01\xc0\x00\x02\x01\x00\x00", ("192.0.2.1", 0)),
        (RESOLVE, "somewhere.example", b"\x04" + bytes(15) + b"\x09\x00\x00", ("::9", 0)),
        (RESOLVE_PTR, "192.0.2.1", b"\x03\x04name\x00\x00", ("name", 0)),
    ],
)
async def test_look_ups_go_to_the_other_proxy(command, host, answer, found):
    async with target() as other, proxy(policy=through(other.port)) as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request(host, 0, command))
        end = await other.accept()
        await end.read(4)
        end.send(SELECT_ANONYMOUS)
        asked = request(host, 0, command)
        assert await end.read(len(asked)) == asked
        end.send(b"\x05\x00\x00" + answer)
        assert await client.read(2) == SELECT_ANONYMOUS
        assert await client.read_reply() == (0, found)


# Translation.


@pytest.mark.parametrize(
    ("dialect", "said", "to_plain", "to_extended", "to_tor"),
    [
        # RFC 1928's codes are the same for all.
        *[(None, code, code, code, code) for code in range(1, 9)],
        # A proxy that selected another method than 97 speaks Tor's codes.
        (None, 0xE0, 4, 0xE0, 0xE0),
        (None, 0xE1, 4, 0xE1, 0xE1),
        (None, 0xF0, 4, 0xE0, 0xF0),
        (None, 0xF1, 4, 0xE1, 0xF1),
        (None, 0xF4, 1, 0xE1, 0xF4),
        (None, 0xF6, 1, 0xE0, 0xF6),
        (Dialect.TOR, 0xF3, 6, 0xE1, 0xF3),
        # A transport that speaks the proposal's codes without having selected it.
        (Dialect.PROP229, 0xF0, 1, 0xF0, 1),
        (Dialect.PROP229, 0xF1, 1, 0xF1, 1),
        (Dialect.PROP229, 0xF2, 1, 0xF2, 1),
        (Dialect.PROP229, 0xF3, 1, 1, 1),
        # A proxy that knows neither.
        (Dialect.PLAIN, 0xF0, 1, 1, 1),
        (Dialect.PLAIN, 0xE0, 4, 0xE0, 0xE0),
        # Codes that mean nothing to anyone.
        (None, 0x09, 1, 1, 1),
        (None, 0x5A, 1, 1, 1),
        (None, 0xFF, 1, 1, 1),
    ],
)
async def test_codes_are_translated_for_each_client(dialect, said, to_plain, to_extended, to_tor):
    async with target() as other, proxy(policy=through(other.port, dialect=dialect)) as server:
        for greeting, code in (
            (GREET_ANONYMOUS, to_plain),
            (GREET_EXTENDED + pairs(), to_extended),
            (GREET_EXTENDED + pairs((b"tor.errors", b"304")), to_tor),
        ):
            client = await server.connect()
            client.send(greeting + request("192.0.2.1", 80))
            end = await other.accept()
            await hear_request(end)
            end.send(bytes((5, said)) + ZEROS)
            end.close()
            answer = await client.read_to_end()
            assert answer[-10:-8] == bytes((5, code))


async def test_an_f0_of_tors_after_which_the_connection_stays_is_a_success():
    clock = Clock()
    async with target() as other:
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", other.port)
        methods = ClientMethods.of({"anonymous": ()})
        route = SOCKSRoute(ReactorWith(clock=clock), endpoint, methods, Dialect.TOR)
        async with proxy(policy=table(route)) as server:
            client = await server.connect()
            client.send(GREET_ANONYMOUS + request("192.0.2.1", 80))
            end = await other.accept()
            await hear_request(end)
            end.send(b"\x05\xf0" + ZEROS)
            await until(clock.getDelayedCalls)
            clock.advance(1)
            end.send(b"220 hello")
            assert (await client.read(12))[:4] == b"\x05\x00" + b"\x05\x00"
            assert await client.read(9) == b"220 hello"


async def test_a_proxy_that_selects_97_is_read_as_the_proposal_says():
    async with target() as other, proxy(policy=through(other.port)) as server:
        client = await server.connect()
        client.send(GREET_EXTENDED + pairs() + request("192.0.2.1", 80))
        end = await other.accept()
        assert await end.read(4) == b"\x05\x02\x97\x00"
        end.send(b"\x05\x97")
        assert await end.read(3) == b"\x01\x00\x00"
        end.send(b"\x01\x00\x00\x00")
        assert await end.read(10) == request("192.0.2.1", 80)
        end.send(b"\x05\xf1" + ZEROS)
        assert (await client.read_to_end())[-10:-8] == b"\x05\xf1"


@pytest.mark.parametrize(
    "said",
    [
        b"\x05\xff",
        b"\x05\x02",
        b"HTTP/1.0 400 Bad Request\r\n\r\n",
        b"",
        SELECT_ANONYMOUS,
        SELECT_ANONYMOUS + b"\x05",
        SELECT_ANONYMOUS + b"\x04\x00",
        SELECT_ANONYMOUS + b"\x05\x00\x00\x05",
    ],
)
async def test_a_faulty_other_proxy_says_nothing_of_the_target(said):
    async with target() as other, proxy(policy=through(other.port)) as server:
        client = await server.connect()
        client.send(GREET_EXTENDED + pairs() + request("192.0.2.1", 80))
        end = await other.accept()
        end.send(said)
        end.close()
        assert (await client.read_to_end())[-10:] == b"\x05\x01" + ZEROS


@pytest.mark.parametrize("command", [CONNECT, RESOLVE])
async def test_another_proxy_that_refuses_connections_says_nothing_of_the_target(command):
    async with proxy(policy=through(free_port())) as server:
        assert await server.code("192.0.2.1", 80, command) == 1


async def test_another_proxy_whose_name_is_not_found_says_nothing_of_the_target():
    names = Names()
    with_names = ReactorWith(names=names)
    endpoint = HostnameEndpoint(with_names, "other.example", 1080)
    route = SOCKSRoute(reactor, endpoint, ClientMethods.of({"anonymous": ()}))
    async with proxy(policy=table(route)) as server:
        assert await server.code("192.0.2.1", 80) == 1
    assert names.asked == ["other.example"]


async def test_another_proxys_socket_that_is_not_there_says_nothing_of_the_target(tmp_path):
    route = route_from_string(reactor, f"socks:unix:{tmp_path}/nothing")
    async with proxy(policy=table(route)) as server:
        assert await server.code("192.0.2.1", 80) == 1


class Failing:
    """A way to another proxy that fails."""

    def __init__(self, error):
        self._error = error

    def connect(self, factory):
        return fail(self._error)


def through_one_that_fails(error):
    return table(SOCKSRoute(reactor, Failing(error), ClientMethods.of({"anonymous": ()})))


@pytest.mark.parametrize("error", [ConnectionLost(), NoRouteError(), ConnectError(), OSError(113, "no route to host")])
async def test_whatever_keeps_us_from_another_proxy_says_nothing_of_the_target(error):
    async with proxy(policy=through_one_that_fails(error)) as server:
        assert await server.code("192.0.2.1", 80) == 1


@pytest.mark.logs_errors
async def test_a_fault_on_the_way_to_another_proxy_is_logged(logged_errors):
    async with proxy(policy=through_one_that_fails(TypeError("secret.example"))) as server:
        assert await server.code("192.0.2.1", 80) == 1
    (event,) = logged_errors
    assert event["error"] == "TypeError"


async def test_a_login_that_the_other_proxy_refuses_is_not_the_clients_fault():
    methods = {"login": ("alice", "secret")}
    async with target() as other, proxy(policy=through(other.port, methods=methods)) as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request("192.0.2.1", 80))
        end = await other.accept()
        assert await end.read(3) == b"\x05\x01\x02"
        end.send(b"\x05\x02")
        credentials = login(b"alice", b"secret")
        assert await end.read(len(credentials)) == credentials
        end.send(b"\x01\x01")
        assert (await client.read_to_end())[-10:-8] == b"\x05\x01"


async def test_a_client_that_leaves_ends_the_conversation_with_the_other_proxy():
    async with target() as other, proxy(policy=through(other.port)) as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request("192.0.2.1", 80))
        end = await other.accept()
        await hear_request(end)
        client.abort()
        assert isinstance(await end.lost(), ConnectionLost)


async def test_an_abort_is_passed_on_through_two_proxies():
    async with target() as far, proxy() as other, proxy(policy=through(other.port)) as server:
        client, _, _ = await server.ask("127.0.0.1", far.port)
        end = await far.accept()
        client.abort()
        assert isinstance(await end.lost(), ConnectionLost)


# What a route may bring, and what its failures mean.


def test_a_base_for_routes_resolves_nothing():
    failed = []
    Route().resolve(None, None, None).addErrback(lambda failure: failed.append(failure.check(CommandNotSupported)))
    assert failed == [CommandNotSupported]
    with pytest.raises(NotImplementedError, match="Route"):
        Route().connect(None, None, None)


class Tunnel(StringTransport):
    """A transport that tells an IP address, and is no TCP connection."""

    protocol = None

    def loseWriteConnection(self):
        pass


async def test_a_transport_that_is_not_tcp_may_tell_an_ip_address():
    class ThroughATunnel:
        def connect(self, request, addresses, session):
            self.transport = Tunnel(hostAddress=IPv4Address("TCP", "192.0.2.5", 7))
            return succeed(self.transport)

    route = ThroughATunnel()
    async with proxy(policy=table(route)) as server:
        client, code, bound = await server.ask("192.0.2.1", 80)
        assert (code, bound) == (0, ("192.0.2.5", 7))
        client.send(b"question")
        await until(lambda: route.transport.value() == b"question")
        route.transport.protocol.dataReceived(b"answer")
        assert await client.read(6) == b"answer"
        route.transport.protocol.connectionLost(Failure(ConnectionLost()))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConnectionRefusedError(), 5),
        (ConnectionLost(), 5),
        (ConnectError(osError=104), 5),
        (ConnectionResetError(104, "reset"), 5),
        (NoRouteError(), 3),
        (ConnectError(osError=101), 3),
        (ConnectError(osError=113), 4),
        (OSError(113, "no route to host"), 4),
        (DNSLookupError(), 4),
        (UnknownHostError(), 4),
        (TimeoutError(), 6),
        (ConnectError(osError=110), 6),
        (ConnectError(osError=13), 2),
        (ConnectionNotAllowed(), 2),
        (ConnectError(osError=97), 8),
        (ConnectError(), 1),
        (ConnectError(osError=9999), 1),
        (ValueError(), 1),
        (None, 1),
    ],
)
def test_what_an_error_of_the_system_means(error, code):
    assert row_of(error).number == code
