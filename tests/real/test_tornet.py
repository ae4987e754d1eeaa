"""The private Tor network itself: what it promises to the tests that stand on it, asked by raw SOCKS."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import tornet
from support.tornet import network as network_module
from support.tornet import socks

PORTS = ["plain_port", "extended_port", "plain_socket", "extended_socket"]


@pytest.fixture(params=PORTS)
def port(request, tor_network):
    """Each kind of SOCKS port of the client."""
    return getattr(tor_network.client, request.param)


def is_extended(network, port):
    return port in (network.client.extended_port, network.client.extended_socket)


def code(proxy, host, port, **options):
    with socks.request(proxy, host, port, **options) as answer:
        return answer.code


@pytest.fixture(scope="module", autouse=True)
def orphaned_tor(tmp_path_factory):
    """The process id of a tor whose parent was killed; made first, since tor looks every 15 seconds only."""
    script = (
        "import sys, time; from pathlib import Path; from support.tornet import Tor\n"
        "tor = Tor(Path(sys.argv[1]), ['SocksPort 0', 'DisableNetwork 1', sys.argv[2]])\n"
        "tor.start(); tor.wait_until_listening(); print(tor.pid, flush=True); time.sleep(60)\n"
    )
    authority = f"DirAuthority a orport=9 no-v2 v3ident={'0' * 40} 127.0.0.1:9 {'0' * 40}"
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path_factory.mktemp("orphan") / "tor"), authority],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(tornet.__file__).parents[2])},
    )
    with parent:
        pid = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    return pid


class TestOnions:
    def test_found(self, tor_network, port):
        with socks.request(port, tor_network.onion, tornet.ECHO_PORT) as answer:
            assert answer.code == 0x00
            assert answer.echoes()

    def test_web_page(self, tor_network):
        with socks.request(tor_network.client.plain_port, tor_network.onion, tornet.WEB_PORT) as answer:
            answer.connection.sendall(b"GET /here HTTP/1.0\r\nHost: there\r\n\r\n")
            page = answer.connection.makefile("rb").read()
        assert page.endswith(b"\r\n\r\nthe page /here of there\n")

    def test_missing(self, tor_network, port):
        expected = 0xF0 if is_extended(tor_network, port) else 0x04
        with socks.request(port, tornet.never_published(), tornet.ECHO_PORT) as answer:
            assert answer.code == expected
            assert not answer.is_open()

    @pytest.mark.parametrize("address", [tornet.bad_checksum(), tornet.VERSION_2_ADDRESS], ids=["checksum", "v2"])
    def test_bad_address(self, tor_network, port, address):
        expected = 0xF6 if is_extended(tor_network, port) else 0x01
        assert code(port, address, tornet.ECHO_PORT) == expected

    def test_port_not_offered(self, tor_network, port):
        assert code(port, tor_network.onion, tornet.NOT_OFFERED_PORT) == 0x05

    def test_closed_backend(self, tor_network, port):
        assert code(port, tor_network.onion, tornet.CLOSED_PORT) == 0x01

    def test_client_authorization(self, tor_network):
        client, address = tor_network.client, tor_network.locked_onion

        def codes():
            return [code(each, address, tornet.ECHO_PORT) for each in (client.plain_port, client.extended_port)]

        assert codes() == [0x01, 0xF4]
        try:
            client.add_key(address, tor_network.wrong_key.private)
            assert codes() == [0x01, 0xF5]
            client.add_key(address, tor_network.right_key.private)
            assert codes() == [0x00, 0x00]
        finally:
            client.remove_key(address)

    def test_not_found_and_connected(self, tor_network):
        """An ExtendedErrors port says F0 where one directory did not know a service that another knew."""
        for _ in range(15):
            address = tor_network.half_published_onion()
            with socks.request(tor_network.client.extended_port, address, tornet.ECHO_PORT) as answer:
                assert answer.code in (0x00, 0xF0)
                assert answer.echoes()
                if answer.code == 0xF0:
                    return
        pytest.fail("every directory that was asked knew the service")


class TestMortalService:
    def test_killed_and_revived(self, tor_network):
        client = tor_network.client
        before = tor_network.revive_service()
        assert code(client.extended_port, before, tornet.ECHO_PORT) == 0x00
        assert tor_network.kill_service() == before
        assert not tor_network.mortal_host.is_running
        with client.events("HS_DESC") as events:
            assert [code(client.extended_port, before, tornet.ECHO_PORT) for _ in range(3)] == [0xF2] * 3
            events.wait_for("RECEIVED", before.removesuffix(".onion"))
        assert code(client.plain_port, before, tornet.ECHO_PORT) == 0x04
        assert code(tor_network.impatient_client.extended_port, before, tornet.ECHO_PORT) == 0xF2
        after = tor_network.revive_service()
        assert after != before
        assert code(client.extended_port, after, tornet.ECHO_PORT) == 0x00

    @pytest.mark.parametrize("kind", PORTS[:2])
    def test_stopped_and_continued(self, tor_network, kind):
        client = tor_network.impatient_client
        proxy = getattr(client, kind)
        tor_network.revive_service()
        address = tor_network.stop_service()
        client.control.set_conf(SocksTimeout=2)
        try:
            assert code(proxy, address, tornet.ECHO_PORT) == 0x06
        finally:
            client.control.set_conf(SocksTimeout=12)
            tor_network.continue_service()
        with socks.request(proxy, address, tornet.ECHO_PORT) as answer:
            assert answer.code == 0x00
            assert answer.echoes()


class TestExits:
    def test_echo_by_name(self, tor_network, port):
        with socks.request(port, "echo.test", tor_network.servers.echo_port) as answer:
            assert answer.code == 0x00
            assert answer.echoes(bytes(range(256)) * 400)

    def test_no_such_name(self, tor_network, port):
        assert code(port, "missing.test", 80) == 0x04

    def test_silent_name(self, tor_network):
        assert code(tor_network.client.plain_port, tornet.SILENT_NAME, 80, timeout=1) is None

    def test_port_that_no_exit_allows(self, tor_network, port):
        assert code(port, "127.0.0.1", tornet.REFUSED_PORT) == 0x01

    def test_nothing_but_loopback_can_be_reached(self, tor_network):
        assert code(tor_network.client.plain_port, "192.0.2.1", 80, timeout=5) != 0x00

    def test_resolve(self, tor_network, port):
        with socks.request(port, "echo.test", 0, command=socks.RESOLVE) as answer:
            assert (answer.code, answer.bound) == (0x00, "127.0.0.1")
        address, name = next(iter(tornet.POINTERS.items()))
        with socks.request(port, address, 0, command=socks.RESOLVE_PTR) as answer:
            assert (answer.code, answer.bound) == (0x00, name)
        assert code(port, "missing.test", 0, command=socks.RESOLVE) == 0x04


class TestControl:
    def test_events_of_a_missing_service(self, tor_network):
        client, address = tor_network.client, tornet.never_published()
        with (
            client.events("STREAM", "HS_DESC") as events,
            socks.request(client.plain_port, address, tornet.ECHO_PORT) as answer,
        ):
            assert answer.code == 0x04
            source = f"SOURCE_ADDR=127.0.0.1:{answer.connection.getsockname()[1]}"
            stream = events.wait_for("STREAM", "NEW", source).split()[1]
            events.wait_for("HS_DESC FAILED", address.removesuffix(".onion"), "REASON=NOT_FOUND")
            events.wait_for(f"STREAM {stream} FAILED", "REASON=RESOLVEFAILED")
            events.wait_for(f"STREAM {stream} CLOSED")

    def test_user_names_isolate(self, tor_network):
        client = tor_network.client
        circuits = []
        for user in ("one", "two", "one"):
            with (
                client.events("STREAM") as events,
                socks.request(
                    client.plain_port, "echo.test", tor_network.servers.echo_port, user=user, password="p"
                ) as answer,
            ):
                assert answer.code == 0x00
                circuits.append(events.wait_for("SUCCEEDED", f'SOCKS_USERNAME="{user}"').split()[3])
        first, second, third = circuits
        assert first == third != second

    def test_reserved_user_name(self, tor_network):
        with socks.request(tor_network.client.plain_port, "echo.test", 80, user="<torS0X>9") as answer:
            assert answer.code == 0x01

    def test_cookie_over_tcp(self, tor_network):
        client = tor_network.client
        with tornet.Control(("127.0.0.1", client.control_port), cookie=client.cookie_file) as control:
            assert int(control.info("process/pid")) == client.pid

    def test_password(self, tor_network):
        client = tor_network.impatient_client
        assert client.cookie_file is None
        with tornet.Control(("127.0.0.1", client.control_port), password=tornet.CONTROL_PASSWORD) as control:
            assert int(control.info("process/pid")) == client.pid
        with pytest.raises(tornet.ControlError) as caught:
            tornet.Control(client.control_socket, password="wrong")
        assert caught.value.code == 515


class TestLife:
    def test_client_of_our_own(self, tor_network):
        client = tor_network.add_client("SocksTimeout 33")
        try:
            assert client.control.command("GETCONF SocksTimeout") == ["SocksTimeout=33"]
            assert code(client.plain_port, "echo.test", tor_network.servers.echo_port) == 0x00
            client.restart(kill=True)
            client.wait_until_bootstrapped()
            assert code(client.plain_port, "echo.test", tor_network.servers.echo_port) == 0x00
        finally:
            pid = client.pid
            client.remove()
        assert not os.path.exists(f"/proc/{pid}")
        assert not client.folder.exists()

    def test_nothing_is_left(self):
        network = tornet.TorNetwork()
        try:
            network.launch()
            pids = [tor.pid for tor in network.processes]
            assert all(os.path.exists(f"/proc/{pid}") for pid in pids)
            network.mortal_host.pause()
        finally:
            network.stop()
        assert [pid for pid in pids if os.path.exists(f"/proc/{pid}")] == []
        assert not network.folder.exists()

    def test_second_try(self, monkeypatch):
        """A network that does not come up is started once more, and the first one is gone."""
        seen = []

        def come_up(network):
            seen.append(network)
            if len(seen) == 1:
                raise AssertionError("no consensus")

        monkeypatch.setattr(network_module.TorNetwork, "come_up", come_up)
        network = tornet.start_network()
        network.stop()
        assert seen[-1] is network
        assert network.was_restarted
        assert len(seen) == 2
        assert not any(each.folder.exists() or each.authority.is_running for each in seen)

    def test_tor_leaves_when_the_tests_die(self, orphaned_tor):
        """A killed test run cannot stop its processes: tor looks after the process that started it."""
        deadline = time.monotonic() + 30
        while os.path.exists(f"/proc/{orphaned_tor}"):
            assert time.monotonic() < deadline, f"process {orphaned_tor} still runs"
            time.sleep(0.05)
