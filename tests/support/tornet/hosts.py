"""Tors that hold onion services: one that works, one that can die, one that publishes by halves."""

from __future__ import annotations

import contextlib
import random
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from . import onions, socks
from .client import TorClient
from .control import ControlError, Events
from .onions import OnionService
from .process import Tor, wait_until


class OnionHost(Tor):
    """A tor whose torrc has these onion services; it stays without network until `begin_to_publish`."""

    def __init__(self, folder: Path, torrc: Sequence[str], *services: OnionService) -> None:
        lines = [*torrc, "DisableNetwork 1", "SocksPort 0", "VanguardsLiteEnabled 0"]
        for service in services:
            lines += service.torrc()
        super().__init__(folder, lines)
        self.services = services
        for service in services:
            service.prepare()

    def begin_to_publish(self) -> Events:
        """Let it on the network; the events to give to `wait_until_published`."""
        events = self.events("HS_DESC")
        self.control.set_conf(DisableNetwork=0)
        return events

    def wait_until_published(self, events: Events, timeout: float = 30.0) -> None:
        with events:
            wait_for_uploads(events, *(service.address for service in self.services), timeout=timeout)


def wait_for_uploads(events: Events, *addresses: str, timeout: float = 30.0) -> None:
    """
    Until all directories have both descriptors (this period's and the next one's) of the services.

    Where only some have it, clients find the service, and an ExtendedErrors port answers F0 nevertheless.
    """

    def is_published(address: str) -> bool:
        mine = [line.split() for line in events.seen if address in line]
        uploads = [words for words in mine if words[1] == "UPLOAD"]
        blinded_keys = {words[5] for words in uploads}
        answered = [words for words in mine if words[1] == "UPLOADED"]
        return len(blinded_keys) == 2 and len(answered) >= len(uploads)

    deadline = time.monotonic() + timeout
    while not all(is_published(address.removesuffix(".onion")) for address in addresses):
        events.read(deadline, f"the publication of {addresses}")


class MortalHost(OnionHost):
    """The host of one service that can be killed, stopped, and brought back."""

    state = "running"

    @property
    def address(self) -> str:
        return self.services[0].address

    def kill_service(self, clients: Sequence[TorClient], relays: Sequence[Tor]) -> None:
        """Kill the process, and wait until the first of ``clients`` fails with F2."""
        if self.state != "killed":
            self.kill()
            self.state = "killed"
            self._wait_until_unreachable([client for client in clients if client.is_running], relays)

    def stop_service(self) -> None:
        if self.state == "killed":
            self.revive_service()
        if self.state == "running":
            self.pause()
            self.state = "stopped"

    def continue_service(self) -> None:
        if self.state == "stopped":
            self.resume()
            self.state = "running"

    def revive_service(self) -> None:
        self.continue_service()
        if self.state == "killed":
            # Clients remember for two minutes that introduction points of a service failed: take a new address.
            shutil.rmtree(self.services[0].folder)
            self.services[0].prepare()
            self.start()
            self.wait_until_listening()
            self.wait_until_published(self.begin_to_publish())
            self.state = "running"

    def _wait_until_unreachable(self, clients: Sequence[TorClient], relays: Sequence[Tor]) -> None:
        """
        Until no relay pretends that the service lives.

        When a connection ends, a relay passes on the first DESTROY of its circuits at once, and the others only
        together with the next cell to the same relay. So on a quiet network, introduction points and rendezvous
        circuits of a dead service stand for minutes, and clients wait for it in vain: we make some noise.
        """
        deadline = time.monotonic() + 40
        while time.monotonic() < deadline:
            for _ in range(3):
                _make_noise(clients[0], relays)
            for client in clients:
                # A test may have paused or proxied it.
                with contextlib.suppress(OSError, ControlError):
                    client.forget_circuits(self.address)
            with socks.request(clients[0].extended_port, self.address, onions.ECHO_PORT, timeout=8) as answer:
                if answer.code == 0xF2:
                    return
        raise AssertionError("the killed service does not fail with F2")


def _make_noise(client: TorClient, relays: Sequence[Tor]) -> None:
    """Send cells between most pairs of relays, both ways: circuits through all of them, in random orders."""
    names = [relay.name for relay in relays]
    circuits = []
    for _ in range(8):
        random.shuffle(names)
        # Of this purpose, so that tor does not take them for streams.
        answer = client.control.command(f"EXTENDCIRCUIT 0 {','.join(names)} purpose=controller")
        circuits.append(answer[0].split()[1])

    def are_done() -> bool:
        lines = [line.split() for line in client.control.info("circuit-status").splitlines()]
        return not any(words[0] in circuits and words[1] in ("LAUNCHED", "EXTENDED") for words in lines)

    with contextlib.suppress(AssertionError):
        wait_until(are_done, "the noise is over", 1)
    for circuit in circuits:
        # Some were never built, and are gone.
        with contextlib.suppress(ControlError):
            client.control.command(f"CLOSECIRCUIT {circuit}")


class HalfPublishingHost(OnionHost):
    """A host that does not tell three of the directories about its services."""

    def __init__(self, folder: Path, torrc: Sequence[str], relays: Sequence[Tor]) -> None:
        left_out = ",".join("$" + relay.control.info("fingerprint") for relay in relays[-3:])
        super().__init__(folder, [*torrc, f"ExcludeNodes {left_out}", "StrictNodes 1"])

    def new_service(self, echo_port: int) -> str:
        """One more service, published by halves: its address."""
        with self.events("HS_DESC") as events:
            answer = self.control.command(
                f"ADD_ONION NEW:ED25519-V3 Flags=Detach,DiscardPK Port={onions.ECHO_PORT},127.0.0.1:{echo_port}"
            )
            address = answer[0].removeprefix("ServiceID=") + ".onion"
            deadline = time.monotonic() + 30
            # Both descriptors, each for some of the four directories that it tells.
            while sum("UPLOADED" in line for line in events.seen) < 6:
                events.read(deadline, f"the publication of {address}")
        return address
