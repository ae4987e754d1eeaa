"""Ends of TLS streams with OpenSSL's programs, which are killed."""

import fcntl
import os
import subprocess
import termios
import time

import pytest
from examples.raw_peers import GREET_ANONYMOUS, dial, request, settles
from support.certificates import trusting
from support.programs import free_port, has_written, need
from support.targets import Target, content, read_exactly
from support.tls_peers import SUCCESS, VERSIONS, read_slowly

SENT = content(2, 3_000_000)
OPENSSL_VERSIONS = {"TLS 1.2": "-tls1_2", "TLS 1.3": "-tls1_3"}


@pytest.fixture(params=VERSIONS)
def version(request):
    return request.param


@pytest.fixture
def pem(authority, tmp_path):
    return authority.trusted_server(tmp_path)


@pytest.fixture
def tls_port(socks5ext, pem):
    """The port of a server that listens with TLS."""
    port = free_port()
    server = socks5ext(listen=[f"ssl:{port}:privateKey={pem}:interface=127.0.0.1"])
    assert has_written(server, f"starting on {port}")
    return port


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
