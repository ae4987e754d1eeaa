"""The keys of the directory authority, and the line by which all others know it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from support.programs import need


def make_authority_keys(folder: Path, nickname: str, or_port: int, dir_port: int) -> str:
    """Make the keys of an authority that will have its folder here; the ``DirAuthority`` line."""
    data = folder / "data"
    keys = data / "keys"
    for each in (folder, data, keys):
        each.mkdir(mode=0o700)
    # Both programs take part of a second: side by side.
    identity = folder / "identity-torrc"
    identity.write_text(f"DataDirectory {data}\nORPort 127.0.0.1:{or_port}\nNickname {nickname}\n")
    lister = subprocess.Popen(
        [need("tor"), "--defaults-torrc", "/dev/null", "-f", str(identity), "--list-fingerprint", "--quiet"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        certificate = _make_certificate(keys, dir_port)
    finally:
        listed, _ = lister.communicate(timeout=30)
    fingerprint = listed.strip().removeprefix(nickname).replace(" ", "")
    assert len(fingerprint) == 40, f"tor --list-fingerprint said {listed!r}"
    signer = next(line.split()[1] for line in certificate.splitlines() if line.startswith("fingerprint "))
    return f"DirAuthority {nickname} orport={or_port} no-v2 v3ident={signer} 127.0.0.1:{dir_port} {fingerprint}"


def _make_certificate(keys: Path, dir_port: int) -> str:
    identity = keys / "authority_identity_key"
    # A key of tor-gencert's own has 3072 bits, and takes up to two seconds.
    identity.write_bytes(
        rsa.generate_private_key(65537, 2048).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    made = subprocess.run(
        [need("tor-gencert", "tor"), "-i", identity.name, "-m", "12", "-a", f"127.0.0.1:{dir_port}"],
        stdin=subprocess.DEVNULL,
        cwd=keys,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert made.returncode == 0, f"tor-gencert: {made.stdout}{made.stderr}"
    return (keys / "authority_certificate").read_text()
