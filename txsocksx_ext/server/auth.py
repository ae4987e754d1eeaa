"""
Who may come in: `twisted.cred` for SOCKS5, and a file of hashed passwords.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from twisted.cred.checkers import ICredentialsChecker, InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.credentials import IUsernamePassword, UsernamePassword
from twisted.cred.error import UnauthorizedLogin, UnhandledCredentials
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import Deferred, DeferredSemaphore, maybeDeferred, succeed
from twisted.internet.threads import deferToThread
from twisted.logger import Logger
from zope.interface import Interface, implementer

from ..net.limiter import in_turn

_log = Logger()


class ISOCKSUser(Interface):
    """The avatar of someone who may use the proxy."""


@implementer(ISOCKSUser)
class SOCKSUser:
    """
    Someone whom a portal let in.

    :ivar name: what the checker calls them (bytes or str).
    """

    def __init__(self, name: bytes | str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return "<SOCKSUser>"


@implementer(IRealm)
class SOCKSRealm:
    """Gives everyone whom a checker knows a `SOCKSUser`."""

    def requestAvatar(self, avatarId: Any, mind: object, *interfaces: Any) -> tuple[Any, SOCKSUser, Any]:
        """See `twisted.cred.portal.IRealm`."""
        if ISOCKSUser not in interfaces:
            raise NotImplementedError("this realm knows ISOCKSUser alone")
        return ISOCKSUser, SOCKSUser(avatarId), lambda: None


def portal_for(checkers: Iterable[ICredentialsChecker]) -> Portal:
    """
    A portal for `SOCKSUser` avatars over some checkers.

    SOCKS5 carries bytes. Twisted's ``memory:`` checker holds str, and is made
    to hold bytes here.

    :raises ValueError: a checker checks no user names and passwords; one such as
        ``AllowAnonymousAccess`` would let everyone in, with any password.
    """
    portal = Portal(SOCKSRealm())
    asked_in_turn = list(checkers)
    for checker in asked_in_turn:
        if IUsernamePassword not in checker.credentialInterfaces:
            raise ValueError(f"{type(checker).__name__} checks no user names and passwords: it lacks IUsernamePassword")
        if isinstance(checker, InMemoryUsernamePasswordDatabaseDontUse):
            checker.users = {_as_bytes(name): _as_bytes(word) for name, word in checker.users.items()}
    portal.registerChecker(_InTurn(asked_in_turn))
    return portal


@implementer(ICredentialsChecker)
class _InTurn:
    """Asks several checkers: a portal itself has one for each kind of credentials."""

    credentialInterfaces = (IUsernamePassword,)

    def __init__(self, checkers: list[ICredentialsChecker]) -> None:
        self._checkers = checkers

    async def _first_that_knows(self, credentials: Any) -> Any:
        for checker in self._checkers:
            try:
                return await maybeDeferred(checker.requestAvatarId, credentials)
            except (UnauthorizedLogin, UnhandledCredentials):
                continue
        raise UnauthorizedLogin()

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        """See `twisted.cred.checkers.ICredentialsChecker`."""
        return Deferred.fromCoroutine(self._first_that_knows(credentials))


def _as_bytes(text: str | bytes) -> bytes:
    return text.encode("utf-8") if isinstance(text, str) else text


class SOCKSCredentials(UsernamePassword):
    """A user name and a password, compared in constant time by checkers that hold plain ones."""

    def checkPassword(self, password: bytes | str) -> bool:
        """Whether this is the password."""
        return hmac.compare_digest(_as_bytes(self.password), _as_bytes(password))


REMEMBERED = 1024
"""How many verified logins are remembered, so that each is hashed once and not for every connection."""

HASHING_AT_ONCE = 2
"""How many passwords are hashed at a time: each takes 64 MiB, and anyone may ask."""


@implementer(ICredentialsChecker)
class HashedPasswordFile:
    """
    Checks passwords against a file of Argon2 hashes.

    Each line is ``name:hash``, as ``python -m txsocksx_ext.server.passwords name``
    prints it; empty lines and lines that begin with ``#`` are skipped. The file
    is read again when it has changed; while it is missing, cannot be read or has
    a bad line, what it held before stays in force. A name that is unknown costs as much time
    as one that is known, hashing is done in threads, and hashes are compared in
    constant time by argon2-cffi.

    :param path: of the file.
    :raises OSError: it cannot be read.
    :raises ValueError: a line is not as it should be; which one, the message says.
    """

    credentialInterfaces = (IUsernamePassword,)

    def __init__(self, path: str) -> None:
        # A daemon may change its folder before the file is read again.
        self._path = Path(os.path.abspath(path))
        self._hasher = PasswordHasher()
        self._decoy = self._hasher.hash(secrets.token_bytes(16))
        self._turns = DeferredSemaphore(HASHING_AT_ONCE)
        self._key = secrets.token_bytes(32)
        self._verified: OrderedDict[bytes, bytes] = OrderedDict()
        self._stamp: tuple[int, int] = (0, 0)
        self._bad_stamp: tuple[int, int] | None = None
        self._complaint = ""
        self._hashes: dict[bytes, str] = {}
        self._read()

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        """See `twisted.cred.checkers.ICredentialsChecker`."""
        self._read_if_changed()
        name, password = _as_bytes(credentials.username), _as_bytes(credentials.password)
        fingerprint = self._fingerprint(name, password)
        known = self._verified.get(name)
        if known is not None and hmac.compare_digest(known, fingerprint):
            return succeed(name)
        # A stranger's password is held against a decoy, so that time tells nothing.
        hashed = self._hashes.get(name, self._decoy)

        def checked(is_right: bool) -> bytes:
            if not is_right or self._hashes.get(name) != hashed:
                raise UnauthorizedLogin()
            self._remember(name, fingerprint)
            return name

        hashing = in_turn(self._turns, lambda: deferToThread(self._verify, hashed, password))
        return Deferred.fromCoroutine(hashing).addCallback(checked)

    def _verify(self, hashed: str, password: bytes) -> bool:
        try:
            return self._hasher.verify(hashed, password)
        except (VerificationError, InvalidHashError):
            return False

    def _fingerprint(self, name: bytes, password: bytes) -> bytes:
        """What is remembered of a login: of no use outside this process."""
        message = len(name).to_bytes(4, "big") + name + password
        return hashlib.blake2b(message, key=self._key, digest_size=32).digest()

    def _remember(self, name: bytes, fingerprint: bytes) -> None:
        self._verified[name] = fingerprint
        self._verified.move_to_end(name)
        if len(self._verified) > REMEMBERED:
            self._verified.popitem(last=False)

    def _read_if_changed(self) -> None:
        """A file that is being replaced, or was spoilt, leaves the last good state in force."""
        complaint = ""
        try:
            stamp = self._stamp_of_file()
            if stamp == self._bad_stamp:  # it would be read for each login that anyone tries
                return
            if stamp != self._stamp:
                self._read()
        except ValueError as error:
            self._bad_stamp, complaint = stamp, str(error)
        except OSError as error:
            complaint = str(error)
        # Once for each reason: any attempt to log in leads here.
        if complaint and complaint != self._complaint:
            _log.error("The password file was not read again: {error}", error=complaint)
        self._complaint = complaint

    def _stamp_of_file(self) -> tuple[int, int]:
        status = self._path.stat()
        return status.st_mtime_ns, status.st_size

    def _read(self) -> None:
        stamp = self._stamp_of_file()
        hashes: dict[bytes, str] = {}
        for number, line in enumerate(self._path.read_bytes().splitlines(), start=1):
            if not line.strip() or line.startswith(b"#"):
                continue
            name, colon, hashed = line.rpartition(b":")
            if not name or not colon or not hashed.startswith(b"$argon2"):
                raise ValueError(f"line {number} of {self._path} is not NAME:HASH with an Argon2 hash")
            if name in hashes:
                raise ValueError(f"line {number} of {self._path} names someone a second time")
            hashes[name] = hashed.decode("ascii", "replace").strip()
        self._stamp = stamp
        self._hashes = hashes
        self._verified.clear()
