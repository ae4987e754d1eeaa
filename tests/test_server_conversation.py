"""One connection through the server: its order, how a failing answer arrives, and other listeners than TCP."""

import socket

import pytest
from examples.raw_peers import (
    BIND,
    GREET_ANONYMOUS,
    GREET_EXTENDED,
    GREET_LOGIN,
    HeldRoute,
    ReactorWith,
    login,
    pairs,
    proxy,
    request,
    target,
    through_tls,
    tls_listener,
    turn,
    until,
)
from support.answers import reply, table
from support.reactors import connections_read_from
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, UNIXClientEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread

from txsocksx_ext import Limits, SOCKS5ExtFactory, open_transport
from txsocksx_ext.errors import HostUnreachable

# The conversation.


async def test_everything_in_one_segment_is_answered_in_order():
    async with target() as far, proxy() as server:
        client = await server.connect()
        client.send(b"\x05\x02\x01\x02" + login(b"user", b"password") + request("127.0.0.1", far.port) + b"first words")
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
        (b"\x80\x01\x00", b""),
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
    async with target() as far, proxy(policy=table(route)) as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request("192.0.2.1", 80) + b"all that I have to say")
        client.half_close()
        await route.asked.get()
        (session,) = server.factory.connections
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
        await until(lambda: not server.factory.connections)


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
    async with proxy(policy=table(route), limits=limits) as server:
        said = GREET_ANONYMOUS + request("192.0.2.1", 80) + bytes(16 << 20)
        heard = deferToThread(talk_before_reading, server.port, said)
        await route.asked.get()
        (session,) = server.factory.connections
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
        assert len(server.factory.connections) == 1
        clock.advance(0.2)
        await until(lambda: not server.factory.connections)


async def test_a_client_that_closes_after_an_error_is_gone_at_once():
    clock = Clock()
    async with proxy(reactor=ReactorWith(clock=clock)) as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request("127.0.0.1", 80, BIND))
        await client.read_to_end()
        client.close()
        await until(lambda: not server.factory.connections)
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
    async with target() as far, proxy(policy=table(route)) as server:
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
        await until(lambda: not server.factory.connections)


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
        await until(lambda: not server.factory.connections)
