"""A mistaken port: the other side speaks something else than SOCKS5, and error or log line says what."""

import pytest
from examples.raw_peers import proxy, until
from support.certificates import Authority
from support.logs import lines_logged
from support.targets import CHUNK, Target, echo, local, web_server
from support.ways import failure_of, listening
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.protocols.tls import TLSMemoryBIOFactory

from txsocksx_ext import SOCKS5ClientEndpoint, errors, resolve
from txsocksx_ext.protocol.foreign import protocol_of
from txsocksx_ext.server.frontends import frontends_for
from txsocksx_ext.testing import FakeProxy, Recorder

WAYS = {
    "anonymous": {"anonymous": ()},
    "login": {"login": ("user", "word")},
    "pairs and login": {"extended": {"tor.isolation": "a"}, "login": ("user", "word")},
    "all": {"extended": {}, "login": ("user", "word"), "anonymous": ()},
}
each_way = pytest.mark.parametrize("methods", WAYS.values(), ids=WAYS)


def connect(port, methods=WAYS["anonymous"], timeout=30.0):
    """Use what listens on this port as a proxy."""
    endpoint = SOCKS5ClientEndpoint("target.example", 443, local(port), methods, timeout=timeout)
    return endpoint.connect(Factory.forProtocol(Recorder))


def answering(answer):
    """A server that answers whatever comes first with this, and closes."""

    def serve(connection):
        received = connection.recv(CHUNK)
        connection.sendall(answer)
        return received

    return serve


def greeting_with(banner):
    """A server that speaks first, and then waits for more."""

    def serve(connection):
        connection.sendall(banner)
        return connection.recv(CHUNK)

    return serve


BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nServer: nginx\r\nConnection: close\r\n\r\n"
TLS_ALERT = bytes.fromhex("15 03 01 0002 0246")
ANSWERS = {
    "HTTP": (answering(BAD_REQUEST), "speaks HTTP, not SOCKS5"),
    "HTML": (answering(b"<!DOCTYPE HTML>\n<html>"), "speaks HTTP, not SOCKS5"),
    "HTTP/2": (greeting_with(bytes.fromhex("000012 04 00 00000000 000300000064")), "speaks HTTP/2, not SOCKS5"),
    "TLS": (answering(TLS_ALERT), "speaks TLS, not SOCKS5: check its address and port, or connect to it by TLS"),
    "SSH": (greeting_with(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"), "speaks SSH, not SOCKS5"),
    "SOCKS4": (answering(bytes.fromhex("005b 0000 00000000")), "speaks SOCKS4, not SOCKS5"),
    "SMTP": (greeting_with(b"220 mail.example ESMTP\r\n"), "SMTP, FTP or that of tor's control port, not SOCKS5"),
    "tor's control port": (answering(b'510 Unrecognized command ""\r\n'), "tor's control port, not SOCKS5"),
    "IMAP": (greeting_with(b"* OK IMAP4rev1 ready\r\n"), "speaks IMAP, not SOCKS5"),
    "Redis": (answering(b"-ERR unknown command\r\n"), "speaks Redis, not SOCKS5"),
    "an unknown protocol": (answering(b"\x42" * 8), "does not speak SOCKS5 as it should"),
}


@each_way
@pytest.mark.parametrize(("serve", "told"), ANSWERS.values(), ids=ANSWERS)
async def test_a_client_says_what_answers_instead_of_a_proxy(serve, told, methods):
    with Target(serve) as server:
        error = await failure_of(connect(server.port, methods))
        assert type(error) is errors.ProtocolViolation
        assert told in str(error)
        greeting = await server.when_next_result()
        assert greeting[0] == 5
        assert b"word" not in greeting


@each_way
async def test_a_client_recognises_its_own_words_and_says_no_more(methods):
    received = []

    def serve(connection):
        while data := connection.recv(CHUNK):
            received.append(data)
            connection.sendall(data)

    with Target(serve) as server:
        error = await failure_of(connect(server.port, methods))
        assert type(error) is errors.ProtocolViolation
        assert "sends back what it gets" in str(error)
        await server.when_next_result()
        assert b"word" not in b"".join(received)


async def test_a_look_up_says_it_too():
    with Target(echo) as server:
        error = await failure_of(resolve("target.example", local(server.port)))
        assert "sends back what it gets" in str(error)


async def test_a_client_asks_about_a_server_that_never_answers():
    with web_server() as port:
        error = await failure_of(connect(port, timeout=0.5))
        assert type(error) is errors.HandshakeTimeout
        assert "did not answer at all in time: is this a SOCKS5 proxy?" in str(error)


async def test_a_client_asks_about_a_server_that_waits_for_tls():
    """A greeting is shorter than the head of a TLS record, so that OpenSSL waits for the rest of it."""
    secured = TLSMemoryBIOFactory(Authority().server_options("proxy.example"), False, FakeProxy())
    async with listening(secured) as address:
        error = await failure_of(connect(address.port, timeout=0.5))
        assert "is this a SOCKS5 proxy? Check its address and port" in str(error)


async def test_a_client_asks_about_a_server_that_closes_without_an_answer():
    with Target(answering(b"")) as server:
        error = await failure_of(connect(server.port))
        assert type(error) is errors.ProxyClosed
        assert "before it answered anything: is this a SOCKS5 proxy?" in str(error)


async def test_a_client_that_has_heard_a_proxy_asks_nothing():
    with Target(answering(b"\x05\x00")) as server:
        error = await failure_of(connect(server.port))
        assert str(error) == errors.ProxyClosed.message

    def serve(connection):
        connection.sendall(b"\x05\x00")
        while connection.recv(CHUNK):
            pass

    with Target(serve) as server:
        error = await failure_of(connect(server.port, timeout=0.5))
        assert str(error) == errors.HandshakeTimeout.message


def test_a_client_says_that_it_was_not_even_connected():
    clock = Clock()
    caught = []
    endpoint = SOCKS5ClientEndpoint("target.example", 443, FakeProxy(hangs=True).endpoint, timeout=5, reactor=clock)
    endpoint.connect(Factory.forProtocol(Recorder)).addErrback(caught.append)
    clock.advance(5)
    assert type(caught[0].value) is errors.HandshakeTimeout
    assert "connection to the proxy was not made in time" in str(caught[0].value)


# A server of ours.

CLIENTS = {
    "HTTP": (b"GET / HTTP/1.1\r\nHost: secret.example\r\n\r\n", "HTTP"),
    "HTTP CONNECT": (b"CONNECT secret.example:443 HTTP/1.1\r\n\r\n", "HTTP"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2"),
    "TLS": (bytes.fromhex("16 03 01 0200 01 0001fc 0303") + b"secret.example", "TLS"),
    "SSH": (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH"),
    "SOCKS4": (b"\x04\x01\x00\x50\x00\x00\x00\x01\x00secret.example\x00", "SOCKS4"),
    "PROXY, version 1": (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n\x05\x01\x00", "the PROXY protocol"),
    "PROXY, version 2": (b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes(12), "the PROXY protocol"),
    "RDP": (bytes.fromhex("0300002b26e00000000000436f6f6b69653a20"), "RDP"),
}


async def line_about(said):
    """What a server of SOCKS5 alone logs about a client that says this."""
    async with proxy() as server:
        server.factory.frontends = frontends_for(["socks5"])
        with lines_logged("txsocksx_ext.server") as lines:
            client = await server.connect()
            client.send(said)
            assert await client.read_to_end() == b""
            client.close()
            await until(lambda: lines)
        (line,) = lines
        return line


@pytest.mark.parametrize(("said", "name"), CLIENTS.values(), ids=CLIENTS)
async def test_a_server_logs_what_its_client_speaks(said, name):
    line = await line_about(said)
    assert line.endswith(f"end=violation: the version byte is wrong; it looks like {name}")
    assert "secret" not in line


async def test_a_server_guesses_nothing_about_unknown_bytes():
    assert (await line_about(b"\x42" * 20)).endswith("end=violation: the version byte is wrong")


def test_nothing_that_socks5_begins_with_is_taken_for_another_protocol():
    for second in range(256):
        assert protocol_of(bytes((5, second)) + bytes(20)) is None
    assert protocol_of(b"") is None
