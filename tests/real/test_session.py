"""The whole: `twistd socks5ext` with real programs around it, and our client in a process of its own."""

import contextlib
import datetime
import ipaddress
import os
import signal
import socket
import sys
import time

import pytest
import python_socks
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from python_socks.sync import Proxy
from support.programs import free_port, need, twistd
from support.targets import (
    ANY,
    CONTENT,
    CURL_PROXY_FAILED,
    NO_SUCH_HOST,
    PAGE,
    Target,
    answer_the_end,
    curl,
    dante,
    digest,
    echo,
    end_first,
    failure_of,
    local,
    microsocks,
    programs,
    read_exactly,
    reset_after_some,
    run,
    talk_to,
    until_it_ends,
    web_server,
)
from twisted.internet import endpoints
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP6ClientEndpoint, UNIXClientEndpoint, clientFromString
from twisted.internet.error import ConnectionLost
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates

from txsocksx_ext.errors import (
    AuthenticationFailed,
    ConnectionRefused,
    GeneralServerFailure,
    HostUnreachable,
    NoAcceptableMethod,
    OnionServiceNotFound,
    OnionServiceNotReachable,
)

TWISTED_CLIENT = """
import sys
import treq.client
from twisted.internet.defer import ensureDeferred
from twisted.internet.endpoints import clientFromString
from twisted.internet.task import react
from twisted.web.client import Agent
from twisted.web.iweb import IAgentEndpointFactory
from txsocksx_ext.errors import SOCKS5Error
from zope.interface import implementer

@implementer(IAgentEndpointFactory)
class ThroughProxy:
    def __init__(self, reactor, settings):
        self.reactor, self.settings = reactor, settings

    def endpointForURI(self, uri):
        return clientFromString(self.reactor, f"socks5ext:{uri.host.decode()}:{uri.port}:{self.settings}")

async def main(reactor, url, settings):
    client = treq.client.HTTPClient(Agent.usingEndpointFactory(reactor, ThroughProxy(reactor, settings)))
    try:
        response = await client.post(url, data=sys.stdin.buffer.read())
        sys.stdout.buffer.write(await response.content())
    except SOCKS5Error as error:
        sys.exit(f"{type(error).__name__} {error.code:02X}")

react(lambda reactor: ensureDeferred(main(reactor, *sys.argv[1:])))
"""

ONION_SERVER = """
import sys
from twisted.internet import reactor
from twisted.internet.defer import fail
from twisted.internet.endpoints import serverFromString
from txsocksx_ext import Route, SOCKS5ExtFactory
from txsocksx_ext.errors import OnionServiceNotFound, OnionServiceNotReachable

class OnionRoute(Route):
    def __init__(self, error):
        self.error = error

    def connect(self, request, session):
        return fail(self.error())

class OnionServer(SOCKS5ExtFactory):
    ways = {"lost.onion": OnionRoute(OnionServiceNotFound), "down.onion": OnionRoute(OnionServiceNotReachable)}

    def route(self, session):
        return self.ways.get(session.request.destination.host) or super().route(session)

serverFromString(reactor, sys.argv[1]).listen(OnionServer(reactor))
reactor.run()
"""


def twisted_client(url, settings, given=b""):
    """Post to `url` by treq, over the endpoint string ``socks5ext:...`` with these settings."""
    return run(sys.executable, "-c", TWISTED_CLIENT, url, settings, given=given)


async def echoes(proxy, methods=ANY):
    """Whether bytes go to a target and come back."""
    with Target(echo) as target:
        talker = await talk_to("127.0.0.1", target.port, proxy, methods)
        talker.transport.write(CONTENT)
        received = await talker.has_received(len(CONTENT))
        talker.transport.loseConnection()
        await talker.lost
        return received == CONTENT


def has_written(server, text, seconds=10):
    """Whether a program writes something within some seconds."""
    deadline = time.monotonic() + seconds
    while text not in server.output:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture(scope="module")
def web_port():
    with web_server() as port:
        yield port


# The main job


@pytest.mark.parametrize("command", ["twistd", "twist"])
def test_curl_and_a_twisted_client_reach_a_page(socks5ext, web_port, command):
    server = socks5ext(command=command)
    page = f"http://localhost:{web_port}/"
    fetched = curl("--socks5-hostname", f"127.0.0.1:{server.port}", page)
    assert (fetched.returncode, fetched.stdout) == (0, PAGE), fetched.stderr
    posted = twisted_client(page, f"proxy=tcp\\:127.0.0.1\\:{server.port}", given=CONTENT)
    assert (posted.returncode, posted.stdout) == (0, CONTENT), posted.stderr
    if command == "twistd":
        assert has_written(server, "127.0.0.1 CONNECT method=NO_AUTHENTICATION route=direct")
        assert has_written(server, "127.0.0.1 CONNECT method=EXTENDED route=direct")
    assert "localhost" not in server.output


@pytest.fixture(scope="module")
def onion_server():
    """A server of our own making, some of whose targets fail as onion services do."""
    port = free_port()
    with programs() as start:
        yield start([sys.executable, "-c", ONION_SERVER, f"tcp:{port}:interface=127.0.0.1"], port=port)


@pytest.mark.parametrize(
    ("host", "expected", "code"),
    [("lost.onion", OnionServiceNotFound, 0xE0), ("down.onion", OnionServiceNotReachable, 0xE1)],
)
async def test_onion_failures_reach_those_who_offered_method_97(onion_server, host, expected, code):
    error = await failure_of(talk_to(host, 80, local(onion_server.port)))
    assert (type(error), error.code) == (expected, code)
    error = await failure_of(talk_to(host, 80, local(onion_server.port), {"anonymous": ()}))
    assert (type(error), error.code) == (HostUnreachable, 4)


def test_onion_failures_reach_a_twisted_program(onion_server):
    for host, message in [("lost.onion", b"OnionServiceNotFound E0"), ("down.onion", b"OnionServiceNotReachable E1")]:
        failed = twisted_client(f"http://{host}/", f"proxy=tcp\\:127.0.0.1\\:{onion_server.port}")
        assert failed.returncode == 1
        assert failed.stderr.strip() == message


@pytest.mark.parametrize("host", ["lost.onion", "down.onion"])
def test_other_clients_get_plain_codes_for_onion_failures(onion_server, host):
    failed = curl("--socks5-hostname", f"127.0.0.1:{onion_server.port}", f"http://{host}/")
    assert failed.returncode == CURL_PROXY_FAILED
    assert b"(4)" in failed.stderr
    with pytest.raises(python_socks.ProxyError) as caught:
        Proxy.from_url(f"socks5://127.0.0.1:{onion_server.port}", rdns=True).connect(host, 80, timeout=20)
    assert caught.value.error_code == 4


# Through another proxy


def through(proxy_port, settings=""):
    """The option that sends all targets through a proxy."""
    return f"--route=*=socks:tcp\\:127.0.0.1\\:{proxy_port}{settings}"


def begin_ours(start, folder):
    return twistd(start).port


@pytest.fixture(scope="module", params=[microsocks, dante, begin_ours])
def chain(request, tmp_path_factory):
    """A server of ours that goes through another proxy, and how that one says that there is no such host."""
    with programs() as start:
        port = request.param(start, tmp_path_factory.mktemp("chain"))
        no_such_host = GeneralServerFailure if request.param is microsocks else HostUnreachable
        yield twistd(start, through(port)), no_such_host


def test_curl_fetches_through_a_chain(chain, web_port):
    server, _ = chain
    page = f"http://127.0.0.1:{web_port}/"
    fetched = curl("--socks5-hostname", f"127.0.0.1:{server.port}", page, "--data-binary", "@-", given=CONTENT)
    assert (fetched.returncode, fetched.stdout) == (0, CONTENT), fetched.stderr
    assert has_written(server, "route=socks")


@pytest.mark.parametrize("methods", [{"extended": {}}, {"anonymous": ()}], ids=["extended", "anonymous"])
async def test_failures_come_through_a_chain(chain, methods):
    server, no_such_host = chain
    error = await failure_of(talk_to("127.0.0.1", free_port(), local(server.port), methods))
    assert type(error) is ConnectionRefused
    error = await failure_of(talk_to(NO_SUCH_HOST, 80, local(server.port), methods))
    assert type(error) is no_such_host


async def test_onion_failures_come_through_a_chain_in_each_clients_codes(onion_server, socks5ext):
    proxy = local(socks5ext(through(onion_server.port)).port)
    for host, methods, expected, code in [
        ("lost.onion", ANY, OnionServiceNotFound, 0xE0),
        ("down.onion", ANY, OnionServiceNotReachable, 0xE1),
        ("lost.onion", {"anonymous": ()}, HostUnreachable, 4),
        ("down.onion", {"anonymous": ()}, HostUnreachable, 4),
    ]:
        error = await failure_of(talk_to(host, 80, proxy, methods))
        assert (type(error), error.code) == (expected, code)


async def test_a_proxy_that_refuses_is_not_taken_for_a_target_that_refuses(socks5ext):
    server = socks5ext(through(free_port()))
    error = await failure_of(talk_to("127.0.0.1", 80, local(server.port)))
    assert (type(error), error.code) == (GeneralServerFailure, 1)


async def test_a_chain_logs_in_at_the_next_proxy(socks5ext, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("right\n")
    guarded = socks5ext("--auth=memory:alice:right")
    server = socks5ext(through(guarded.port, f":username=alice:password-file={secret}"))
    assert await echoes(local(server.port))
    secret.write_text("wrong\n")
    server = socks5ext(through(guarded.port, f":username=alice:password-file={secret}"))
    error = await failure_of(talk_to("127.0.0.1", 80, local(server.port)))
    # Whose password is wrong there is not the client's business.
    assert (type(error), error.code) == (GeneralServerFailure, 1)


# Passwords


PASSWORD = "correct horse"


@pytest.fixture(scope="module", params=["memory", "file", "hashed"])
def guarded(request, tmp_path_factory):
    """A server that lets in alice alone."""
    path = tmp_path_factory.mktemp("passwords") / "passwords"
    if request.param == "hashed":
        maker = run(sys.executable, "-m", "txsocksx_ext.server.passwords", "alice", given=f"{PASSWORD}\n".encode())
        assert maker.returncode == 0, maker.stderr
        path.write_bytes(maker.stdout)
        assert PASSWORD not in path.read_text()
    else:
        path.write_text(f"alice:{PASSWORD}\n")
    with programs() as start:
        where = f"alice:{PASSWORD}" if request.param == "memory" else path
        yield twistd(start, f"--auth={request.param}:{where}")


def test_curl_logs_in(guarded, web_port):
    page = f"http://127.0.0.1:{web_port}/"
    proxy = ("--socks5", f"127.0.0.1:{guarded.port}")
    fetched = curl(*proxy, "--proxy-user", f"alice:{PASSWORD}", page)
    assert (fetched.returncode, fetched.stdout) == (0, PAGE), fetched.stderr
    for user in (["--proxy-user", "alice:wrong"], ["--proxy-user", f"bob:{PASSWORD}"], []):
        assert curl(*proxy, *user, page).returncode == CURL_PROXY_FAILED


@pytest.mark.parametrize(
    "methods_of",
    [lambda user, word: {"login": (user, word)}, lambda user, word: {"extended": {"USERNAME": user, "PASSWD": word}}],
    ids=["rfc1929", "pairs"],
)
async def test_our_client_logs_in(guarded, methods_of):
    proxy = local(guarded.port)
    assert await echoes(proxy, methods_of("alice", PASSWORD))
    for user, word in [("alice", "wrong"), ("bob", PASSWORD)]:
        error = await failure_of(talk_to("127.0.0.1", 80, proxy, methods_of(user, word)))
        assert type(error) is AuthenticationFailed
        assert error.status == 1
    error = await failure_of(talk_to("127.0.0.1", 80, proxy))
    assert type(error) is AuthenticationFailed
    error = await failure_of(talk_to("127.0.0.1", 80, proxy, {"anonymous": ()}))
    assert type(error) is NoAcceptableMethod
    assert PASSWORD not in guarded.output


async def test_anonymous_opens_the_door_beside_passwords(socks5ext):
    server = socks5ext(f"--auth=memory:alice:{PASSWORD}", "--anonymous")
    assert await echoes(local(server.port), {"anonymous": ()})
    assert await echoes(local(server.port), {"login": ("alice", PASSWORD)})
    assert (
        type(await failure_of(talk_to("127.0.0.1", 80, local(server.port), {"login": ("alice", "wrong")})))
        is AuthenticationFailed
    )


# Listeners


async def test_a_unix_socket_serves(socks5ext, web_port, tmp_path):
    from twisted.internet import reactor

    path = tmp_path / "socket"
    socks5ext(listen=[f"unix:{path}"])
    assert await echoes(UNIXClientEndpoint(reactor, str(path)), {"login": ("any", "thing")})
    fetched = curl("--proxy", f"socks5h://localhost{path}", f"http://127.0.0.1:{web_port}/")
    assert (fetched.returncode, fetched.stdout) == (0, PAGE), fetched.stderr


def make_certificate(path):
    """A key, and a certificate signed with it, for this machine's own names."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.DNSName("localhost"), x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))]
            ),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(certificate.public_bytes(encoding) + private)


async def test_tls_serves_beside_a_plain_listener(socks5ext, tmp_path):
    from twisted.internet import reactor

    pem = tmp_path / "localhost.pem"
    make_certificate(pem)
    plain, encrypted = free_port(), free_port()
    server = socks5ext(
        listen=[
            f"tcp:{plain}:interface=127.0.0.1",
            f"ssl:{encrypted}:interface=127.0.0.1:privateKey={pem}:certKey={pem}",
        ]
    )
    assert has_written(server, f"starting on {encrypted}")
    proxy = clientFromString(reactor, f"tls:127.0.0.1:{encrypted}:trustRoots={tmp_path}")
    assert await echoes(proxy, {"extended": {"USERNAME": "any", "PASSWD": "thing"}})
    assert await echoes(local(plain))


@pytest.mark.skipif(not hasattr(endpoints, "_TLSServerEndpointParser"), reason="this Twisted has no tls: to listen on")
async def test_tls_serves_with_certificates_from_a_folder(socks5ext, tmp_path):
    from twisted.internet import reactor

    pem = tmp_path / "localhost.pem"
    make_certificate(pem)
    port = free_port()
    socks5ext(listen=[f"tls:{tmp_path}:{port}:interface=\\:\\:1"])
    trusted = trustRootFromCertificates([Certificate.loadPEM(pem.read_bytes())])
    proxy = endpoints.wrapClientTLS(optionsForClientTLS("localhost", trusted), TCP6ClientEndpoint(reactor, "::1", port))
    assert await echoes(proxy, {"login": ("any", "thing")})


@pytest.mark.parametrize("protocol", ["send-proxy", "send-proxy-v2"])
def test_behind_haproxy_the_log_shows_the_clients_own_address(socks5ext, program, web_port, tmp_path, protocol):
    back, front = free_port(), free_port()
    server = socks5ext(listen=[f"haproxy:tcp:{back}:interface=127.0.0.1"])
    config = tmp_path / "haproxy.cfg"
    config.write_text(
        f"""
defaults
    mode tcp
    timeout connect 5s
    timeout client 20s
    timeout server 20s
listen front
    bind 127.0.0.1:{front}
    server back 127.0.0.1:{back} {protocol}
"""
    )
    program([need("haproxy"), "-db", "-f", config], port=front)
    fetched = curl("--interface", "127.0.0.9", "--socks5", f"127.0.0.1:{front}", f"http://127.0.0.1:{web_port}/")
    assert (fetched.returncode, fetched.stdout) == (0, PAGE), fetched.stderr
    assert has_written(server, "127.0.0.9 CONNECT")


def test_a_listener_that_others_could_sniff_is_refused(socks5ext):
    for interface in ("", ":interface=0.0.0.0"):
        with pytest.raises(
            AssertionError, match=r"ended with 1: (?s:.*)-c -n: --listen tcp:.*or say --allow-remote"
        ) as caught:
            socks5ext(listen=[f"tcp:{free_port()}{interface}"])
        assert "Traceback" not in str(caught.value)


def test_a_port_in_use_ends_the_program(socks5ext):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AssertionError, match=rf"ended with 1: (?s:.*)\b{port}\b.*Address already in use"):
            socks5ext(listen=[f"tcp:{port}:interface=127.0.0.1"])


# The end of the server


def open_stream(server, target):
    """A socket whose bytes go through the server to the target, and an answer to its first ones."""
    stream = Proxy.from_url(f"socks5://127.0.0.1:{server.port}").connect("127.0.0.1", target.port, timeout=20)
    stream.settimeout(20)
    stream.sendall(b"first")
    assert read_exactly(stream, 5) == b"first"
    return stream


def is_refused(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_sigterm_lets_a_stream_end_by_itself(socks5ext):
    server = socks5ext("--drain=60")
    with (
        Target(echo) as target,
        open_stream(server, target) as stream,
        socket.create_connection(("127.0.0.1", server.port)) as says_nothing,
    ):
        # The server has seen this one when it has answered the next.
        open_stream(server, target).close()
        server.process.send_signal(signal.SIGTERM)
        says_nothing.settimeout(20)
        with contextlib.suppress(ConnectionResetError):
            assert says_nothing.recv(1) == b""
        assert is_refused(server.port)
        stream.sendall(CONTENT[:50_000])
        assert read_exactly(stream, 50_000) == CONTENT[:50_000]
        assert server.process.poll() is None
        stream.close()
        assert server.process.wait(20) == -signal.SIGTERM


def test_sigterm_cuts_a_stream_when_the_time_for_it_is_over(socks5ext):
    server = socks5ext("--drain=0.3")
    with Target(until_it_ends) as target, open_stream(server, target) as stream:
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionResetError):
            stream.recv(1)
        assert target.next_result() == "reset"
        assert server.process.wait(20) == -signal.SIGTERM
    assert "end=drained" in server.output


# Many transfers


def contents(count):
    """As many contents, no two alike."""
    return [CONTENT[1000 * number :] + CONTENT[: 1000 * number] for number in range(count)]


async def send_and_end(server, target, content):
    talker = await talk_to("127.0.0.1", target.port, local(server.port))
    talker.transport.write(content)
    talker.transport.loseWriteConnection()
    await talker.input_ended
    assert bytes(talker.received) == digest(content)
    talker.transport.loseConnection()
    await talker.lost


async def receive_the_end_and_send(server, target, content):
    talker = await talk_to("127.0.0.1", target.port, local(server.port))
    await talker.input_ended
    assert bytes(talker.received) == CONTENT
    talker.transport.write(content)
    talker.transport.loseConnection()
    await talker.lost
    return await target.when_next_result()


async def abort_from_here(server, target):
    talker = await talk_to("127.0.0.1", target.port, local(server.port))
    talker.transport.write(b"first")
    await talker.has_received(5)
    talker.transport.abortConnection()
    await talker.lost
    assert await target.when_next_result() == "reset"


async def abort_from_there(server, target):
    talker = await talk_to("127.0.0.1", target.port, local(server.port))
    talker.transport.write(b"first")
    assert isinstance(await talker.lost, ConnectionLost)


def all_of(coroutines):
    return gatherResults([Deferred.fromCoroutine(each) for each in coroutines], consumeErrors=True)


async def test_no_descriptor_is_left_after_transfers_and_aborts(socks5ext):
    from twisted.internet import reactor

    server = socks5ext()
    assert await echoes(local(server.port))
    assert has_written(server, " CONNECT ")  # the connection of the line above is gone
    before, own_before = server.descriptors(), len(os.listdir("/proc/self/fd"))
    with Target(answer_the_end) as target:
        await all_of(send_and_end(server, target, content) for content in contents(60))
    with Target(end_first) as target:
        received = await all_of(receive_the_end_and_send(server, target, content) for content in contents(60))
        assert sorted(received) == sorted(contents(60))
    with Target(until_it_ends) as target:
        await all_of(abort_from_here(server, target) for _ in range(20))
    with Target(reset_after_some) as target:
        await all_of(abort_from_there(server, target) for _ in range(20))
    deadline = time.monotonic() + 10
    while server.descriptors() > before and time.monotonic() < deadline:
        waited = Deferred()
        reactor.callLater(0.05, waited.callback, None)
        await waited
    assert server.descriptors() == before
    assert "Traceback" not in server.output
    assert len(os.listdir("/proc/self/fd")) == own_before
