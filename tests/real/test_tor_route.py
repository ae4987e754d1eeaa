"""
The route through real tor, in a private network: what clients of the server hear of every failure, and whose
streams share circuits.
"""

import os
import re
import time
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

import pytest
from examples.raw_peers import GREET_EXTENDED, RESOLVE, RESOLVE_PTR, pairs, proxy
from support.streams import COOKIE_IS_LEFT_OPEN
from support.targets import local, programs, talk_to
from support.tor_clients import (
    CLIENTS,
    EXACT_ROUTES,
    ask,
    at_once,
    code,
    codes,
    heard_as,
    isolated,
    routes_to,
    same,
    start_server,
    user,
)
from support.tornet import (
    CLOSED_PORT,
    ECHO_PORT,
    NOT_OFFERED_PORT,
    POINTERS,
    REFUSED_PORT,
    VERSION_2_ADDRESS,
    bad_checksum,
    never_published,
    socks,
)
from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from txsocksx_ext import Limits, errors
from txsocksx_ext.policy.rules import RuleSpec
from txsocksx_ext.policy.table import table_from_specs

pytestmark = pytest.mark.filterwarnings(COOKIE_IS_LEFT_OPEN)

FOUND_WITHIN = 5.0
"""Seconds in which a missing service has to be reported."""


@pytest.fixture(scope="module")
def servers(tor_network):
    """A server for each way to tor, as a program of its own: ``servers["control"].port``."""
    with programs() as start:
        yield {
            kind: start_server(start, route, "--connect-timeout=30")
            for kind, route in routes_to(tor_network.client).items()
        }


@pytest.fixture(params=["control", "extended", "unix", "plain"])
def kind(request):
    return request.param


@pytest.fixture
def server(servers, kind):
    return servers[kind]


def expected(kind, plain, extended, finer):
    """A plain port without its control port makes no claim to anybody."""
    return same(plain) if kind == "plain" else heard_as(plain, extended, finer)


# Every case, by a raw client through the server.


class TestThroughTheServer:
    def test_found(self, tor_network, server):
        def talk(client):
            with ask(server.port, client, tor_network.onion, ECHO_PORT) as answer:
                return answer.code == 0 and answer.echoes(os.urandom(50_000))

        assert at_once(*((talk, client) for client in CLIENTS)) == [True] * len(CLIENTS)

    def test_no_descriptor(self, server, kind):
        addresses = [never_published() for _ in CLIENTS]
        assert codes(server.port, addresses, ECHO_PORT) == expected(kind, 0x04, 0xE0, 0xF0)

    def test_no_descriptor_is_told_soon(self, server):
        def seconds():
            with ask(server.port, "97", never_published(), ECHO_PORT) as answer:
                return answer.seconds

        # On a busy machine, what takes half a second can take longer once.
        assert any(seconds() < FOUND_WITHIN for _ in range(3))

    @pytest.mark.parametrize(
        "address", [bad_checksum(), VERSION_2_ADDRESS, "abc.onion"], ids=["checksum", "version 2", "short"]
    )
    def test_bad_address(self, server, kind, address):
        assert codes(server.port, address, ECHO_PORT) == expected(kind, 0x01, 0xE0, 0xF6)

    def test_port_not_offered(self, tor_network, server):
        assert codes(server.port, tor_network.onion, NOT_OFFERED_PORT) == same(0x05)

    def test_closed_backend(self, tor_network, server):
        assert codes(server.port, tor_network.onion, CLOSED_PORT) == same(0x01)

    def test_client_authorization(self, tor_network, servers):
        client, address = tor_network.client, tor_network.locked_onion

        def heard(kind, name):
            # Each directory is asked once in some seconds; after the last one tor says 04, and begins anew.
            for _ in range(3):
                answer = code(servers[kind].port, name, address, ECHO_PORT)
                if answer not in (0x04, 0xE1):
                    break
            return answer

        try:
            for key, finer in ((None, 0xF4), (tor_network.wrong_key, 0xF5)):
                if key is not None:
                    client.add_key(address, key.private)
                for kind in EXACT_ROUTES:
                    assert heard(kind, "304") == finer, kind
                assert [heard("plain", name) for name in ("304", "plain")] == [0x01, 0x01]
                assert code(servers["control"].port, "97", address, ECHO_PORT) == 0xE1
            client.add_key(address, tor_network.right_key.private)
            opened = at_once(*((code, each.port, "97", address, ECHO_PORT) for each in servers.values()))
            assert opened == [0x00] * len(servers)
        finally:
            client.remove_key(address)

    def test_exits(self, tor_network, server):
        def talk(client):
            with ask(server.port, client, "echo.test", tor_network.servers.echo_port) as answer:
                return answer.code == 0 and answer.echoes()

        assert at_once(*((talk, client) for client in CLIENTS)) == [True] * len(CLIENTS)
        assert codes(server.port, "missing.test", 80) == same(0x04)
        assert codes(server.port, "127.0.0.1", REFUSED_PORT) == same(0x01)

    def test_resolve(self, server):
        def found(host, command):
            with ask(server.port, "97", host, 0, command) as answer:
                return answer.code, answer.bound

        address, name = next(iter(POINTERS.items()))
        assert found("echo.test", RESOLVE) == (0x00, "127.0.0.1")
        assert found(address, RESOLVE_PTR) == (0x00, name)
        # Tor answers these with an address of type 0.
        assert found("missing.test", RESOLVE) == (0x04, "0.0.0.0")
        assert found("203.0.113.9", RESOLVE_PTR) == (0x04, "0.0.0.0")
        assert found(never_published(), RESOLVE) == (0x04, "0.0.0.0")

    @pytest.mark.parametrize("kind", ["control", "unix"])
    def test_twenty_at_once_half_of_them_missing(self, tor_network, servers, kind):
        def talk(client, host):
            with ask(servers[kind].port, client, host, ECHO_PORT) as answer:
                return answer.code if answer.code else answer.echoes(os.urandom(1000))

        calls, wanted = [], []
        for client, missing in (("304", 0xF0), ("97", 0xE0), ("plain", 0x04), ("none", 0x04), ("304", 0xF0)):
            for _ in range(2):
                calls += [(talk, client, never_published()), (talk, client, tor_network.onion)]
                wanted += [missing, True]
        assert len(calls) == 20
        assert at_once(*calls) == wanted

    def test_f0_and_connected(self, tor_network, servers):
        """A directory did not know the service, another did: tor says F0, and connects."""
        for _ in range(15):
            address = tor_network.half_published_onion()
            with (
                tor_network.client.events("STREAM") as events,
                ask(servers["extended"].port, "97", address, ECHO_PORT) as answer,
            ):
                assert answer.code == 0x00
                assert answer.echoes()
                stream = events.wait_for("STREAM", "NEW", address).split()[1]
                if how_it_went(stream, events) == "FAILED":
                    return
        pytest.fail("every directory that was asked knew the service")


def how_it_went(stream, events):
    """``SUCCEEDED``, or ``FAILED``, as tor's events say."""
    deadline = time.monotonic() + 15
    while True:
        _, number, status, *_ = events.read(deadline).split()
        if number == stream and status in ("SUCCEEDED", "FAILED"):
            return status


# The same by our endpoint, through the server.


async def outcome(port, methods, host, target_port):
    """What becomes of one connection by our endpoint: an exception's class and code, or what was echoed."""
    asking = talk_to(host, target_port, local(port), methods)
    try:
        talker = await asking
    except errors.SOCKS5Error as error:
        # An abort closes the socket in the next turn.
        await deferLater(reactor, 0)
        return type(error), error.code
    talker.transport.write(b"hello")
    echoed = await talker.has_received(5)
    talker.transport.abortConnection()
    return echoed


ANONYMOUS, COARSE, FINE = {"anonymous": ()}, {"extended": {}}, {"extended": {"tor.errors": "304"}}


@pytest.mark.parametrize("kind", EXACT_ROUTES)
async def test_our_endpoint(tor_network, servers, kind):
    port, onion = servers[kind].port, tor_network.onion
    for methods in (ANONYMOUS, COARSE, FINE):
        assert await outcome(port, methods, onion, ECHO_PORT) == b"hello"
        assert await outcome(port, methods, onion, NOT_OFFERED_PORT) == (errors.ConnectionRefused, 0x05)
        assert await outcome(port, methods, onion, CLOSED_PORT) == (errors.GeneralServerFailure, 0x01)
    assert await outcome(port, ANONYMOUS, never_published(), 7) == (errors.HostUnreachable, 0x04)
    assert await outcome(port, COARSE, never_published(), 7) == (errors.OnionServiceNotFound, 0xE0)
    assert await outcome(port, FINE, never_published(), 7) == (errors.OnionDescriptorNotFound, 0xF0)
    assert await outcome(port, ANONYMOUS, bad_checksum(), 7) == (errors.GeneralServerFailure, 0x01)
    assert await outcome(port, COARSE, bad_checksum(), 7) == (errors.OnionServiceNotFound, 0xE0)
    assert await outcome(port, FINE, bad_checksum(), 7) == (errors.OnionAddressInvalid, 0xF6)


# A service that dies.


@asynccontextmanager
async def servers_inside(routes, deadline):
    """Servers in this process, by the names of their routes, that give a target so many seconds."""
    async with AsyncExitStack() as stack:
        servers = {}
        for name, route in routes.items():
            table = table_from_specs(reactor, [RuleSpec.of(f"*={route}")])
            service = table.routes[0].service
            service.startService()
            stack.push_async_callback(service.stopService)
            servers[name] = await stack.enter_async_context(
                proxy(policy=table, limits=Limits(connect_timeout=deadline))
            )
            for control in service:
                while not control.is_live:
                    await deferLater(reactor, 0.02)
        yield servers


class TestMortalService:
    async def test_stopped(self, tor_network):
        """Tor itself would let everybody wait for 120 seconds."""
        await deferToThread(tor_network.revive_service)
        address = await deferToThread(tor_network.stop_service)
        deadline = 3
        try:
            # A busy machine may need longer than the deadline for this.
            await deferToThread(tor_network.client.fetch_descriptor, address)
            async with servers_inside(routes_to(tor_network.client), deadline) as servers:
                begun = time.monotonic()
                heard = await gatherResults(
                    [deferToThread(codes, each.port, address, ECHO_PORT) for each in servers.values()]
                )
                assert time.monotonic() - begun < deadline + 10
        finally:
            await deferToThread(tor_network.continue_service)
        heard = dict(zip(servers, heard, strict=True))
        for kind in ("control", "unix"):
            assert heard[kind].pop("304") in (0xF3, 0xE1)
            assert heard[kind] == {"plain": 0x06, "97": 0xE1, "none": 0x06}, kind
        # Without events it is not known whether tor has asked any directory.
        for kind in ("plain", "extended"):
            assert heard[kind] == same(0x06), kind

    async def test_killed(self, tor_network, servers):
        await deferToThread(tor_network.revive_service)
        address = await deferToThread(tor_network.kill_service)
        for kind in EXACT_ROUTES:
            for _ in range(3):
                heard = await deferToThread(codes, servers[kind].port, address, ECHO_PORT)
                # Tor says 04, and no more, where it has asked every directory just now.
                if heard["97"] != 0x04 or kind != "extended":
                    break
            # Tor has the descriptor, and need not ask for it: then there is no event that tells more than E1.
            assert heard.pop("304") in (0xF2, 0xE1)
            assert heard == {"plain": 0x04, "97": 0xE1, "none": 0x04}, kind
        assert await deferToThread(codes, servers["plain"].port, address, ECHO_PORT) == same(0x04)
        through = await outcome(servers["control"].port, COARSE, address, ECHO_PORT)
        assert through == (errors.OnionServiceNotReachable, 0xE1)


# Whose streams share circuits, as tor's own events show it.


class Circuits:
    """
    Which circuit each stream to the echo server takes; only one stream at a time may go there.

    :ivar names: what tor was told of each: the user name and the password in its first event.
    """

    def __init__(self, network, events):
        self._network = network
        self._events = events
        self.names = []

    def of(self, port, client):
        """The circuit of one stream of a client of ours, which has ended then."""
        with ask(port, client, "echo.test", self._network.servers.echo_port) as answer:
            assert answer.code == 0
            assert answer.echoes()
        return self.next()

    def next(self):
        """The circuit of the next stream."""
        deadline = time.monotonic() + 15
        target = f"echo.test:{self._network.servers.echo_port}"
        words = self._until(deadline, "STREAM", None, "NEW", None, target)
        self.names.append(tuple(re.findall(r'SOCKS_(?:USERNAME|PASSWORD)="([^"]*)"', " ".join(words))))
        circuit = self._until(deadline, "STREAM", words[1], "SUCCEEDED")[3]
        self._until(deadline, "STREAM", words[1], "CLOSED")
        return circuit

    def _until(self, deadline, *words):
        while True:
            line = self._events.read(deadline, " ".join(map(str, words))).split()
            if all(word in (None, seen) for word, seen in zip(words, line, strict=False)):
                return line


@pytest.fixture(scope="module")
def steady_client(tor_network):
    """A tor that keeps streams on the circuit that they began with: without Conflux, which it likes better."""
    client = tor_network.add_client("ConfluxEnabled 0")
    yield client
    client.remove()


@contextmanager
def circuits_of(network, client):
    with client.events("STREAM") as events:
        yield Circuits(network, events)


def tokens_of_circuits(client):
    """By the number of each circuit that stands, the password of the streams that it is for."""
    words = [line.split() for line in client.control.info("circuit-status").splitlines()]
    return {
        line[0]: next((word.split('"')[1] for word in line if word.startswith("SOCKS_PASSWORD=")), None)
        for line in words
        if line[1] == "BUILT"
    }


class TestIsolation:
    def test_through_the_server(self, tor_network, steady_client):
        client = steady_client
        route = routes_to(client)["control"]
        clients = {
            "nobody": "plain",
            "alice": user(b"alice"),
            "alice by 97": (GREET_EXTENDED, pairs((b"USERNAME", b"alice"), (b"PASSWD", b"word"))),
            "alice's other password": user(b"alice", b"else"),
            "bob": user(b"bob"),
            "diary": isolated(b"diary"),
            "shop": isolated(b"shop"),
            "alice's diary": (
                GREET_EXTENDED,
                pairs((b"USERNAME", b"alice"), (b"PASSWD", b"word"), (b"tor.isolation", b"diary")),
            ),
        }
        with circuits_of(tor_network, client) as circuits, programs() as start:
            server = start_server(start, route)
            took = {name: circuits.of(server.port, each) for name, each in clients.items()}
            assert {name: circuits.of(server.port, each) for name, each in clients.items()} == took
            # One user is the same by whichever method it comes.
            assert took.pop("alice by 97") == took["alice"]
            assert len(set(took.values())) == len(took)
            # Clients that say nothing of themselves get what tor gives to all such clients.
            with socks.request(client.plain_port, "echo.test", tor_network.servers.echo_port) as answer:
                assert answer.echoes()
            assert circuits.next() == took["nobody"]
            told = circuits.names
            standing = tokens_of_circuits(client)
            tokens = {name: standing[took[name]] for name in took}
            assert tokens.pop("nobody") is None
            assert all(tokens.values())
            assert len(set(tokens.values())) == len(tokens)
            server.stop()
            again = start_server(start, route)
            after = {name: circuits.of(again.port, clients[name]) for name in took}
            assert after["nobody"] == took["nobody"]
            assert not {took[name] for name in tokens} & {after[name] for name in tokens}
            assert len({after[name] for name in tokens}) == len(tokens)
            standing = tokens_of_circuits(client)
            assert not set(tokens.values()) & {standing[after[name]] for name in tokens}
        # What tor is told gives nobody away.
        assert told[0] == ()
        assert {names[0] for names in told if names} == {"<torS0X>0"}
        text = str(told)
        assert not any(word in text for word in ("alice", "bob", "word", "else", "diary", "shop"))

    async def test_two_servers_on_one_tor_keep_their_clients_apart(self, tor_network, steady_client):
        """Each makes its own tokens: nobody gets onto another's circuits by taking his name."""
        client = steady_client
        with circuits_of(tor_network, client) as circuits, programs() as start:

            def took():
                servers = [start_server(start, routes_to(client)["plain"]) for _ in range(2)]
                return [circuits.of(each.port, user(b"alice")) for each in servers]

            first, second = await deferToThread(took)
        assert first != second
