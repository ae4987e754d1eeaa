"""Transports of ours under real tor, which starts them in both roles."""

import contextlib
import socket
import sys
from pathlib import Path

import pytest
from support import tornet
from support.programs import free_port
from support.tornet import Tor, socks
from support.tornet.process import wait_until

from txsocksx_ext.pt.extorport import ExtendedORPortRefused, introduce, read_cookie

EXAMPLES = [Path(__file__).parents[2] / folder / "examples" for folder in ("docs", "tests")]
KEY = "5f" * 32
PATIENCE = 60.0


def plugin(transport):
    """How torrc starts the program of one of our transports."""
    program = next(each for folder in EXAMPLES if (each := folder / f"{transport}.py").exists())
    return f"exec {sys.executable} -B {program}"


class Bridge(Tor):
    """
    A bridge with one transport of ours.

    :ivar transport_port: where that listens.
    """

    def __init__(self, network, name, *torrc):
        self.transport = name
        self.transport_port = free_port()
        lines = [
            network._authority_line,
            "BridgeRelay 1",
            "PublishServerDescriptor 0",
            "SocksPort 0",
            "ExitRelay 0",
            f"ORPort 127.0.0.1:{free_port()} IPv4Only",
            f"ServerTransportPlugin {name} {plugin(name)}",
            f"ServerTransportListenAddr {name} 127.0.0.1:{self.transport_port}",
            *torrc,
        ]
        super().__init__(network.folder / f"bridge{self.transport_port}", lines)

    def client(self, network, arguments, *torrc, wait=True):
        """A tor client that has nothing but this bridge."""
        fingerprint = self.control.info("fingerprint")
        return network.add_client(
            "UseBridges 1",
            f"Bridge {self.transport} 127.0.0.1:{self.transport_port} {fingerprint} {arguments}",
            f"ClientTransportPlugin {self.transport} {plugin(self.transport)}",
            *torrc,
            wait=wait,
        )


@pytest.fixture
def bridge(tor_network):
    """Start a bridge; it ends with the test."""
    with contextlib.ExitStack() as stack:

        def start(name, *torrc):
            each = Bridge(tor_network, name, *torrc)
            stack.callback(each.remove)
            each.start()
            each.wait_until_bootstrapped(timeout=PATIENCE)
            wait_until(lambda: "Registered server transport" in each.log, "the transport is there", PATIENCE)
            return each

        yield start


@pytest.fixture
def clients():
    """Clients that end with the test."""
    with contextlib.ExitStack() as stack:

        def keep(client):
            stack.callback(client.remove)
            return client

        yield keep


def check(network, client):
    """An onion service answers this client."""
    with socks.request(client.plain_port, network.onion, tornet.ECHO_PORT) as answer:
        assert answer.code == 0x00
        assert answer.echoes()
        assert answer.echoes(b"more than one cell " * 1000)


def complaints(tor):
    """What a tor has to say of the program that it started."""
    words = ("managed proxy", "pluggable", "transport", "extended or", "ext_or")
    lines = [line for line in tor.log.splitlines() if "[warn]" in line or "[err]" in line]
    return [line for line in lines if any(word in line.lower() for word in words) and "for conflux" not in line]


def children(tor):
    """The process ids of what a tor started."""
    return [int(pid) for pid in Path(f"/proc/{tor.pid}/task/{tor.pid}/children").read_text().split()]


def test_an_onion_service_through_the_example_and_the_extended_orport(tor_network, bridge, clients):
    """The bridge makes its key by itself, and keeps it in its state."""
    there = bridge("sealed", "ExtORPort auto")
    key = (there.folder / "data" / "pt_state" / "sealed" / "key").read_text()
    client = clients(there.client(tor_network, f"key={key}"))
    check(tor_network, client)
    assert complaints(there) == []
    assert complaints(client) == []

    # They end with tor.
    pids = [*children(there), *children(client)]
    assert len(pids) == 2
    there.stop()
    client.stop()
    wait_until(lambda: not any(is_running(pid) for pid in pids), "no transport is left", PATIENCE)


def is_running(pid):
    """Whether a process is there, and is no zombie."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    return False


def test_an_onion_service_through_the_example_the_plain_orport_and_a_proxy(
    tor_network, bridge, clients, socks5ext, program
):
    """The bridge's key is an option, and tor wants its client's transport to go through a SOCKS5 proxy."""
    there = bridge("sealed", f"ServerTransportOptions sealed key={KEY}")
    proxy = socks5ext("--log-targets")
    client = clients(there.client(tor_network, f"key={KEY}", f"Socks5Proxy 127.0.0.1:{proxy.port}"))
    check(tor_network, client)
    assert complaints(client) == []
    client.stop()
    wait_until(lambda: f"127.0.0.1:{there.transport_port}" in proxy.output, "the proxy tells of it", PATIENCE)


def test_another_key(tor_network, bridge, clients):
    """Tor takes all failures for the same, but the transport's own words are in its log."""
    there = bridge("sealed", f"ServerTransportOptions sealed key={KEY}")
    client = clients(there.client(tor_network, f"key={'00' * 32}", wait=False))
    said = "sealed has no connection: the peer has another key or is not a peer of this kind"
    wait_until(lambda: said in client.log, "tor's log says why", PATIENCE)
    assert client.control.bootstrap() < 10
    assert "[notice]" in next(line for line in client.log.splitlines() if said in line)


def test_the_smallest_example(tor_network, bridge, clients):
    there = bridge("flip", "ExtORPort auto")
    client = clients(there.client(tor_network, ""))
    check(tor_network, client)
    assert complaints(there) + complaints(client) == []
    check_cookies(there)


def test_a_transport_written_from_the_how_to_alone(tor_network, bridge, clients):
    """
    By someone who had not read the package's code.

    It stays as it came: where it fails, the package or its how-to has changed for those who wrote transports.
    """
    there = bridge("chunked", "ExtORPort auto", "ServerTransportOptions chunked secret=a;b")
    client = clients(there.client(tor_network, "secret=a;b"))
    check(tor_network, client)
    assert complaints(there) + complaints(client) == []


def check_cookies(there):
    """Its extended ORPort takes its own cookie, and no other."""
    host, port = there.control.info("net/listeners/extor").strip('"').rsplit(":", 1)
    cookie = read_cookie(there.folder / "data" / "extended_orport_auth_cookie")

    def hold(exchange):
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
            words, needed = next(exchange)
            with contextlib.suppress(StopIteration):
                while True:
                    connection.sendall(words)
                    answer = connection.recv(needed, socket.MSG_WAITALL)
                    assert len(answer) == needed, "tor closed"
                    words, needed = exchange.send(answer)

    hold(introduce(cookie, "flip", "[2001:db8::1]:443"))
    with pytest.raises(ExtendedORPortRefused, match="the file is another tor's"):
        hold(introduce(bytes(32), "flip", None))
    # A malformed address: tor closes without a word.
    with pytest.raises(AssertionError, match="tor closed"):
        hold(introduce(cookie, "flip", "not an address"))


def test_an_option_that_is_wrong(tor_network):
    """Tor tells the bridge's operator at the start."""
    there = Bridge(tor_network, "sealed", "ServerTransportOptions sealed key=short")
    try:
        there.start()
        said = "key must be 64 hexadecimal digits"
        wait_until(lambda: "does not take these arguments" in there.log, said, PATIENCE)
    finally:
        there.remove()
