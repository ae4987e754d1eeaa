"""The route through real tor with several workers: one tor that all of them use, and one secret."""

import os
import signal

from support.programs import need
from support.tor_clients import ask, at_once, codes, heard_as, isolated, routes_to, start_server, under_control
from support.tornet import ECHO_PORT, never_published
from support.workers import all_serve, is_alive, settles, workers_of


def echo_often(server, network, count=8):
    """Streams to the onion service, side by side, so that every worker has some."""

    def once():
        with ask(server.port, isolated(b"one"), network.onion, ECHO_PORT) as answer:
            return answer.code == 0x00 and answer.echoes()

    return at_once(*[(once,)] * count)


def test_workers_use_one_tor_of_our_own(tor_network, program, tmp_path):
    torrc, state = tmp_path / "torrc", tmp_path / "state"
    network = ("DirAuthority", "TestingTorNetwork", "OutboundBindAddress", "PathsNeeded", "Vanguards", "SafeLogging")
    lines = (tor_network.client.folder / "torrc").read_text().splitlines()
    torrc.write_text("".join(f"{line}\n" for line in lines if line.startswith(network)))
    route = f"tor:launch:exec={need('tor')}:torrc={torrc}:state={state}"
    server = start_server(program, route, "--workers=2", attached=False)
    all_serve(server)
    assert settles(lambda: "our own tor: bootstrapping (100 %): Done" in server.output), server.output
    assert all(echo_often(server, tor_network))
    # Each client in its own codes, as with one process.
    assert codes(server.port, [never_published() for _ in range(4)], ECHO_PORT) == heard_as(0x04, 0xE0, 0xF0)
    assert under_control(server)
    assert not under_control(server, 2)
    # Tor is the supervisor's: it does not end with a worker.
    os.kill(workers_of(server)[0], signal.SIGKILL)
    assert all(echo_often(server, tor_network))
    assert "control connection lost" not in server.output
    pids = workers_of(server)
    server.process.terminate()
    server.process.wait(30)
    assert [pid for pid in pids if is_alive(pid)] == []
    assert "Traceback" not in server.output


def test_every_worker_sees_the_events_of_its_own_streams(tor_network, program):
    server = start_server(program, routes_to(tor_network.client)["control"], "--workers=2", attached=False)
    all_serve(server)
    assert settles(lambda: under_control(server, 2)), server.output
    for _ in range(4):
        expected = heard_as(0x04, 0xE0, 0xF0)
        assert codes(server.port, [never_published() for _ in range(4)], ECHO_PORT) == expected
    assert all(echo_often(server, tor_network))
