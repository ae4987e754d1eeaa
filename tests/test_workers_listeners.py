"""Several workers: the listeners that they share, and those that cannot be shared."""

import contextlib
import os
import signal
import socket
import subprocess
import sys

import pytest
from examples.raw_peers import GREET_ANONYMOUS, request, tls_listener, turn, until
from support.programs import free_port
from support.targets import Target, echo, read_exactly
from support.workers import SUCCEEDED, all_serve, is_alive, settles
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol

from txsocksx_ext.net import poller
from txsocksx_ext.net.listening import ACCEPTS_IN_A_TURN
from txsocksx_ext.net.poller import poller_of
from txsocksx_ext.server.listeners import ListenerString
from txsocksx_ext.server.workers.sockets import ACCEPTS_AT_ONCE, SHAREABLE_KINDS, InheritedListener

STARTED_BY_SYSTEMD = """
import os, socket, sys
opened = socket.create_server(("127.0.0.1", int(sys.argv.pop(1))))
os.dup2(opened.fileno(), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_FDNAMES="socks", LISTEN_PID=str(os.getpid()))
from twisted.scripts.twistd import run
run()
"""


def test_every_kind_of_listener_that_can_be_shared(program, tmp_path):
    tcp, tcp6, haproxy, tls, of_systemd = (free_port() for _ in range(5))
    path = tmp_path / "socks"
    listeners = [
        f"tcp:{tcp}:interface=127.0.0.1",
        f"tcp6:{tcp6}:interface=\\:\\:1",
        f"haproxy:tcp:{haproxy}:interface=127.0.0.1",
        f"unix:{path}:mode=600",
        tls_listener(tmp_path).replace("ssl:0:", f"ssl:{tls}:"),
        "systemd:domain=INET:index=0",
    ]
    # Twisted looks for these sockets when it is imported, so this must be a new Python: "env" starts one.
    arguments = ["env", sys.executable, "-c", STARTED_BY_SYSTEMD, of_systemd, "-n", "--pidfile=", "socks5ext"]
    arguments += ["--workers", "2", "--allow-remote", *[f"--listen={each}" for each in listeners]]
    server = program(arguments)
    all_serve(server)
    assert path.stat().st_mode & 0o777 == 0o600
    with Target(echo) as far:
        for connection in (
            socket.create_connection(("127.0.0.1", tcp), timeout=20),
            socket.create_connection(("::1", tcp6), timeout=20),
            through_balancer(haproxy),
            unix_connection(path),
            tls_connection(tls),
            socket.create_connection(("127.0.0.1", of_systemd), timeout=20),
        ):
            with connection as client:
                client.sendall(GREET_ANONYMOUS)
                assert read_exactly(client, 2) == b"\x05\x00"
                client.sendall(request("127.0.0.1", far.port))
                assert read_exactly(client, 10)[:2] == SUCCEEDED
                client.sendall(b"hello")
                assert read_exactly(client, 5) == b"hello"
    server.stop()
    assert "Traceback" not in server.output
    assert not path.exists()


def test_a_worker_that_ends_leaves_a_unix_listener_to_the_others(workers, tmp_path):
    path = tmp_path / "socks"
    server = workers("--listen", f"unix:{path}")
    first, *_ = all_serve(server)
    for generation in (1, 2):
        os.kill(first, signal.SIGTERM)
        assert settles(lambda ended=first: not is_alive(ended))
        for _ in range(5):
            with unix_connection(path) as client:
                client.sendall(GREET_ANONYMOUS)
                assert read_exactly(client, 2) == b"\x05\x00"
        first, *_ = all_serve(server, 2 + generation)


def through_balancer(port):
    client = socket.create_connection(("127.0.0.1", port), timeout=20)
    client.sendall(b"PROXY TCP4 127.0.0.1 127.0.0.1 40000 1080\r\n")
    return client


def unix_connection(path):
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(20)
    client.connect(str(path))
    return client


def tls_connection(port):
    import ssl

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=20))


@pytest.mark.parametrize(
    ("description", "kind"),
    [
        ("tcp:1080", None),
        ("haproxy:tcp:1080", None),
        ("haproxy:unix:x", None),
        ("onion:80", "onion"),
        ("haproxy:fd:3", "fd"),
        ("haproxy", "haproxy"),
    ],
)
def test_what_can_be_shared(description, kind):
    shown = ListenerString(description).kind
    assert (None if shown in SHAREABLE_KINDS else shown) == kind


@pytest.mark.parametrize(
    ("description", "most"),
    [
        ("systemd:domain=INET:index=0", ACCEPTS_AT_ONCE),
        # One that has the socket for itself leaves none for others.
        ("tcp:0", ACCEPTS_IN_A_TURN),
    ],
)
async def test_of_a_socket_that_all_share_only_a_few_are_taken_at_a_time(monkeypatch, description, most):
    # One round of what is ready, and no more.
    monkeypatch.setattr(poller, "LONGEST_TURN", -1)
    factory = Counting()
    with socket.create_server(("127.0.0.1", 0), backlog=128) as shared, contextlib.ExitStack() as stack:
        shared.setblocking(False)
        for _ in range(ACCEPTS_IN_A_TURN + 1):
            stack.enter_context(socket.create_connection(shared.getsockname()))
        port = await InheritedListener(reactor, description, socket.AF_INET).listen(factory, shared.fileno())
        poller_of(reactor).doRead()
        assert factory.built == most
        await until(lambda: factory.built == ACCEPTS_IN_A_TURN + 1)
        await port.stopListening()
    await turn()


class Counting(Factory):
    """Notes how many connections there were."""

    built = 0
    protocol = Protocol

    def buildProtocol(self, addr):
        self.built += 1
        return super().buildProtocol(addr)


def test_a_port_that_another_server_uses_is_refused_even_if_that_one_would_share_it(workers):
    server = workers()
    for count in ("1", "2"):
        ended = subprocess.run(
            [
                *(sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile="),
                *("socks5ext", "--workers", count, f"--listen=tcp:{server.port}:interface=127.0.0.1"),
            ],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert ended.returncode == 1
        assert "in use" in ended.stdout + ended.stderr
