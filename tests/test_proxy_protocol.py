"""The PROXY protocol's header: whom a balancer speaks for, and what is no header."""

import contextlib
import socket
from contextlib import asynccontextmanager
from ipaddress import ip_network

import pytest
from examples.raw_peers import GREET_ANONYMOUS, Proxy, ReactorWith, request, target, turn, until
from hypothesis import given
from hypothesis import strategies as st
from support.balancer import LOCAL, TCP4, TCP6, UDP4, UNIX, UNIX_DATAGRAMS, UNSPEC, ends, paths, tlv, version_2
from support.logs import lines_logged
from support.programs import free_port
from support.targets import CONTENT
from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.endpoints import UNIXClientEndpoint, serverFromString
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.usage import UsageError

from txsocksx_ext import Limits, SOCKS5ExtFactory
from txsocksx_ext.server.listeners import listener_endpoint
from txsocksx_ext.server.proxy_protocol import InvalidHeader, ProxyHeader, ProxyProtocolFactory, parse_header
from txsocksx_ext.tap import Options
from txsocksx_ext.testing import Recorder, connect_in_memory

SERVER_LOG = "txsocksx_ext.server"


def tcp4(host, port):
    return IPv4Address("TCP", host, port)


def tcp6(host, port):
    return IPv6Address("TCP", host, port)


LONG_TLV = tlv(0x20, b"c" * 4000)
EVERY_TLV = (
    (0x01, b"h2"),
    (0x02, b"a.example"),
    (0x03, b"\x01\x02\x03\x04"),
    (0x04, bytes(7)),
    (0x05, bytes(range(128))),
    (0x20, b"\x07\0\0\0\0" + tlv(0x21, b"TLSv1.3") + tlv(0x22, b"a name")),
    (0x30, b"net1"),
    (0xEA, b"\x01vpce-1"),
    (0xFF, b""),
)
VALID = {
    "IPv4": (
        b"PROXY TCP4 192.0.2.7 198.51.100.1 65535 0\r\n",
        ProxyHeader(tcp4("192.0.2.7", 65535), tcp4("198.51.100.1", 0)),
    ),
    "IPv6": (
        b"PROXY TCP6 2001:DB8::7 2001:0db8:0000:0000:0000:0000:0000:0001 5000 1080\r\n",
        ProxyHeader(tcp6("2001:db8::7", 5000), tcp6("2001:db8::1", 1080)),
    ),
    "the longest IPv6": (
        b"PROXY TCP6 " + b" ".join([b":".join([b"ffff"] * 8)] * 2) + b" 65535 65535\r\n",
        ProxyHeader(*[tcp6(":".join(["ffff"] * 8), 65535)] * 2),
    ),
    "an IPv4 client of an IPv6 balancer": (
        b"PROXY TCP6 ::ffff:192.0.2.7 ::1 5000 1080\r\n",
        ProxyHeader(tcp6("::ffff:192.0.2.7", 5000), tcp6("::1", 1080)),
    ),
    "unknown": (b"PROXY UNKNOWN\r\n", ProxyHeader()),
    "unknown, with more": (b"PROXY UNKNOWN ffff::1 whatever \xff\r\n", ProxyHeader()),
    "unknown, as long as can be": (b"PROXY UNKNOWN ".ljust(105, b"f") + b"\r\n", ProxyHeader()),
    "version 2, IPv4": (
        version_2(TCP4, ends("192.0.2.7", 5000, "198.51.100.1", 1080)),
        ProxyHeader(tcp4("192.0.2.7", 5000), tcp4("198.51.100.1", 1080)),
    ),
    "version 2, IPv6": (
        version_2(TCP6, ends("2001:db8::7", 5000, "2001:db8::1", 1080)),
        ProxyHeader(tcp6("2001:db8::7", 5000), tcp6("2001:db8::1", 1080)),
    ),
    "version 2, with TLVs": (
        version_2(TCP4, ends("192.0.2.7", 1, "192.0.2.8", 2) + tlv(0x04, b"") + tlv(0x02, b"a.example") + LONG_TLV),
        ProxyHeader(
            tcp4("192.0.2.7", 1), tcp4("192.0.2.8", 2), ((0x04, b""), (0x02, b"a.example"), (0x20, b"c" * 4000))
        ),
    ),
    "version 2, with the TLVs of the specification, and of nobody": (
        version_2(TCP6, ends("2001:db8::7", 1, "2001:db8::8", 2) + b"".join(tlv(*each) for each in EVERY_TLV)),
        ProxyHeader(tcp6("2001:db8::7", 1), tcp6("2001:db8::8", 2), EVERY_TLV),
    ),
    "version 2, unix": (
        version_2(UNIX, paths(b"", b"/run/balancer")),
        ProxyHeader(UNIXAddress(None), UNIXAddress(b"/run/balancer")),
    ),
    "version 2, an abstract unix socket": (
        version_2(UNIX, paths(b"\0name", b"/run/balancer") + tlv(0x05, b"id")),
        ProxyHeader(UNIXAddress(None), UNIXAddress(b"/run/balancer"), ((0x05, b"id"),)),
    ),
    "version 2, local": (version_2(UNSPEC, command=LOCAL), ProxyHeader()),
    "version 2, local, with addresses": (
        version_2(TCP4, ends("192.0.2.7", 1, "192.0.2.8", 2), command=LOCAL),
        ProxyHeader(),
    ),
    "version 2, local, of any family": (version_2(0xFF, b"\xff" * 7, command=LOCAL), ProxyHeader()),
    "version 2, no addresses": (version_2(UNSPEC), ProxyHeader()),
    "version 2, no addresses, with bytes": (version_2(UNSPEC, b"\x01" * 50), ProxyHeader()),
    "version 2, datagrams": (version_2(UDP4, ends("192.0.2.7", 1, "192.0.2.8", 2)), ProxyHeader()),
    "version 2, unix datagrams": (version_2(UNIX_DATAGRAMS, paths(b"/a", b"/b")), ProxyHeader()),
}
each_header = pytest.mark.parametrize(("header", "meaning"), VALID.values(), ids=VALID)


@each_header
def test_a_header_is_read_when_it_is_complete(header, meaning):
    for length in range(1, len(header)):
        assert parse_header(header[:length]) is None
    assert parse_header(header) == (meaning, len(header))
    assert parse_header(bytearray(header + b"\x05\x01\x00")) == (meaning, len(header))


INVALID = {
    "SOCKS5": b"\x05\x01\x00",
    "HTTP": b"GET / HTTP/1.1\r\n",
    "TLS": b"\x16\x03\x01",
    "lower case": b"proxy TCP4 192.0.2.7 192.0.2.8 1 2\r\n",
    "another word": b"PROXYTCP4 192.0.2.7 192.0.2.8 1 2\r\n",
    "another family": b"PROXY UDP4 192.0.2.7 192.0.2.8 1 2\r\n",
    "unknown and more": b"PROXY UNKNOWNS\r\n",
    "no CR": b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\n",
    "unknown without CR": b"PROXY UNKNOWN\n",
    "a CR inside": b"PROXY UNKNOWN a\rb\r\n",
    "two spaces": b"PROXY TCP4  192.0.2.7 192.0.2.8 1 2\r\n",
    "a space at the end": b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2 \r\n",
    "a tabulator": b"PROXY TCP4\t192.0.2.7 192.0.2.8 1 2\r\n",
    "a field less": b"PROXY TCP4 192.0.2.7 192.0.2.8 1\r\n",
    "a field more": b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2 3\r\n",
    "no address": b"PROXY TCP6 notanip x 1 2\r\n",
    "no ports": b"PROXY TCP4 1.2.3.4 1.1.1.1 x y\r\n",
    "not ASCII": "PROXY TCP4 1.2.3.4 1.1.1.1 \uff11 \uff12\r\n".encode(),
    "control bytes in an address": b"PROXY TCP4 1.2.3.4\x1b[31m 1.1.1.1 1 2\r\n",
    "NUL in an address": b"PROXY TCP4 1.2.3.4\x00 1.1.1.1 1 2\r\n",
    "a leading zero in an address": b"PROXY TCP4 192.0.02.7 192.0.2.8 1 2\r\n",
    "a short address": b"PROXY TCP4 10.1 192.0.2.8 1 2\r\n",
    "IPv6 as IPv4": b"PROXY TCP4 ::1 ::1 1 2\r\n",
    "IPv4 as IPv6": b"PROXY TCP6 192.0.2.7 192.0.2.8 1 2\r\n",
    "a scope": b"PROXY TCP6 fe80::1%lo fe80::2 1 2\r\n",
    "a leading zero in a port": b"PROXY TCP4 192.0.2.7 192.0.2.8 01 2\r\n",
    "a port too high": b"PROXY TCP4 192.0.2.7 192.0.2.8 65536 2\r\n",
    "a negative port": b"PROXY TCP4 192.0.2.7 192.0.2.8 -1 2\r\n",
    "107 bytes without an end": b"PROXY UNKNOWN ".ljust(107, b"f"),
    "108 bytes": b"PROXY UNKNOWN ".ljust(106, b"f") + b"\r\n",
    "another version": version_2(TCP4, ends("192.0.2.7", 1, "192.0.2.8", 2), command=0x11),
    "another command": version_2(TCP4, ends("192.0.2.7", 1, "192.0.2.8", 2), command=0x22),
    "another family of version 2": version_2(0x41, bytes(200)),
    "another transport of version 2": version_2(0x13, bytes(200)),
    "fewer bytes than the addresses": version_2(TCP6, ends("192.0.2.7", 1, "192.0.2.8", 2)),
    "a TLV beyond the end": version_2(TCP4, ends("192.0.2.7", 1, "192.0.2.8", 2) + tlv(1, b"h2")[:-1]),
    "half a TLV": version_2(TCP4, ends("192.0.2.7", 1, "192.0.2.8", 2) + b"\x04\x00"),
    "a control byte in a path": version_2(UNIX, paths(b"/run/\x1b[31m", b"/b")),
    "more than any balancer sends": version_2(TCP4, bytes(16385)),
}
each_fault = pytest.mark.parametrize("header", INVALID.values(), ids=INVALID)


@each_fault
def test_what_is_no_header_is_never_taken_for_one(header):
    with pytest.raises(InvalidHeader):
        parse_header(header)


@given(st.one_of(st.binary(), st.binary().map(b"PROXY ".__add__), st.binary().map(b"\r\n\r\n\x00\r\nQUIT\n".__add__)))
def test_any_bytes_are_a_header_or_none_or_too_few(data):
    with contextlib.suppress(InvalidHeader):
        parsed = parse_header(data)
        assert parsed is None or 0 < parsed[1] <= len(data)


# The listener.


async def is_closed(client):
    """Wait until the server has closed a connection, on which it sent nothing."""
    assert await client.read_to_end() == b""
    client.close()
    await client.lost()


@asynccontextmanager
async def behind_balancer(factory=None, *, listen="tcp:0:interface=127.0.0.1", **options):
    """A server whose connections begin with a header, as ``--listen haproxy:…`` makes it."""
    factory = factory or SOCKS5ExtFactory(options.pop("reactor", reactor), **options)
    port = await listener_endpoint(reactor, f"haproxy:{listen}").listen(factory)
    server = Proxy(getattr(port.getHost(), "port", None), factory)
    try:
        yield server
    finally:
        await port.stopListening()
        for peer in server.peers:
            if peer.reason is None:
                peer.abort()
                await peer.lost()
        for session in list(factory.connections):
            session.abort("the test is over")


class Noting(SOCKS5ExtFactory):
    """Notes what is known of a client at its first decision, and when its session begins."""

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.noted = []

    def buildProtocol(self, addr):
        self.noted.append(addr)
        return super().buildProtocol(addr)

    def methods(self, session):
        self.noted += [session.peer, session.is_local]
        return super().methods(session)


async def served_as(header, in_pieces=False, **options):
    """What a server knows of a client whose balancer sends this header."""
    factory = Noting(reactor)
    async with behind_balancer(factory, **options) as server:
        client = await server.connect(b"")
        for piece in header[:-1] if in_pieces else b"":
            client.send(bytes((piece,)))
            await turn(2)
            assert not factory.connections
            assert factory.noted == []
        client.send((header[-1:] if in_pieces else header) + GREET_ANONYMOUS)
        assert await client.read(2) == b"\x05\x00"
        built_for, peer, is_local = factory.noted
        assert built_for == peer
        (session,) = [each.session for each in factory.connections]
        assert session.peer == peer
        return client.transport.getHost(), peer, is_local


@each_header
async def test_a_session_begins_with_the_address_in_the_header(header, meaning):
    real, peer, is_local = await served_as(header)
    assert peer == (meaning.source or real)
    assert is_local == (meaning.source is None or isinstance(meaning.source, UNIXAddress))


def in_memory(pieces):
    """What a server knows of a client whose bytes come in these pieces: as soon as all came, and not before."""
    clock = Clock()
    factory = Noting(ReactorWith(clock=clock))
    balancer = ProxyProtocolFactory(factory)
    balancer.doStart()
    here, client = tcp4("127.0.0.1", 4000), Recorder()
    connect_in_memory(client, balancer.buildProtocol(here), clock=clock, client_address=here)
    for piece in pieces:
        assert factory.noted == []
        client.transport.write(piece)
        clock.advance(0.001)
    client.transport.write(GREET_ANONYMOUS)
    clock.advance(0.1)
    assert client.received == b"\x05\x00"
    client.abort()
    clock.advance(1)
    balancer.doStop()
    return factory.noted[0]


@each_header
def test_a_header_may_be_split_anywhere(header, meaning):
    expected = meaning.source or tcp4("127.0.0.1", 4000)
    assert in_memory([header[each : each + 1] for each in range(len(header))]) == expected
    for length in range(1, len(header), max(1, len(header) // 300)):
        assert in_memory([header[:length], header[length:]]) == expected


async def test_no_session_begins_before_the_header_is_complete():
    header, meaning = VALID["IPv4"]
    _, peer, _ = await served_as(header, in_pieces=True)
    assert peer == meaning.source


LOCAL_CLIENT = b"PROXY TCP4 127.0.0.9 127.0.0.1 5000 1080\r\n"
"""A client that may reach the targets of these tests."""


async def test_bytes_in_the_same_segment_as_the_header_are_the_clients():
    header = version_2(TCP4, ends("127.0.0.9", 5000, "127.0.0.1", 1080) + LONG_TLV)
    async with target() as far, behind_balancer() as server:
        client = await server.connect(header + GREET_ANONYMOUS + request("127.0.0.1", far.port) + b"question")
        client.half_close()
        end = await far.accept()
        assert await end.read_to_end() == b"question"
        end.send(b"answer")
        end.close()
        assert (await client.read_to_end())[12:] == b"answer"


@each_fault
async def test_what_is_no_header_ends_the_connection(header):
    factory = Noting(reactor)
    with lines_logged(SERVER_LOG) as lines:
        async with behind_balancer(factory) as server:
            client = await server.connect(header)
            await is_closed(client)
    assert factory.noted == []
    (line,) = lines
    assert line.startswith("127.0.0.1 closed: ")
    assert "PROXY" in line
    assert line.isprintable()


async def test_a_balancer_that_only_tries_whether_the_server_listens_is_not_logged():
    with lines_logged(SERVER_LOG) as lines:
        async with behind_balancer() as server:
            for end in ("close", "half_close", "abort"):
                client = await server.connect(b"")
                getattr(client, end)()
                await is_closed(client)
            await turn(5)
    assert lines == []


async def test_an_end_inside_the_header_ends_the_connection():
    with lines_logged(SERVER_LOG) as lines:
        async with behind_balancer() as server:
            client = await server.connect(b"PROXY TCP4 192.0.2.7 ")
            client.half_close()
            await is_closed(client)
            assert server.factory.counters.connections == 0
    assert lines == ["127.0.0.1 closed: the connection ended inside the PROXY header"]


@pytest.mark.parametrize("sent", [b"", b"PROXY TCP4 192.0.2.7 ", version_2(TCP4, bytes(12))[:20]])
async def test_a_header_has_five_seconds(sent):
    clock = Clock()
    with lines_logged(SERVER_LOG) as lines:
        async with behind_balancer(reactor=ReactorWith(clock=clock)) as server:
            client = await server.connect(sent)
            await until(lambda: clock.getDelayedCalls())
            clock.advance(4.9)
            await turn(5)
            assert not client.input_ended
            clock.advance(0.2)
            await is_closed(client)
    assert lines == ["127.0.0.1 closed: no complete PROXY header within 5 seconds"]
    assert clock.getDelayedCalls() == []


async def test_the_handshake_has_its_whole_time_after_the_header():
    clock = Clock()
    limits = Limits(handshake_timeout=3)
    async with behind_balancer(reactor=ReactorWith(clock=clock), limits=limits) as server:
        client = await server.connect(b"PROXY ")
        await until(lambda: clock.getDelayedCalls())
        clock.advance(4.9)
        client.send(b"UNKNOWN\r\n")
        await until(lambda: server.factory.connections)
        clock.advance(2.9)
        await turn(5)
        assert not client.input_ended
        clock.advance(0.2)
        await is_closed(client)


# Who is believed.


async def test_a_peer_that_is_not_trusted_is_closed_with_one_line():
    factory = ProxyProtocolFactory(SOCKS5ExtFactory(reactor))
    factory.wrapped.trusted_balancers = [ip_network("192.0.2.0/24")]
    port = await serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(factory)
    server = Proxy(port.getHost().port, factory.wrapped)
    with lines_logged(SERVER_LOG) as lines:
        client = await server.connect(LOCAL_CLIENT + GREET_ANONYMOUS)
        await is_closed(client)
    await port.stopListening()
    (line,) = lines
    assert line.startswith("127.0.0.1 closed: it is not a trusted balancer")
    assert "192.0.2.0/24" in line
    assert factory.wrapped.counters.connections == 0


@pytest.mark.parametrize(
    ("peer", "is_trusted"),
    [
        (tcp4("127.0.0.1", 1), True),
        (tcp4("127.8.8.8", 1), True),
        (tcp6("::1", 1), True),
        (tcp6("::ffff:127.0.0.1", 1), True),
        (UNIXAddress(None), True),
        (tcp4("192.168.0.1", 1), False),
        (tcp6("::ffff:192.168.0.1", 1), False),
        (tcp6("fe80::1%lo", 1), False),
        (None, False),
    ],
)
def test_loopback_and_unix_sockets_are_trusted_by_default(peer, is_trusted):
    with lines_logged(SERVER_LOG) as lines:
        built = ProxyProtocolFactory(SOCKS5ExtFactory(Clock())).buildProtocol(peer)
    assert (built is not None) is is_trusted
    assert len(lines) == (0 if is_trusted else 1)


def test_each_peer_that_is_not_trusted_is_logged_once_a_minute():
    clock = Clock()
    factory = ProxyProtocolFactory(SOCKS5ExtFactory(ReactorWith(clock=clock)))
    peers = [tcp4("192.0.2.1", 1), tcp4("192.0.2.2", 1), tcp6("2001:db8::1", 1), tcp6("2001:db8::2", 1)]
    with lines_logged(SERVER_LOG) as lines:
        for _ in range(3):
            assert [factory.buildProtocol(peer) for peer in peers] == [None] * 4
        assert [line.partition(" ")[0] for line in lines] == ["192.0.2.1", "192.0.2.2", "2001:db8::1"]
        clock.advance(60)
        factory.buildProtocol(peers[0])
    assert len(lines) == 4


@pytest.mark.parametrize("workers", [1, 2])
def test_the_option_says_which_balancers_are_believed(socks5ext, workers):
    port = free_port()
    server = socks5ext(
        f"--workers={workers}",
        "--proxy-protocol-from=127.0.0.2",
        "--proxy-protocol-from=127.0.1.0/24",
        listen=[f"haproxy:tcp:{port}:interface=127.0.0.1"],
    )
    for source, is_believed in (("127.0.0.2", True), ("127.0.1.9", True), ("127.0.0.1", False)):
        with socket.create_connection(("127.0.0.1", port), 20, (source, 0)) as balancer:
            balancer.sendall(b"PROXY TCP4 127.0.0.9 127.0.0.1 5000 1080\r\n" + GREET_ANONYMOUS)
            with contextlib.suppress(ConnectionResetError):
                assert balancer.recv(2) == (b"\x05\x00" if is_believed else b"")
    server.stop()
    assert "trusted are 127.0.0.2/32, 127.0.1.0/24 and unix sockets" in server.output


def test_the_option_takes_networks_only():
    with pytest.raises(UsageError, match="--proxy-protocol-from: 'balancer' is neither an address nor a network"):
        Options().parseOptions(["--proxy-protocol-from=balancer"])


BALANCER = tcp4("198.51.100.9", 40000)


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n",
        b"PROXY TCP6 ::1 ::1 1 2\r\n",
        b"PROXY UNKNOWN\r\n",
        version_2(UNIX, paths(b"/a", b"/b")),
        version_2(UNSPEC, command=LOCAL),
    ],
)
def test_a_balancer_elsewhere_cannot_say_that_its_clients_are_on_this_machine(header):
    clock = Clock()
    factory = Noting(ReactorWith(clock=clock))
    factory.trusted_balancers = [ip_network("198.51.100.0/24")]
    listening = ProxyProtocolFactory(factory)
    listening.doStart()
    client = Recorder()
    connect_in_memory(client, listening.buildProtocol(BALANCER), clock=clock, client_address=BALANCER)
    client.transport.write(header + GREET_ANONYMOUS)
    clock.advance(0.1)
    assert client.received == b"\x05\x00"
    assert factory.noted == [BALANCER, BALANCER, False]
    client.abort()
    clock.advance(1)
    listening.doStop()


# What stands in the data path afterwards.


async def test_the_relay_between_sockets_serves_a_client_behind_a_balancer():
    with lines_logged(SERVER_LOG) as lines:
        await carry_both_ways()
        await until(lambda: lines)
    assert lines[0].startswith("127.0.0.9 CONNECT ")
    assert " relay=epoll " in lines[0]
    assert lines[0].endswith(" end=done")


async def carry_both_ways():
    async with target() as far, behind_balancer() as server:
        client = await server.connect(LOCAL_CLIENT)
        assert (await client.ask("127.0.0.1", far.port))[0] == 0
        end = await far.accept()
        client.send(CONTENT)
        assert await end.read(len(CONTENT)) == CONTENT
        end.send(CONTENT)
        end.half_close()
        assert await client.read_to_end() == CONTENT
        client.send(b"more")
        client.half_close()
        assert await end.read_to_end() == b"more"
        end.close()
        client.close()
        assert isinstance(await client.lost(), ConnectionDone)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("header", [LOCAL_CLIENT, b"PROXY UNKNOWN\r\n", version_2(UNIX, paths(b"", b"/b"))])
async def test_a_unix_socket_may_be_behind_a_balancer(tmp_path, header, fast):
    path = tmp_path / "socks"
    factory = SOCKS5ExtFactory(reactor)
    factory.fast_relay = fast
    async with target() as far, behind_balancer(factory, listen=f"unix:{path}") as server:
        client = await server.connect(header, UNIXClientEndpoint(reactor, str(path)))
        assert (await client.ask("127.0.0.1", far.port))[0] == 0
        end = await far.accept()
        client.send(CONTENT)
        client.half_close()
        assert await end.read_to_end() == CONTENT
        end.send(b"answer")
        end.close()
        assert await client.read_to_end() == b"answer"


# The server's own bounds.


async def test_connections_without_a_header_are_bounded():
    limits = Limits(max_connections=2)
    with lines_logged(SERVER_LOG) as lines:
        async with behind_balancer(limits=limits) as server:
            waiting = [await server.connect(b"PROXY") for _ in range(2)]
            await turn(5)
            third = await server.connect(b"")
            await is_closed(third)
            for client in waiting:
                client.send(b" UNKNOWN\r\n" + GREET_ANONYMOUS)
                assert await client.read(2) == b"\x05\x00"
    assert "127.0.0.1 closed: there are max-connections already" in lines


async def test_connections_without_a_header_end_when_the_server_stops():
    clock = Clock()
    port = await listener_endpoint(reactor, "haproxy:tcp:0:interface=127.0.0.1").listen(
        SOCKS5ExtFactory(ReactorWith(clock=clock))
    )
    client = await Proxy(port.getHost().port, None).connect(b"PROXY")
    await until(lambda: clock.getDelayedCalls())
    await port.stopListening()
    await is_closed(client)
    assert clock.getDelayedCalls() == []


async def test_twisteds_own_wrapper_is_not_taken_for_ours():
    """It tells the balancer's address when a connection begins: everybody would seem to be on this machine."""
    factory = SOCKS5ExtFactory(reactor)
    port = await serverFromString(reactor, "haproxy:tcp:0:interface=127.0.0.1").listen(factory)
    with lines_logged(SERVER_LOG) as lines:
        client = await Proxy(port.getHost().port, factory).connect(VALID["IPv4"][0] + GREET_ANONYMOUS)
        await is_closed(client)
        await until(lambda: lines)
    await port.stopListening()
    assert "end=the PROXY header was not read: listen by SOCKS5ExtService or ProxyProtocolFactory" in lines[0]
