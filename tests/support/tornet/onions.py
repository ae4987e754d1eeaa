"""Onion addresses, those that lead nowhere too, and keys of client authorization."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

VERSION_2_ADDRESS = "expyuzz4wqqyqhjn.onion"
"""Of the kind that tor gave up in 2021."""

ECHO_PORT, WEB_PORT, CLOSED_PORT, NOT_OFFERED_PORT = 7, 80, 81, 4444
"""Ports of each onion service: CLOSED_PORT leads to a backend that does not listen."""


def never_published() -> str:
    """
    A new well-formed address without a service.

    Take a new one for each question: tor remembers for some seconds which directories it has asked about an address.
    """
    return _address(_public_key())


def bad_checksum() -> str:
    """An address as long as a good one, whose checksum is wrong."""
    public_key = _public_key()
    checksum = bytes(byte ^ 0xFF for byte in _checksum(public_key))
    return _encoded(public_key, checksum)


def _public_key() -> bytes:
    return Ed25519PrivateKey.generate().public_key().public_bytes_raw()


def _checksum(public_key: bytes) -> bytes:
    return hashlib.sha3_256(b".onion checksum" + public_key + b"\x03").digest()[:2]


def _address(public_key: bytes) -> str:
    return _encoded(public_key, _checksum(public_key))


def _encoded(public_key: bytes, checksum: bytes) -> str:
    return base64.b32encode(public_key + checksum + b"\x03").decode().lower() + ".onion"


@dataclass(frozen=True)
class ClientKey:
    """A key of client authorization; ``private`` is what ONION_CLIENT_AUTH_ADD takes after ``x25519:``."""

    private: str
    public: str

    @classmethod
    def generate(cls) -> ClientKey:
        key = X25519PrivateKey.generate()
        public = base64.b32encode(key.public_key().public_bytes_raw()).decode().rstrip("=")
        return cls(base64.b64encode(key.private_bytes_raw()).decode(), public)


@dataclass
class OnionService:
    """
    A service in the torrc of an onion host: its folder, and where its ports lead.

    :param authorized: who may use it; everybody, where it is None.
    """

    folder: Path
    targets: dict[int, int]
    authorized: ClientKey | None = field(default=None, repr=False)

    def torrc(self) -> list[str]:
        """Its lines, to be written after `prepare`."""
        return [
            f"HiddenServiceDir {self.folder}",
            *(f"HiddenServicePort {port} 127.0.0.1:{target}" for port, target in self.targets.items()),
        ]

    def prepare(self) -> None:
        self.folder.mkdir(mode=0o700)
        if self.authorized is not None:
            clients = self.folder / "authorized_clients"
            clients.mkdir(mode=0o700)
            (clients / "friend.auth").write_text(f"descriptor:x25519:{self.authorized.public}\n")

    @property
    def address(self) -> str:
        """With ``.onion``; known as soon as its host has started."""
        return (self.folder / "hostname").read_text().strip()
