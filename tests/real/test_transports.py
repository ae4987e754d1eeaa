"""
The route through real transports: ``twistd socks5ext`` in front of obfs4proxy, real obfs4 bridges behind it, and what
clients hear of everything that can go wrong.

An obfs4 server notices a wrong certificate after 30 seconds at the earliest, so those clients ask first and are heard
last.
"""

import hashlib
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from examples.raw_peers import GREET_EXTENDED, GREET_LOGIN, login, pairs, settles
from support.measured_tables import WRITING, Table
from support.programs import free_port, need
from support.targets import Target, echo, failure_of, local, programs, read_to_end, talk_to
from support.tor_clients import ask
from support.transports import (
    BOTH,
    CERT_OF_NO_ONE,
    Obfs4Bridge,
    attempts,
    child_of,
    code,
    failures,
    is_ready,
    serve,
    with_login,
    with_pairs,
)
from twisted.internet.defer import gatherResults
from twisted.internet.threads import deferToThread

from txsocksx_ext.transports.arguments import encode_arguments

UNREACHABLE = "127.255.255.255"
"""The broadcast address of loopback, to which Linux connects nobody: network unreachable."""

HUNDRED_MEGABYTES = 100 << 20


@pytest.fixture(scope="module")
def start():
    with programs() as start:
        yield start


@pytest.fixture(scope="module")
def echo_target():
    with Target(echo) as target:
        yield target


@pytest.fixture(scope="module")
def bridge(echo_target):
    made = Obfs4Bridge(echo_target.port)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def server(start):
    return serve(start, "obfs4", need("obfs4proxy"))


@pytest.fixture(scope="module", autouse=True)
def wrong_certificate(start, echo_target):
    """Clients with a wrong certificate, each at a bridge of its own, and what they will hear."""
    patient = serve(start, "obfs4", need("obfs4proxy"), "--connect-timeout=90")
    bridges = [Obfs4Bridge(echo_target.port) for _ in range(4)]
    asked = []
    for number, each in enumerate(bridges):
        arguments = {**each.arguments, "cert": CERT_OF_NO_ONE}
        asked.append(list(attempts(patient, arguments, "127.0.0.1", each.port))[number]())
    yield gatherResults(asked, consumeErrors=True)
    for each in bridges:
        each.stop()


# The table of the documentation: each row is what came of a test.

TABLE = Table(
    __file__,
    "transport-failures",
    ["With real obfs4proxy", "Plain", "Exception", "prop229", "Exception of it", "After"],
)


@pytest.fixture(scope="module", autouse=True)
def table():
    yield
    if WRITING:
        TABLE.write()


def hold(title, heard, after="0 s"):
    """Hold what clients heard, as `failures` gives it, against the documentation."""
    plain, plain_error, extended, extended_error = heard
    assert [plain_error.code, extended_error.code] == [plain, extended]
    TABLE.titles.append(title)
    exceptions = [f":py:exc:`~txsocksx_ext.errors.{type(error).__name__}`" for error in (plain_error, extended_error)]
    cells = [f"``{plain:02X}``", exceptions[0], f"``{extended:02X}``", exceptions[1], after]
    TABLE.hold(title, dict(zip(TABLE.columns, cells, strict=True)))


# Streams.


@pytest.mark.parametrize("client", [with_pairs, with_login])
def test_echo(server, bridge, client):
    with ask(server.port, client(bridge.arguments), "127.0.0.1", bridge.port) as answer:
        assert answer.code == 0
        assert answer.echoes(os.urandom(50_000))


def test_a_hundred_megabytes_both_ways(server, bridge):
    block = os.urandom(1 << 20)
    with ask(server.port, with_pairs(bridge.arguments), "127.0.0.1", bridge.port) as answer:
        assert answer.code == 0
        connection = answer.connection
        sent, received = hashlib.sha256(), hashlib.sha256()

        def send():
            for number in range(HUNDRED_MEGABYTES // len(block)):
                chunk = number.to_bytes(8, "big") + block[8:]
                sent.update(chunk)
                connection.sendall(chunk)

        with ThreadPoolExecutor(1) as thread:
            sending = thread.submit(send)
            left = HUNDRED_MEGABYTES
            while left:
                data = connection.recv(min(left, 1 << 18))
                assert data, f"the stream ended {left} bytes too soon"
                received.update(data)
                left -= len(data)
            sending.result()
    assert received.digest() == sent.digest()


def padded(bridge, length):
    """The bridge's arguments, and one more that makes them so long."""
    arguments = {**bridge.arguments, "padding": ""}
    return {**arguments, "padding": "x" * (length - len(encode_arguments(arguments)))}


@pytest.mark.parametrize("length", [255, 256, 510])
def test_arguments_that_need_both_fields(server, bridge, length):
    for raw, _ in BOTH:
        assert code(server, raw(padded(bridge, length)), "127.0.0.1", bridge.port) == 0x00


def test_arguments_beyond_both_fields(server, bridge):
    assert code(server, with_pairs(padded(bridge, 511)), "127.0.0.1", bridge.port) == 0xF1
    assert "the arguments have 511 bytes, and RFC 1929 carries 510" in server.output


async def test_our_own_client(server, bridge):
    for _, methods in BOTH:
        stream = await talk_to("127.0.0.1", bridge.port, local(server.port), methods(bridge.arguments))
        stream.transport.write(b"hello")
        assert await stream.has_received(5) == b"hello"
        stream.transport.loseConnection()
        await stream.lost


# Failures.


async def test_missing_arguments(server, bridge):
    hold("no arguments", await failures(server, {}, "127.0.0.1", bridge.port))
    some = {"cert": bridge.arguments["cert"]}
    hold("an argument is missing", await failures(server, some, "127.0.0.1", bridge.port))


async def test_an_argument_that_obfs4_cannot_read(server, bridge):
    cut = {**bridge.arguments, "cert": bridge.arguments["cert"][:-4]}
    hold("an argument that obfs4 cannot read", await failures(server, cut, "127.0.0.1", bridge.port))


async def test_arguments_that_are_not_written_as_such(server, bridge):
    heard = []
    for raw, methods in (
        ((GREET_LOGIN, login(b"cert=a;;", b"\0")), {"login": ("cert=a;;", "\0")}),
        ((GREET_EXTENDED, pairs((b"pt.", b"a"))), {"extended": {"pt.": "a"}}),
    ):
        heard.append(await deferToThread(code, server, raw, "127.0.0.1", bridge.port))
        heard.append(await failure_of(talk_to("127.0.0.1", bridge.port, local(server.port), methods)))
    hold("arguments that are not written as such", heard)


async def test_the_bridge_refuses(server, bridge):
    hold("the bridge refuses", await failures(server, bridge.arguments, "127.0.0.1", free_port()))


def test_many_at_once(server, bridge):
    """Clients of one bridge in the same moment, and others of one that refuses."""
    nowhere = free_port()

    def talk(number):
        with ask(server.port, BOTH[number % 2][0](bridge.arguments), "127.0.0.1", bridge.port) as answer:
            return answer.code == 0 and answer.echoes(os.urandom(5_000))

    def all_at_once():
        with ThreadPoolExecutor(20) as threads:
            talking = [threads.submit(talk, number) for number in range(10)]
            asking = [
                threads.submit(code, server, with_pairs(bridge.arguments), "127.0.0.1", nowhere) for _ in range(10)
            ]
            assert [each.result() for each in talking] == [True] * 10
            return {each.result() for each in asking}

    heard = [all_at_once()]
    # On a busy machine it may not become clear in time which of the transport's connections were whose.
    while heard[-1] != {0x05} and len(heard) < 5:
        heard.append(all_at_once())
    assert heard[-1] == {0x05}
    assert set.union(*heard) <= {0x05, 0x01}


async def test_the_bridge_is_unreachable(server, bridge):
    hold("no way to the bridge's network", await failures(server, bridge.arguments, UNREACHABLE, 443))


def close_at_once(connection):
    """As a server that is full."""


def hear_and_close(connection):
    connection.recv(1)


def talk_junk(connection):
    connection.sendall(os.urandom(20_000))
    connection.recv(1)


def talk_http(connection):
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
    connection.recv(1)


@pytest.mark.parametrize(
    ("title", "serve_bridge"),
    [
        ("the bridge closes at once", close_at_once),
        ("the bridge closes before it has answered", hear_and_close),
        ("the bridge talks junk", talk_junk),
        ("the bridge is a web server", talk_http),
    ],
)
async def test_the_bridge_is_none(server, bridge, title, serve_bridge):
    with Target(serve_bridge) as target:
        hold(title, await failures(server, bridge.arguments, "127.0.0.1", target.port))


async def test_the_bridge_is_silent(start, bridge):
    impatient = await deferToThread(serve, start, "obfs4", need("obfs4proxy"), "--connect-timeout=2")
    with Target(read_to_end) as silent:
        heard = await failures(impatient, bridge.arguments, "127.0.0.1", silent.port)
    hold("the bridge is silent", heard, "``--connect-timeout``")
    assert "the bridge was reached, and is silent" in impatient.output


def test_the_bridges_own_target_is_gone(server):
    """The transport's part is done before the bridge finds that out: success, then the end."""
    useless = Obfs4Bridge(free_port())
    try:
        with ask(server.port, with_pairs(useless.arguments), "127.0.0.1", useless.port) as answer:
            assert answer.code == 0
            assert not answer.is_open(20)
    finally:
        useless.stop()


@pytest.mark.parametrize(
    ("title", "transport", "program", "why"),
    [
        ("the program does not offer the transport", "obfs5", "obfs4proxy", "does not offer it, and says: no such"),
        ("the program does not start", "obfs4", "obfs4proxy:arg=-no-such-option", "it ended before it was ready"),
    ],
)
async def test_the_transport_does_not_start(start, title, transport, program, why):
    need("obfs4proxy")
    server = await deferToThread(serve, start, transport, program)
    hold(title, await failures(server, {}, "127.0.0.1", 1))
    assert why in server.output


async def test_the_transport_dies_under_the_attempt(start, bridge):
    server = await deferToThread(serve, start, "obfs4", need("obfs4proxy"))
    heard = []

    def kill_it(target, number):
        assert settles(lambda: len(target.peers) == number)
        os.kill(child_of(server), signal.SIGKILL)

    with Target(read_to_end) as silent:
        for number, attempt in enumerate(attempts(server, bridge.arguments, "127.0.0.1", silent.port), 1):
            assert await deferToThread(is_ready, server, number)
            asking = attempt()
            await deferToThread(kill_it, silent, number)
            heard.append(await asking)
    hold("the transport dies under the attempt", heard)


async def test_the_transport_is_being_restarted(start, bridge):
    server = await deferToThread(serve, start, "obfs4", need("obfs4proxy"))

    def kill_it(number):
        assert is_ready(server, number)
        os.kill(child_of(server), signal.SIGKILL)
        assert settles(lambda: server.output.count("has ended") == number)

    # Each pause is longer than the one before.
    for number in range(1, 5):
        await deferToThread(kill_it, number)
    heard = await failures(server, bridge.arguments, "127.0.0.1", bridge.port)
    hold("the transport is being restarted", heard)
    assert await deferToThread(is_ready, server, 5)
    for raw, _ in BOTH:
        assert await deferToThread(code, server, raw(bridge.arguments), "127.0.0.1", bridge.port) == 0x00


# Last, since it takes longest.


@pytest.mark.deadline(120)
async def test_a_wrong_certificate(wrong_certificate):
    hold("wrong certificate", await wrong_certificate, "30 to 60 s")
