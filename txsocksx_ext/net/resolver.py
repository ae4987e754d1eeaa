"""
Name resolution by the system's resolver: many lookups at once, shared fairly.

The system's resolver takes a thread for each name, but it alone follows the whole
configuration of the system: hosts file, mDNS, search domains, ``nsswitch.conf``.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, Union
from weakref import WeakValueDictionary

from twisted.internet._resolver import GAIResolver
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.interfaces import IAddress, IHostResolution, IResolutionReceiver
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from ..errors import HostUnreachable
from .limiter import FairLimiter
from .recent import RecentDict
from .timers import clock_of
from .waiters import SharedResult, fired

LOOKUPS_AT_ONCE = 64
LOOKUPS_OF_ONE_SHARE = 48
"""The rest stays free for other shares: a lookup takes a thread, and cannot be cancelled."""

KEPT_ANSWER = 10.0
KEPT_FAILURE = 2.0
"""Seconds for which an answer, and a failure, is cached for the share that asked."""

MOST_KEPT = 4096
"""Cached answers. Beyond that the oldest is dropped."""

MOST_ADDRESSES = 64
"""Addresses of a name that are used: a name may have thousands, and each is matched against the rules."""

HOSTS_CHECK_PERIOD = 1.0
"""Seconds between two checks whether the hosts file has changed."""

_Answer = Union[tuple[str, ...], Failure]

_log = Logger(namespace="txsocksx_ext.net")


class _Threads(ThreadPool):
    """Daemon threads: a silent name server must not delay the end of the process for half a minute."""

    threadFactory = staticmethod(partial(threading.Thread, daemon=True))  # type: ignore[assignment]  # Twisted declares a class


class Resolver:
    """
    Resolves names, and finds the names of addresses. See `resolver_of`.

    Lookups are counted by *share*, such as a client's address: each share has its
    part of the concurrent lookups, and its own cache, so that the time of an answer
    does not tell one client what others asked. Only concurrent lookups of one name
    are joined.

    :param reactor: its ``nameResolver`` is asked instead of the system if it is not Twisted's own.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._clock = clock_of(reactor)
        self._limiter = FairLimiter(LOOKUPS_AT_ONCE, LOOKUPS_OF_ONE_SHARE)
        # Lookups that wait in the queue of a share, and lookups that run. Other shares join only the latter:
        # they must not wait in a queue that a share has filled.
        self._queued: dict[tuple[Hashable, str], _Lookup] = {}
        self._running: dict[str, _Lookup] = {}
        self._kept: RecentDict[tuple[Hashable, str], tuple[float, _Answer]] = RecentDict(MOST_KEPT)
        self._threads: ThreadPool | None = None
        self._hosts_file = _HostsFile()

    def addresses_of(self, name: str, share: Hashable) -> Deferred[tuple[str, ...]]:
        """
        Resolve a name.

        Cancelling the Deferred drops the lookup if it has not begun and no other
        caller waits for it.

        :returns: fires with 1 to `MOST_ADDRESSES` addresses in the resolver's order,
            link-local ones with their scope. Fails with `HostUnreachable`, whose
            ``__cause__`` is the system's error, if there is one.
        """
        until, answer = self._kept.get((share, name), (0.0, None))
        if answer is not None and until >= self._clock.seconds():
            return fired(answer)
        if self._uses_system and name in self._hosts_file:
            # Not in a thread: it never waits for the network.
            return maybeDeferred(_look_up, name).addBoth(partial(self._keep, name, share))
        lookup = self._running.get(name, self._queued.get((share, name)))
        if lookup is None:
            lookup = self._queued[share, name] = _Lookup(lambda: self._forget(name, share))
            lookup.start(self._limiter, share, partial(self._begin, name, share))
        return lookup.wait().addBoth(partial(self._keep, name, share))

    def name_of(self, host: str, share: Hashable) -> Deferred[str]:
        """
        Find the name of an address (a reverse lookup).

        :returns: fires with the name; fails with `HostUnreachable`.
        """

        def failed(failure: Failure) -> None:
            failure.trap(OSError)
            raise HostUnreachable("the address has no name") from failure.value

        asking = Deferred.fromCoroutine(
            self._limiter.run(share, lambda: self._in_thread(socket.getnameinfo, (host, 0), socket.NI_NAMEREQD))
        )
        return asking.addCallbacks(lambda found: str(found[0]), failed)  # type: ignore[arg-type]  # `failed` always raises

    @property
    def _uses_system(self) -> bool:
        return type(self._reactor.nameResolver) is GAIResolver

    def _begin(self, name: str, share: Hashable) -> Deferred[tuple[str, ...]]:
        running = self._running.get(name)
        if running is not None:
            return running.wait()
        self._running[name] = self._queued.pop((share, name))
        if self._uses_system:
            return self._in_thread(_look_up, name)
        receiver = _Receiver()
        self._reactor.nameResolver.resolveHostName(receiver, name)
        return receiver.answer

    def _forget(self, name: str, share: Hashable) -> None:
        """Remove a lookup that was answered, or whose callers all left, so that no other caller joins it."""
        lookup = self._queued.pop((share, name), None)
        if lookup is None:
            self._running.pop(name, None)

    def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        if self._threads is None:
            self._threads = _Threads(0, LOOKUPS_AT_ONCE, "resolver")
            self._threads.start()
        return deferToThreadPool(self._reactor, self._threads, function, *arguments)

    def _keep(self, name: str, share: Hashable, answer: _Answer) -> _Answer:
        """Cache an answer for the share, and return it; convert every failure to `HostUnreachable`."""
        seconds = KEPT_ANSWER
        if isinstance(answer, Failure):
            if answer.check(CancelledError):
                return answer
            seconds, answer = KEPT_FAILURE, _unreachable(answer)
        self._kept[share, name] = self._clock.seconds() + seconds, answer
        return answer


def _unreachable(failure: Failure) -> Failure:
    if failure.check(HostUnreachable):
        return failure
    if not failure.check(OSError, ValueError):
        # A bug in another resolver. Do not log its message, which may hold the name.
        _log.warn("the reactor's name resolver failed: {error}", error=type(failure.value).__name__)
    unreachable = HostUnreachable("the name has no address")
    unreachable.__cause__ = failure.value
    return Failure(unreachable)


# By the reactor's identity: a wrapper of a reactor may not be hashable. The resolver keeps its reactor alive.
_resolvers: WeakValueDictionary[int, Resolver] = WeakValueDictionary()


def resolver_of(reactor: Any) -> Resolver:
    """Return the resolver of a reactor. There is one while anyone uses it, so that its limits hold for all users."""
    resolver = _resolvers.get(id(reactor))
    if resolver is None:
        resolver = _resolvers[id(reactor)] = Resolver(reactor)
    return resolver


def _look_up(name: str) -> tuple[str, ...]:
    """
    Ask the system for the addresses of a name.

    :raises OSError: the system's failure, mostly `socket.gaierror`.
    :raises ValueError: the system cannot take the name.
    """
    found = socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(_host_of(address) for *_, address in found))[:MOST_ADDRESSES]


def _host_of(address: tuple[Any, ...]) -> str:
    """Return the host of a socket address with its scope, without which a link-local address is of no use."""
    host = str(address[0])
    return f"{host}%{address[3]}" if len(address) > 3 and address[3] and "%" not in host else host


class _Lookup(SharedResult[tuple[str, ...]]):
    """
    One lookup, for all callers that wait for it.

    :param forget: called when no caller can join any more.
    """

    def __init__(self, forget: Callable[[], object]) -> None:
        self._forget = forget
        self._has_begun = False
        self._answer: Deferred[tuple[str, ...]] = Deferred()
        super().__init__(self._answer, self._drop)

    def start(self, limiter: FairLimiter, share: Hashable, begin: Callable[[], Deferred[tuple[str, ...]]]) -> None:
        """Begin when the limiter admits it."""

        def begin_now() -> Deferred[tuple[str, ...]]:
            self._has_begun = True
            return begin()

        self._asking = Deferred.fromCoroutine(limiter.run(share, begin_now))
        self._asking.addBoth(self._answered)

    def _drop(self) -> None:
        if not self and not self._has_begun:
            self._asking.cancel()

    def _answered(self, outcome: _Answer) -> None:
        self._forget()
        self._answer.callback(outcome)


@implementer(IResolutionReceiver)
class _Receiver:
    """
    Collects the answer of a ``nameResolver``.

    :ivar answer: fires with the addresses.
    """

    def __init__(self) -> None:
        self.answer: Deferred[tuple[str, ...]] = Deferred()
        self._hosts: list[str] = []

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        """See `IResolutionReceiver`."""

    def addressResolved(self, address: IAddress) -> None:
        """See `IResolutionReceiver`."""
        if isinstance(address, (IPv4Address, IPv6Address)) and len(self._hosts) < MOST_ADDRESSES:
            self._hosts.append(address.host)

    def resolutionComplete(self) -> None:
        """See `IResolutionReceiver`. A resolver that has raised may still call it."""
        if self.answer.called:
            return
        if self._hosts:
            self.answer.callback(tuple(self._hosts))
        else:
            self.answer.errback(HostUnreachable("the name has no address"))


class _HostsFile:
    """The names in the hosts file, if ``nsswitch.conf`` names it first."""

    PATH = "/etc/hosts"
    SERVICES = "/etc/nsswitch.conf"

    def __init__(self) -> None:
        self._names: frozenset[str] = frozenset()
        self._stamps: object = None
        self._check_at = 0.0
        self._seconds = time.monotonic

    def __contains__(self, name: str) -> bool:
        now = self._seconds()
        if now >= self._check_at:
            self._check_at = now + HOSTS_CHECK_PERIOD
            self._read_if_changed()
        return name.lower() in self._names

    def _read_if_changed(self) -> None:
        try:
            stats = os.stat(self.PATH), os.stat(self.SERVICES)
            stamps = [(each.st_mtime_ns, each.st_size, each.st_ino) for each in stats]
            if stamps != self._stamps:
                self._names = self._read()
                self._stamps = stamps
        except OSError:
            self._names, self._stamps = frozenset(), None

    def _read(self) -> frozenset[str]:
        services = (words for words in _words_of(self.SERVICES) if words[0] == "hosts:")
        if next(services, [])[1:2] != ["files"]:
            return frozenset()
        return frozenset(name.lower() for words in _words_of(self.PATH) for name in words[1:])


def _words_of(path: str) -> list[list[str]]:
    """Return the words of each line of a file, without comments and empty lines."""
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = (line.partition("#")[0].split() for line in file)
        return [words for words in lines if words]
