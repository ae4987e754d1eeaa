"""
Authentication: `twisted.cred` for SOCKS5, and a file of hashed passwords.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

from argon2.exceptions import InvalidHashError, VerificationError
from twisted.cred.checkers import FilePasswordDB, ICredentialsChecker, InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.credentials import IUsernamePassword, UsernamePassword
from twisted.cred.error import LoginFailed, Unauthorized, UnauthorizedLogin
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred, succeed
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from zope.interface import Interface, implementer

from ..checks import check_method
from ..net.limiter import FairLimiter
from ..net.recent import RecentDict
from ..net.waiters import SharedResult
from ..secret_files import warn_once
from .failed_logins import FailureLog
from .password_file import HASHER, PasswordFile, Stamp, hash_kind, stamp_of


class ISOCKSUser(Interface):
    """The avatar of a user of the proxy."""


@implementer(ISOCKSUser)
class SOCKSUser:
    """
    A user whom a portal has verified.

    :ivar name: the avatar ID of the checker (bytes or str).
    """

    def __init__(self, name: bytes | str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return "<SOCKSUser>"


@implementer(IRealm)
class SOCKSRealm:
    """A realm whose avatars are `SOCKSUser`."""

    def requestAvatar(self, avatarId: Any, mind: object, *interfaces: Any) -> tuple[Any, SOCKSUser, Any]:
        """See `twisted.cred.portal.IRealm`."""
        if ISOCKSUser not in interfaces:
            raise NotImplementedError("the avatars of this realm provide ISOCKSUser alone")
        return ISOCKSUser, SOCKSUser(avatarId), lambda: None


def portal_for(checkers: Iterable[ICredentialsChecker], text: bool | None = None) -> Portal:
    """
    Return a portal for `SOCKSUser` avatars over some checkers.

    The checkers are asked in turn until one knows the credentials. If one fails,
    its failure is logged and the next is asked.

    SOCKS5 carries bytes, so Twisted's ``memory:`` checker is converted to hold bytes.

    :param text: whether other packages' checkers take str: ``True`` passes them str, and
        refuses names and passwords that are not UTF-8; ``False`` passes bytes; ``None``
        passes bytes, then str until the checker has accepted someone.
    :raises ValueError: a checker does not check user names and passwords; one such as
        ``AllowAnonymousAccess`` would accept any password.
    :raises TypeError: an item is not a checker.
    """
    portal = Portal(SOCKSRealm())
    logged = []
    for checker in checkers:
        check_method("a checker", checker, "requestAvatarId", "a twisted.cred checker")
        if IUsernamePassword not in checker.credentialInterfaces:
            raise ValueError(f"{type(checker).__name__} checks no user names and passwords: it lacks IUsernamePassword")
        if isinstance(checker, InMemoryUsernamePasswordDatabaseDontUse):
            checker.users = {_as_bytes(name): _as_bytes(word) for name, word in checker.users.items()}
        logged.append(_LoggedChecker(checker, text))
    portal.registerChecker(_CheckerChain(logged))
    return portal


class CheckersFailed(Exception):
    """No checker knows the credentials, but one failed that might have known them. Its failure was logged."""


@implementer(ICredentialsChecker)
class _CheckerChain:
    """Asks several checkers in turn; a portal itself has one checker for each kind of credentials."""

    credentialInterfaces = (IUsernamePassword,)

    def __init__(self, checkers: list[_LoggedChecker]) -> None:
        self._checkers = checkers

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        """See `twisted.cred.checkers.ICredentialsChecker`."""
        return Deferred.fromCoroutine(self._request(credentials))

    async def _request(self, credentials: SOCKSCredentials) -> Any:
        outcome: Exception = UnauthorizedLogin()
        for checker in self._checkers:
            try:
                return await checker.avatar_id_of(credentials)
            except UnauthorizedLogin:
                continue
            except CheckersFailed as error:
                outcome = error
        raise outcome


class _LoggedChecker:
    """A checker that is passed bytes or str, whichever it takes, and whose failures are logged."""

    def __init__(self, checker: ICredentialsChecker, text: bool | None) -> None:
        self._checker = checker
        self._failures = FailureLog(f"the checker {type(checker).__name__}")
        if isinstance(checker, _CHECKERS_OF_BYTES):
            text = False
        # Whether to pass str. Both forms are tried until one has worked.
        self._text_forms = (False, True) if text is None else (text,)

    async def avatar_id_of(self, credentials: SOCKSCredentials) -> Any:
        """
        Return the avatar ID that the checker has for the credentials.

        :raises UnauthorizedLogin: the checker does not know the credentials.
        :raises CheckersFailed: the checker failed.
        """
        failure = None
        for is_text in self._text_forms:
            try:
                passed = credentials.as_text() if is_text else credentials
                avatar_id = await maybeDeferred(self._checker.requestAvatarId, passed)
            except (LoginFailed, Unauthorized, UnicodeDecodeError):
                continue
            except CancelledError:
                raise
            except Exception as error:
                # A failure on str means nothing: the checker may take only bytes.
                if is_text is self._text_forms[0]:
                    failure = error
                continue
            self._failures.ended()
            self._text_forms = (is_text,)
            return avatar_id
        if failure is not None:
            self._failures.note(failure)
            raise CheckersFailed()
        self._failures.ended()
        raise UnauthorizedLogin()


def _as_bytes(text: str | bytes) -> bytes:
    return text.encode("utf-8") if isinstance(text, str) else text


class SOCKSCredentials(UsernamePassword):
    """
    A user name and a password, which checkers of plain passwords compare in constant time.

    :ivar peer: the client's group of addresses: checkers share their time between peers.
    """

    def __init__(self, username: bytes | str, password: bytes | str, peer: Hashable = None) -> None:
        super().__init__(username, password)  # type: ignore[arg-type]  # Twisted declares bytes, its checkers take both
        self.peer = peer

    def as_text(self) -> SOCKSCredentials:
        """
        Return the same credentials as str.

        :raises UnicodeDecodeError: they are not UTF-8.
        """
        return SOCKSCredentials(self.username.decode(), self.password.decode(), self.peer)

    def checkPassword(self, password: bytes | str) -> bool:
        """Return whether this is the password."""
        return hmac.compare_digest(_as_bytes(self.password), _as_bytes(password))


REMEMBERED = 1024
"""Verified logins that are remembered, so that a password is not hashed again for every connection."""

HASHING_AT_ONCE = 2
"""Passwords that are hashed at a time: each takes 64 MiB, and anyone may try to log in."""


@implementer(ICredentialsChecker)
class HashedPasswordFile:
    """
    Checks passwords against a file of Argon2 hashes.

    Each line is ``name:hash``, as ``python -m txsocksx_ext.server.passwords``
    writes it; empty lines and lines that begin with ``#`` are skipped. The file
    is read again, in a thread, when it has changed; while it is missing, unreadable or
    malformed, its last good content stays in force. An unknown name takes as much time
    as a known one. Passwords are hashed in threads and compared in
    constant time by argon2-cffi. Peers share the hashing fairly: see `FairLimiter`.

    :param path: the path of the file.
    :raises OSError: the file cannot be read.
    :raises ValueError: a line is malformed; the message says which.
    """

    credentialInterfaces = (IUsernamePassword,)

    def __init__(self, path: str) -> None:
        # A daemon may change its folder before the file is read again.
        self._path = Path(os.path.abspath(path))
        self._hashing = FairLimiter(HASHING_AT_ONCE, HASHING_AT_ONCE)
        self._key = secrets.token_bytes(32)
        self._verified: RecentDict[bytes, bytes] = RecentDict(REMEMBERED)
        self._failures = FailureLog(f"reading the password file {self._path} again")
        self._reading: SharedResult[bool] | None = None
        self._file = PasswordFile(self._path)
        self._take(self._file)

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        """See `twisted.cred.checkers.ICredentialsChecker`."""
        name, password = _as_bytes(credentials.username), _as_bytes(credentials.password)
        fingerprint = self._fingerprint(name, password)
        if self._changed_stamp() is None and self._is_verified(name, fingerprint):
            return succeed(name)
        peer = getattr(credentials, "peer", None)
        return Deferred.fromCoroutine(self._check(name, password, fingerprint, peer))

    async def _check(self, name: bytes, password: bytes, fingerprint: bytes, peer: Hashable) -> bytes:
        await self._catch_up()
        if self._is_verified(name, fingerprint):
            return name
        file = self._file
        hashed = file.hashes.get(name)
        if not await self._hashing.run(peer, lambda: deferToThread(_verify, file, hashed, password)):
            raise UnauthorizedLogin()
        await self._catch_up()
        if self._file.hashes.get(name) != hashed:  # the user was changed or removed meanwhile
            raise UnauthorizedLogin()
        self._verified[name] = fingerprint
        return name

    def _is_verified(self, name: bytes, fingerprint: bytes) -> bool:
        known = self._verified.get(name)
        return known is not None and hmac.compare_digest(known, fingerprint)

    def _fingerprint(self, name: bytes, password: bytes) -> bytes:
        """Return a keyed digest to remember a login by. It is of no use outside this process."""
        message = len(name).to_bytes(4, "big") + name + password
        return hashlib.blake2b(message, key=self._key, digest_size=32).digest()

    def has_user(self, name: bytes) -> bool:
        """Return whether the file had a user when it was read last."""
        return name in self._file.hashes

    # Changes of the file.

    def _changed_stamp(self) -> Stamp | None:
        """Return the file's stamp if it has changed since the file was read."""
        try:
            stamp = stamp_of(self._path.stat())
        except OSError as error:
            self._failures.note(error)
            return None
        if stamp == self._file.stamp:
            self._failures.ended()
        return None if stamp == self._stamp_read else stamp

    async def _catch_up(self) -> None:
        """Read the file if it has changed, and again if it changes meanwhile."""
        while (stamp := self._changed_stamp()) is not None:
            if not await self._read(stamp):
                break

    def _read(self, stamp: Stamp) -> Deferred[bool]:
        """
        Read the file in a thread, or wait for the read in progress.

        :param stamp: the file's stamp.
        :returns: fires with whether the file could be read, malformed or not.
        """
        if self._reading is None:
            reading: Deferred[Any] = deferToThread(PasswordFile, self._path)
            reading.addCallbacks(self._take, self._refuse, errbackArgs=(stamp,)).addBoth(self._has_read)
            self._reading = SharedResult(reading)
        return self._reading.wait()

    def _has_read(self, outcome: bool | Failure) -> bool | Failure:
        self._reading = None
        return outcome

    def _take(self, file: PasswordFile) -> bool:
        if file.repeated:
            numbers = ", ".join(map(str, file.repeated[:5]))
            warn_once(f"{self._path}: users have several lines, of which the last counts; see lines {numbers}")
        for name in list(self._verified):
            if self._file.hashes.get(name) != file.hashes.get(name):
                del self._verified[name]
        self._file = file
        self._stamp_read = file.stamp
        self._failures.ended()
        return True

    def _refuse(self, failure: Failure, stamp: Stamp) -> bool:
        """Keep the last good content while the file is being replaced, or is malformed."""
        is_malformed = failure.check(OSError, ValueError) is ValueError
        if is_malformed:  # otherwise every attempt to log in would read it again
            self._stamp_read = stamp
            self._failures.note_reason(failure.getErrorMessage())
        else:
            self._failures.note(failure.value)  # type: ignore[arg-type]  # threads pass on no other BaseException
        return is_malformed


def may_know(checker: ICredentialsChecker, name: bytes) -> bool:
    """Return whether a checker has a user, or cannot tell without the password."""
    if isinstance(checker, HashedPasswordFile):
        return checker.has_user(name)
    if isinstance(checker, InMemoryUsernamePasswordDatabaseDontUse):
        return name in map(_as_bytes, checker.users)
    if isinstance(checker, FilePasswordDB):
        try:
            checker.getUser(name)
        except KeyError:
            return False
    return True


def _verify(file: PasswordFile, hashed: bytes | None, password: bytes) -> bool:
    """
    Verify a password against a hash, and against a decoy for each other kind of hash in the file.

    So the time reveals neither whether a user exists nor which kind of hash the user has.

    :param hashed: a hash of `file`, or ``None`` for an unknown name.
    """
    own = None if hashed is None else hash_kind(hashed)
    outcomes = {kind: _matches(hashed if kind == own else decoy, password) for kind, decoy in file.decoys.items()}
    return own is not None and outcomes[own]


def _matches(hashed: bytes | None, password: bytes) -> bool:
    assert hashed is not None
    try:
        return HASHER.verify(hashed, password)
    except (VerificationError, InvalidHashError):
        return False


_CHECKERS_OF_BYTES = (HashedPasswordFile, FilePasswordDB, InMemoryUsernamePasswordDatabaseDontUse)
"""Checkers that are never passed str."""
