"""A port of several protocols: the first byte decides, and nothing on a web page can use it."""

import pytest
from examples.raw_peers import GREET_ANONYMOUS, HeldRoute, proxy, request, target, until
from support.answers import portal, reply, table, talk
from support.logs import lines_logged
from twisted.internet import reactor

from txsocksx_ext import Limits, SOCKS5ExtFactory
from txsocksx_ext.errors import ConnectionRefused
from txsocksx_ext.protocol.codes import Method
from txsocksx_ext.route.refuse import RefuseRoute
from txsocksx_ext.server.frontends import PROTOCOLS, frontends_for
from txsocksx_ext.testing import FakeRoute

CONNECT = b"CONNECT 192.0.2.1:80 HTTP/1.1\r\n"
SOCKS5 = GREET_ANONYMOUS + request("192.0.2.1", 80)
SOCKS4 = bytes.fromhex("04 01 0050 c0000201 00")
SOCKS4A = bytes.fromhex("04 01 0050 00000001 00") + b"host.example\0"
REJECTED = bytes.fromhex("005b 0000 00000000")
# The beginnings of what a refusing server answers in each protocol.
FIRST_WORDS = {
    "socks5": (SOCKS5, b"\x05\x00" + reply(2)),
    "socks4": (SOCKS4, REJECTED),
    "http": (CONNECT + b"\r\n", b"HTTP/1.1 403 "),
}


@pytest.mark.parametrize("served", [*PROTOCOLS, "all"])
async def test_only_the_protocols_that_are_served_are_answered(served):
    protocols = PROTOCOLS if served == "all" else (served,)
    async with proxy(policy=table(RefuseRoute())) as server:
        server.factory.frontends = frontends_for(protocols)
        for protocol, (said, answer) in FIRST_WORDS.items():
            heard = await talk(server, said, None)
            assert heard.startswith(answer) if protocol in protocols else heard == b""


@pytest.mark.parametrize("protocols", [(), ("socks6",), "socks", ["http", "SOCKS5"]])
def test_unknown_protocols_are_refused(protocols):
    with pytest.raises(ValueError, match="give one or more of the protocols socks5, socks4, http, not "):
        frontends_for(protocols)


# What a browser can be made to send, and how requests are smuggled. Nothing of it is answered, and nothing connected.

BODY = b"Content-Length: 40\r\n\r\n" + SOCKS5 + SOCKS4 + b" " * 20
UNANSWERED = {
    "GET": b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "GET without Host": b"GET / HTTP/1.1\r\n\r\n",
    "GET of HTTP/1.0": b"GET / HTTP/1.0\r\n\r\n",
    "GET of HTTP/0.9": b"GET /\r\n",
    "a POST whose body is SOCKS": b"POST / HTTP/1.1\r\nHost: evil.example\r\n" + BODY,
    "a preflight": b"OPTIONS / HTTP/1.1\r\nHost: evil.example\r\nOrigin: http://evil.example\r\n\r\n",
    "OPTIONS of everything": b"OPTIONS * HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "a WebSocket": b"GET / HTTP/1.1\r\nHost: evil.example\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n",
    "two Hosts": b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
    "a folded Host": b"GET / HTTP/1.1\r\nHost:\r\n localhost\r\n\r\n",
    "a Host after LF alone": b"GET / HTTP/1.1\r\nA: b\nHost: localhost\r\n\r\n",
    "a Host after CR alone": b"GET / HTTP/1.1\r\nA: b\rHost: localhost\r\n\r\n",
    "a head too long": b"GET / HTTP/1.1\r\nHost: localhost\r\nA: " + b"x" * 16384,
    "Origin on CONNECT": CONNECT + b"Origin: http://evil.example\r\n\r\n",
    "Cookie on CONNECT": CONNECT + b"Cookie: a=b\r\n\r\n",
    "Sec-Fetch-Site on CONNECT": CONNECT + b"Sec-Fetch-Site: cross-site\r\n\r\n",
}


@pytest.mark.parametrize("said", UNANSWERED.values(), ids=UNANSWERED)
async def test_what_a_web_page_can_send_is_not_answered(said):
    route = HeldRoute()
    async with proxy(policy=table(route)) as server:
        assert await talk(server, said, None) == b""
        assert route.asked.pending == []


ONE_ANSWER = {
    "two Hosts": (400, b"Host: a\r\nHost: b\r\n\r\n"),
    "a folded header": (400, b"A: b\r\n c\r\n\r\n"),
    "CR alone": (400, b"A: b\rc\r\n\r\n"),
    "LF alone": (400, b"A: b\nc: d\r\n\r\n"),
    "NUL": (400, b"A: b\0\r\n\r\n"),
    "a length": (400, b"Content-Length: 40\r\n\r\n"),
    "chunks": (400, b"Transfer-Encoding: chunked\r\n\r\n"),
    "both": (400, b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "a head without end": (431, b"A: " + b"x" * 16384),
    "a target that is refused": (502, b"\r\n"),
}


@pytest.mark.parametrize(("status", "rest"), ONE_ANSWER.values(), ids=ONE_ANSWER)
async def test_nothing_behind_a_rejected_connect_is_read(status, rest):
    route = FakeRoute(failure=ConnectionRefused())
    async with proxy(policy=table(route)) as server:
        smuggled = CONNECT + b"\r\n" + SOCKS5 + SOCKS4 + b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n"
        answer = await talk(server, CONNECT + rest + smuggled, None)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert answer.count(b"HTTP/1.") == 1
    assert b"\r\nConnection: close\r\n" in answer


async def test_a_second_request_after_407_is_not_read():
    async with proxy(portal=portal()) as server:
        client = await server.connect()
        client.send(CONNECT + b"\r\n")
        answer = await client.read_to_end()
        assert answer.startswith(b"HTTP/1.1 407 ")
        client.send(CONNECT + b"Proxy-Authorization: Basic YWxpY2U6c2VjcmV0\r\n\r\n")
        client.close()
        await until(lambda: not server.factory.connections)
        assert client.unread == b""


async def test_half_a_request_is_not_answered_when_its_time_is_over():
    for said in (b"GET / HT", CONNECT, b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n", SOCKS4[:5]):
        async with proxy(limits=Limits(handshake_timeout=0.05)) as server:
            assert await talk(server, said, None) == b""


# SOCKS4.


@pytest.mark.parametrize("said", [SOCKS4, SOCKS4A])
async def test_socks4_opens_a_tunnel_and_its_early_data_arrives(said):
    async with target() as far, proxy() as server:
        client = await server.connect()
        destination = b"\x7f\0\0\1\0" if said is SOCKS4 else b"\0\0\0\1\x00localhost\0"
        client.send(b"\4\1" + far.port.to_bytes(2, "big") + destination + b"first words")
        end = await far.accept()
        assert await end.read(11) == b"first words"
        bound = end.transport.getPeer().port.to_bytes(2, "big")
        end.send(b"the answer")
        end.close()
        assert await client.read_to_end() == b"\0\x5a" + bound + b"\x7f\0\0\1" + b"the answer"


@pytest.mark.parametrize(
    "said",
    [
        SOCKS4,
        SOCKS4A,
        bytes.fromhex("04 02 0050 c0000201 00"),
        bytes.fromhex("04 f0 0050 00000001 00 61 00"),
        bytes.fromhex("04 01 0000 c0000201 00"),
        bytes.fromhex("04 01 0050 00000000 00"),
    ],
)
async def test_every_failure_of_socks4_is_one_code(said):
    async with proxy(policy=table(FakeRoute(failure=ConnectionRefused()))) as server:
        assert await talk(server, said + SOCKS5, None) == REJECTED


async def test_private_addresses_are_protected_from_remote_clients_of_socks4():
    async with target() as far, proxy(seen_from="203.0.113.7") as server:
        port = far.port.to_bytes(2, "big")
        for destination in (b"\x7f\0\0\1\0", b"\0\0\0\1\x00127.0.0.1\0", b"\0\0\0\1\x00127.1\0", b"\0\0\0\1\x00::1\0"):
            assert await talk(server, b"\4\1" + port + destination, None) == REJECTED
        assert far.accepted == 0


async def test_a_user_id_is_no_credential():
    with lines_logged("txsocksx_ext.server") as lines:
        async with proxy(portal=portal()) as server:
            assert await talk(server, bytes.fromhex("04 01 0050 c0000201") + b"alice\0", None) == REJECTED
            await until(lambda: lines)
    (line,) = lines
    assert line.startswith("127.0.0.1 - protocol=socks4 method=NO_AUTHENTICATION route=- ")
    assert line.endswith(" end=authentication failed")


async def test_a_user_id_separates_streams_where_a_route_can_and_is_not_logged():
    seen = []

    class Mine(SOCKS5ExtFactory):
        def authenticate(self, session):
            seen.append((session.protocol, session.method, session.credentials, dict(session.pairs)))

    with lines_logged("txsocksx_ext.server") as lines:
        async with proxy(
            Mine(reactor, log_targets=True, policy=table(FakeRoute(failure=ConnectionRefused())))
        ) as server:
            assert await talk(server, bytes.fromhex("04 01 0050 c0000201") + b"alice\0", None) == REJECTED
            await until(lambda: lines)
    assert seen == [("socks4", Method.NO_AUTHENTICATION, None, {"tor.isolation": b"alice"})]
    assert "alice" not in lines[0]
    assert " code=05 " in lines[0]


async def test_a_client_of_socks4_that_half_closes_is_served():
    async with target() as far, proxy() as server:
        client = await server.connect()
        client.send(b"\4\1" + far.port.to_bytes(2, "big") + b"\x7f\0\0\1\0" + b"all that I say")
        client.half_close()
        end = await far.accept()
        assert await end.read_to_end() == b"all that I say"
        end.send(b"the answer")
        end.close()
        assert (await client.read_to_end())[8:] == b"the answer"
