"""
Names to addresses by the system's resolver, and addresses to names: many at once, and shared fairly.

The system's resolver takes a thread for each name, but it alone knows all of
the system: hosts file, mDNS, search domains, ``nsswitch.conf``.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any
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
from .timers import clock_of
from .waiters import Waiters, fired

LOOKUPS_AT_ONCE = 64
LOOKUPS_OF_ONE_SHARE = 48
"""The rest stays free for others: a look-up takes a thread, and cannot be stopped."""

KEPT_ANSWER = 10.0
KEPT_FAILURE = 2.0
"""Seconds for which an answer, and a failure, is kept for the share that asked."""

MOST_KEPT = 4096
"""Answers that are kept. Then the oldest is dropped."""

MOST_ADDRESSES = 64
"""Addresses of a name that are used: a name may have thousands, and each of them costs a look at the rules."""

HOSTS_CHECK_PERIOD = 1.0
"""Seconds between two looks at whether the hosts file has changed."""

_log = Logger(namespace="txsocksx_ext.net")


class _Threads(ThreadPool):
    """Threads that do not delay the end of the process: a name server may be silent for half a minute."""

    threadFactory = staticmethod(partial(threading.Thread, daemon=True))  # type: ignore[assignment]


class Resolver:
    """
    Resolves names, and finds the names of addresses. See `resolver_of`.

    A *share* is what look-ups are counted by, such as a client's address:
    each has its part of the look-ups that run at once, and its own cache, so
    that no client can learn from the time of an answer what others asked. Only
    look-ups of the same name that run at the same time are joined.

    :param reactor: has the resolver, and runs what threads return. A
        ``nameResolver`` other than Twisted's own is asked instead of the system.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._clock = clock_of(reactor)
        self._limiter = FairLimiter(LOOKUPS_AT_ONCE, LOOKUPS_OF_ONE_SHARE)
        # Those that wait in the queue of a share, and those that run. Only the latter are joined by other shares:
        # a queue is as long as its share makes it.
        self._queued: dict[tuple[Hashable, str], _Lookup] = {}
        self._running: dict[str, _Lookup] = {}
        self._kept: OrderedDict[tuple[Hashable, str], tuple[float, tuple[str, ...] | Failure]] = OrderedDict()
        self._threads: ThreadPool | None = None
        self._hosts_file = _HostsFile()

    def addresses_of(self, name: str, share: Hashable) -> Deferred[tuple[str, ...]]:
        """
        Resolve a name.

        Cancelling the Deferred drops the look-up if nobody else waits for it and
        it has not begun.

        :returns: fires with one address or more in the resolver's order, at
            most `MOST_ADDRESSES`; link-local ones with their scope. Fails with
            `HostUnreachable`, whose ``__cause__`` is the system's error if it
            told one.
        """
        answer = self._kept_answer(name, share)
        if answer is not None:
            return fired(answer)
        if self._is_systems and name in self._hosts_file:
            # Costs less than a thread, and never waits for the network.
            return maybeDeferred(_look_up, name).addBoth(partial(self._keep, name, share))
        lookup = self._running.get(name) or self._queued.get((share, name))
        if lookup is None:
            lookup = self._queued[share, name] = _Lookup(lambda: self._forget(name, share))
            lookup.start(self._limiter, share, partial(self._begin, name, share))
        return lookup.answer().addBoth(partial(self._keep, name, share))

    def name_of(self, host: str, share: Hashable) -> Deferred[str]:
        """
        Find the name of an address (a reverse look-up).

        :returns: fires with the name; fails with `HostUnreachable`.
        """

        def failed(failure: Failure) -> None:
            failure.trap(OSError)
            raise HostUnreachable("the address has no name") from failure.value

        asking = Deferred.fromCoroutine(
            self._limiter.run(share, lambda: self._in_thread(socket.getnameinfo, (host, 0), socket.NI_NAMEREQD))
        )
        return asking.addCallbacks(lambda found: str(found[0]), failed)  # type: ignore[arg-type]

    @property
    def _is_systems(self) -> bool:
        return type(self._reactor.nameResolver) is GAIResolver

    def _begin(self, name: str, share: Hashable) -> Deferred[tuple[str, ...]]:
        running = self._running.get(name)
        if running is not None:
            return running.answer()
        self._running[name] = self._queued.pop((share, name))
        if self._is_systems:
            return self._in_thread(_look_up, name)
        receiver = _Receiver()
        self._reactor.nameResolver.resolveHostName(receiver, name)
        return receiver.answer

    def _forget(self, name: str, share: Hashable) -> None:
        """Remove a look-up that was answered, or whose callers all left, so that no other caller joins it."""
        lookup = self._queued.pop((share, name), None)
        if lookup is None:
            self._running.pop(name, None)

    def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        if self._threads is None:
            self._threads = _Threads(0, LOOKUPS_AT_ONCE, "resolver")
            self._threads.start()
        return deferToThreadPool(self._reactor, self._threads, function, *arguments)

    def _kept_answer(self, name: str, share: Hashable) -> tuple[str, ...] | Failure | None:
        kept = self._kept.get((share, name))
        if kept is None or kept[0] < self._clock.seconds():
            return None
        return kept[1]

    def _keep(self, name: str, share: Hashable, answer: tuple[str, ...] | Failure) -> tuple[str, ...] | Failure:
        """Keep an answer for the share, and return it; every failure becomes `HostUnreachable`."""
        seconds = KEPT_ANSWER
        if isinstance(answer, Failure):
            if answer.check(CancelledError):
                return answer
            seconds, answer = KEPT_FAILURE, _unreachable(answer)
        self._kept[share, name] = self._clock.seconds() + seconds, answer
        self._kept.move_to_end((share, name))
        if len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        return answer


def _unreachable(failure: Failure) -> Failure:
    if failure.check(HostUnreachable):
        return failure
    if not failure.check(OSError, ValueError):
        # A fault in the reactor's own resolver. Its message may hold the name.
        _log.warn("the reactor's name resolver failed: {error}", error=failure.type.__name__)  # type: ignore[union-attr]
    unreachable = HostUnreachable("the name has no address")
    unreachable.__cause__ = failure.value
    return Failure(unreachable)


# By the reactor's identity: a wrapper of a reactor may not be hashable. The resolver keeps its reactor alive.
_resolvers: WeakValueDictionary[int, Resolver] = WeakValueDictionary()


def resolver_of(reactor: Any) -> Resolver:
    """Return the one resolver that a reactor has while somebody keeps it: its limits hold for all of them."""
    resolver = _resolvers.get(id(reactor))
    if resolver is None:
        resolver = _resolvers[id(reactor)] = Resolver(reactor)
    return resolver


def _look_up(name: str) -> tuple[str, ...]:
    """
    Ask the system.

    :raises OSError: the system's failure, mostly `socket.gaierror`.
    :raises ValueError: it is not a name that the system can take.
    """
    found = socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(_host_of(address) for *_, address in found))[:MOST_ADDRESSES]


def _host_of(address: tuple[Any, ...]) -> str:
    """Return the host of a socket address, with its scope: without it a link-local address leads nowhere."""
    host = str(address[0])
    return f"{host}%{address[3]}" if len(address) > 3 and address[3] and "%" not in host else host


class _Lookup:
    """
    One look-up, for all who wait for it.

    :param forget: called as soon as nobody can join any more.
    """

    def __init__(self, forget: Callable[[], object]) -> None:
        self._forget = forget
        self._waiting: Waiters[tuple[str, ...]] = Waiters(self._left)
        self._has_begun = False
        self._outcome: tuple[str, ...] | Failure | None = None

    def start(self, limiter: FairLimiter, share: Hashable, begin: Callable[[], Deferred[Any]]) -> None:
        """Begin when the limiter admits it."""

        def begin_now() -> Deferred[Any]:
            self._has_begun = True
            return begin()

        self._asking = Deferred.fromCoroutine(limiter.run(share, begin_now))
        self._asking.addBoth(self._answered)

    def answer(self) -> Deferred[Any]:
        """Return a Deferred that fires with the answer."""
        return self._waiting.wait() if self._outcome is None else fired(self._outcome)

    def _left(self) -> None:
        if not self._waiting and not self._has_begun:
            self._asking.cancel()

    def _answered(self, outcome: tuple[str, ...] | Failure) -> None:
        self._outcome = outcome
        self._forget()
        self._waiting.fire(outcome)


@implementer(IResolutionReceiver)
class _Receiver:
    """
    Collects what a reactor's own ``nameResolver`` finds.

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
        """See `IResolutionReceiver`. A resolver that raised may still call it."""
        if self.answer.called:
            return
        if self._hosts:
            self.answer.callback(tuple(self._hosts))
        else:
            self.answer.errback(HostUnreachable("the name has no address"))


class _HostsFile:
    """The names in the hosts file, if ``nsswitch.conf`` has it asked first."""

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
