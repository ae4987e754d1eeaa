"""
The life of real transports behind ``twistd socks5ext``, obfs4proxy and snowflake-client; and real tor in the private
network, with our server at its side.
"""

import contextlib
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from examples.raw_peers import settles
from support.programs import free_port, need, twistd
from support.targets import Target, echo
from support.tor_clients import ask
from support.tornet import ECHO_PORT
from support.tornet.process import Tor
from support.transports import Obfs4Bridge, child_of, code, is_gone, is_ready, serve, with_login, with_pairs


@pytest.fixture(scope="module")
def bridge():
    with Target(echo) as target:
        made = Obfs4Bridge(target.port)
        yield made
        made.stop()


STREAMS = 8


def test_it_is_killed_under_load(program, bridge):
    """Open streams end, new ones work soon, and nothing is left."""
    server = serve(program, "obfs4", need("obfs4proxy"))
    first = child_of(server)
    assert is_ready(server)
    calm = server.descriptors()
    received = [0] * STREAMS

    def talk(number):
        """Send and receive until the other side ends the stream."""
        with ask(server.port, with_pairs(bridge.arguments), "127.0.0.1", bridge.port) as answer:
            assert answer.code == 0
            with contextlib.suppress(ConnectionError):
                while True:
                    answer.connection.sendall(bytes(10_000))
                    data = answer.connection.recv(1 << 16)
                    if not data:
                        break
                    received[number] += len(data)

    with ThreadPoolExecutor(STREAMS) as threads:
        talking = [threads.submit(talk, number) for number in range(STREAMS)]
        assert settles(lambda: min(received) > 100_000 or any(each.done() for each in talking), 40)
        assert not any(each.done() for each in talking)
        os.kill(first, signal.SIGKILL)
        for each in talking:
            each.result(40)
    assert is_ready(server, 2)
    second = child_of(server)
    assert second != first
    with ask(server.port, with_pairs(bridge.arguments), "127.0.0.1", bridge.port) as answer:
        assert answer.code == 0
        assert answer.echoes()
    assert settles(lambda: server.descriptors() <= calm), server.descriptors()
    server.stop()
    assert is_gone(first)
    assert is_gone(second)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_it_ends_with_the_server(program, number, tmp_path):
    route = f"--route=*=transport:obfs4:exec={need('obfs4proxy')}"
    # One that is killed leaves its folder behind.
    server = twistd(program, route, env={"TMPDIR": str(tmp_path)})
    pid = child_of(server)
    os.kill(server.pid, number)
    assert is_gone(pid)


def test_a_state_folder_is_kept(program, tmp_path):
    state = tmp_path / "state"
    options = f"--route=*=transport:obfs4:exec={need('obfs4proxy')}:arg=-enableLogging -logLevel=INFO:state={state}"
    server = twistd(program, options)
    child_of(server)
    assert settles(lambda: (state / "obfs4proxy.log").exists(), 10)
    server.stop()
    assert (state / "obfs4proxy.log").exists()
    assert state.stat().st_mode & 0o777 == 0o700


def test_the_life_of_snowflake(program):
    """It takes no proxy, says success before it has reached anything, and crashes without the argument ``ice``."""
    server = serve(program, "snowflake", need("snowflake-client"))
    assert is_ready(server)
    assert "the transport snowflake takes no proxy" in server.output
    first = child_of(server, "snowflake-clien")
    arguments = {"url": "http://127.0.0.1:1/", "max": "many"}
    for client in (with_pairs, with_login):
        assert code(server, client(arguments), "192.0.2.3", 80) == 0x01
    with ask(server.port, with_pairs({"url": "http://127.0.0.1:1/"}), "192.0.2.3", 80) as answer:
        # It answers while it crashes.
        assert answer.code in (0x00, 0xF2)
        assert not answer.is_open(20)
    assert is_gone(first)
    assert is_ready(server, 2)
    assert server.output.count("takes no proxy") == 1
    second = child_of(server, "snowflake-clien")
    arguments = {"url": "http://127.0.0.1:1/", "ice": "stun:127.0.0.1:1"}
    with ask(server.port, with_pairs(arguments), "192.0.2.3", 80) as answer:
        assert answer.code == 0x00
        server.stop()
    assert is_gone(second)


# Real tor.


@pytest.fixture(scope="module")
def tor_bridge(tor_network):
    """A bridge in the private network that speaks obfs4: its bridge line."""
    transport_port = free_port()
    lines = [
        tor_network._authority_line,
        "SocksPort 0",
        "BridgeRelay 1",
        "PublishServerDescriptor 0",
        f"ORPort 127.0.0.1:{free_port()} IPv4Only",
        "ExtORPort auto",
        f"ServerTransportPlugin obfs4 exec {need('obfs4proxy')}",
        f"ServerTransportListenAddr obfs4 127.0.0.1:{transport_port}",
    ]
    bridge = Tor(tor_network.folder / "bridge", lines)
    tor_network.processes.append(bridge)
    bridge.start()
    bridge.wait_until_listening()
    line_file = bridge.folder / "data" / "pt_state" / "obfs4_bridgeline.txt"
    assert settles(lambda: line_file.exists() and "cert=" in line_file.read_text(), 30), bridge.log
    bridge.wait_until_bootstrapped()
    line = next(line for line in line_file.read_text().splitlines() if line.startswith("Bridge obfs4"))
    fingerprint = bridge.control.info("fingerprint")
    arguments = line.partition("cert=")[2]
    return f"Bridge obfs4 127.0.0.1:{transport_port} {fingerprint} cert={arguments}"


def bootstraps_through(tor_network, *torrc):
    client = tor_network.add_client("UseBridges 1", *torrc)
    try:
        with ask(client.plain_port, "plain", tor_network.onion, ECHO_PORT, patience=60) as answer:
            return answer.code == 0 and answer.echoes()
    finally:
        client.remove()


def test_tor_uses_obfs4proxy_whose_proxy_is_our_server(program, tor_network, tor_bridge):
    """Through ``TOR_PT_PROXY``, which tor makes of its Socks5Proxy."""
    server = twistd(program, "--drain=1", "--log-targets")
    assert bootstraps_through(
        tor_network,
        tor_bridge,
        f"ClientTransportPlugin obfs4 exec {need('obfs4proxy')}",
        f"Socks5Proxy 127.0.0.1:{server.port}",
    )
    # The line of a connection comes when it has ended.
    assert settles(lambda: "route=direct" in server.output)


def test_tor_uses_our_server_as_its_transport(program, tor_network, tor_bridge):
    """As one that it does not start itself; the arguments of the bridge line come by RFC 1929."""
    server = serve(program, "obfs4", need("obfs4proxy"))
    assert bootstraps_through(tor_network, tor_bridge, f"ClientTransportPlugin obfs4 socks5 127.0.0.1:{server.port}")
    assert settles(lambda: "method=USERNAME_PASSWORD route=transport" in server.output)
