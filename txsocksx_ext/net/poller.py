"""
One edge-triggered epoll descriptor, inside whatever reactor runs.

Twisted's reactors make two or more system calls whenever a transport starts or
stops reading or writing. Here a socket is registered once, edge-triggered: each
change of its state is reported once, and its watcher reads and writes until the
socket would block.
"""

from __future__ import annotations

import os
import select
import sys
import traceback
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any, Protocol

from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.posixbase import PosixReactorBase
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from .pipe import Pipe

_log = Logger(namespace="txsocksx_ext.net")

READABLE = getattr(select, "EPOLLIN", 0)
WRITABLE = getattr(select, "EPOLLOUT", 0)
FAILED = getattr(select, "EPOLLERR", 0)
INPUT_ENDED = getattr(select, "EPOLLRDHUP", 0) | getattr(select, "EPOLLHUP", 0)
"""The peer has closed its sending side, or both directions are closed; received bytes may still be unread."""

URGENT = getattr(select, "EPOLLPRI", 0)
"""Urgent data (RFC 9293, section 3.8.5): a read stops short before it. The urgent byte itself is not relayed."""

MORE_MAY_FOLLOW = INPUT_ENDED | URGENT
"""After one of these, a short read may have left bytes for which no further event comes."""

READ_EVENTS = READABLE | INPUT_ENDED | FAILED
"""Events after which a read returns data, the end of input or an error."""

_INPUT_EVENTS = READABLE | INPUT_ENDED | URGENT | getattr(select, "EPOLLET", 0)
_ALL_EVENTS = _INPUT_EVENTS | WRITABLE

BATCH = 64
"""Events that one epoll_wait(2) returns at most."""

LONGEST_TURN = 0.004
"""Seconds after which the poller returns to the reactor, so that other descriptors are served."""


class Watcher(Protocol):
    """Acts on the events of a socket."""

    def ready(self, events: int) -> None:
        """
        Act on events. They are only a hint: system calls on the socket return its actual state.

        Do a bounded amount of work, and request the events of the rest by `Poller.rearm`.

        :param events: a mask of `READABLE` and the others.
        """

    def abandon(self, why: str) -> None:
        """
        Close the socket at once: it is no longer watched.

        :param why: the reason, in a word.
        """


@implementer(IReadDescriptor)
class Poller:
    """
    Reports the events of sockets to their watchers. See `poller_of`.

    Call `unregister` before you close a watched socket.

    :ivar reactor: the reactor in which it runs.
    :ivar pipe: shared by all watchers.
    :ivar kept: bytes that relays hold for peers that do not read.
    """

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        # Indexed by descriptor, because descriptors are small integers.
        self._watchers: list[Watcher | None] = []
        self._epoll = select.epoll()
        self.fileno = self._epoll.fileno
        self.pipe = Pipe()
        self.kept = 0
        self._added: set[int] = set()
        reactor.addReader(self)

    def watch(self, descriptor: int, watcher: Watcher) -> None:
        """
        Report a socket's read events to `watcher`, beginning with its present state.

        Writability is reported only after `rearm`, because most sockets are always writable.

        :raises OSError: the system cannot watch another socket.
        """
        self._epoll.register(descriptor, _INPUT_EVENTS)
        watchers = self._watchers
        if descriptor >= len(watchers):
            watchers.extend([None] * (descriptor + 1 - len(watchers)))
        watchers[descriptor] = watcher
        self._added.add(descriptor)

    def replace(self, descriptor: int, watcher: Watcher) -> None:
        """
        Report a socket's events to another watcher from now on, without a system call.

        Events that the previous watcher got are not reported again, so it has to pass them on.
        """
        self._watchers[descriptor] = watcher

    def rearm(self, descriptor: int) -> None:
        """
        Report what a socket is ready for once more, after the events of other sockets.

        From now on, report writability too.
        """
        self._epoll.modify(descriptor, _ALL_EVENTS)

    def unregister(self, descriptor: int) -> None:
        """Report no more events of a socket that is about to be closed. Closing it removes it from the epoll set."""
        self._watchers[descriptor] = None

    def detach(self, descriptor: int) -> None:
        """Report no more events of a socket that stays open."""
        self.unregister(descriptor)
        self._epoll.unregister(descriptor)

    @property
    def watchers(self) -> list[Watcher]:
        """The watchers of all sockets."""
        return [watcher for watcher in self._watchers if watcher is not None]

    # What the reactor calls.

    # The reactor calls both for each of its events, so they are built-in functions.
    fileno: Callable[[], int]
    logPrefix = staticmethod(partial(str, "poller"))

    def doRead(self) -> None:
        """
        Report events until there are none: one iteration of the reactor costs as much as one or two events.

        After `LONGEST_TURN` the remaining events stay in the epoll set until the reactor's next iteration.
        """
        watchers, added, poll = self._watchers, self._added, self._epoll.poll
        end = monotonic() + LONGEST_TURN
        while True:
            ready = poll(0, BATCH)
            if not ready:
                return
            added.clear()
            for descriptor, events in ready:
                watcher = watchers[descriptor]
                # An earlier watcher may have closed this socket, and a new one may have got its descriptor.
                if watcher is None or descriptor in added:
                    continue
                try:
                    watcher.ready(events)
                # BaseException, such as asyncio's CancelledError: the reactor would close every watched socket.
                except BaseException:
                    log_fault()
                    self._abandon(watcher, "fault")
            # A watcher may have closed the poller by stopping the reactor.
            if monotonic() > end or self._epoll.closed:
                return

    def connectionLost(self, reason: Failure) -> None:
        """Close everything that is watched, because the reactor ends."""
        _pollers.pop(self.reactor, None)
        for descriptor, watcher in enumerate(self._watchers):
            # Closing an earlier socket may have closed this one too.
            if watcher is not None and self._watchers[descriptor] is watcher:
                self._abandon(watcher, "stopped")
        self._epoll.close()
        # What closed transports of Twisted's return.
        self.fileno = partial(int, -1)
        self.pipe.close()

    def _abandon(self, watcher: Watcher, why: str) -> None:
        try:
            watcher.abandon(why)
        except BaseException:  # of any kind: the other watchers must be closed too
            log_fault()


def log_fault() -> None:
    """Log the exception that is being handled, without its message, which may hold a target."""
    failure = Failure()
    _log.error(
        "a socket's watcher failed unexpectedly: {error}\n{traceback}",
        error=type(failure.value).__name__,
        traceback="".join(traceback.format_tb(failure.getTracebackObject())),
    )


_pollers: dict[PosixReactorBase, Poller] = {}
# Two processes must not read from one epoll descriptor.
os.register_at_fork(after_in_child=_pollers.clear)


def poller_of(reactor: Any) -> Poller | None:
    """
    Return the one poller of a reactor; ``None`` without epoll, or if the reactor does not take descriptors.

    :param reactor: a reactor of Twisted on any event loop, or a wrapper that passes
        descriptors on to one.
    """
    try:
        poller = _pollers.get(reactor)
    except TypeError:  # a wrapper of a reactor may not be hashable
        poller = None
    if poller is not None:
        return poller
    taker = getattr(getattr(reactor, "addReader", None), "__self__", None)
    poller = _pollers.get(taker)  # type: ignore[arg-type]  # None is in no dictionary
    if poller is None and sys.platform == "linux" and isinstance(taker, PosixReactorBase):
        poller = _pollers[taker] = Poller(taker)
    return poller
