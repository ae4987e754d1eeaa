"""Ends of TLS streams with other people's peers: OpenSSL's programs, which are killed, and Node, which half-closes."""

import fcntl
import os
import subprocess
import termios
import time

import pytest
from examples.raw_peers import GREET_ANONYMOUS, dial, request, settles
from support.certificates import Authority
from support.programs import free_port, has_written, need
from support.targets import PATIENCE, Talker, Target, answer_the_end, content, digest, read_exactly, read_to_end
from support.tls_peers import SUCCESS, VERSIONS, node_client, node_proxy, read_slowly
from twisted.internet.endpoints import clientFromString
from twisted.internet.protocol import Factory

SENT = content(2, 3_000_000)
OPENSSL_VERSIONS = {"TLS 1.2": "-tls1_2", "TLS 1.3": "-tls1_3"}


@pytest.fixture(params=VERSIONS)
def version(request):
    return request.param


@pytest.fixture
def pem(tmp_path):
    """The file of a certificate for this machine; the authority's is in the folder ``trusted``."""
    authority = Authority()
    (tmp_path / "trusted").mkdir()
    (tmp_path / "trusted" / "authority.pem").write_bytes(authority.pem)
    path = tmp_path / "server.pem"
    path.write_bytes(authority.issue("localhost", "127.0.0.1"))
    return path


@pytest.fixture
def tls_port(socks5ext, pem):
    """The port of a server that listens with TLS."""
    port = free_port()
    server = socks5ext(listen=[f"ssl:{port}:privateKey={pem}:interface=127.0.0.1"])
    assert has_written(server, f"starting on {port}")
    return port


def trusting(port, pem):
    """The endpoint string of a TLS server, for a place where it stands inside another."""
    return rf"tls\:127.0.0.1\:{port}\:trustRoots\={pem.parent}/trusted"


class OpenSSL:
    """One of OpenSSL's programs. It sends its `stdin`, and writes what it receives to `stdout`."""

    def __init__(self, *arguments):
        command = [need("openssl"), *map(str, arguments), "-quiet"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
        self.process.stdin.close()
        self.process.stdout.close()

    def sendall(self, data):
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self.process.stdin.fileno(), rest) :]

    def recv(self, size):
        return os.read(self.process.stdout.fileno(), size)

    def has_sent_all(self):
        """Whether it has read all that it was given, and sleeps: it reads nothing before the last is sent."""
        left = int.from_bytes(fcntl.ioctl(self.process.stdin, termios.FIONREAD, bytes(4)), "little")
        if left:
            return False
        time.sleep(0.2)
        with open(f"/proc/{self.process.pid}/stat") as stat:
            return stat.read().rsplit(") ", 1)[1][0] == "S"

    def kill(self):
        """End it without a close_notify."""
        self.process.kill()
        self.process.wait()


def test_all_that_s_client_sent_before_it_was_killed_reaches_a_slow_target(tls_port, version):
    with (
        Target(read_slowly) as target,
        OpenSSL("s_client", "-connect", f"127.0.0.1:{tls_port}", OPENSSL_VERSIONS[version]) as client,
    ):
        client.sendall(GREET_ANONYMOUS + request("127.0.0.1", target.port))
        assert read_exactly(client, 12)[:4] == b"\x05\x00" + SUCCESS[:2]
        client.sendall(SENT)
        assert settles(client.has_sent_all)
        client.kill()
        assert target.next_result() == SENT


def test_all_that_s_server_sent_before_it_was_killed_reaches_a_slow_client(socks5ext, pem, version):
    port = free_port()
    server = socks5ext(f"--route=*=socks:{trusting(port, pem)}")
    with OpenSSL("s_server", "-accept", f"127.0.0.1:{port}", "-cert", pem, OPENSSL_VERSIONS[version]) as proxy:
        proxy.sendall(b"\x05\x00" + SUCCESS)
        with dial_when_it_listens(server, port) as client:
            read_exactly(proxy, 3)
            proxy.sendall(SENT)
            assert settles(proxy.has_sent_all)
            proxy.kill()
            assert read_slowly(client) == SENT


def dial_when_it_listens(server, port):
    """A stream by way of a proxy that says nothing when it is ready, and serves one connection after the other."""
    with open("/proc/net/tcp") as table:
        assert settles(lambda: table.seek(0) == 0 and f":{port:04X} 00000000:0000 0A" in table.read())
    return dial(server.port, "192.0.2.1", 80)


def test_node_gets_the_answer_to_what_it_ended(tls_port, version, tmp_path):
    path = tmp_path / "content"
    path.write_bytes(SENT)
    with Target(answer_the_end) as target:
        command = node_client(version, tls_port, target.port, path)
        run = subprocess.run([str(part) for part in command], capture_output=True, timeout=PATIENCE)
        assert (run.returncode, run.stdout) == (0, digest(SENT)), run.stderr
        assert target.next_result() == SENT


def test_the_answer_of_node_to_an_ended_stream_comes_through_the_route(socks5ext, program, pem, version):
    port = free_port()
    node_proxy(program, version, port, pem)
    server = socks5ext(f"--route=*=socks:{trusting(port, pem)}")
    with dial(server.port, "192.0.2.1", 80) as client:
        client.sendall(SENT)
        client.shutdown(1)
        assert read_to_end(client) == digest(SENT)


async def test_the_answer_of_node_to_an_ended_stream_comes_to_the_client_endpoint(program, pem, version):
    from twisted.internet import reactor

    port = free_port()
    node_proxy(program, version, port, pem)
    endpoint = clientFromString(reactor, f"socks5ext:192.0.2.1:80:proxy={trusting(port, pem)}")
    talker = await endpoint.connect(Factory.forProtocol(Talker))
    talker.transport.write(SENT)
    talker.transport.loseWriteConnection()
    await talker.input_ended
    assert talker.received == digest(SENT)
    await talker.lost
