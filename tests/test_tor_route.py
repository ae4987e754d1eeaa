"""
The route through tor, with a scripted tor on a loopback socket: what it is asked, and what clients hear of it.
"""

from collections import Counter
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
from examples.raw_peers import (
    GREET_ANONYMOUS,
    GREET_EXTENDED,
    GREET_LOGIN,
    RESOLVE,
    RESOLVE_PTR,
    Peer,
    ReactorWith,
    login,
    pairs,
    proxy,
    request,
    turn,
    until,
)
from support.programs import free_port
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.endpoints import clientFromString, serverFromString
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock

from txsocksx_ext import Limits, RouteTable, route_from_string
from txsocksx_ext.route.tor import TorRoute
from txsocksx_ext.server.rules import table_from_strings
from txsocksx_ext.tor import instance as instance_module
from txsocksx_ext.tor.control import ControlConnection
from txsocksx_ext.tor.events import parse_descriptor_event, parse_stream_event
from txsocksx_ext.tor.instance import PASSED_OVER_FOR, TorInstance
from txsocksx_ext.tor.isolation import IsolationTokens

SERVICE = "oufiwc7giqrrjlb5zhg7vr3jtqxgbwns5ner577ncb6jxnhh2kvr7kqd"
ONION = f"{SERVICE}.onion"
PROBE = "invalid.onion"
ZEROS = b"\x00\x01\x00\x00\x00\x00\x00\x00"
ZEROS_IPV6 = b"\x00\x04" + b"\x00" * 18
DOUBT = 1.0
FOUND = b"\x05\x00" + ZEROS


def reply(code, rest=ZEROS):
    return bytes((5, code)) + rest


class FakeTor:
    """
    A tor that answers what a test wants.

    :param answer: called with each connection and the name that was asked for; a coroutine.
    :ivar asked: the names, in their order.
    :ivar said: what came before the request, connection by connection.
    """

    def __init__(self, answer):
        self.answer = answer
        self.answer_to_login = b"\x01\x00"
        self.asked = []
        self.said = []
        self.connections = []
        self._served = []

    def buildProtocol(self, addr):
        peer = Peer()
        self.connections.append(peer)
        reactor.callLater(0, self._begin, peer)
        return peer

    def _begin(self, peer):
        self._served.append(Deferred.fromCoroutine(self._serve(peer)))

    async def _serve(self, peer):
        greeting = await peer.read(2)
        if len(greeting) < 2:
            return
        greeting += await peer.read(greeting[1])
        credentials = b""
        if 2 in greeting[2:]:
            peer.send(b"\x05\x02")
            credentials = await peer.read(2)
            credentials += await peer.read(credentials[1] + 1)
            credentials += await peer.read(credentials[-1])
            peer.send(self.answer_to_login)
        else:
            peer.send(b"\x05\x00")
        self.said.append((greeting, credentials))
        head = await peer.read(4)
        if len(head) < 4:
            return
        length = (await peer.read(1))[0] if head[3] == 3 else {1: 4, 4: 16}[head[3]]
        host = (await peer.read(length)).decode("latin-1")
        await peer.read(2)
        self.asked.append(host)
        await self.answer(peer, host)

    @property
    def tokens(self):
        """The password of each connection, or ``None`` where there was none."""
        return [credentials[12:] or None for _, credentials in self.said]

    async def stop(self):
        for peer in self.connections:
            if peer.reason is None:
                peer.abort()
                await peer.lost()


@asynccontextmanager
async def fake_tor(answer, listen="tcp:0:interface=127.0.0.1"):
    """A `FakeTor` that listens: with ``port``, and ``stop_listening()``."""
    tor = FakeTor(answer)
    factory = Factory()
    factory.noisy = False
    factory.buildProtocol = tor.buildProtocol
    listening = await serverFromString(reactor, listen).listen(factory)
    tor.port = getattr(listening.getHost(), "port", None)
    tor.stop_listening = listening.stopListening
    try:
        yield tor
    finally:
        await maybeDeferred(listening.stopListening)
        await tor.stop()


def saying(data, *, closes=True):
    """An answer: these bytes, and the end."""

    async def answer(peer, host):
        peer.send(data)
        if closes:
            peer.close()

    return answer


async def silent(peer, host):
    """No answer."""


def endless_echo(first=FOUND):
    """A stream: the reply, then all that comes sent back."""

    async def answer(peer, host):
        peer.send(first)
        while data := await peer.read(1):
            peer.send(data)
        peer.close()

    return answer


def table(route):
    return RouteTable((), route)


def through(*tors, extended=None, control=None, time=reactor):
    """A route through these scripted tors."""
    return TorRoute(
        [
            TorInstance(
                time, clientFromString(reactor, f"tcp:127.0.0.1:{tor.port}"), control, extended, name=str(number)
            )
            for number, tor in enumerate(tors)
        ],
        IsolationTokens(),
    )


@asynccontextmanager
async def behind(answer, *, seconds=30.0, **options):
    """A scripted tor, and a server whose way out it is, and which gives it so many seconds."""
    async with (
        fake_tor(answer) as tor,
        proxy(routes=table(through(tor, **options)), limits=Limits(connect_timeout=seconds)) as server,
    ):
        yield tor, server


GREETINGS = {
    "plain": (GREET_ANONYMOUS, b""),
    "97": (GREET_EXTENDED, pairs()),
    "304": (GREET_EXTENDED, pairs((b"tor.errors", b"304"))),
    "none": (GREET_EXTENDED, pairs((b"tor.errors", b"none"))),
}
"""Clients, by what they ask for: what they say before their request."""


async def hear(server, client, host=ONION, port=80, command=1):
    """One client's end, and the code that it hears."""
    greeting, authentication = GREETINGS[client]
    peer = await server.connect()
    peer.send(greeting)
    await peer.read(2)
    if authentication:
        peer.send(authentication)
        answer = await peer.read(4)
        assert answer[:2] == b"\x01\x00"
        for _ in range(answer[3]):
            for _ in range(2):
                await peer.read(int.from_bytes(await peer.read(2), "big"))
    peer.send(request(host, port, command))
    code, _ = await peer.read_reply()
    return peer, code


async def codes(server, host=ONION):
    """What each kind of client hears."""
    hearings = {client: Deferred.fromCoroutine(hear(server, client, host)) for client in GREETINGS}
    heard = {}
    for client, hearing in hearings.items():
        peer, heard[client] = await hearing
        peer.close()
        await peer.lost()
    return heard


def same(code):
    return dict.fromkeys(GREETINGS, code)


def heard_as(plain, extended, finer):
    return {"plain": plain, "97": extended, "304": finer, "none": plain}


# Descriptions.


@pytest.mark.parametrize(
    "description",
    ["tor:127.0.0.1:{port}", "tor:tcp:127.0.0.1:{port}", "tor:tcp\\:127.0.0.1\\:{port}", "tor:localhost:{port}"],
)
async def test_the_ways_to_write_the_endpoint(description):
    async with fake_tor(endless_echo()) as tor:
        route = route_from_string(reactor, description.format(port=tor.port))
        async with proxy(routes=table(route)) as server:
            assert await server.code("target.example", 80) == 0
    assert tor.asked == ["target.example"]


@pytest.mark.parametrize("description", ["tor:unix:{path}", "tor:unix\\:{path}"])
async def test_tor_may_be_on_a_unix_socket(description, tmp_path):
    async with fake_tor(endless_echo(), listen=f"unix:{tmp_path}/tor") as tor:
        route = route_from_string(reactor, description.format(path=tmp_path / "tor"))
        async with proxy(routes=table(route)) as server:
            assert await server.code("target.example", 80) == 0
    assert tor.asked == ["target.example"]


@pytest.mark.parametrize(
    ("description", "told"),
    [
        ("tor", "SOCKS port"),
        ("tor:9050", "9050"),
        ("tor:nonsense\\:127.0.0.1\\:9050", "nonsense"),
        ("tor:127.0.0.1:9050:extended=maybe", "extended is yes or no"),
        ("tor:127.0.0.1:9050:controls=tcp\\:127.0.0.1\\:9051", "does not know controls; it knows control"),
        ("tor:127.0.0.1:9050:control=nonsense\\:9051", "nonsense"),
        ("tor:127.0.0.1:9050:control=tcp\\:127.0.0.1\\:9051,tcp\\:127.0.0.1\\:9052", "1 SOCKS ports and 2 control"),
        ("tor:tcp\\:127.0.0.1\\:1:tcp\\:127.0.0.1\\:2:control=tcp\\:127.0.0.1\\:3", "2 SOCKS ports and 1 control"),
        ("tor:127.0.0.1:9050:control-password-file=/nowhere", "together with control"),
        ("tor:127.0.0.1:9050:control=tcp\\:127.0.0.1\\:9051:control-password-file=/nowhere", "/nowhere: No such file"),
        ("tor:launch:extended=yes", "tor:launch does not know extended; it knows exec, state, torrc"),
        ("tor:launch:control=tcp\\:127.0.0.1\\:9051", "tor:launch does not know control"),
    ],
)
def test_what_is_wrong_with_a_description_is_said(description, told):
    with pytest.raises(ValueError, match=r"^the rule for \*\.onion: ") as caught:
        table_from_strings(reactor, [f"*.onion={description}"])
    assert told in str(caught.value)


def test_an_empty_password_file_is_named(tmp_path):
    (tmp_path / "password").write_bytes(b"\n")
    with pytest.raises(ValueError, match="is empty"):
        route_from_string(
            reactor, f"tor:127.0.0.1:1:control=tcp\\:127.0.0.1\\:2:control-password-file={tmp_path}/password"
        )


def test_a_route_without_control_ports_has_nothing_to_run_and_one_with_them_has_each():
    assert list(route_from_string(reactor, "tor:127.0.0.1:1").service) == []
    two = "tor:tcp\\:127.0.0.1\\:1:tcp\\:127.0.0.1\\:2:control=tcp\\:127.0.0.1\\:3,unix\\:/nowhere"
    assert len(list(route_from_string(reactor, two).service)) == 2
    assert len(list(route_from_string(reactor, "tor:launch").service)) == 1


# What tor is asked.


async def test_a_client_that_says_nothing_of_itself_comes_to_tor_as_it_is():
    async with behind(endless_echo()) as (tor, server):
        for client in GREETINGS:
            peer, code = await hear(server, client, "target.example")
            assert code == 0
            peer.close()
            await peer.lost()
    assert tor.said == [(GREET_ANONYMOUS, b"")] * len(GREETINGS)


async def test_tokens_go_by_tors_own_format():
    async with behind(endless_echo()) as (tor, server):
        said = [
            (GREET_LOGIN, login(b"alice", b"word")),
            (GREET_LOGIN, login(b"alice", b"word")),
            (GREET_LOGIN, login(b"bob", b"word")),
            (GREET_EXTENDED, pairs((b"tor.isolation", b"diary"))),
            (GREET_EXTENDED, pairs((b"USERNAME", b"alice"), (b"PASSWD", b"word"))),
            (GREET_EXTENDED, pairs((b"?tor.isolation", b"diary"))),
        ]
        for greeting, authentication in said:
            peer = await server.connect()
            peer.send(greeting)
            await peer.read(2)
            peer.send(authentication)
            await peer.read(2 if greeting is GREET_LOGIN else 4)
            peer.send(request("target.example", 80))
            assert (await peer.read_reply())[0] == 0
    alice, again, bob, diary, by_pairs, optional = tor.tokens
    assert alice == again == by_pairs
    assert diary == optional
    assert len({alice, bob, diary}) == 3
    for greeting, credentials in tor.said:
        assert greeting == GREET_LOGIN
        # RFC 1929: version, the name of tor's format, and 64 characters that give nothing away.
        assert credentials[:12] == b"\x01\x09<torS0X>0\x40"
        assert len(credentials) == 12 + 64
        assert not any(word in credentials for word in (b"alice", b"bob", b"word", b"diary"))


async def test_all_routes_of_a_process_keep_the_same_clients_together():
    async with fake_tor(endless_echo()) as tor:
        first, second = (route_from_string(reactor, f"tor:127.0.0.1:{tor.port}") for _ in range(2))
        async with proxy(routes=table(first)) as one, proxy(routes=table(second)) as other:
            for server in (one, other):
                peer = await server.connect()
                peer.send(GREET_LOGIN)
                await peer.read(2)
                peer.send(login(b"alice", b"word"))
                await peer.read(2)
                peer.send(request("target.example", 80))
                assert (await peer.read_reply())[0] == 0
    assert len(set(tor.tokens)) == 1


async def test_names_are_handed_on_as_they_came():
    async with behind(endless_echo()) as (tor, server):
        for host in ("Target.Example", f"www.{ONION.upper()}", "localhost"):
            assert await server.code(host, 80) == 0
    assert [host for host in tor.asked if host != PROBE] == ["Target.Example", f"www.{ONION.upper()}", "localhost"]


async def test_data_that_comes_with_tors_reply_reaches_the_client():
    async with behind(endless_echo(FOUND + b"220 hello")) as (_, server):
        peer, code = await hear(server, "97", "target.example")
        assert code == 0
        assert await peer.read(9) == b"220 hello"
        peer.send(b"and back")
        assert await peer.read(8) == b"and back"


# Look-ups.


async def test_resolve_and_resolve_ptr_pass_through():
    address = b"\x00\x01" + bytes((192, 0, 2, 7)) + b"\x00\x00"
    name = b"\x00\x03\x0btarget.test\x00\x00"
    async with behind(saying(b"\x05\x00" + address)) as (tor, server):
        assert (await server.ask("target.test", 0, RESOLVE))[1:] == (0, ("192.0.2.7", 0))
        tor.answer = saying(b"\x05\x00" + name)
        assert (await server.ask("192.0.2.7", 0, RESOLVE_PTR))[1:] == (0, ("target.test", 0))
    assert tor.asked == ["target.test", "\xc0\x00\x02\x07"]


@pytest.mark.parametrize("host", ["missing.test", ONION])
@pytest.mark.parametrize("control", [False, True])
async def test_a_look_up_that_fails_comes_with_address_type_0(host, control):
    failure = b"\x05\x04\x00\x00" + b"\x00" * 6
    async with fake_tor(saying(failure)) as tor:
        route = through(tor, control=events() if control else None)
        async with proxy(routes=table(route)) as server:
            for client in GREETINGS:
                peer, code = await hear(server, client, host, 0, RESOLVE)
                assert code == 4
                assert await peer.read_to_end() == b""
    # A look-up of an onion fails always: there is nothing to find out about.
    assert PROBE not in tor.asked


# Failures without a control port: what tor says decides.


RFC_1928 = {code: same(code) for code in range(1, 9)}
EXTENDED_ERRORS = {
    0xF0: heard_as(4, 0xE0, 0xF0),
    0xF1: heard_as(4, 0xE1, 0xF1),
    0xF2: heard_as(4, 0xE1, 0xF2),
    0xF3: heard_as(6, 0xE1, 0xF3),
    0xF4: heard_as(1, 0xE1, 0xF4),
    0xF5: heard_as(1, 0xE1, 0xF5),
    0xF6: heard_as(1, 0xE0, 0xF6),
    0xF7: heard_as(4, 0xE1, 0xF7),
}
NO_CODES_OF_TORS = {code: same(1) for code in (0x09, 0x5A, 0xF8, 0xFF)}


async def test_every_code_of_a_port_with_extended_errors():
    async with behind(silent, extended=True) as (tor, server):
        for code, expected in {**RFC_1928, **EXTENDED_ERRORS, **NO_CODES_OF_TORS}.items():
            if code == 6:
                # Tor waited in vain for a service that it may have found.
                expected = heard_as(6, 0xE1, 0xE1)
            tor.answer = saying(reply(code))
            assert await codes(server) == expected, f"{code:02X}"


async def test_every_code_of_a_plain_port():
    async with behind(silent, extended=False) as (tor, server):
        for code, expected in {**RFC_1928, **NO_CODES_OF_TORS}.items():
            tor.answer = saying(reply(code, ZEROS_IPV6))
            assert await codes(server) == expected, f"{code:02X}"


async def test_a_time_out_of_another_target_is_not_an_onion_services():
    async with behind(saying(reply(6)), extended=True) as (_, server):
        assert await codes(server, "target.example") == same(6)


async def test_a_login_that_tor_refuses():
    async with behind(silent, extended=True) as (tor, server):
        # As tor does with names of a format that it does not know.
        tor.answer_to_login = b"\x05\x01" + ZEROS
        peer = await server.connect(GREET_LOGIN)
        await peer.read(2)
        peer.send(login(b"alice", b"word"))
        await peer.read(2)
        peer.send(request(ONION, 80))
        assert (await peer.read_reply())[0] == 1
    assert tor.asked == []


# F0 and connected: an ExtendedErrors port can say that it failed when it did not.


@pytest.mark.parametrize("rest", [ZEROS, ZEROS_IPV6])
@pytest.mark.parametrize("length", [2, 4, 9, 10, 22])
async def test_f0_and_the_end_is_a_failure_however_much_of_it_came(rest, length):
    async with behind(saying(reply(0xF0, rest)[:length]), extended=True) as (_, server):
        assert await codes(server) == heard_as(4, 0xE0, 0xF0)


@pytest.mark.parametrize("rest", [ZEROS, ZEROS_IPV6])
async def test_f0_without_an_end_is_a_stream(rest):
    clock = Clock()
    async with fake_tor(endless_echo(reply(0xF0, rest))) as tor:
        route = through(tor, extended=True, time=ReactorWith(clock=clock))
        async with proxy(routes=table(route)) as server:
            for client in GREETINGS:
                hearing = Deferred.fromCoroutine(hear(server, client))
                await until(clock.getDelayedCalls)
                assert not hearing.called
                clock.advance(DOUBT)
                peer, code = await hearing
                assert code == 0
                peer.send(b"hello")
                assert await peer.read(5) == b"hello"


async def test_data_after_f0_is_the_streams_and_ends_the_doubt():
    clock = Clock()
    async with fake_tor(endless_echo(reply(0xF0) + b"220 hello")) as tor:
        route = through(tor, extended=True, time=ReactorWith(clock=clock))
        async with proxy(routes=table(route)) as server:
            peer, code = await hear(server, "97")
            assert code == 0
            assert await peer.read(9) == b"220 hello"
            peer.send(b"and back")
            assert await peer.read(8) == b"and back"
        assert not clock.getDelayedCalls()


async def test_data_and_the_end_after_f0_are_the_streams_too():
    async with behind(saying(reply(0xF0) + b"a whole answer"), extended=True) as (_, server):
        peer, code = await hear(server, "97")
        assert code == 0
        assert await peer.read_to_end() == b"a whole answer"


@pytest.mark.parametrize("length", [2, 4, 9])
async def test_a_part_of_f0_without_an_end_is_no_stream(length):
    clock = Clock()
    async with fake_tor(saying(reply(0xF0)[:length], closes=False)) as tor:
        route = through(tor, extended=True, time=ReactorWith(clock=clock))
        async with proxy(routes=table(route)) as server:
            hearing = Deferred.fromCoroutine(hear(server, "97"))
            await until(clock.getDelayedCalls)
            clock.advance(DOUBT)
            assert (await hearing)[1] == 0xE0
        await tor.connections[0].lost()


async def test_f0_after_which_the_client_leaves():
    clock = Clock()
    async with fake_tor(endless_echo(reply(0xF0))) as tor:
        route = through(tor, extended=True, time=ReactorWith(clock=clock))
        async with proxy(routes=table(route)) as server:
            peer = await server.connect(GREET_ANONYMOUS)
            await peer.read(2)
            peer.send(request(ONION, 80))
            await until(clock.getDelayedCalls)
            peer.abort()
            await tor.connections[0].lost()
        assert not clock.getDelayedCalls()


@pytest.mark.parametrize("code", range(0xF1, 0xF8))
async def test_other_codes_are_believed_at_once(code):
    clock = Clock()
    async with fake_tor(saying(reply(code), closes=False)) as tor:
        route = through(tor, extended=True, time=ReactorWith(clock=clock))
        async with proxy(routes=table(route)) as server:
            assert (await hear(server, "304"))[1] == code


# Failures with a control port: events decide.


def events(bootstrapped=True, *, client_key=False):
    """A control connection that stands, whose events a test makes."""
    control = ControlConnection(reactor, None, "the scripted tor")

    def queue_command(command):
        assert command == f"ONION_CLIENT_AUTH_VIEW {SERVICE}"
        keys = f"CLIENT {SERVICE} x25519:key\n" if client_key else ""
        return succeed(f"ONION_CLIENT_AUTH_VIEW {SERVICE}\n{keys}OK")

    control.tor = SimpleNamespace(protocol=SimpleNamespace(queue_command=queue_command))
    control.witness.bootstrapped = bootstrapped
    return control


class EventfulTor:
    """
    Answers as a plain port does, and tells what happens by a control connection.

    :param descriptors: ``RECEIVED``, or the reasons of directories that do not have it.
    :param events_first: whether the events come before the reply, or after it.
    """

    def __init__(self, control, code, *descriptors, ending="REASON=RESOLVEFAILED", circuit=0, events_first=True):
        self.control = control
        self._code = code
        self._descriptors = descriptors
        self._ending = ending
        self._circuit = circuit
        self._events_first = events_first
        self._streams = 0

    async def __call__(self, peer, host):
        self._streams += 1
        number, target = self._streams, f"{host}:80"
        source = f"127.0.0.1:{peer.transport.getPeer().port}"
        self.say(f"{number} NEW 0 {target} SOURCE_ADDR={source} PURPOSE=USER")
        if not self._events_first:
            peer.send(reply(self._code))
            await turn(3)
        for action in self._descriptors:
            self.describe(host, action)
        for status in ("FAILED", "CLOSED"):
            self.say(f"{number} {status} {self._circuit} {target} {self._ending}")
        if self._events_first:
            await turn(3)
            peer.send(reply(self._code))
        peer.close()

    def say(self, line):
        self.control.witness.saw_stream(parse_stream_event(line))

    def describe(self, host, action):
        word, reason = ("RECEIVED", "") if action == "RECEIVED" else ("FAILED", f" REASON={action}")
        line = f"{word} {host.removesuffix('.onion')} NO_AUTH $00~r key{reason}"
        self.control.witness.saw_descriptor(parse_descriptor_event(line))


EVENTS = {
    "not found": (4, ["NOT_FOUND"] * 6, {}, heard_as(4, 0xE0, 0xF0)),
    "introduction failed": (4, ["NOT_FOUND", "RECEIVED"], {}, heard_as(4, 0xE1, 0xF2)),
    "unusable descriptor": (4, ["NOT_FOUND", "BAD_DESC"], {}, heard_as(4, 0xE1, 0xE1)),
    "no event of a directory": (4, [], {}, heard_as(4, 0xE1, 0xE1)),
    "client authorization": (1, ["RECEIVED"], {"ending": "REASON=MISC"}, heard_as(1, 0xE1, 0xF4)),
    "time-out": (6, ["RECEIVED"], {"ending": "REASON=TIMEOUT"}, heard_as(6, 0xE1, 0xF3)),
    "cannot attach": (1, ["RECEIVED"], {"ending": "REASON=CANT_ATTACH"}, heard_as(1, 0xE1, 0xF3)),
    "malformed address": (1, [], {"ending": "REASON=TORPROTOCOL"}, heard_as(1, 0xE0, 0xF6)),
    "port not offered": (5, ["RECEIVED"], {"ending": "REASON=END REMOTE_REASON=DONE", "circuit": 31}, same(5)),
    "backend closed": (1, ["RECEIVED"], {"ending": "REASON=END REMOTE_REASON=MISC", "circuit": 31}, same(1)),
    "no network": (3, [], {"ending": "REASON=NET_UNREACHABLE"}, same(3)),
    "policy": (2, [], {"ending": "REASON= UNKNOWN_264"}, same(2)),
}


@pytest.mark.parametrize("events_first", [True, False])
@pytest.mark.parametrize("case", EVENTS)
async def test_events_tell_more_than_tors_reply(case, events_first):
    code, descriptors, ending, expected = EVENTS[case]
    control = events()
    answer = EventfulTor(control, code, *descriptors, events_first=events_first, **ending)
    async with behind(answer, control=control, extended=False) as (_, server):
        assert await codes(server) == expected


async def test_a_key_that_tor_has_and_the_service_does_not_take():
    control = events(client_key=True)
    answer = EventfulTor(control, 1, "RECEIVED", ending="REASON=MISC")
    async with behind(answer, control=control, extended=False) as (_, server):
        assert await codes(server) == heard_as(1, 0xE1, 0xF5)


@pytest.mark.parametrize("gone", [False, True])
async def test_a_tor_that_does_not_show_its_keys(gone):
    control = events()

    def queue_command(command):
        if gone:
            control.tor = None
        raise RuntimeError("unrecognized command")

    control.tor.protocol.queue_command = queue_command
    answer = EventfulTor(control, 1, "RECEIVED", ending="REASON=MISC")
    async with behind(answer, control=control, extended=False) as (_, server):
        assert (await hear(server, "304"))[1] == 0xF4


async def test_nothing_is_claimed_where_a_reply_comes_without_any_event(monkeypatch):
    monkeypatch.setattr(instance_module, "EVENTS_FOLLOW_WITHIN", 0.05)
    async with behind(saying(reply(4)), control=events(), extended=False) as (_, server):
        assert await codes(server) == same(4)


async def test_nothing_is_claimed_while_there_is_no_control_connection():
    control = events()
    control.tor = None
    async with behind(saying(reply(4)), control=control, extended=False) as (_, server):
        assert await codes(server) == same(4)


async def test_the_control_connection_is_lost_while_we_wait_for_its_events(monkeypatch):
    monkeypatch.setattr(instance_module, "EVENTS_FOLLOW_WITHIN", 0.1)
    control = events()

    async def answer(peer, host):
        say = EventfulTor(control, 4)
        say.say(f"1 NEW 0 {host}:80 SOURCE_ADDR=127.0.0.1:{peer.transport.getPeer().port} PURPOSE=USER")
        say.describe(host, "NOT_FOUND")
        peer.send(reply(4))
        await turn(2)
        control.tor = None
        control.witness.forget()
        say.say(f"1 CLOSED 0 {host}:80 REASON=RESOLVEFAILED")
        peer.close()

    async with behind(answer, control=control, extended=False) as (_, server):
        assert (await hear(server, "97"))[1] == 4


async def test_other_targets_wait_for_no_events():
    async with behind(saying(reply(4)), control=events()) as (tor, server):
        assert await codes(server, "target.example") == same(4)
        assert tor.asked == ["target.example"] * len(GREETINGS)


async def test_many_clients_at_once_get_their_own_answers():
    control = events()
    answers = {
        "missing": EventfulTor(control, 4, "NOT_FOUND"),
        "dead": EventfulTor(control, 4, "RECEIVED", events_first=False),
        "locked": EventfulTor(control, 1, "RECEIVED", ending="REASON=MISC"),
        "open": None,
    }
    expected = {"missing": 0xF0, "dead": 0xF2, "locked": 0xF4, "open": 0}
    numbers = iter(range(1, 10_000))

    async def answer(peer, host):
        kind = host.partition("2")[0]
        if answers[kind] is None:
            peer.send(FOUND)
            return
        answers[kind]._streams = next(numbers) * 10
        await answers[kind](peer, host)

    async with behind(answer, control=control, extended=False) as (_, server):
        hosts = [f"{kind}2{number}.onion" for number in range(15) for kind in expected]
        hearings = [Deferred.fromCoroutine(hear(server, "304", host)) for host in hosts]
        heard = [(await each)[1] for each in hearings]
    assert heard == [expected[host.partition("2")[0]] for host in hosts]


async def test_a_client_that_leaves_takes_its_stream_along():
    control = events()
    async with behind(silent, control=control, extended=False) as (tor, server):
        peer = await server.connect(GREET_ANONYMOUS)
        await peer.read(2)
        peer.send(request(ONION, 80))
        await until(lambda: tor.asked)
        peer.abort()
        await tor.connections[0].lost()


# The end of the time.


SHORT = 0.3


async def test_a_plain_port_that_never_answers_leaves_it_at_06():
    async with behind(silent, extended=False, seconds=SHORT) as (tor, server):
        assert await codes(server) == same(6)
        for each in tor.connections:
            await each.lost()


async def test_a_port_with_extended_errors_that_never_answers():
    async with behind(silent, extended=True, seconds=SHORT) as (_, server):
        assert await codes(server) == heard_as(6, 0xE1, 0xE1)
        assert await codes(server, "target.example") == same(6)


@pytest.mark.parametrize(
    ("bootstrapped", "descriptors", "expected"),
    [
        (True, [], heard_as(6, 0xE1, 0xE1)),
        (True, ["RECEIVED"], heard_as(6, 0xE1, 0xF3)),
        (True, ["NOT_FOUND"], heard_as(6, 0xE1, 0xE1)),
        (False, [], same(6)),
    ],
)
async def test_the_end_of_the_time_with_a_control_port(bootstrapped, descriptors, expected):
    control = events(bootstrapped)
    streams = iter(range(1, 100))

    async def answer(peer, host):
        say = EventfulTor(control, 0)
        number = next(streams)
        say.say(f"{number} NEW 0 {host}:80 SOURCE_ADDR=127.0.0.1:{peer.transport.getPeer().port} PURPOSE=USER")
        for action in descriptors:
            say.describe(host, action)
        await peer.lost()
        say.say(f"{number} CLOSED 0 {host}:80 REASON=DONE")

    async with behind(answer, control=control, extended=False, seconds=SHORT) as (_, server):
        assert await codes(server) == expected


async def test_look_ups_have_the_same_time():
    async with behind(silent, extended=True, seconds=SHORT) as (_, server):
        assert await server.code("missing.test", 0, RESOLVE) == 6


# Whether a port has ExtendedErrors is found out, unless it was told.


@pytest.mark.parametrize(("says", "expected"), [(0xF6, heard_as(6, 0xE1, 0xE1)), (0x01, same(6))])
async def test_it_is_found_out_once(says, expected):
    async def answer(peer, host):
        if host == PROBE:
            await saying(reply(says))(peer, host)

    async with fake_tor(answer) as tor:
        route = route_from_string(reactor, f"tor:127.0.0.1:{tor.port}")
        async with proxy(routes=table(route), limits=Limits(connect_timeout=SHORT)) as server:
            assert await codes(server) == expected
            assert await codes(server, "target.example") == same(6)
        assert tor.asked.count(PROBE) == 1


async def test_what_cannot_be_found_out_is_asked_again():
    async def answer(peer, host):
        if host != PROBE:
            peer.send(FOUND)
        elif tor.asked.count(PROBE) == 1:
            peer.abort()
        else:
            await saying(reply(0xF6))(peer, host)

    async with behind(answer, seconds=SHORT) as (tor, server):
        while tor.asked.count(PROBE) < 2:
            assert await server.code(ONION, 80) == 0
        tor.answer = silent
        assert await codes(server) == heard_as(6, 0xE1, 0xE1)
        assert tor.asked.count(PROBE) == 2


@pytest.mark.parametrize(("told", "expected"), [("yes", 0xE1), ("no", 6)])
async def test_what_was_told_is_not_asked(told, expected):
    async with fake_tor(silent) as tor:
        route = route_from_string(reactor, f"tor:127.0.0.1:{tor.port}:extended={told}")
        async with proxy(routes=table(route), limits=Limits(connect_timeout=SHORT)) as server:
            assert (await hear(server, "97"))[1] == expected
        assert tor.asked == [ONION]


async def test_something_that_connects_what_cannot_be_is_not_kept_open():
    async with behind(endless_echo(), seconds=SHORT) as (tor, server):
        assert await server.code(ONION, 80) == 0
        await until(lambda: PROBE in tor.asked)
        await tor.connections[tor.asked.index(PROBE)].lost()
        tor.answer = silent
        assert await codes(server) == same(6)


async def test_other_targets_are_no_reason_to_ask():
    async with behind(endless_echo()) as (tor, server):
        assert await server.code("target.example", 80) == 0
    assert tor.asked == ["target.example"]


# Tor is away; and several tors.


async def test_a_tor_that_is_not_there_fails_at_once_and_is_used_when_it_comes():
    port = free_port()
    route = route_from_string(reactor, f"tor:127.0.0.1:{port}")
    async with proxy(routes=table(route)) as server:
        assert await codes(server) == same(1)
        async with fake_tor(endless_echo(), listen=f"tcp:{port}:interface=127.0.0.1"):
            assert await codes(server, "target.example") == same(0)


async def test_a_tor_that_ends_before_it_answers():
    async def answer(peer, host):
        peer.abort()

    async with behind(answer) as (_, server):
        assert await codes(server) == same(1)


class Tors:
    """Several tors, whose name they tell in the stream, and a route through them with a `Clock`."""

    def __init__(self, *tors):
        self.clock = Clock()
        self.tors = tors
        self.route = through(*tors, extended=False, time=ReactorWith(clock=self.clock))

    async def who_serves(self, server, isolation=None):
        greeting, authentication = (
            (GREET_ANONYMOUS, b"") if isolation is None else (GREET_EXTENDED, pairs((b"tor.isolation", isolation)))
        )
        peer = await server.connect(greeting)
        await peer.read(2)
        if authentication:
            peer.send(authentication)
            await peer.read(4)
        peer.send(request("target.example", 80))
        code, _ = await peer.read_reply()
        assert code == 0
        return await peer.read(1)


def named(name):
    return endless_echo(FOUND + name)


async def test_a_dead_tor_is_passed_over_and_used_again():
    first_port = free_port()
    dead = SimpleNamespace(port=first_port)
    async with fake_tor(named(b"2")) as second:
        tors = Tors(dead, second)
        async with proxy(routes=table(tors.route)) as server:
            assert await tors.who_serves(server) == b"2"
            async with fake_tor(named(b"1"), listen=f"tcp:{first_port}:interface=127.0.0.1") as first:
                # It is there again, and for a while nobody looks.
                assert await tors.who_serves(server) == b"2"
                assert first.asked == []
                tors.clock.advance(PASSED_OVER_FOR)
                assert await tors.who_serves(server) == b"1"
            assert await tors.who_serves(server) == b"2"


async def test_a_tor_that_was_passed_over_is_asked_where_no_other_is_there():
    first_port = free_port()
    async with fake_tor(named(b"2")) as second:
        tors = Tors(SimpleNamespace(port=first_port), second)
        async with proxy(routes=table(tors.route)) as server:
            assert await tors.who_serves(server) == b"2"
            await second.stop_listening()
            assert await server.code("target.example", 80) == 1
            async with fake_tor(named(b"1"), listen=f"tcp:{first_port}:interface=127.0.0.1"):
                assert await tors.who_serves(server) == b"1"


async def test_a_tor_that_ends_before_it_answers_is_passed_over_too():
    async def end(peer, host):
        peer.abort()

    async with fake_tor(end) as first, fake_tor(named(b"2")) as second:
        tors = Tors(first, second)
        async with proxy(routes=table(tors.route)) as server:
            assert await server.code("target.example", 80) == 1
            assert await tors.who_serves(server) == b"2"


async def test_one_token_stays_with_one_tor_and_tokens_are_spread():
    async with fake_tor(named(b"1")) as first, fake_tor(named(b"2")) as second, fake_tor(named(b"3")) as third:
        tors = Tors(first, second, third)
        async with proxy(routes=table(tors.route)) as server:
            values = [b"%d" % number for number in range(60)]
            serves = {value: await tors.who_serves(server, value) for value in values}
            assert {value: await tors.who_serves(server, value) for value in values} == serves
            assert all(count >= 5 for count in Counter(serves.values()).values())
            assert len(set(serves.values())) == 3
            # One tor dies: only its own tokens move.
            await second.stop_listening()
            moved = {value: await tors.who_serves(server, value) for value in values}
            for value in values:
                if serves[value] == b"2":
                    assert moved[value] != b"2"
                else:
                    assert moved[value] == serves[value]


async def test_clients_without_a_token_take_the_first_that_is_there():
    async with fake_tor(named(b"1")) as first, fake_tor(named(b"2")) as second:
        tors = Tors(first, second)
        async with proxy(routes=table(tors.route)) as server:
            assert [await tors.who_serves(server) for _ in range(5)] == [b"1"] * 5


async def test_what_a_tor_says_of_a_target_is_not_asked_of_another():
    async with fake_tor(saying(reply(4))) as first, fake_tor(named(b"2")) as second:
        tors = Tors(first, second)
        async with proxy(routes=table(tors.route)) as server:
            assert await server.code("target.example", 80) == 4
    assert second.asked == []


async def test_a_tor_that_starts_says_so():
    route = TorRoute([TorInstance(reactor, None)], IsolationTokens())
    async with proxy(routes=table(route)) as server:
        assert await codes(server) == same(1)
