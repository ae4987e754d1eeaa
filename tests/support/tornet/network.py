"""The network itself: an authority, relays, clients, onion hosts, and how they come up quickly."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from support.programs import free_port

from . import onions
from .authority import make_authority_keys
from .client import TorClient
from .control import ControlError
from .hosts import HalfPublishingHost, MortalHost, OnionHost
from .onions import ClientKey, OnionService
from .process import Tor, wait_until
from .servers import Servers

RELAYS = 6
"""Besides the authority, which is a relay too. With fewer, onion services often do not come up."""

VOTING_INTERVAL = 300

REFUSED_PORT = 25
"""A port that no exit allows."""

CONTROL_PASSWORD = "a password, with spaces"

_AUTHORITY_TORRC = (
    "AuthoritativeDirectory 1",
    "V3AuthoritativeDirectory 1",
    "ContactInfo nobody@invalid",
    f"TestingV3AuthInitialVotingInterval {VOTING_INTERVAL}",
    f"V3AuthVotingInterval {VOTING_INTERVAL}",
    "TestingV3AuthInitialVoteDelay 2",
    "TestingV3AuthInitialDistDelay 2",
    "V3AuthVoteDelay 2",
    "V3AuthDistDelay 2",
    "V3AuthNIntervalsValid 3",
    "TestingDirAuthVoteExit *",
    "TestingDirAuthVoteGuard *",
    "TestingDirAuthVoteHSDir *",
    "TestingMinExitFlagThreshold 0",
)


class TorNetwork:
    """
    A private Tor network on loopback; see the package's docstring for what it offers.

    Made by `start_network`, which starts it once more where it does not come up.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tornet-"))
        self.servers = Servers()
        self.processes: list[Tor] = []
        self.clients: list[TorClient] = []
        self.relays: list[Tor] = []
        self.right_key, self.wrong_key = ClientKey.generate(), ClientKey.generate()
        self.started_in = 0.0
        self.was_restarted = False
        self._impatient_client: TorClient | None = None
        self._half_publishing_host: HalfPublishingHost | None = None

    # -- life

    def launch(self) -> None:
        """Make keys and torrcs, start all processes, and wait until they listen."""
        self._add_relays()
        self.authority = self.relays[0]
        self._add_hosts()
        self.client = self._new_client("client", ["DisableNetwork 1"])
        for tor in self.processes:
            tor.start()
        for tor in self.processes:
            tor.wait_until_listening()

    def _add_relays(self) -> None:
        resolver = self.folder / "resolv.conf"
        resolver.write_text(f"nameserver 127.0.0.1:{self.servers.dns_port}\n")
        or_ports = [free_port() for _ in range(RELAYS + 1)]
        dir_port = free_port()
        self._authority_line = make_authority_keys(self.folder / "a0", "a0", or_ports[0], dir_port)
        common = [
            self._authority_line,
            "SocksPort 0",
            "ExitRelay 1",
            "ExitPolicyRejectPrivate 0",
            # All sockets are bound to 127.0.0.1: what is not loopback cannot be reached, whatever is accepted.
            f"ExitPolicy reject *:{REFUSED_PORT}, accept *:*",
            f"ServerDNSResolvConfFile {resolver}",
            "ServerDNSDetectHijacking 0",
            "ServerDNSTestAddresses",
            "ServerDNSAllowBrokenConfig 1",
        ]
        for number, port in enumerate(or_ports):
            lines = [*common, f"ORPort 127.0.0.1:{port} IPv4Only"]
            if number == 0:
                lines += [f"DirPort 127.0.0.1:{dir_port} IPv4Only", *_AUTHORITY_TORRC]
            self.relays.append(Tor(self.folder / (f"r{number}" if number else "a0"), lines))
        self.processes += self.relays

    def _add_hosts(self) -> None:
        targets = {
            onions.ECHO_PORT: self.servers.echo_port,
            onions.WEB_PORT: self.servers.web_port,
            onions.CLOSED_PORT: free_port(),
        }
        folder = self.folder / "host"
        self._service = OnionService(folder / "service", targets)
        self._locked = OnionService(folder / "locked", targets, authorized=self.right_key)
        self.host = OnionHost(folder, [self._authority_line], self._service, self._locked)
        folder = self.folder / "mortal"
        self.mortal_host = MortalHost(folder, [self._authority_line], OnionService(folder / "service", targets))
        self.processes += [self.host, self.mortal_host]

    def come_up(self) -> None:
        """After `launch`: wait until the onion services can be reached."""
        self._vote()
        for relay in self.relays[1:]:
            # They would ask for the consensus again in some seconds only.
            relay.control.command("SIGNAL RELOAD")
        for relay in self.relays:
            # Enough to build circuits.
            relay.wait_until_bootstrapped(75)
        self.client.control.set_conf(DisableNetwork=0)
        published = [(host, host.begin_to_publish()) for host in (self.host, self.mortal_host)]
        self.client.wait_until_bootstrapped()
        for host, events in published:
            host.wait_until_published(events)

    def _vote(self) -> None:
        """Make the authority vote as soon as it knows all relays, and not at the end of an interval."""
        control = self.authority.control

        def knows_all() -> bool:
            lines = control.info("desc/all-recent").splitlines()
            return sum(line.startswith("router ") for line in lines) == len(self.relays)

        def has_consensus() -> bool:
            with contextlib.suppress(ControlError):
                return bool(control.info("consensus/valid-after"))
            return False

        wait_until(knows_all, "the authority knows all relays", 30)
        control.set_conf(TestingV3AuthVotingStartOffset=(int(time.time()) + 2) % VOTING_INTERVAL)
        wait_until(has_consensus, "the authority has a consensus", 20)

    def report(self) -> str:
        """What each tor said last."""
        return "\n".join(f"{tor}: {' | '.join(tor.log.splitlines()[-3:])}" for tor in self.processes)

    def stop(self) -> None:
        """End every process, and remove every file."""
        for tor in self.processes:
            tor.signal(signal.SIGKILL)
        for tor in self.processes:
            tor.kill()
        self.servers.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- clients

    def add_client(self, *torrc: str, wait: bool = True, password: str | None = None) -> TorClient:
        """
        One more tor client, bootstrapped unless ``wait`` is false.

        ``network.add_client("Socks5Proxy 127.0.0.1:1080")``. It ends with the network, or by its ``remove()``.
        """
        client = self._new_client(f"client{len(self.clients)}", list(torrc), password=password)
        client.start()
        client.wait_until_listening()
        if wait:
            client.wait_until_bootstrapped()
        return client

    @property
    def impatient_client(self) -> TorClient:
        """A client with SocksTimeout 12, whose control ports want a password; started when it is first used."""
        if self._impatient_client is None:
            self._impatient_client = self.add_client("SocksTimeout 12", password=CONTROL_PASSWORD)
        return self._impatient_client

    def _new_client(self, name: str, torrc: list[str], *, password: str | None = None) -> TorClient:
        lines = [self._authority_line, "VanguardsLiteEnabled 0", *torrc]
        client = TorClient(self.folder / name, lines, password=password)
        self.clients.append(client)
        self.processes.append(client)
        return client

    # -- onion services

    @property
    def onion(self) -> str:
        """The address of an onion service that works."""
        return self._service.address

    @property
    def locked_onion(self) -> str:
        """The address of an onion service that wants `right_key`."""
        return self._locked.address

    @property
    def mortal_onion(self) -> str:
        """The address of the service that can be killed and stopped; a new one after it was killed and revived."""
        return self.mortal_host.address

    def kill_service(self) -> str:
        """Kill the process of `mortal_onion`: clients fail with F2, every time, until `revive_service`. Its address."""
        self.mortal_host.kill_service(self.clients, self.relays)
        return self.mortal_onion

    def stop_service(self) -> str:
        """SIGSTOP the process of `mortal_onion`: clients wait until their SocksTimeout, and get 06. Its address."""
        self.mortal_host.stop_service()
        return self.mortal_onion

    def continue_service(self) -> str:
        """The end of `stop_service`. Its address."""
        self.mortal_host.continue_service()
        return self.mortal_onion

    def revive_service(self) -> str:
        """Make `mortal_onion` work, from any state. Its address: a new one, if it was killed."""
        self.mortal_host.revive_service()
        return self.mortal_onion

    def half_published_onion(self) -> str:
        """
        The address of a new service that three of the seven directories do not know.

        A client that asks one of those first hears F0 of an ExtendedErrors port, and is connected nevertheless:
        about every second time, and only at its first question. Make another one until it happens.
        """
        if self._half_publishing_host is None:
            host = HalfPublishingHost(self.folder / "half", [self._authority_line], self.relays)
            self._half_publishing_host = host
            self.processes.append(host)
            host.start()
            host.wait_until_listening()
            host.begin_to_publish().close()
            host.wait_until_bootstrapped()
        return self._half_publishing_host.new_service(self.servers.echo_port)


def start_network() -> TorNetwork:
    """A network that works; started a second time where the first does not come up."""
    begun = time.monotonic()
    try:
        network = _try_to_start()
    except (AssertionError, OSError, ControlError):
        network = _try_to_start()
        network.was_restarted = True
    network.started_in = time.monotonic() - begun
    return network


def _try_to_start() -> TorNetwork:
    network = TorNetwork()
    try:
        network.launch()
        network.come_up()
    except (AssertionError, subprocess.TimeoutExpired) as error:
        report = network.report()
        network.stop()
        raise AssertionError(f"{error}\n{report}") from None
    except BaseException:
        network.stop()
        raise
    return network
