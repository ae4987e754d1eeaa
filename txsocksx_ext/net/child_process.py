"""
A child process: its lines, its end, and how it is ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from .timers import clock_of
from .waiters import Waiters

LONGEST_LINE = 1024 * 1024
"""Bytes of a line that are kept until its end comes."""

STDERR = 2
"""The child's descriptor of its standard error."""


class ChildProcess(ProcessProtocol):
    """
    One process. Subclasses override `line_received`.

    :param reactor: provides processes and time.
    :cvar longest_line: bytes of a line that are kept; then `line_received` gets them as a line.
    :cvar term_after: seconds from `stop`, which closes the child's stdin, to SIGTERM.
    :cvar kill_after: seconds from `stop` to SIGKILL.
    :cvar output_ends_after: seconds after the process has exited until its pipes are
        closed, because processes that it started may hold them open.
    :ivar fault: why it was told to end, if a subclass gives a reason.
    :ivar end: why it ended: `fault`, or else ``exit status 1`` or ``signal 9``; ``None`` before that.
    """

    longest_line = LONGEST_LINE
    transport: Any = None  # Twisted's IProcessTransport lacks closeStdin() and writeToChild()
    term_after = 0.0
    kill_after = 5.0
    output_ends_after = 1.0

    def __init__(self, reactor: Any) -> None:
        self.fault = ""
        self.end: str | None = None
        self._reactor = reactor
        # By the child's descriptor: the beginning of a line whose end has not come.
        self._unended: dict[int, bytes] = {}
        self._waiting: Waiters[str] = Waiters()
        self._close_pipes: IDelayedCall | None = None

    @property
    def pid(self) -> int | None:
        """The number of the process; ``None`` if none runs."""
        return None if self.transport is None or self.end is not None else self.transport.pid

    def start(
        self, program: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None, **options: Any
    ) -> None:
        """
        Start the process.

        :param program: its path.
        :param arguments: its command line, without its name.
        :param environment: by default our own.
        :param options: further arguments of `IReactorProcess.spawnProcess`.
        :raises OSError: the system has no process or descriptor left.
        """
        self._reactor.spawnProcess(self, program, [program, *arguments], env=environment, **options)

    def line_received(self, descriptor: int, line: bytes) -> None:
        """
        Take a line of output.

        :param descriptor: the child's: 1 for its stdout, `STDERR` for its stderr.
        :param line: without its end.
        """

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        *lines, rest = (self._unended.pop(childFD, b"") + data).split(b"\n")
        if len(rest) > self.longest_line:
            lines.append(rest)
        elif rest:
            self._unended[childFD] = rest
        for line in lines:
            self.line_received(childFD, line)

    def signal(self, name: str) -> None:
        """
        Send a signal; no-op if the process has ended.

        :param name: as in ``TERM``.
        """
        try:
            self.transport.signalProcess(name)
        except ProcessExitedAlready:
            """`processEnded` follows."""

    def when_ended(self) -> Deferred[str]:
        """Return a Deferred that fires with `end` when the process has ended and its output was read."""
        return self._waiting.wait() if self.end is None else succeed(self.end)

    def stop(self) -> Deferred[str]:
        """
        End the process: close its stdin, then send SIGTERM, then SIGKILL.

        :returns: fires as `when_ended` does; at once if the process was never started.
        """
        if self.transport is None:
            return succeed("")
        self.transport.closeStdin()
        later = []
        for seconds, name in ((self.term_after, "TERM"), (self.kill_after, "KILL")):
            if seconds:
                later.append(clock_of(self._reactor).callLater(seconds, self.signal, name))
            else:
                self.signal(name)

        def cancel_signals(end: str | Failure) -> str | Failure:
            for call in later:
                if call.active():
                    call.cancel()
            return end

        return self.when_ended().addBoth(cancel_signals)

    def processExited(self, reason: Failure) -> None:
        self._close_pipes = clock_of(self._reactor).callLater(self.output_ends_after, self.transport.loseConnection)

    def processEnded(self, reason: Failure) -> None:
        if self._close_pipes is not None and self._close_pipes.active():
            self._close_pipes.cancel()
        last = self._unended.pop(STDERR, b"")
        if last:
            self.line_received(STDERR, last)
        self.end = self.fault or end_of(reason)
        self._waiting.fire(self.end)


def end_of(reason: Failure) -> str:
    """Return why a process ended, as logs have it: ``exit status 1`` or ``signal 9``."""
    error: Any = reason.value  # Twisted's ProcessDone or ProcessTerminated
    return f"signal {error.signal}" if error.signal else f"exit status {error.exitCode}"
