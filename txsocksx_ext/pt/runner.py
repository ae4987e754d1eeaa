"""
A transport's program: its conversation with its parent, from the first line to the end (pt-spec, section 3).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
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
from ..transports.environment import PREFIX, EnvironmentFault, check_version, read_environment
from ..transports.lines import VERSION, Keyword, Line, Stage
from .logs import LogToParent
from .program import TransportProgram
from .protocol import Transport

PARENT_CHECK = 3.0
"""Seconds between two looks at whether the parent still lives, where the end of stdin does not tell."""

UNTIL_ALL_ARE_DONE = 365 * 24 * 3600.0
"""Seconds for streams to end by themselves after the first SIGINT."""

_log = Logger(namespace="transport")


def run(*transports: Transport, version: str = "", log_addresses: bool = False) -> NoReturn:
    """
    Be a managed transport: all that a transport's program does.

    From then on nothing but the lines of the specification goes to stdout,
    whatever the program prints: that goes to stderr.

    :param transports: what this program has; those that its parent asks for are started.
    :param version: the program's own, for a STATUS line; empty for none.
    :param log_addresses: whether LOG lines may hold IP addresses.
    :raises SystemExit: always: with 0 where the parent ended it, and with 1 where
        it could not start, which its parent was told.
    :raises TypeError: an argument is of a wrong type.
    """
    check_type("version", version, str)
    check_type("log_addresses", log_addresses, bool)
    for transport in transports:
        check_type("a transport", transport, Transport)
    stdout = _take_stdout()
    try:
        environment = _hear_environment(stdout)
        from twisted.internet import reactor

        parent = ParentPipe(environment.exit_on_stdin_close)
        program = TransportProgram(reactor, transports, environment, parent.say)
    except EnvironmentFault as fault:
        _say_at_once(stdout, fault.line)
        if not any(name.startswith(PREFIX) for name in os.environ):
            print("This is a pluggable transport: tor starts it. See ClientTransportPlugin in tor's manual.")
        sys.exit(1)
    globalLogBeginner.beginLoggingTo([LogToParent(parent.say, log_addresses)], redirectStandardIO=False)
    life = _Life(reactor, program, parent)
    if version:
        name = Path(sys.argv[0]).stem
        fields = (("TYPE", "version"), ("IMPLEMENTATION", name), ("VERSION", version))
        parent.say(Line(Keyword.STATUS, fields=fields))
    reactor.callWhenRunning(life.begin, stdout)
    reactor.run()
    sys.exit(life.status)


def _take_stdout() -> int:
    """Keep stdout for the parent: whatever else is printed goes to stderr."""
    sys.stdout.flush()
    own = os.dup(1)
    os.dup2(2, 1)
    return own


def _hear_environment(stdout: int) -> Any:
    check_version(os.environ)
    _say_at_once(stdout, Line(Keyword.VERSION, text=VERSION))
    return read_environment(os.environ)


def _say_at_once(stdout: int, line: Line) -> None:
    try:
        os.write(stdout, line.encode())
    except OSError:
        sys.exit(1)


@implementer(IHalfCloseableProtocol, IPushProducer)
class ParentPipe(Protocol):
    """
    What a parent says and hears: nothing on stdin but its end, and our lines on stdout.

    :param exits_on_stdin_close: whether that end means that we have to exit.
    :ivar gone: called when the parent wants us to end, or is gone.
    """

    transport: Any = None

    def __init__(self, exits_on_stdin_close: bool) -> None:
        self.exits_on_stdin_close = exits_on_stdin_close
        self.gone: Callable[[], object] = lambda: None
        self._is_paused = False
        self._unsaid: list[Line] = []

    def say(self, line: Line) -> None:
        """Say a line. Where the parent does not read, what is only for its log is left out."""
        if self.transport is None:
            self._unsaid.append(line)
        elif not (self._is_paused and line.keyword.stage is Stage.ANY):
            self.transport.write(line.encode())

    def connectionMade(self) -> None:
        self.transport.registerProducer(self, True)
        unsaid, self._unsaid = self._unsaid, []
        for line in unsaid:
            self.say(line)

    def readConnectionLost(self) -> None:
        if self.exits_on_stdin_close:
            self.gone()

    def writeConnectionLost(self) -> None:
        self.gone()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.gone()

    def pauseProducing(self) -> None:
        self._is_paused = True

    def resumeProducing(self) -> None:
        self._is_paused = False

    def stopProducing(self) -> None:
        """Nobody hears us any more, which `writeConnectionLost` says too."""


class _Life:
    """
    When the program ends.

    :ivar status: what it exits with.
    """

    def __init__(self, reactor: Any, program: TransportProgram, parent: ParentPipe) -> None:
        self.status = 0
        self._reactor = reactor
        self._program = program
        self._parent = parent
        self._is_over = False
        parent.gone = self.end

    def begin(self, stdout: int) -> None:
        """Open the pipes, and start the transports."""
        self._reactor.addSystemEventTrigger("before", "shutdown", self._shut_down)
        on_signals(self._reactor, self._interrupted, signal.SIGINT)
        # Twisted's own handler would stop a reactor that the end of stdin has stopped already: tor does both.
        on_signals(self._reactor, self.end, signal.SIGTERM)
        watches_stdin = self._parent.exits_on_stdin_close
        try:
            stdin = 0 if watches_stdin else os.open(os.devnull, os.O_RDONLY)
            StandardIO(self._parent, stdin=stdin, stdout=stdout, reactor=self._reactor)  # type: ignore[call-arg]
        except OSError:
            # Closed before we were there.
            self.end()
            return
        if not watches_stdin:
            LoopingCall(self._look_for_parent, os.getppid()).start(PARENT_CHECK)
        Deferred.fromCoroutine(self._program.start()).addCallbacks(self._started, self._failed)

    def _started(self, is_useful: bool) -> None:
        if not is_useful:
            self.status = 1
            # The parent hears all of it before that.
            self._parent.transport.loseConnection()

    def _failed(self, failure: Failure) -> None:
        _log.failure("the program cannot say what it has", failure)
        self._started(False)

    def end(self) -> None:
        """Exit, now."""
        if not self._is_over:
            self._is_over = True
            self._reactor.stop()

    def _shut_down(self) -> Deferred[Any]:
        """Close everything: the reactor stops, for whatever reason."""
        self._is_over = True
        return self._program.stop()

    def _interrupted(self) -> None:
        """The first SIGINT lets streams end by themselves; the second does not."""
        on_signals(self._reactor, self.end, signal.SIGINT)
        self._program.stop(UNTIL_ALL_ARE_DONE).addCallback(lambda _: self.end())

    def _look_for_parent(self, parent: int) -> None:
        if os.getppid() != parent:
            self.end()
