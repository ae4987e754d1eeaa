"""
A transport's program: its conversation with its parent, from the first line to its exit (pt-spec, section 3).
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.stdio import StandardIO
from twisted.internet.task import LoopingCall
from twisted.logger import Logger, globalLogBeginner
from twisted.python.failure import Failure
from zope.interface import implementer

from ..checks import check_type
from ..net.signals import on_signals
from ..net.timers import clock_of
from ..transports.environment import PREFIX, EnvironmentFault, check_version, read_environment
from ..transports.lines import VERSION, Keyword, Line, Stage
from .logs import LogToParent
from .program import TransportProgram
from .protocol import Transport

PARENT_CHECK = 3.0
"""Seconds between two checks that the parent still runs, if the end of stdin does not tell."""

UNTIL_ALL_ARE_DONE = 365 * 24 * 3600.0
"""Seconds for streams to end by themselves after the first SIGINT."""

_log = Logger(namespace="transport")


def run(*transports: Transport, version: str = "", log_addresses: bool = False) -> NoReturn:
    """
    Run the program of a managed transport, until its parent ends it.

    From now on only lines of the specification go to stdout. What the program
    itself prints goes to stderr.

    :param transports: the program's transports; those that the parent wants are started.
    :param version: the program's version, for a STATUS line; empty for none.
    :param log_addresses: whether LOG lines may hold IP addresses.
    :raises SystemExit: always: with 0 if the parent ended the program, and with 1 if
        it could not start, after a line to the parent that says so.
    :raises TypeError: an argument is of a wrong type.
    """
    check_type("version", version, str)
    check_type("log_addresses", log_addresses, bool)
    for transport in transports:
        check_type("a transport", transport, Transport)
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        check_version(os.environ)
        _write_at_once(stdout, Line(Keyword.VERSION, text=VERSION))
        environment = read_environment(os.environ)
        from twisted.internet import reactor

        parent = ParentConnection(reactor, environment.exit_on_stdin_close)
        program = TransportProgram(reactor, transports, environment, parent.send)
    except EnvironmentFault as fault:
        _write_at_once(stdout, fault.line)
        if not any(name.startswith(PREFIX) for name in os.environ):
            print("This is a pluggable transport: tor starts it. See ClientTransportPlugin in tor's manual.")
        sys.exit(1)
    globalLogBeginner.beginLoggingTo([LogToParent(parent.send, log_addresses)], redirectStandardIO=False)
    if version:
        name = Path(sys.argv[0]).stem
        parent.send(Line(Keyword.STATUS, fields=(("TYPE", "version"), ("IMPLEMENTATION", name), ("VERSION", version))))
    reactor.callWhenRunning(parent.begin, program, stdout)
    reactor.run()
    sys.exit(parent.exit_status)


def _write_at_once(stdout: int, line: Line) -> None:
    try:
        os.write(stdout, line.encode())
    except OSError:
        sys.exit(1)


@implementer(IHalfCloseableProtocol, IPushProducer)
class ParentConnection(Protocol):
    """
    The pipes to and from the parent, and the end of the program.

    The parent sends nothing on stdin, but may close it; our lines go to stdout.

    :param exits_on_stdin_close: whether the program exits at the end of stdin.
    :ivar exit_status: what the program exits with.
    """

    transport: Any = None

    def __init__(self, reactor: Any, exits_on_stdin_close: bool) -> None:
        self.exit_status = 0
        self._reactor = reactor
        self._exits_on_stdin_close = exits_on_stdin_close
        self._is_paused = False
        self._is_ending = False
        self._unsent: list[Line] = []

    def begin(self, program: TransportProgram, stdout: int) -> None:
        """Open the pipes, and start the transports."""
        self._program = program
        self._reactor.addSystemEventTrigger("before", "shutdown", self._shut_down)
        on_signals(self._reactor, self._interrupted, signal.SIGINT)
        # Twisted's own handler would stop a reactor that the end of stdin has stopped already: tor does both.
        on_signals(self._reactor, self._end, signal.SIGTERM)
        try:
            stdin = 0 if self._exits_on_stdin_close else os.open(os.devnull, os.O_RDONLY)
            # StandardIO is one of several classes, by platform, and mypy sees another one.
            StandardIO(self, stdin=stdin, stdout=stdout, reactor=self._reactor)  # type: ignore[call-arg]
        except OSError:  # the parent has closed one already
            self._end()
            return
        if not self._exits_on_stdin_close:
            checking = LoopingCall(self._check_parent, os.getppid())
            checking.clock = clock_of(self._reactor)
            checking.start(PARENT_CHECK)
        Deferred.fromCoroutine(self._start())

    def send(self, line: Line) -> None:
        """Send a line. While the parent does not read, lines for its log are dropped."""
        if self.transport is None:
            self._unsent.append(line)
        elif not (self._is_paused and line.keyword.stage is Stage.ANY):
            self.transport.write(line.encode())

    def connectionMade(self) -> None:
        self.transport.registerProducer(self, True)
        unsent, self._unsent = self._unsent, []
        for line in unsent:
            self.send(line)

    def readConnectionLost(self) -> None:
        if self._exits_on_stdin_close:
            self._end()

    def writeConnectionLost(self) -> None:
        self._end()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._end()

    def pauseProducing(self) -> None:
        self._is_paused = True

    def resumeProducing(self) -> None:
        self._is_paused = False

    def stopProducing(self) -> None:
        """The parent has closed stdout; `writeConnectionLost` follows."""

    async def _start(self) -> None:
        is_useful = False
        try:
            is_useful = await self._program.start()
        except Exception:
            _log.failure("the program cannot report its transports")
        if not is_useful:
            self.exit_status = 1
            # After all lines were sent.
            self.transport.loseConnection()

    def _end(self) -> None:
        """Exit now."""
        if not self._is_ending:
            self._is_ending = True
            self._reactor.stop()

    def _shut_down(self) -> Deferred[Any]:
        """Close everything when the reactor stops, for any reason."""
        self._is_ending = True
        return self._program.stop()

    def _interrupted(self) -> None:
        """Let streams end by themselves at the first SIGINT, but not at the second."""
        on_signals(self._reactor, self._end, signal.SIGINT)
        self._program.stop(UNTIL_ALL_ARE_DONE).addCallback(lambda _: self._end())

    def _check_parent(self, parent: int) -> None:
        if os.getppid() != parent:
            self._end()
