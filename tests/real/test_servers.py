"""Real servers of our client: proxies, ssh, tor's SOCKS port and a pluggable transport."""

import contextlib
import json
import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import treq.client
from support.programs import free_port, need, twistd
from support.targets import (
    ANY,
    CONTENT,
    NO_SUCH_HOST,
    PAGE,
    SSHServer,
    Target,
    answer_the_end,
    dante,
    digest,
    echo,
    end_first,
    failure_of,
    local,
    microsocks,
    programs,
    read_exactly,
    speak_first,
    talk_to,
    web_server,
)
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.threads import deferToThread

from txsocksx_ext import resolve, web_agent
from txsocksx_ext.errors import (
    AuthenticationFailed,
    ConnectionRefused,
    GeneralServerFailure,
    HostUnreachable,
    NoAcceptableMethod,
    OnionAddressInvalid,
    OnionServiceError,
    OnionServiceNotFound,
    ProxyClosed,
    TTLExpired,
    UnknownReply,
)

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "wire.json").read_text())


# Proxies


@dataclass
class Peer:
    """
    A proxy, and what is known of it.

    :ivar begin: starts it; returns its port.
    :ivar refused: how our client learns that the target refused.
    :ivar no_such_host: how it learns that there is no such host.
    """

    begin: Callable
    methods: dict
    refused: type
    no_such_host: type


def ssh_dynamic(start, folder):
    port = free_port()
    start(SSHServer(start, folder).command("-N", "-D", f"127.0.0.1:{port}"), port=port)
    return port


def ours(*options):
    return lambda start, folder: twistd(start, *options).port


LOGIN = {"login": ("alice", "right")}
PEERS = {
    # microsocks has one code for whatever goes wrong with a name.
    "microsocks": Peer(microsocks, ANY, ConnectionRefused, GeneralServerFailure),
    "microsocks-login": Peer(
        partial(microsocks, options=("-u", "alice", "-P", "right")),
        {**ANY, **LOGIN},
        ConnectionRefused,
        GeneralServerFailure,
    ),
    "dante": Peer(dante, ANY, ConnectionRefused, HostUnreachable),
    # ssh closes the connection instead of answering.
    "ssh-D": Peer(ssh_dynamic, ANY, ProxyClosed, ProxyClosed),
    "ours": Peer(ours(), ANY, ConnectionRefused, HostUnreachable),
    "ours-login": Peer(ours("--auth=memory:alice:right"), LOGIN, ConnectionRefused, HostUnreachable),
    "ours-pairs": Peer(
        ours("--auth=memory:alice:right"),
        {"extended": {"USERNAME": "alice", "PASSWD": "right"}},
        ConnectionRefused,
        HostUnreachable,
    ),
}
# microsocks ends both directions when one has ended.
WITH_HALF_CLOSE = [name for name in PEERS if not name.startswith("microsocks")]


@pytest.fixture(scope="module", params=PEERS)
def peer(request, tmp_path_factory):
    """A running proxy: how to reach it, and what is known of it."""
    known = PEERS[request.param]
    with programs() as start:
        port = known.begin(start, tmp_path_factory.mktemp(request.param))
        yield local(port), known


async def test_a_page_and_a_form_pass(peer):
    from twisted.internet import reactor

    proxy, known = peer
    client = treq.client.HTTPClient(web_agent(reactor, proxy, known.methods))
    with web_server() as port:
        response = await client.get(f"http://127.0.0.1:{port}/")
        assert await response.content() == PAGE
        response = await client.post(f"http://127.0.0.1:{port}/", data=CONTENT)
        assert await response.content() == CONTENT


async def test_what_the_target_says_first_arrives_and_bytes_pass_both_ways(peer):
    proxy, known = peer
    with Target(speak_first) as target:
        talker = await talk_to("127.0.0.1", target.port, proxy, known.methods)
        greeting = await talker.has_received(len(b"220 hello\r\n"))
        talker.transport.write(CONTENT)
        everything = await talker.has_received(len(greeting) + len(CONTENT))
        assert everything == b"220 hello\r\n" + CONTENT
        talker.transport.loseConnection()
        await talker.lost
        assert await target.when_next_result() == len(CONTENT)


async def test_a_target_that_refuses_is_told(peer):
    proxy, known = peer
    error = await failure_of(talk_to("127.0.0.1", free_port(), proxy, known.methods))
    assert type(error) is known.refused


async def test_a_name_that_does_not_exist_is_told(peer):
    proxy, known = peer
    error = await failure_of(talk_to(NO_SUCH_HOST, 80, proxy, known.methods))
    assert type(error) is known.no_such_host


@pytest.mark.parametrize("peer", WITH_HALF_CLOSE, indirect=True)
async def test_our_end_reaches_the_target_and_its_answer_comes_back(peer):
    proxy, known = peer
    with Target(answer_the_end) as target:
        talker = await talk_to("127.0.0.1", target.port, proxy, known.methods)
        talker.transport.write(CONTENT)
        talker.transport.loseWriteConnection()
        await talker.input_ended
        assert bytes(talker.received) == digest(CONTENT)
        assert await target.when_next_result() == CONTENT
        talker.transport.loseConnection()
        await talker.lost


@pytest.mark.parametrize("peer", WITH_HALF_CLOSE, indirect=True)
async def test_the_targets_end_arrives_and_we_can_still_send(peer):
    proxy, known = peer
    with Target(end_first) as target:
        talker = await talk_to("127.0.0.1", target.port, proxy, known.methods)
        await talker.input_ended
        assert bytes(talker.received) == CONTENT
        talker.transport.write(CONTENT[::-1])
        talker.transport.loseConnection()
        assert await target.when_next_result() == CONTENT[::-1]
        await talker.lost


@pytest.mark.parametrize("peer", ["microsocks-login", "ours-login"], indirect=True)
async def test_a_wrong_password_is_told(peer):
    proxy, _ = peer
    error = await failure_of(talk_to("127.0.0.1", 1, proxy, {"login": ("alice", "wrong")}))
    assert type(error) is AuthenticationFailed
    assert error.status not in (None, 0)
    error = await failure_of(talk_to("127.0.0.1", 1, proxy, {"anonymous": ()}))
    assert type(error) is NoAcceptableMethod


# tor


@dataclass
class TorPorts:
    plain: int
    extended: int
    unix: str


@pytest.fixture(scope="module")
def tor(tmp_path_factory):
    """A tor that knows no network: its only directory is a closed port here, and so is its only way there."""
    folder = tmp_path_factory.mktemp("tor")
    folder.chmod(0o700)  # tor insists on it
    ports = TorPorts(free_port(), free_port(), str(folder / "socks"))
    nowhere = free_port()
    config = folder / "torrc"
    config.write_text(
        f"""
        DataDirectory {folder}
        SocksPort 127.0.0.1:{ports.plain}
        SocksPort 127.0.0.1:{ports.extended} ExtendedErrors
        SocksPort unix:{ports.unix}
        SocksTimeout 1
        UseDefaultFallbackDirs 0
        DirAuthority nowhere orport={nowhere} v3ident={"1" * 40} 127.0.0.1:{nowhere} {"1" * 40}
        Socks5Proxy 127.0.0.1:{nowhere}
        ShutdownWaitLength 0
        Log notice stdout
        """
    )
    with programs() as start:
        start([need("tor"), "--defaults-torrc", os.devnull, "-f", config], port=ports.extended)
        yield ports


def talk_to_onion(proxy, methods=ANY, **options):
    return talk_to("abc.onion", 80, proxy, methods, **options)


async def test_tor_says_little_of_a_bad_onion_address(tor):
    from twisted.internet import reactor

    # From a unix socket it answers with another type of address.
    for proxy in (local(tor.plain), UNIXClientEndpoint(reactor, tor.unix)):
        error = await failure_of(talk_to_onion(proxy))
        assert (type(error), error.code) == (GeneralServerFailure, 1)


async def test_tor_with_extended_errors_says_that_the_onion_address_is_bad(tor):
    error = await failure_of(talk_to_onion(local(tor.extended)))
    assert (type(error), error.code) == (OnionAddressInvalid, 0xF6)
    assert isinstance(error, OnionServiceError)


@pytest.mark.parametrize("dialect", ["plain", "prop229"])
async def test_tors_own_codes_mean_nothing_in_other_dialects(tor, dialect):
    error = await failure_of(talk_to_onion(local(tor.extended), dialect=dialect))
    assert (type(error), error.code) == (UnknownReply, 0xF6)


async def test_tor_ignores_method_97(tor):
    assert await resolve("192.0.2.77", local(tor.plain), ANY) == "192.0.2.77"
    error = await failure_of(resolve("192.0.2.77", local(tor.plain), {"extended": {}}))
    assert type(error) is NoAcceptableMethod
    # With pairs nothing else is offered: they would be lost in silence.
    with_pairs = {"extended": {"tor.isolation": "a"}, "anonymous": ()}
    error = await failure_of(resolve("192.0.2.77", local(tor.plain), with_pairs))
    assert type(error) is NoAcceptableMethod


async def test_tor_resolves(tor):
    assert await resolve("2001:db8::7", local(tor.extended)) == "2001:db8::7"
    # The answer to this has address type 0.
    error = await failure_of(resolve("abc.onion", local(tor.extended)))
    assert type(error) is HostUnreachable


async def test_tor_takes_only_the_user_names_that_it_has_not_reserved(tor):
    isolated = {"login": ("<torS0X>0", "isolated")}
    assert await resolve("192.0.2.77", local(tor.plain), isolated) == "192.0.2.77"
    error = await failure_of(resolve("192.0.2.77", local(tor.plain), {"login": ("<torS0X>1", "isolated")}))
    assert type(error) is AuthenticationFailed
    # It answers with a whole reply, where two bytes were due.
    assert error.status == 1


async def test_tor_without_a_network_tells_that_time_is_over(tor):
    error = await failure_of(talk_to("192.0.2.1", 80, local(tor.plain), ANY))
    # Two timers of tor's race for the answer.
    assert type(error) in (TTLExpired, GeneralServerFailure)


async def test_our_server_translates_tors_codes_for_each_client(tor, socks5ext):
    server = socks5ext(f"--route=*=socks:tcp\\:127.0.0.1\\:{tor.extended}")
    assert await resolve("192.0.2.77", local(server.port)) == "192.0.2.77"
    for methods, expected, code in [
        ({"extended": {}}, OnionServiceNotFound, 0xE0),
        ({"extended": {"tor.errors": "304"}}, OnionAddressInvalid, 0xF6),
        ({"extended": {"tor.errors": "none"}}, GeneralServerFailure, 1),
        ({"anonymous": ()}, GeneralServerFailure, 1),
    ]:
        error = await failure_of(talk_to_onion(local(server.port), methods))
        assert (type(error), error.code) == (expected, code)


# A pluggable transport


@dataclass
class Obfs4:
    """
    Both ends of obfs4.

    :ivar port: of the client's SOCKS5 server.
    :ivar bridge: the other end's port.
    :ivar arguments: what a client needs to know of the bridge.
    """

    port: int
    bridge: int
    arguments: str


@pytest.fixture(scope="module")
def bridged():
    """What stands behind the bridge."""
    with Target(echo) as target:
        yield target


@pytest.fixture(scope="module")
def obfs4(tmp_path_factory, bridged):
    bridge = free_port()
    common = {"TOR_PT_MANAGED_TRANSPORT_VER": "1"}
    with programs() as start:
        server = start(
            [need("obfs4proxy")],
            ready=lambda each: "SMETHODS DONE" in each.output,
            env={
                **common,
                "TOR_PT_STATE_LOCATION": str(tmp_path_factory.mktemp("obfs4-server")),
                "TOR_PT_SERVER_TRANSPORTS": "obfs4",
                "TOR_PT_SERVER_BINDADDR": f"obfs4-127.0.0.1:{bridge}",
                "TOR_PT_ORPORT": f"127.0.0.1:{bridged.port}",
            },
        )
        client = start(
            [need("obfs4proxy")],
            ready=lambda each: "CMETHODS DONE" in each.output,
            env={
                **common,
                "TOR_PT_STATE_LOCATION": str(tmp_path_factory.mktemp("obfs4-client")),
                "TOR_PT_CLIENT_TRANSPORTS": "obfs4",
            },
        )
        port = re.search(r"CMETHOD obfs4 socks5 127\.0\.0\.1:(\d+)", client.output)[1]
        arguments = re.search(r"ARGS:(\S+)", server.output)[1].replace(",", ";")
        yield Obfs4(int(port), bridge, arguments)


@pytest.mark.parametrize("length", [0, 400], ids=["short", "long"])
async def test_obfs4_carries_bytes_with_its_arguments_as_user_and_password(obfs4, length):
    arguments = f"{obfs4.arguments};padding={'x' * length}".encode() if length else obfs4.arguments.encode()
    login = (arguments[:255], arguments[255:] or b"\0")
    talker = await talk_to("127.0.0.1", obfs4.bridge, local(obfs4.port), {**ANY, "login": login})
    talker.transport.write(CONTENT)
    assert await talker.has_received(len(CONTENT)) == CONTENT
    talker.transport.loseConnection()
    await talker.lost


async def test_obfs4_knows_nothing_of_method_97(obfs4):
    assert (
        type(await failure_of(talk_to("127.0.0.1", obfs4.bridge, local(obfs4.port), {"extended": {"pt.cert": "any"}})))
        is NoAcceptableMethod
    )


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        (ANY, GeneralServerFailure),
        ({"login": ("cert=short", b"\0")}, GeneralServerFailure),
        ({"login": ("no-value", b"\0")}, AuthenticationFailed),
    ],
    ids=["none", "wrong", "malformed"],
)
async def test_obfs4_refuses_arguments(obfs4, methods, expected):
    error = await failure_of(talk_to("127.0.0.1", obfs4.bridge, local(obfs4.port), methods))
    assert type(error) is expected


async def test_obfs4_cannot_say_that_the_bridge_refused(obfs4):
    assert (
        type(
            await failure_of(talk_to("127.0.0.1", free_port(), local(obfs4.port), {"login": (obfs4.arguments, b"\0")}))
        )
        is GeneralServerFailure
    )


# What was once observed of tor and obfs4proxy, and stands in our vectors, still holds.


def observed(program):
    return [
        pytest.param(vector, id=vector["name"])
        for vector in VECTORS
        if vector["msg"] == "observed" and vector["direction"].startswith(f"client->{program}")
    ]


def converse(connection, vector):
    """Say what the vector says; what came back, and whether the connection ended after it."""
    *first, last = (bytes.fromhex(step) for step in vector["hex"].split("|"))
    expected = len(bytes.fromhex(vector["observed_reply"]))
    received = b""
    with connection:
        connection.settimeout(20)
        for step in first:
            connection.sendall(step)
            received += read_exactly(connection, 2)
        connection.sendall(last)
        received += read_exactly(connection, expected - len(received))
        connection.settimeout(20 if vector["fin"] else 0.2)
        with contextlib.suppress(ConnectionResetError):
            try:
                received += connection.recv(1000)
            except TimeoutError:
                return received.hex(), False
        return received.hex(), True


@pytest.mark.parametrize("vector", observed("tor"))
def test_tor_answers_as_observed(tor, vector):
    if vector["name"] == "obs-onion-bad-v6":
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(tor.unix)
    else:
        connection = socket.create_connection(("127.0.0.1", tor.plain))
    heard, has_ended = converse(connection, vector)
    assert heard == vector["observed_reply"]
    # What tor keeps open it may still close in its own time.
    assert has_ended or not vector["fin"]


@pytest.mark.parametrize("vector", observed("obfs4proxy"))
async def test_obfs4proxy_answers_as_observed(obfs4, vector):
    connection = socket.create_connection(("127.0.0.1", obfs4.port))
    assert await deferToThread(converse, connection, vector) == (vector["observed_reply"], vector["fin"])
