"""
What the route through real tor claims of onion services: never that one is missing that is there, nor that one is
unreachable that was never published.

``TOR_REQUESTS=500`` makes so many requests in the last test, which else is skipped; ``pytest -rP`` shows its table.
"""

import os
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from examples.raw_peers import settles
from support.programs import free_port, need
from support.streams import COOKIE_IS_LEFT_OPEN, attached
from support.targets import local, programs, talk_to
from support.tor_clients import all_routes_to, ask, at_once, code, routes_to, start_server, under_control
from support.tornet import CLOSED_PORT, ECHO_PORT, NOT_OFFERED_PORT, never_published
from twisted.internet.protocol import Factory
from twisted.internet.threads import deferToThread

from txsocksx_ext import errors
from txsocksx_ext.testing import Recorder
from txsocksx_ext.tor import stream_via

pytestmark = pytest.mark.filterwarnings(COOKIE_IS_LEFT_OPEN)

NOT_FOUND = {0xE0, 0xF0, 0xF6}
NOT_REACHABLE = {0xE1, 0xF1, 0xF2, 0xF3, 0xF4, 0xF5, 0xF7}


@pytest.fixture(scope="module")
def servers(tor_network):
    """A server for each way to tor."""
    with programs() as start:
        yield {
            kind: start_server(start, route, "--connect-timeout=30")
            for kind, route in all_routes_to(tor_network.client).items()
        }


@pytest.fixture(scope="module")
def lost_client(tor_network):
    """A tor that cannot bootstrap, and gives up streams after some seconds."""
    client = tor_network.add_client(f"Socks5Proxy 127.0.0.1:{free_port()}", "SocksTimeout 3", wait=False)
    yield client
    client.remove()


@pytest.fixture(scope="module")
def lost_servers(lost_client):
    """A server for each way to the tor that cannot bootstrap."""
    with programs() as start:
        yield {
            kind: start_server(start, route, "--connect-timeout=30")
            for kind, route in all_routes_to(lost_client).items()
        }


# Found by the second directory.


def test_a_port_that_a_service_refuses_is_refused_where_the_first_directory_does_not_know_the_service(
    tor_network, servers
):
    """An ExtendedErrors port says F0 then: at the first question of a client only."""
    kinds = [kind for kind in servers if kind.startswith("extended")]
    doubtful = 0
    for number in range(30):
        address = tor_network.half_published_onion()
        with tor_network.client.events("HS_DESC") as events:
            answer = code(servers[kinds[number % len(kinds)]].port, "97", address, NOT_OFFERED_PORT)
            # Now and then a rendezvous is not completed in time.
            assert answer in (0x05, 0x06, 0xE1)
            if answer != 0x05:
                continue
            received = events.wait_for("HS_DESC RECEIVED", address.removesuffix(".onion"))
            doubtful += any("NOT_FOUND" in line for line in events.seen[: events.seen.index(received)])
        if doubtful >= len(kinds):
            return
    pytest.fail("the first directory knew the service, almost each time")


# A tor that has not bootstrapped.


def test_a_tor_that_has_not_bootstrapped_makes_no_claim(lost_servers):
    heard = at_once(*((code, each.port, "304", never_published(), ECHO_PORT) for each in lost_servers.values()))
    assert heard == [0x06] * len(lost_servers)


@pytest.mark.parametrize("patience", [1, 30], ids=["our deadline", "tor's"])
async def test_our_client_straight_at_a_tor_that_has_not_bootstrapped(lost_client, patience):
    expected = errors.HandshakeTimeout if patience == 1 else errors.TTLExpired
    with pytest.raises(expected):
        await talk_to(never_published(), ECHO_PORT, local(lost_client.extended_port), timeout=patience, dialect="tor")


# The first requests after a start.


def test_the_first_requests_after_five_starts_are_told_why_they_fail(tor_network, program):
    tor_network.revive_service()
    address = tor_network.stop_service()
    route = routes_to(tor_network.client)["control"]
    try:
        with ThreadPoolExecutor() as threads:
            heard = []
            for _ in range(5):
                server = start_server(program, route, "--connect-timeout=4", attached=False)
                for host in (address, never_published()):
                    heard.append(threads.submit(code, server.port, "97", host, ECHO_PORT))
            assert [each.result() for each in heard] == [0xE1, 0xE0] * 5
    finally:
        tor_network.continue_service()


# Which of its ports.


async def test_a_program_takes_the_next_socks_port_where_the_first_is_gone(tor_network):
    client = await deferToThread(tor_network.add_client)
    gone = client.folder / "gone"
    await deferToThread(
        client.control.command, f'SETCONF SocksPort="unix:{gone}" SocksPort="127.0.0.1:{client.plain_port}"'
    )
    gone.unlink()
    try:
        async with attached(client) as tor:
            talker = await stream_via(tor, tor_network.onion, ECHO_PORT).connect(Factory.forProtocol(Recorder))
            talker.transport.write(b"hello")
            await talker.until(lambda it: it.received == b"hello")
            talker.close()
            await talker.until(lambda it: it.lost)
    finally:
        await deferToThread(client.remove)


# One folder.


def test_a_second_server_with_the_same_state_says_so_and_the_first_works(tor_network, program, tmp_path):
    network = ("DirAuthority", "TestingTorNetwork", "OutboundBindAddress", "PathsNeeded", "Vanguards")
    lines = (tor_network.client.folder / "torrc").read_text().splitlines()
    (tmp_path / "torrc").write_text("".join(f"{line}\n" for line in lines if line.startswith(network)))
    route = f"tor:launch:exec={need('tor')}:torrc={tmp_path}/torrc:state={tmp_path}/state"
    with ThreadPoolExecutor() as threads:
        started = [threads.submit(start_server, program, route, attached=False) for _ in range(2)]
        servers = [each.result() for each in started]
    assert settles(lambda: any("bootstrapping (100 %): Done" in each.output for each in servers), 60)
    first, second = sorted(servers, key=lambda each: "is in use by another server" in each.output)
    assert "is in use by another server" not in first.output
    assert second.output.count(f"state={tmp_path}/state is in use by another server (process {first.pid})") == 1
    assert not under_control(second)
    with ask(first.port, "97", tor_network.onion, ECHO_PORT) as answer:
        assert answer.code == 0x00
        assert answer.echoes()
    # When the first ends, the second takes over.
    first.process.terminate()
    assert settles(lambda: under_control(second), 60)
    assert "Traceback" not in first.output + second.output


# Many requests, while relays are restarted.


class Unrest:
    """Restart relays, one after the other, and have a client forget what it knows, while the ``with`` lasts."""

    def __init__(self, relays, client):
        self._relays = relays
        self._client = client
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._go_on, daemon=True)
        self.count = 0

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ends.set()
        self._thread.join(60)

    def _go_on(self):
        while not self._ends.wait(5):
            relay = self._relays[self.count % len(self._relays)]
            relay.kill()
            # For a while it cannot be reached; then it has forgotten its descriptors.
            self._ends.wait(3)
            relay.start()
            relay.wait_until_listening()
            # Then it asks the directories again.
            self._client.control.command("SIGNAL NEWNYM")
            self.count += 1


@pytest.mark.skipif(not os.environ.get("TOR_REQUESTS"), reason="TOR_REQUESTS says how many requests to make")
def test_no_false_claim_in_many_requests(tor_network, servers, lost_servers):
    count = int(os.environ["TOR_REQUESTS"])
    rng = random.Random(count)
    clients = ["97", "304", "plain"]
    heard, false = Counter(), []
    half_published = [tor_network.half_published_onion() for _ in range(40)]

    def request(number):
        kind = rng.choice(list(servers))
        case = rng.choice(["missing", "missing", "half published", "lives", "lost", "half published and refused"])
        port = {"lives": rng.choice([ECHO_PORT, NOT_OFFERED_PORT, CLOSED_PORT])}.get(case, ECHO_PORT)
        if case.startswith("half"):
            host = rng.choice(half_published)
            port = NOT_OFFERED_PORT if case.endswith("refused") else ECHO_PORT
        else:
            host = tor_network.onion if case == "lives" else never_published()
        server = (lost_servers if case == "lost" else servers)[kind]
        answer = code(server.port, rng.choice(clients), host, port)
        heard[kind, case, answer] += 1
        untrue = {"missing": NOT_REACHABLE, "lost": NOT_FOUND | NOT_REACHABLE}.get(case, NOT_FOUND)
        if answer in untrue:
            false.append((kind, case, f"0x{answer:02X}"))

    begun = time.monotonic()
    # Two only, of those that the half-published services do not use: the others still have the descriptors.
    with Unrest(tor_network.relays[-2:], tor_network.client) as unrest, ThreadPoolExecutor(6) as threads:
        for each in [threads.submit(request, number) for number in range(count)]:
            each.result()
    print(f"{count} requests in {time.monotonic() - begun:.0f} s, {unrest.count} restarts of relays")
    for (kind, case, answer), number in sorted(heard.items()):
        print(f"{kind:24} {case:28} 0x{answer:02X} {number:4}")
    assert unrest.count
    assert false == []
