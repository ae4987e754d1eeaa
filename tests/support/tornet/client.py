"""A tor as users run it, with SOCKS ports of every kind."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Sequence
from pathlib import Path

from support.programs import free_port

from .control import ControlError
from .process import Tor, wait_until


def hashed_password(password: str) -> str:
    """What ``tor --hash-password`` says: a salted and stretched SHA-1."""
    salt = secrets.token_bytes(8)
    stretched = 65536
    salted = salt + password.encode()
    digest = hashlib.sha1((salted * (stretched // len(salted) + 1))[:stretched], usedforsecurity=False)
    return f"16:{salt.hex()}60{digest.hexdigest()}".upper()


class TorClient(Tor):
    """
    A client; its ports stay the same when it is restarted.

    =====================  =========================================================
    ``plain_port``         SOCKS port
    ``extended_port``      SOCKS port with ExtendedErrors
    ``tunnel_port``        HTTPTunnelPort
    ``plain_socket``       unix socket: SOCKS
    ``extended_socket``    unix socket: SOCKS with ExtendedErrors
    ``control_port``       control port
    ``control_socket``     unix socket: control
    ``cookie_file``        the cookie of both control ports, or None
    ``password``           the password of both control ports, or None
    =====================  =========================================================
    """

    def __init__(self, folder: Path, torrc: Sequence[str], *, password: str | None = None) -> None:
        self.plain_port = free_port()
        self.extended_port = free_port()
        self.tunnel_port = free_port()
        self.control_port = free_port()
        self.plain_socket = folder / "plain"
        self.extended_socket = folder / "extended"
        lines = [
            f"SocksPort 127.0.0.1:{self.plain_port}",
            f"SocksPort 127.0.0.1:{self.extended_port} ExtendedErrors",
            f"HTTPTunnelPort 127.0.0.1:{self.tunnel_port}",
            f"SocksPort unix:{self.plain_socket}",
            f"SocksPort unix:{self.extended_socket} ExtendedErrors",
            f"ControlPort 127.0.0.1:{self.control_port}",
            *([f"HashedControlPassword {hashed_password(password)}"] if password is not None else []),
            *torrc,
        ]
        super().__init__(folder, lines, cookie=password is None, password=password)

    def add_key(self, address: str, private_key: str) -> None:
        """Give it the key of client authorization for an onion service; a key that it has is replaced."""
        self.control.command(f"ONION_CLIENT_AUTH_ADD {address.removesuffix('.onion')} x25519:{private_key}")

    def remove_key(self, address: str) -> None:
        self.control.command(f"ONION_CLIENT_AUTH_REMOVE {address.removesuffix('.onion')}")

    def fetch_descriptor(self, address: str, timeout: float = 20.0) -> None:
        """Fetch the descriptor of an onion service, and wait until this tor has it."""
        identity = address.removesuffix(".onion")
        self.control.command(f"HSFETCH {identity}")

        def has_descriptor() -> bool:
            with contextlib.suppress(ControlError):
                return bool(self.control.info(f"hs/client/desc/id/{identity}"))
            return False

        wait_until(has_descriptor, f"{self} has the descriptor of {address}", timeout)

    def forget_circuits(self, address: str) -> None:
        """Close its circuits to an onion service."""
        needle = "REND_QUERY=" + address.removesuffix(".onion")
        for circuit in self.control.info("circuit-status").splitlines():
            if needle in circuit:
                # It may have gone by itself.
                with contextlib.suppress(ControlError):
                    self.control.command(f"CLOSECIRCUIT {circuit.split()[0]}")
