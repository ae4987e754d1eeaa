"""
The file of hashed passwords: a line ``NAME:HASH`` for each user.

Empty lines and lines that begin with ``#`` are skipped. If a user has several
lines, the last one counts.
"""

from __future__ import annotations

import codecs
import fcntl
import os
import re
import secrets
import tempfile
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError, VerifyMismatchError
from argon2.low_level import Type, verify_secret

from ..secret_files import read_secret_file

HASHER = PasswordHasher()

DIGEST_LENGTHS = (16, 32, 64)
"""Lengths of the digests in use, in bytes. A hash of another length was cut off."""

# Unpadded base64 as libargon2 reads it: the unused bits at the end are 0.
_BASE64 = rb"((?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/][AQgw]|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048])?)"
_HASH = re.compile(rb"(\$argon2(?:id|i|d)(?:\$v=\d+)?\$m=\d+,t=\d+,p=\d+)\$" + _BASE64 + rb"\$" + _BASE64)

Kind = tuple[bytes, int, int]
"""What the time of a verification depends on: the parameters as text, and the lengths of salt and digest in base64."""

_TYPES = {b"argon2id": Type.ID, b"argon2i": Type.I, b"argon2d": Type.D}

_DEFAULT_KIND: Kind = (
    b"$argon2id$v=19$m=%d,t=%d,p=%d" % (HASHER.memory_cost, HASHER.time_cost, HASHER.parallelism),
    -(-HASHER.salt_len * 4 // 3),
    -(-HASHER.hash_len * 4 // 3),
)

Stamp = tuple[int, ...]
"""What changes when a file is written or replaced."""


def stamp_of(status: os.stat_result) -> Stamp:
    """Return the stamp of a file. It includes the ctime, because programs can set the mtime."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


class PasswordFile:
    """
    The content of a password file. Reading it takes about 2 µs per line, and one verification per kind of hash.

    :param path: the path of the file.
    :raises OSError: the file cannot be read.
    :raises ValueError: a line is malformed; the message says which, and quotes nothing of it.
    :ivar stamp: the file's stamp.
    :ivar hashes: the hash of each user.
    :ivar decoys: for each kind of hash, a hash that no password matches.
    :ivar repeated: the numbers of lines whose user has an earlier line.
    """

    __slots__ = ("decoys", "hashes", "repeated", "stamp")

    def __init__(self, path: Path) -> None:
        content, status = read_secret_file(path)
        self.stamp = stamp_of(status)
        self.hashes: dict[bytes, bytes] = {}
        self.decoys: dict[Kind, bytes] = {}
        self.repeated: list[int] = []
        for number, line in enumerate(content.splitlines(), start=1):
            if not line.strip() or line.startswith(b"#"):
                continue
            name, _, hashed = line.rpartition(b":")
            hashed = hashed.rstrip()
            try:
                self._add(name, hashed)
            except ValueError as error:
                raise ValueError(f"line {number} of {path} {error}") from None
            if name in self.hashes:
                self.repeated.append(number)
            self.hashes[name] = hashed
        if not self.decoys:
            self.decoys[_DEFAULT_KIND] = _decoy(_DEFAULT_KIND)

    def _add(self, name: bytes, hashed: bytes) -> None:
        if not name:
            raise ValueError("is not NAME:HASH with an Argon2 hash")
        kind = hash_kind(hashed)
        if kind in self.decoys:
            return
        digest_length = kind[2] * 3 // 4
        if digest_length not in DIGEST_LENGTHS:
            lengths = ", ".join(map(str, DIGEST_LENGTHS))
            raise ValueError(f"has a digest of {digest_length} bytes, not one of {lengths}: it may be cut off")
        decoy = _decoy(kind)
        try:
            verify_secret(decoy, b"", _TYPES[decoy.split(b"$")[1]])
        except VerifyMismatchError:
            self.decoys[kind] = decoy
        except VerificationError as error:
            raise ValueError(f"has an Argon2 hash that cannot be verified: {error}") from None


def hash_kind(hashed: bytes) -> Kind:
    """
    Return the kind of a hash.

    :raises ValueError: the text is not an Argon2 hash.
    """
    parts = _HASH.fullmatch(hashed)
    if parts is None:
        raise ValueError("is not NAME:HASH with an Argon2 hash")
    parameters, salt, digest = parts.groups()
    return parameters, len(salt), len(digest)


def _decoy(kind: Kind) -> bytes:
    parameters, *lengths = kind
    parts = (b64encode(secrets.token_bytes(length * 3 // 4)).rstrip(b"=") for length in lengths)
    return b"$".join((parameters, *parts))


def set_user(path: Path, name: str, line: str | None) -> bool:
    """
    Replace a user's lines in a password file. Readers see the old file or the new one, never a part.

    A new file is readable by its owner alone; an existing one keeps its owner and mode.

    :param line: the new line; ``None`` removes the user.
    :returns: whether the user had a line.
    :raises OSError: the file cannot be read or written.
    """
    path = path.resolve()
    with _locked(path.parent):
        try:
            content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
            status = path.stat()
        except FileNotFoundError:
            if line is None:
                raise
            content, status = b"", None
        lines = content.splitlines()
        own = [index for index, each in enumerate(lines) if _is_about(each, name.encode("utf-8"))]
        new = [] if line is None else [line.encode("utf-8")]
        place = own[0] if own else len(lines)
        kept = [each for index, each in enumerate(lines) if index not in own]
        kept[place:place] = new
        if own or new:
            _replace(path, b"".join(each + b"\n" for each in kept), status)
    return bool(own)


def _is_about(line: bytes, name: bytes) -> bool:
    return not line.startswith(b"#") and line.rpartition(b":")[0] == name


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock a folder, so that one process at a time changes a password file in it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(path: Path, content: bytes, status: os.stat_result | None) -> None:
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            if status is not None:
                if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(descriptor, status.st_uid, status.st_gid)
                os.fchmod(descriptor, status.st_mode & 0o7777)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:  # of any kind: leave no temporary file
        os.unlink(temporary)
        raise
