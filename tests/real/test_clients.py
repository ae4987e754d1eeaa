"""Real clients of our server: none of them knows of method 97, and all must find a plain SOCKS5 proxy."""

import asyncio
import contextlib
import hashlib
import socket

import pytest
import python_socks
import socks as pysocks
from python_socks.async_.asyncio import Proxy as AsyncProxy
from python_socks.sync import Proxy
from support.programs import free_port, need, twistd
from support.targets import (
    CONTENT,
    CURL_PROXY_FAILED,
    NO_SUCH_HOST,
    PAGE,
    SSHServer,
    Target,
    answer_the_end,
    curl,
    digest,
    echo,
    local,
    programs,
    read_exactly,
    read_to_end,
    run,
    web_server,
)
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from txtorcon import socks as txtorcon_socks


@pytest.fixture(scope="module")
def server():
    """Lets everyone in."""
    with programs() as start:
        yield twistd(start)


@pytest.fixture(scope="module")
def guarded():
    """Lets in only one user."""
    with programs() as start:
        yield twistd(start, "--auth=memory:alice:right")


# curl


@pytest.mark.parametrize("user", [(), ("--proxy-user", "anyone:anything")], ids=["anonymous", "login"])
@pytest.mark.parametrize("way", ["--socks5", "--socks5-hostname"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_curl_moves_a_page_and_a_form(server, web_port, way, user, host):
    proxy = (way, f"127.0.0.1:{server.port}", *user)
    fetched = curl(*proxy, f"http://{host}:{web_port}/")
    assert (fetched.returncode, fetched.stdout) == (0, PAGE), fetched.stderr
    posted = curl(*proxy, f"http://{host}:{web_port}/", "--data-binary", "@-", given=CONTENT)
    assert (posted.returncode, posted.stdout) == (0, CONTENT), posted.stderr


@pytest.mark.parametrize("way", ["--socks5", "--socks5-hostname"])
def test_curl_reaches_an_ipv6_target(server, way):
    with web_server("::1") as port:
        fetched = curl(way, f"127.0.0.1:{server.port}", f"http://[::1]:{port}/")
    assert (fetched.returncode, fetched.stdout) == (0, PAGE), fetched.stderr


def test_curl_is_told_that_the_target_refused(server):
    failed = curl("--socks5-hostname", f"127.0.0.1:{server.port}", f"http://127.0.0.1:{free_port()}/")
    assert failed.returncode == CURL_PROXY_FAILED
    assert b"(5)" in failed.stderr


def test_curl_is_told_that_there_is_no_such_host(server):
    failed = curl("--socks5-hostname", f"127.0.0.1:{server.port}", f"http://{NO_SUCH_HOST}/")
    assert failed.returncode == CURL_PROXY_FAILED
    assert b"(4)" in failed.stderr


def test_curl_comes_in_with_the_right_password(guarded, web_port):
    fetched = curl(
        "--socks5", f"127.0.0.1:{guarded.port}", "--proxy-user", "alice:right", f"http://127.0.0.1:{web_port}/"
    )
    assert (fetched.returncode, fetched.stdout) == (0, PAGE), fetched.stderr


@pytest.mark.parametrize(
    ("user", "message"),
    [
        (("--proxy-user", "alice:wrong"), b"was rejected"),
        (("--proxy-user", "mallory:right"), b"was rejected"),
        ((), b"No authentication method was acceptable"),
    ],
    ids=["wrong-password", "unknown-user", "no-user"],
)
def test_curl_stays_outside_without_the_right_password(guarded, web_port, user, message):
    failed = curl("--socks5", f"127.0.0.1:{guarded.port}", *user, f"http://127.0.0.1:{web_port}/")
    assert failed.returncode == CURL_PROXY_FAILED
    assert message in failed.stderr


# python-socks


def url(server, user=""):
    return f"socks5://{user}127.0.0.1:{server.port}"


def echo_through(connection):
    """Send the content and our end; what comes back."""
    with connection:
        connection.settimeout(20)
        connection.sendall(b"first")
        first = read_exactly(connection, 5)
        connection.sendall(CONTENT[:50_000])
        connection.shutdown(socket.SHUT_WR)
        return first + read_to_end(connection)


ECHOED = b"first" + CONTENT[:50_000]


@pytest.mark.parametrize("rdns", [True, False], ids=["name", "address"])
def test_python_socks_moves_bytes(server, rdns):
    with Target(echo) as target:
        proxy = Proxy.from_url(url(server), rdns=rdns)
        assert echo_through(proxy.connect("localhost", target.port, timeout=20)) == ECHOED


def test_python_socks_in_asyncio_moves_bytes(server):
    async def through():
        opened = await AsyncProxy.from_url(url(server, "user:word@")).connect("127.0.0.1", target.port, timeout=20)
        reader, writer = await asyncio.open_connection(sock=opened)
        writer.write(CONTENT)
        writer.write_eof()
        received = await reader.read()
        writer.close()
        await writer.wait_closed()
        return received

    with Target(answer_the_end) as target:
        assert asyncio.run(through()) == digest(CONTENT)
        assert target.next_result() == CONTENT


@pytest.mark.parametrize(("host", "code"), [("127.0.0.1", 5), (NO_SUCH_HOST, 4)])
def test_python_socks_is_told_why_not(server, host, code):
    with pytest.raises(python_socks.ProxyError) as caught:
        Proxy.from_url(url(server), rdns=True).connect(host, free_port(), timeout=20)
    assert caught.value.error_code == code

    async def through():
        with pytest.raises(python_socks.ProxyError) as caught:
            await AsyncProxy.from_url(url(server), rdns=True).connect(host, free_port(), timeout=20)
        assert caught.value.error_code == code

    asyncio.run(through())


def test_python_socks_needs_the_right_password(guarded):
    with Target(echo) as target:
        right = Proxy.from_url(url(guarded, "alice:right@"))
        assert echo_through(right.connect("127.0.0.1", target.port, timeout=20)) == ECHOED
        for user in ("alice:wrong@", ""):
            with pytest.raises(python_socks.ProxyError):
                Proxy.from_url(url(guarded, user)).connect("127.0.0.1", target.port, timeout=20)
        assert len(target.peers) == 1


# PySocks


@contextlib.contextmanager
def pysocks_socket(server, **options):
    with pysocks.socksocket() as opened:
        opened.settimeout(20)
        opened.set_proxy(pysocks.SOCKS5, "127.0.0.1", server.port, **options)
        yield opened


@pytest.mark.parametrize("rdns", [True, False], ids=["name", "address"])
def test_pysocks_moves_bytes(server, rdns):
    with Target(echo) as target, pysocks_socket(server, rdns=rdns) as opened:
        opened.connect(("localhost", target.port))
        bound = opened.get_proxy_sockname()
        assert echo_through(opened) == ECHOED
        assert target.peers == [bound]


@pytest.mark.parametrize(("host", "code"), [("127.0.0.1", "0x05"), (NO_SUCH_HOST, "0x04")])
def test_pysocks_is_told_why_not(server, host, code):
    with pysocks_socket(server) as opened, pytest.raises(pysocks.ProxyError) as caught:
        opened.connect((host, free_port()))
    assert code in str(caught.value)


def test_pysocks_needs_the_right_password(guarded):
    with Target(echo) as target:
        with pysocks_socket(guarded, username="alice", password="right") as opened:
            opened.connect(("127.0.0.1", target.port))
            assert echo_through(opened) == ECHOED
        with (
            pysocks_socket(guarded, username="alice", password="wrong") as opened,
            pytest.raises(pysocks.ProxyError, match="SOCKS5 authentication failed"),
        ):
            opened.connect(("127.0.0.1", target.port))


# txtorcon's own client


class Collector(Protocol):
    def __init__(self):
        self.received = b""
        self.ended = Deferred()

    def dataReceived(self, data):
        self.received += data
        if len(self.received) == len(CONTENT):
            self.transport.loseConnection()

    def connectionLost(self, reason):
        self.ended.callback(self.received)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_txtorcon_moves_bytes(server, host):
    with Target(echo) as target:
        endpoint = txtorcon_socks.TorSocksEndpoint(local(server.port), host, target.port)
        collector = await endpoint.connect(Factory.forProtocol(Collector))
        collector.transport.write(CONTENT)
        received = await collector.ended
    assert hashlib.sha256(received).digest() == hashlib.sha256(CONTENT).digest()


@pytest.mark.parametrize(
    ("host", "error"),
    [
        ("127.0.0.1", txtorcon_socks.ConnectionRefusedError),
        (NO_SUCH_HOST, txtorcon_socks.HostUnreachableError),
    ],
)
async def test_txtorcon_is_told_why_not(server, host, error):
    endpoint = txtorcon_socks.TorSocksEndpoint(local(server.port), host, free_port())
    with pytest.raises(error):
        await endpoint.connect(Factory.forProtocol(Collector))


async def test_txtorcon_resolves(server):
    assert await txtorcon_socks.resolve(local(server.port), "localhost") == "127.0.0.1"
    expected = socket.getnameinfo(("127.0.0.1", 0), socket.NI_NAMEREQD)[0]
    assert await txtorcon_socks.resolve_ptr(local(server.port), "127.0.0.1") == expected.encode()
    with pytest.raises(txtorcon_socks.HostUnreachableError):
        await txtorcon_socks.resolve(local(server.port), NO_SUCH_HOST)


# OpenBSD netcat, alone and for ssh


def netcat(server, *options):
    return [need("nc.openbsd", "netcat-openbsd"), "-X", "5", "-x", f"127.0.0.1:{server.port}", *options]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_netcat_moves_bytes_and_their_end(server, host):
    with Target(answer_the_end) as target:
        sent = run(*netcat(server, "-N", host, target.port), given=CONTENT)
        assert (sent.returncode, sent.stdout) == (0, digest(CONTENT)), sent.stderr
    with Target(echo) as target:
        sent = run(*netcat(server, "-N", host, target.port), given=CONTENT)
        assert (sent.returncode, sent.stdout) == (0, CONTENT), sent.stderr


@pytest.mark.parametrize(
    ("host", "message"), [("127.0.0.1", b"error: Connection refused"), (NO_SUCH_HOST, b"error: Host unreachable")]
)
def test_netcat_is_told_why_not(server, host, message):
    failed = run(*netcat(server, "-N", host, free_port()))
    assert failed.returncode == 1
    assert message in failed.stderr


def test_ssh_logs_in_and_moves_megabytes_through_a_proxy_command(server, program, tmp_path):
    target = SSHServer(program, tmp_path)
    ssh = target.command("-o", f"ProxyCommand={' '.join(map(str, netcat(server)))} %h %p")
    logged_in = run(*ssh, "echo ok")
    assert (logged_in.returncode, logged_in.stdout) == (0, b"ok\n"), logged_in.stderr
    megabytes = CONTENT * 10
    copied = run(*ssh, "cat", given=megabytes)
    assert copied.returncode == 0, copied.stderr
    assert digest(copied.stdout) == digest(megabytes)
