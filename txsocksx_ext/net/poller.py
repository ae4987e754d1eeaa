"""
One edge-triggered epoll descriptor, inside whatever reactor runs.

A reactor of Twisted asks the system twice or more for each change of mind about
a socket. Here a socket is registered once: the system tells each change of its
state once, and who watches it reads and writes until there is no more to do.
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
"""The peer sends no more, or both directions are closed; bytes may be unread all the same."""

URGENT = getattr(select, "EPOLLPRI", 0)
"""There is urgent data (RFC 9293, section 3.8.5), at which a read stops short. That byte itself nobody passes on."""

MORE_MAY_FOLLOW = INPUT_ENDED | URGENT
"""After one of these, a short read may not have read all, and nothing more is told of what is left."""

READ_EVENTS = READABLE | INPUT_ENDED | FAILED
"""After one of these, reading tells more."""

_INPUT_EVENTS = READABLE | INPUT_ENDED | URGENT | getattr(select, "EPOLLET", 0)
_ALL_EVENTS = _INPUT_EVENTS | WRITABLE

BATCH = 64
"""How many descriptors are served before it is asked again which there are."""

LONGEST_TURN = 0.004
"""Seconds after which it is not asked again in one turn of the reactor, so that others have theirs."""


class Watcher(Protocol):
    """Who acts on a socket's events."""

    def ready(self, events: int) -> None:
        """
        Act on events. They are a hint alone: the socket itself tells what is so.

        A watcher does a bounded amount of work, and asks for the rest by `Poller.again`.

        :param events: a mask of `READABLE` and the others.
        """

    def abandon(self, why: str) -> None:
        """Close the socket at once, for a reason in a word: it is not watched any more."""


@implementer(IReadDescriptor)
class Poller:
    """
    Tells watchers of their sockets' events. See `poller_of`.

    Call `forget` before you close a watched socket.

    :ivar reactor: in which it runs.
    :ivar pipe: for all of them.
    :ivar kept: bytes that those who relay keep for peers that do not read.
    """

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        # By descriptor: these are small numbers.
        self._watchers: list[Watcher | None] = []
        self._epoll = select.epoll()
        self.fileno = self._epoll.fileno
        self.pipe = Pipe()
        self.kept = 0
        self._added: set[int] = set()
        reactor.addReader(self)

    def watch(self, descriptor: int, watcher: Watcher) -> None:
        """
        Tell `watcher` what there is to read from a socket, and what there is already.

        That it can be written to is told only after `again`: most always can.

        :raises OSError: the system cannot watch one more.
        """
        self._epoll.register(descriptor, _INPUT_EVENTS)
        watchers = self._watchers
        if descriptor >= len(watchers):
            watchers.extend([None] * (descriptor + 1 - len(watchers)))
        watchers[descriptor] = watcher
        self._added.add(descriptor)

    def replace(self, descriptor: int, watcher: Watcher) -> None:
        """
        Have another watcher told from now on, without asking the system.

        What the first one was told is not told again: it has to pass that on.
        """
        self._watchers[descriptor] = watcher

    def again(self, descriptor: int) -> None:
        """
        Tell once more, after the others, what a socket is ready for then.

        From now on that includes that it can be written to.
        """
        self._epoll.modify(descriptor, _ALL_EVENTS)

    def forget(self, descriptor: int) -> None:
        """Tell no more of a socket that is about to be closed: closing it tells the system."""
        self._watchers[descriptor] = None

    def release(self, descriptor: int) -> None:
        """Tell no more of a socket that stays open."""
        self.forget(descriptor)
        self._epoll.unregister(descriptor)

    @property
    def watchers(self) -> list[Watcher]:
        """All that are told of events."""
        return [watcher for watcher in self._watchers if watcher is not None]

    # What the reactor calls.

    # Each event of the reactor asks for both, so they are built-in functions.
    fileno: Callable[[], int]
    logPrefix = staticmethod(partial(str, "poller"))

    def doRead(self) -> None:
        """
        Tell what is new, until nothing is: a turn of the reactor takes as long as one or two of them.

        What is left after the time for that stays in the system's list.
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
                # An earlier watcher may have closed this one, whose number another socket may have got since.
                if watcher is None or descriptor in added:
                    continue
                try:
                    watcher.ready(events)
                # Also what is no `Exception`, such as asyncio's cancellation: a reactor would end all that is watched.
                except BaseException:
                    log_fault()
                    self._abandon(watcher, "fault")
            # A watcher may have stopped the reactor, and with it this.
            if monotonic() > end or self._epoll.closed:
                return

    def connectionLost(self, reason: Failure) -> None:
        """The reactor ends, and with it all that was watched."""
        _pollers.pop(self.reactor, None)
        for descriptor, watcher in enumerate(self._watchers):
            # The end of another may have been its end too.
            if watcher is not None and self._watchers[descriptor] is watcher:
                self._abandon(watcher, "stopped")
        self._epoll.close()
        # As Twisted's transports say it of themselves when they are closed.
        self.fileno = partial(int, -1)
        self.pipe.close()

    def _abandon(self, watcher: Watcher, why: str) -> None:
        try:
            watcher.abandon(why)
        except BaseException:
            log_fault()


def log_fault() -> None:
    """Log the exception that is being handled, but not its own words, which may hold a target."""
    failure = Failure()
    _log.error(
        "a socket's watcher failed unexpectedly: {error}\n{traceback}",
        error=type(failure.value).__name__,
        traceback="".join(traceback.format_tb(failure.getTracebackObject())),
    )


_pollers: dict[PosixReactorBase, Poller] = {}
# Two processes must not share what they would both read from.
os.register_at_fork(after_in_child=_pollers.clear)


def poller_of(reactor: Any) -> Poller | None:
    """
    Return the one poller of a reactor; ``None`` where the system has no epoll, or the reactor takes no descriptors.

    :param reactor: a reactor of Twisted on any event loop, or what wraps one and
        leaves its descriptors to it.
    """
    try:
        poller = _pollers.get(reactor)
    except TypeError:  # what wraps a reactor may have no hash
        poller = None
    if poller is not None:
        return poller
    taker = getattr(getattr(reactor, "addReader", None), "__self__", None)
    poller = _pollers.get(taker)  # type: ignore[arg-type]
    if poller is None and sys.platform == "linux" and isinstance(taker, PosixReactorBase):
        poller = _pollers[taker] = Poller(taker)
    return poller
