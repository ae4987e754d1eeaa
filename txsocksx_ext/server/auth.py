"""
Who may come in: `twisted.cred` for SOCKS5, and a file of hashed passwords.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Any

from argon2.exceptions import InvalidHashError, VerificationError
from twisted.cred.checkers import FilePasswordDB, ICredentialsChecker, InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.credentials import IUsernamePassword, UsernamePassword
from twisted.cred.error import LoginFailed, Unauthorized, UnauthorizedLogin
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred, succeed
from twisted.internet.threads import deferToThread
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import Interface, implementer

from ..checks import check_method
from ..net.limiter import FairLimiter
from ..net.waiters import Waiters
from ..secret_files import warn_once
from .failed_logins import FailureLog
from .password_file import HASHER, PasswordFile, Stamp, kind_of, stamp_of

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


def portal_for(checkers: Iterable[ICredentialsChecker], text: bool | None = None) -> Portal:
    """
    Return a portal for `SOCKSUser` avatars over some checkers.

    They are asked one after the other until one knows the credentials. One that
    fails is logged, and the next one is asked.

    SOCKS5 carries bytes. Twisted's ``memory:`` checker is made to hold bytes here.

    :param text: whether checkers of others hold str: then names and passwords are given to
        them as str, and those that are not UTF-8 are refused. ``None``: as bytes, and,
        to a checker that has let nobody in yet, as str too if it refuses the bytes.
    :raises ValueError: a checker checks no user names and passwords; one such as
        ``AllowAnonymousAccess`` would let everyone in, with any password.
    :raises TypeError: one is no checker.
    """
    portal = Portal(SOCKSRealm())
    asked = []
    for checker in checkers:
        check_method("a checker", checker, "requestAvatarId", "a twisted.cred checker")
        if IUsernamePassword not in checker.credentialInterfaces:
            raise ValueError(f"{type(checker).__name__} checks no user names and passwords: it lacks IUsernamePassword")
        if isinstance(checker, InMemoryUsernamePasswordDatabaseDontUse):
            checker.users = {_as_bytes(name): _as_bytes(word) for name, word in checker.users.items()}
        asked.append(_Asked(checker, text))
    portal.registerChecker(_FirstThatKnows(asked))
    return portal


class CheckersFailed(Exception):
    """Nobody knows the credentials, but a checker failed that might have known them. The failure was logged."""


@implementer(ICredentialsChecker)
class _FirstThatKnows:
    """Asks several checkers: a portal itself has one for each kind of credentials."""

    credentialInterfaces = (IUsernamePassword,)

    def __init__(self, asked: list[_Asked]) -> None:
        self._asked = asked

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        """See `twisted.cred.checkers.ICredentialsChecker`."""
        return Deferred.fromCoroutine(self._request(credentials))

    async def _request(self, credentials: SOCKSCredentials) -> Any:
        outcome: Exception = UnauthorizedLogin()
        for asked in self._asked:
            try:
                return await asked.avatar_id_of(credentials)
            except UnauthorizedLogin:
                continue
            except CheckersFailed as error:
                outcome = error
        raise outcome


class _Asked:
    """A checker, and whether it takes bytes or str."""

    def __init__(self, checker: ICredentialsChecker, text: bool | None) -> None:
        self._checker = checker
        self._failures = FailureLog(f"the checker {type(checker).__name__}")
        self._forms: tuple[Callable[[SOCKSCredentials], SOCKSCredentials], ...] = (_bytes_form, _text_form)
        if isinstance(checker, _CHECKERS_OF_BYTES) or text is False:
            self._forms = (_bytes_form,)
        elif text:
            self._forms = (_text_form,)

    async def avatar_id_of(self, credentials: SOCKSCredentials) -> Any:
        """
        Ask the checker.

        :raises UnauthorizedLogin: it does not know the credentials.
        :raises CheckersFailed: it failed.
        """
        failure = None
        for form in self._forms:
            try:
                avatar_id = await maybeDeferred(self._checker.requestAvatarId, form(credentials))
            except (LoginFailed, Unauthorized, UnicodeDecodeError):
                continue
            except CancelledError:
                raise
            except Exception as error:
                # That a checker fails on str says nothing: it may be one of bytes.
                if form is self._forms[0]:
                    failure = error
                continue
            self._failures.ended()
            self._forms = (form,)
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
    A user name and a password, compared in constant time by checkers that hold plain ones.

    :ivar peer: the client's group of addresses: checkers share their time between peers.
    """

    def __init__(self, username: bytes | str, password: bytes | str, peer: Hashable = None) -> None:
        super().__init__(username, password)  # type: ignore[arg-type]
        self.peer = peer

    def checkPassword(self, password: bytes | str) -> bool:
        """Return whether this is the password."""
        return hmac.compare_digest(_as_bytes(self.password), _as_bytes(password))


def _bytes_form(credentials: SOCKSCredentials) -> SOCKSCredentials:
    return credentials


def _text_form(credentials: SOCKSCredentials) -> SOCKSCredentials:
    return SOCKSCredentials(credentials.username.decode(), credentials.password.decode(), credentials.peer)


REMEMBERED = 1024
"""How many verified logins are remembered, so that each is hashed once and not for every connection."""

HASHING_AT_ONCE = 2
"""How many passwords are hashed at a time: each takes 64 MiB, and anyone may ask."""


@implementer(ICredentialsChecker)
class HashedPasswordFile:
    """
    Checks passwords against a file of Argon2 hashes.

    Each line is ``name:hash``, as ``python -m txsocksx_ext.server.passwords``
    writes it; empty lines and lines that begin with ``#`` are skipped. The file
    is read again, in a thread, when it has changed; while it is missing, cannot be read or has
    a bad line, what it held before stays in force. A name that is unknown costs as much time
    as one that is known, hashing is done in threads, and hashes are compared in
    constant time by argon2-cffi. Peers share the hashing: see `FairLimiter`.

    :param path: of the file.
    :raises OSError: it cannot be read.
    :raises ValueError: a line is not as it should be; which one, the message says.
    """

    credentialInterfaces = (IUsernamePassword,)

    def __init__(self, path: str) -> None:
        # A daemon may change its folder before the file is read again.
        self._path = Path(os.path.abspath(path))
        self._hashing = FairLimiter(HASHING_AT_ONCE, HASHING_AT_ONCE)
        self._key = secrets.token_bytes(32)
        self._verified: OrderedDict[bytes, bytes] = OrderedDict()
        self._complaint = ""
        self._is_reading = False
        self._waiting: Waiters[bool] = Waiters()
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
        if self._file.hashes.get(name) != hashed:  # it was changed or removed meanwhile
            raise UnauthorizedLogin()
        self._remember(name, fingerprint)
        return name

    def _is_verified(self, name: bytes, fingerprint: bytes) -> bool:
        known = self._verified.get(name)
        return known is not None and hmac.compare_digest(known, fingerprint)

    def _fingerprint(self, name: bytes, password: bytes) -> bytes:
        """Return what is remembered of a login: of no use outside this process."""
        message = len(name).to_bytes(4, "big") + name + password
        return hashlib.blake2b(message, key=self._key, digest_size=32).digest()

    def _remember(self, name: bytes, fingerprint: bytes) -> None:
        self._verified[name] = fingerprint
        self._verified.move_to_end(name)
        if len(self._verified) > REMEMBERED:
            self._verified.popitem(last=False)

    # Changes of the file.

    def _changed_stamp(self) -> Stamp | None:
        """Return the file's stamp, if it was not read since that changed."""
        try:
            stamp = stamp_of(self._path.stat())
        except OSError as error:
            self._complain(str(error))
            return None
        if stamp == self._file.stamp:
            self._complaint = ""
        return None if stamp == self._stamp_read else stamp

    async def _catch_up(self) -> None:
        """Read the file if it has changed, and again if it changed meanwhile."""
        while (stamp := self._changed_stamp()) is not None:
            if not await self._read(stamp):
                break

    def _read(self, stamp: Stamp) -> Deferred[bool]:
        """
        Read the file in a thread, or wait for the reading that is under way.

        :param stamp: the file's.
        :returns: fires with whether it could be read, faulty or not.
        """
        waiting = self._waiting.wait()
        if not self._is_reading:
            self._is_reading = True
            reading: Deferred[Any] = deferToThread(PasswordFile, self._path)
            reading.addCallbacks(self._take, self._refuse, errbackArgs=(stamp,)).addBoth(self._has_read)
        return waiting

    def _has_read(self, outcome: bool | Failure) -> None:
        self._is_reading = False
        self._waiting.fire(outcome)

    def _take(self, file: PasswordFile) -> bool:
        if file.repeated:
            numbers = ", ".join(map(str, file.repeated[:5]))
            warn_once(f"{self._path}: users have several lines, of which the last counts; see lines {numbers}")
        self._verified = OrderedDict(
            (name, known)
            for name, known in self._verified.items()
            if self._file.hashes.get(name) == file.hashes.get(name)
        )
        self._file = file
        self._stamp_read = file.stamp
        self._complaint = ""
        return True

    def _refuse(self, failure: Failure, stamp: Stamp) -> bool:
        """Keep the last good state while the file is being replaced, or is faulty."""
        is_faulty = failure.check(OSError, ValueError) is ValueError
        if is_faulty:  # it would be read for each login that anyone tries
            self._stamp_read = stamp
        self._complain(failure.getErrorMessage())
        return is_faulty

    def _complain(self, complaint: str) -> None:
        """Log a complaint once for each reason: any attempt to log in leads here."""
        if complaint != self._complaint:
            _log.error("The password file was not read again: {error}", error=complaint)
        self._complaint = complaint


def _verify(file: PasswordFile, hashed: bytes | None, password: bytes) -> bool:
    """
    Hold a password against a hash, and against a decoy for each other kind of hash in the file.

    So the time tells neither whether a user exists nor which kind of hash the user has.

    :param hashed: one of `file`, or ``None`` for a name that is unknown.
    """
    own = None if hashed is None else kind_of(hashed)
    outcomes = {kind: _matches(hashed if kind == own else decoy, password) for kind, decoy in file.decoys.items()}
    return own is not None and outcomes[own]


def _matches(hashed: bytes | None, password: bytes) -> bool:
    assert hashed is not None
    try:
        return HASHER.verify(hashed, password)
    except (VerificationError, InvalidHashError):
        return False


_CHECKERS_OF_BYTES = (HashedPasswordFile, FilePasswordDB, InMemoryUsernamePasswordDatabaseDontUse)
"""Checkers that are never asked with str."""
