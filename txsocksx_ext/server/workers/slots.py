"""
The place of one worker, as its supervisor sees it: the process in it, and the next one when that ends.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from twisted.application.internet import backoffPolicy
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger, globalLogPublisher
from twisted.python.failure import Failure

from ...net.child_process import ChildProcess
from ...net.timers import clock_of
from ..stats import Counters
from .events import event_from_text

LIVES_LONG = 10.0
"""Seconds that a worker has to live for the next one to start at once."""

LONGEST_STRAY_LINE = 200
"""Characters that are logged of a line on standard output that is no answer of a worker."""

_pause = backoffPolicy(initialDelay=0.5, maxDelay=30.0, factor=2.0, jitter=lambda: 0.0)

_log = Logger(namespace="txsocksx_ext.server")


class Slot:
    """
    Keeps a worker in one place.

    :param number: from 0.
    :param spawn: starts a process for a slot, and its protocol.
    :param changed: called when the worker has become ready, or is away.
    :ivar process: the worker that is, or that is about to serve; or ``None``.
    :ivar is_ready: whether it accepts connections.
    """

    def __init__(
        self, reactor: Any, number: int, spawn: Callable[[Slot, WorkerProcess], None], changed: Callable[[], None]
    ) -> None:
        self._reactor = reactor
        self._spawn = spawn
        self._changed = changed
        self._restart: IDelayedCall | None = None
        self._early_ends = 0
        self._began = 0.0
        self._running: set[WorkerProcess] = set()
        self._is_stopping = False
        self._counted = Counters()
        self.number = number
        self.process: WorkerProcess | None = None
        self.is_ready = False

    @property
    def counters(self) -> Counters:
        """What all workers that were here have done."""
        return Counters.sum_of([self._counted, *(each.counters for each in self._running)])

    def start(self) -> None:
        """Start a worker."""
        self._restart = None
        self._began = clock_of(self._reactor).seconds()
        self.process = process = WorkerProcess(self)
        self._running.add(process)
        try:
            self._spawn(self, process)
        except OSError as error:  # no process or descriptor is left, which the next moment seldom changes
            self._running.discard(process)
            self._early_ends = max(self._early_ends, 1)
            self.is_leaving(process, f"could not start: {error.strerror}")

    def stop(self) -> None:
        """Have the workers end, in order, and start no other."""
        self._is_stopping = True
        if self._restart is not None:
            self._restart.cancel()
            self._restart = None
        for each in self._running:
            each.say("stop")

    def hurry(self) -> None:
        """Have the workers, which were told to end, end the streams that are left."""
        for each in self._running:
            each.say("hurry")

    def kill(self) -> None:
        """End the workers at once."""
        for each in self._running:
            each.signal("KILL")

    def ended(self) -> list[Deferred[str]]:
        """Deferreds that fire as the processes end."""
        return [each.when_ended() for each in self._running]

    def became_ready(self, process: WorkerProcess) -> None:
        """A worker accepts connections."""
        if process is self.process and not self._is_stopping:
            self.is_ready = True
            _log.info("worker {worker} serves, as process {pid}", worker=self.number + 1, pid=process.transport.pid)
            self._changed()

    def is_leaving(self, process: WorkerProcess, why: str) -> None:
        """A worker accepts no more; its process has ended, or drains."""
        if process is not self.process:
            return
        self.process = None
        self.is_ready = False
        if self._is_stopping:
            return
        lived = clock_of(self._reactor).seconds() - self._began
        self._early_ends = self._early_ends + 1 if lived < LIVES_LONG else 0
        seconds = _pause(self._early_ends - 2) if self._early_ends > 1 else 0.0
        _log.warn(
            "worker {worker} {why}; another one starts in {seconds:.1f} s",
            worker=self.number + 1,
            why=why,
            seconds=seconds,
        )
        self._restart = clock_of(self._reactor).callLater(seconds, self.start)
        self._changed()

    def has_ended(self, process: WorkerProcess) -> None:
        """A process is gone, and all that it said was heard."""
        self._running.discard(process)
        self._counted = Counters.sum_of([self._counted, replace(process.counters, now=0)])


class WorkerProcess(ChildProcess):
    """
    One worker.

    :ivar counters: what it has done, as it last said.
    """

    def __init__(self, slot: Slot) -> None:
        super().__init__()
        self._slot = slot
        self.counters = Counters()

    def say(self, word: str, message: object = None) -> None:
        """Tell the worker something."""
        try:
            self.transport.writeToChild(0, f"{word} {json.dumps(message)}\n".encode("ascii"))
        except KeyError:
            """It is dead, and has closed the pipe."""

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """Hear what it says, and log what its Python says."""
        for line in self.lines_with(childFD, data):
            text = line.decode("utf-8", "backslashreplace")
            if childFD == 1:
                word, _, rest = text.partition(" ")
                heard = self._HEARD.get(word)
                if heard is not None:
                    heard(self, rest)
                else:  # a library that is not Python's has printed it
                    self._log_line(text[:LONGEST_STRAY_LINE])
            else:
                self._log_line(text)

    def _log_line(self, line: str) -> None:
        _log.warn("worker {worker}: {line}", worker=self._slot.number + 1, line=line)

    def processExited(self, reason: Failure) -> None:
        """It is dead; what it said last may still come."""
        self._slot.is_leaving(self, f"ended: {reason.value}")

    def processEnded(self, reason: Failure) -> None:
        self._slot.has_ended(self)
        super().processEnded(reason)

    def _ready(self, _: str) -> None:
        self._slot.became_ready(self)

    def _leaving(self, _: str) -> None:
        self._slot.is_leaving(self, "leaves")

    def _report(self, text: str) -> None:
        self.counters = Counters(*json.loads(text))

    def _event(self, text: str) -> None:
        globalLogPublisher({**event_from_text(text), "worker": self._slot.number + 1})

    _HEARD: Mapping[str, Callable[[WorkerProcess, str], None]] = {
        "ready": _ready,
        "leaving": _leaving,
        "counters": _report,
        "event": _event,
    }


def worker_command(reactor: Any) -> list[str]:
    """
    Return the command line of a worker, under the same reactor class as ours; on asyncio with Python's own event loop,
    whichever ours has. It holds no settings: others can see it.
    """
    module = type(reactor).__module__
    if not hasattr(sys.modules.get(module), "install"):
        module = "twisted.internet.default"
    return [sys.executable, "-c", _START, module]


_START = """
import signal, sys
from importlib import import_module
# A terminal sends SIGINT to all processes, and a service manager may send SIGUSR1 to all: both are the supervisor's.
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
# First of all, since txtorcon installs one.
import_module(sys.argv[1]).install()
from txsocksx_ext.server.workers.process import main
sys.exit(main())
"""
