"""
The supervisor's view of one worker: its process, and the next process when that one ends.
"""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from twisted.application.internet import backoffPolicy
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger, LogLevel, eventFromJSON, globalLogPublisher
from twisted.python.failure import Failure

from ...net.child_process import ChildProcess, end_of
from ...net.timers import clock_of
from ...net.waiters import Waiters
from ..stats import Counters

STABLE_AFTER = 10.0
"""Seconds that a worker has to run for its successor to start at once."""

ANSWERS_WITHIN = 2.0
"""Seconds that a worker has to answer a question."""

READY_WITHIN = 60.0
"""Seconds that a worker has to start during a reload."""

LONGEST_STRAY_LINE = 200
"""Characters that are logged of a line on a worker's standard output that is not an answer."""

_delay = backoffPolicy(initialDelay=0.5, maxDelay=30.0, factor=2.0, jitter=lambda: 0.0)

_log = Logger(namespace="txsocksx_ext.server")


class WorkerFailed(Exception):
    """A worker has ended before it was ready."""


class Slot:
    """
    Keep one worker running.

    :param number: from 0.
    :param spawn: starts a process for a slot with the given protocol.
    :ivar running: all processes that have not ended, those that drain too.
    :ivar process: the worker that serves or starts; ``None`` while none does.
    :ivar served: fires when the first worker serves.
    """

    def __init__(self, reactor: Any, number: int, spawn: Callable[[Slot, WorkerProcess], None]) -> None:
        self._reactor = reactor
        self._spawn = spawn
        self._restart: IDelayedCall | None = None
        self._early_ends = 0
        self._began = 0.0
        self.running: set[WorkerProcess] = set()
        self._is_stopping = False
        self._counted = Counters()
        self.number = number
        self.served: Deferred[None] = Deferred()
        self.process: WorkerProcess | None = None

    @property
    def counters(self) -> Counters:
        """The sum of the counters of all workers of this slot."""
        return Counters.sum_of([self._counted, *(each.counters for each in self.running)])

    def start(self) -> None:
        """Start a worker."""
        self._restart = None
        self._began = clock_of(self._reactor).seconds()
        self.process = process = WorkerProcess(self._reactor, self)
        self.running.add(process)
        try:
            self._spawn(self, process)
        except OSError as error:  # the system has no process or descriptor left, which seldom changes at once
            self.running.discard(process)
            self._early_ends = max(self._early_ends, 1)
            self.left(process, f"could not start: {error.strerror}")

    def candidate(self, spawn: Callable[[Slot, WorkerProcess], None]) -> WorkerProcess:
        """
        Start a process beside the worker that serves. See `adopt`.

        :raises OSError: the system has no process or descriptor left.
        """
        process = WorkerProcess(self._reactor, self)
        self.running.add(process)
        try:
            spawn(self, process)
        except OSError:
            self.running.discard(process)
            raise
        return process

    def adopt(self, process: WorkerProcess) -> None:
        """Keep this process running instead of the worker that serves."""
        if self._restart is not None:
            self._restart.cancel()
            self._restart = None
        self._began, self._early_ends = clock_of(self._reactor).seconds(), 0
        self.process = process
        if process.has_exited:
            self.left(process, "ended")

    def stop(self) -> None:
        """Have the workers drain and exit, and start no other."""
        self._is_stopping = True
        if self._restart is not None:
            self._restart.cancel()
            self._restart = None
        for each in self.running:
            each.send("stop")

    def abort(self) -> None:
        """Have stopped workers abort the connections that still drain."""
        for each in self.running:
            each.send("abort")

    def kill(self) -> None:
        """Kill the workers."""
        for each in self.running:
            each.signal("KILL")

    def when_ended(self) -> list[Deferred[str]]:
        """Return a Deferred for each process that fires when it has ended."""
        return [each.when_ended() for each in self.running]

    def left(self, process: WorkerProcess, why: str) -> None:
        """Start the successor of a worker that has exited or drains."""
        if process is not self.process:
            return
        self.process = None
        if self._is_stopping:
            return
        lifetime = clock_of(self._reactor).seconds() - self._began
        self._early_ends = self._early_ends + 1 if lifetime < STABLE_AFTER else 0
        seconds = _delay(self._early_ends - 2) if self._early_ends > 1 else 0.0
        _log.warn(
            "worker {worker} {why}; another one starts in {seconds:.1f} s",
            worker=self.number + 1,
            why=why,
            seconds=seconds,
        )
        self._restart = clock_of(self._reactor).callLater(seconds, self.start)

    def ended(self, process: WorkerProcess) -> None:
        """Keep the counters of a process that has ended."""
        self.running.discard(process)
        self._counted = Counters.sum_of([self._counted, process.counters.ended()])


class WorkerProcess(ChildProcess):
    """
    One worker.

    :ivar counters: the last that it has reported.
    :ivar has_exited: whether it has, though output may still come.
    """

    # On a busy machine, reading its last counters may take long.
    output_ends_after = 10.0

    # An answer has all sessions in one line.
    longest_line = 1 << 30

    def __init__(self, reactor: Any, slot: Slot) -> None:
        super().__init__(reactor)
        self.has_exited = False
        self._readiness: Waiters[None] = Waiters()
        self._slot = slot
        self.counters = Counters()
        self._asked: deque[Deferred[Any]] = deque()

    def ask(self, word: str, argument: object) -> Deferred[Any]:
        """
        Send a command that the worker answers.

        :returns: fires with the answer; with ``None`` if there is none within `ANSWERS_WITHIN`.
        """
        answered: Deferred[Any] = Deferred()
        # Workers answer in order, also what is not awaited any longer.
        self._asked.append(answered)
        self.send(word, argument)
        return answered.addTimeout(ANSWERS_WITHIN, clock_of(self._reactor)).addErrback(lambda _: None)

    def when_ready(self) -> Deferred[None]:
        """Return a Deferred that fires when the worker serves. It fails if the worker ends or takes too long."""
        return self._readiness.wait().addTimeout(READY_WITHIN, clock_of(self._reactor))

    def send(self, word: str, message: object = None) -> None:
        """Send a command."""
        try:
            self.transport.writeToChild(0, f"{word} {json.dumps(message)}\n".encode("ascii"))
        except KeyError:
            """The worker is dead and has closed the pipe."""

    def line_received(self, descriptor: int, line: bytes) -> None:
        """Act on an answer, and log everything else."""
        text = line.decode("utf-8", "backslashreplace")
        word, _, rest = text.partition(" ")
        handler = self._ANSWERS.get(word) if descriptor == 1 else None
        if handler is not None:
            handler(self, rest)
        else:  # standard error, or printed by a library in C
            shown = text[:LONGEST_STRAY_LINE] if descriptor == 1 else text
            _log.warn("worker {worker}: {line}", worker=self._slot.number + 1, line=shown)

    def processExited(self, reason: Failure) -> None:
        self.has_exited = True
        self._readiness.fire(Failure(WorkerFailed(f"worker {self._slot.number + 1} ended: {end_of(reason)}")))
        super().processExited(reason)
        self._slot.left(self, f"ended: {end_of(reason)}")

    def processEnded(self, reason: Failure) -> None:
        self._slot.ended(self)
        for each in self._asked:
            each.cancel()
        super().processEnded(reason)

    def _ready(self, _: str) -> None:
        _log.info("worker {worker} serves, as process {pid}", worker=self._slot.number + 1, pid=self.transport.pid)
        if not self._slot.served.called:
            self._slot.served.callback(None)
        self._readiness.fire(None)

    def _leaving(self, _: str) -> None:
        self._slot.left(self, "leaves")

    def _answer(self, text: str) -> None:
        self._asked.popleft().callback(json.loads(text))

    def _report(self, text: str) -> None:
        self.counters = Counters.from_message(json.loads(text))

    def _log_event(self, text: str) -> None:
        event: dict[str, Any] = eventFromJSON(text)
        level = event.get("log_level")
        if isinstance(level, str):
            event["log_level"] = LogLevel.levelWithName(level)
        globalLogPublisher({**event, "worker": self._slot.number + 1})

    _ANSWERS: Mapping[str, Callable[[WorkerProcess, str], None]] = {
        "ready": _ready,
        "leaving": _leaving,
        "answer": _answer,
        "counters": _report,
        "event": _log_event,
    }


def worker_command(reactor: Any) -> list[str]:
    """
    Return the command line of a worker, which runs under the same reactor class as this process.

    On asyncio the worker uses Python's own event loop. The settings are not in the
    command line, because other users can read it.
    """
    module = type(reactor).__module__
    if not hasattr(sys.modules.get(module), "install"):
        module = "twisted.internet.default"
    return [sys.executable, "-c", _START, module]


_START = """
import signal, sys
from importlib import import_module
# A terminal sends SIGINT and SIGHUP to all processes, and a service manager may send SIGUSR1 to all: the supervisor
# acts on them.
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
# Install the reactor first, because txtorcon installs one.
import_module(sys.argv[1]).install()
from txsocksx_ext.server.workers.process import main
sys.exit(main())
"""
