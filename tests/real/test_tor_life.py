"""
The route through real tor when that goes and comes: killed under load, not there yet, one of several, or a child of
ours.
"""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from examples.raw_peers import settles
from support.programs import free_port, need
from support.tor_clients import ask, code, codes, heard_as, routes_to, same, start_server, under_control, way
from support.tornet import CONTROL_PASSWORD, ECHO_PORT, never_published

DEADLINE = 10
"""Seconds that the servers give a target."""

SLACK = 15
"""Seconds by which a busy machine may be late."""


@pytest.fixture(scope="module")
def restless_client(tor_network):
    """A tor that is killed and started again."""
    client = tor_network.add_client()
    yield client
    client.remove()


@pytest.fixture
def restless_tor(restless_client):
    """It runs, at the beginning of each test."""
    if not restless_client.is_running:
        restless_client.start()
    restless_client.wait_until_bootstrapped()
    return restless_client


def echoes(server, network, client="97"):
    """Whether a stream to the onion service works."""
    with ask(server.port, client, network.onion, ECHO_PORT) as answer:
        return answer.code == 0x00 and answer.echoes()


def knows_what_is_missing(server):
    return code(server.port, "97", never_published(), ECHO_PORT) == 0xE0


class Load:
    """
    Clients that never rest, each in a thread of its own, while the ``with`` lasts.

    :ivar answers: the moment at which each asked, what it heard, and after how many seconds.
    :ivar faults: what clients met instead of an answer.
    """

    def __init__(self, *asks):
        self.answers = []
        self.faults = []
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=self._go_on, args=(each,), daemon=True) for each in asks]

    def __enter__(self):
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_):
        self._ends.set()
        for each in self._threads:
            each.join(60)
        assert not any(each.is_alive() for each in self._threads)

    def heard_since(self, moment, code):
        return any(begun > moment and heard == code for begun, heard, _ in list(self.answers))

    def _go_on(self, ask):
        while not self._ends.is_set():
            begun = time.monotonic()
            try:
                answer = ask()
                with answer:
                    self._use(answer, begun + 1)
            except Exception as error:
                self.faults.append(repr(error))
            else:
                self.answers.append((begun, answer.code, answer.seconds))

    def _use(self, answer, until):
        """Use a stream for a while, or until it breaks because tor is gone."""
        with contextlib.suppress(ConnectionError):
            while answer.code == 0x00 and time.monotonic() < until and not self._ends.is_set():
                if not answer.echoes(os.urandom(2000)):
                    raise AssertionError("the stream brought something else back")


def test_killed_and_restarted_under_load(tor_network, restless_tor, program):
    tor = restless_tor
    server = start_server(program, routes_to(tor)["control"], f"--connect-timeout={DEADLINE}")
    assert settles(lambda: echoes(server, tor_network))
    assert settles(lambda: server.descriptors() == idle(server))
    before = server.descriptors()
    exit_target = "echo.test", tor_network.servers.echo_port

    def to_exit():
        return ask(server.port, "97", *exit_target)

    def to_onion():
        return ask(server.port, "304", tor_network.onion, ECHO_PORT)

    def to_nowhere():
        return ask(server.port, "97", never_published(), ECHO_PORT)

    with Load(*[to_exit] * 3, *[to_onion] * 2, *[to_nowhere] * 2) as load:
        assert settles(lambda: load.heard_since(0, 0x00) and load.heard_since(0, 0xE0))
        with to_exit() as standing:
            assert standing.code == 0x00
            assert standing.echoes()
            tor.kill()
            # A stream that stood ends with its tor.
            assert not standing.is_open(SLACK)
        killed = time.monotonic()
        assert settles(lambda: load.heard_since(killed, 0x01))
        tor.start()
        tor.wait_until_bootstrapped()
        back = time.monotonic()
        # New streams work, and soon are explained again.
        assert settles(lambda: load.heard_since(back, 0x00), 30)
        assert settles(lambda: load.heard_since(back, 0xE0), 40)
    assert load.faults == []
    assert max(seconds for _, _, seconds in load.answers) < DEADLINE + SLACK
    assert server.output.count(": control connection lost") == 1
    assert server.output.count("control connection established") == 2
    assert "Traceback" not in server.output
    assert settles(lambda: server.descriptors() <= before), os.listdir(f"/proc/{server.pid}/fd")


def idle(server):
    """How many descriptors the server has open, a moment later."""
    time.sleep(0.2)
    return server.descriptors()


def test_not_there_yet(tor_network, restless_tor, program):
    tor = restless_tor
    tor.kill()
    routes = routes_to(tor)
    servers = {kind: start_server(program, routes[kind], attached=False) for kind in ("control", "unix", "extended")}
    for server in servers.values():
        begun = time.monotonic()
        assert codes(server.port, tor_network.onion, ECHO_PORT) == same(0x01)
        assert codes(server.port, "echo.test", tor_network.servers.echo_port) == same(0x01)
        assert time.monotonic() - begun < SLACK
    for kind in ("control", "unix"):
        assert settles(lambda kind=kind: "cannot be controlled: " in servers[kind].output)
    tor.start()
    # It bootstraps: who asks by now waits for it.
    tor.wait_until_listening()
    assert echoes(servers["extended"], tor_network)
    for kind, server in servers.items():
        assert kind == "extended" or settles(lambda server=server: under_control(server), 40)
        assert echoes(server, tor_network)
        assert settles(lambda server=server: knows_what_is_missing(server), 40)


def test_a_dead_one_of_several_is_passed_over_and_used_again(tor_network, restless_tor, program):
    first, second = restless_tor, tor_network.client
    route = (
        f"tor:{way(first.plain_port)}:{way(second.plain_port)}:control={way(first.control_port)}"
        f",{way(second.control_port)}"
    )
    server = start_server(program, route)
    assert settles(lambda: under_control(server, 2))

    def serves(tor):
        """Whether a stream goes by this tor."""
        with tor.events("STREAM") as events:
            assert echoes(server, tor_network, "plain")
            with contextlib.suppress(AssertionError):
                return events.wait_for("STREAM", "NEW", tor_network.onion, timeout=1)
        return None

    assert serves(first)
    first.kill()
    assert serves(second)
    assert knows_what_is_missing(server)
    first.start()
    first.wait_until_bootstrapped()
    assert settles(lambda: serves(first), 30)
    assert settles(lambda: under_control(server, 3), 40)
    assert knows_what_is_missing(server)


@pytest.mark.parametrize("password", [CONTROL_PASSWORD, "wrong"])
def test_a_control_port_with_a_password(tor_network, program, tmp_path, password):
    tor = tor_network.impatient_client
    (tmp_path / "password").write_text(f"{password}\n")
    route = f"{routes_to(tor)['control']}:control-password-file={tmp_path}/password"
    server = start_server(program, route, attached=password == CONTROL_PASSWORD)
    assert echoes(server, tor_network)
    if password == CONTROL_PASSWORD:
        assert knows_what_is_missing(server)
    else:
        assert settles(lambda: "cannot be controlled: " in server.output)
        assert "Password did not match" in server.output
        # Without events there is no claim.
        assert codes(server.port, never_published(), ECHO_PORT) == same(0x04)
    assert password not in server.output


# A tor of our own.


def torrc_of(client):
    """What a further tor needs to be in the same network."""
    network = ("DirAuthority", "TestingTorNetwork", "OutboundBindAddress", "PathsNeeded", "Vanguards", "SafeLogging")
    lines = (client.folder / "torrc").read_text().splitlines()
    return "".join(f"{line}\n" for line in lines if line.startswith(network))


def processes_with(text):
    """The process ids of programs that were started with this text."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and text.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


@pytest.fixture
def launching_server(tor_network, program, tmp_path):
    torrc, state = tmp_path / "torrc", tmp_path / "state"
    # What is ours wins over what stands there.
    torrc.write_text(torrc_of(tor_network.client) + "SocksPort 0\nControlPort 0\nRunAsDaemon 1\n")
    return start_server(program, f"tor:launch:exec={need('tor')}:torrc={torrc}:state={state}", attached=False)


def test_a_tor_of_our_own(tor_network, launching_server, tmp_path):
    server, state = launching_server, tmp_path / "state"
    started = f"DataDirectory\0{state}\0"
    assert settles(lambda: "our own tor: bootstrapping (100 %): Done" in server.output, 60), server.output
    assert echoes(server, tor_network)
    assert codes(server.port, [never_published() for _ in range(4)], ECHO_PORT) == heard_as(0x04, 0xE0, 0xF0)
    # It dies, and another one comes.
    (pid,) = processes_with(started)
    os.kill(pid, signal.SIGKILL)
    assert settles(lambda: "our own tor: control connection lost" in server.output)
    assert settles(lambda: under_control(server, 2), 60)
    assert settles(lambda: echoes(server, tor_network), 60)
    # It ends with the service, and of itself: the test has not yet ended the server's other processes.
    assert processes_with(started)
    server.process.terminate()
    server.process.wait(SLACK)
    assert processes_with(started) == []
    assert "Traceback" not in server.output


def test_a_tor_of_our_own_needs_no_torrc(program, tmp_path):
    wrapper = tmp_path / "tor"
    # It is to reach nobody: not the real network either.
    wrapper.write_text(f'#!/bin/sh\nexec {need("tor")} "$@" Socks5Proxy 127.0.0.1:{free_port()}\n')
    wrapper.chmod(0o700)
    server = start_server(program, f"tor:launch:exec={wrapper}", attached=False)
    assert settles(lambda: under_control(server), 60), server.output


def test_it_ends_with_a_server_that_is_killed(launching_server, tmp_path):
    started = f"DataDirectory\0{tmp_path / 'state'}\0"
    assert settles(lambda: under_control(launching_server), 60)
    assert len(processes_with(started)) == 1
    launching_server.process.kill()
    launching_server.process.wait()
    assert settles(lambda: processes_with(started) == [])


def test_it_can_be_stopped_before_it_has_started(launching_server, tmp_path):
    server, started = launching_server, f"DataDirectory\0{tmp_path / 'state'}\0"
    assert settles(lambda: processes_with(started))
    server.process.terminate()
    server.process.wait(SLACK)
    assert processes_with(started) == []
