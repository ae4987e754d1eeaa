"""
A worker: a process that serves from sockets which another one opened, and does as that one says.

It reads commands from standard input and answers on standard output, a line each:
a word, and JSON. When standard input ends, its supervisor is dead.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import astuple, replace
from typing import Any

from twisted.application.internet import TimerService
from twisted.application.service import Service
from twisted.internet.defer import Deferred, FirstError, gatherResults, maybeDeferred, succeed
from twisted.internet.interfaces import IListeningPort
from twisted.logger import ILogObserver, LogEvent, Logger, globalLogBeginner
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from ...net.signals import on_signals
from ...tor.isolation import TOKENS
from ..factory import SOCKS5ExtFactory
from ..memory import keep_what_is_loaded
from ..service import SOCKS5ExtService
from ..settings import ServerSettings
from ..stats import Counters
from .events import event_to_text, is_about_ports
from .shared_routes import SharedRoute
from .sockets import AdoptingEndpoint

COUNTERS_EVERY = 1.0
"""Seconds between two reports of the counters: what a worker that is killed has not reported is not counted."""

_log = Logger(namespace="txsocksx_ext.server")


@implementer(ILogObserver)
class Worker(LineOnlyReceiver):
    """
    Speaks with the supervisor.

    :ivar status: of the process, at its end.
    """

    delimiter = b"\n"
    MAX_LENGTH = 1 << 24
    transport: Any
    status = 0

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._serving: Serving | None = None
        self._is_stopping = False
        self._gone: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        globalLogBeginner.beginLoggingTo([self], redirectStandardIO=False)
        self._reactor.addSystemEventTrigger("before", "shutdown", self._end)

    def lineReceived(self, line: bytes) -> None:
        """Do what the supervisor says."""
        word, _, rest = line.partition(b" ")
        try:
            self._COMMANDS[word](self, json.loads(rest))
        except Exception:  # of the settings, which were good when the supervisor read them
            self._fail(Failure())

    def connectionLost(self, reason: Failure | None = None) -> None:
        # Asked to stop, we closed it; else the supervisor is dead.
        if self._serving is not None and not self._is_stopping:
            self._serving.clear_up()
        self._gone.callback(None)
        self.stop()

    def say(self, word: str, text: str = "null") -> None:
        """Tell the supervisor something, while it is there."""
        if not self._gone.called:
            self.sendLine(f"{word} {text}".encode("utf-8", "backslashreplace"))

    def _start(self, message: dict[str, Any]) -> None:
        self._serving = Serving(self._reactor, message, self.say)
        self._serving.startService()
        self._serving.ports.listening.addCallbacks(lambda _: self.say("ready"), self._fail)

    def _fail(self, failure: Failure) -> None:
        """End, and have another worker try."""
        _log.error("a worker failed: {error}", error=_words_of(failure))
        self.status = 1
        self.stop()

    def _take(self, slot: int) -> None:
        if self._serving is not None:
            # No reason to end what this worker serves: the other one's next process is on its way.
            self._serving.ports.take(slot).addErrback(
                lambda failure: _log.error(
                    "nothing is accepted for worker {other} now: {error}", other=slot + 1, error=_words_of(failure)
                )
            )

    def _leave(self, slot: int) -> None:
        if self._serving is not None:
            self._serving.ports.leave(slot)

    def stop(self, _: object = None) -> None:
        """End, in order."""
        if not self._is_stopping:
            self._is_stopping = True
            self._reactor.stop()

    def _hurry(self, _: object) -> None:
        """Have nobody end by himself any more."""
        if self._serving is not None:
            self._serving.factory.abort_all()

    def _end(self) -> Deferred[None]:
        """Before the reactor stops."""
        return Deferred.fromCoroutine(self._finish())

    async def _finish(self) -> None:
        self.say("leaving")
        if self._serving is not None:
            await self._serving.stopService()
        if not self._gone.called:
            # Fires when all that was said is written.
            self.transport.loseConnection()
            await self._gone

    def __call__(self, event: LogEvent) -> None:
        """Send an event to the one log."""
        if not is_about_ports(event):
            self.say("event", event_to_text(event))

    _COMMANDS: Mapping[bytes, Callable[[Any, Any], None]] = {
        b"start": _start,
        b"take": _take,
        b"leave": _leave,
        b"stop": stop,
        b"hurry": _hurry,
    }


def _first_failure(failure: Failure) -> Failure:
    assert isinstance(failure.value, FirstError)
    return failure.value.subFailure


def _words_of(failure: Failure) -> str:
    return f"{type(failure.value).__name__}: {failure.getErrorMessage()}"


class Serving(SOCKS5ExtService):
    """
    What a worker does.

    :param message: what the supervisor says at the start.
    :param say: tells the supervisor something.
    :ivar ports: what it accepts from.
    """

    def __init__(self, reactor: Any, message: dict[str, Any], say: Callable[[str, str], None]) -> None:
        TOKENS.secret = bytes.fromhex(message["secret"])
        routes = {description: SharedRoute(reactor, **way) for description, way in message["routes"].items()}
        factory = ServerSettings.from_message(message["settings"]).make_factory(reactor, routes)
        super().__init__(reactor, factory, (), message["drain"])
        self._say = say
        self._reported = Counters()
        self._files: list[tuple[str, int]] = message["files"]
        self._folder: str = message["folder"]
        self.ports = Ports(reactor, factory, message["slot"], message["listeners"])
        self.ports.setServiceParent(self)
        reporting = TimerService(COUNTERS_EVERY, self.report)
        reporting.clock = reactor
        reporting.setServiceParent(self)

    def report(self) -> None:
        """Tell the supervisor the counters, if they have changed."""
        counters = self.factory.counters
        if counters != self._reported:
            self._reported = replace(counters)
            self._say("counters", json.dumps(astuple(counters)))

    def clear_up(self) -> None:
        """Remove the files of a supervisor that died, unless another one has put its own in their place."""
        for path, inode in self._files:
            with contextlib.suppress(OSError):
                if os.lstat(path).st_ino == inode:
                    os.unlink(path)
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)


class Ports(Service):
    """
    Accepts from the sockets of this worker, and from those of workers that are away.

    :param slot: this worker's number, from 0.
    :param listeners: of each its description, the family of its sockets, and
        their descriptors: one for each slot, or a single one for all.
    :ivar listening: fires when this worker accepts from all that is its own, or
        fails as the first ``listen`` that failed; there once the service runs.
    """

    listening: Deferred[None]

    def __init__(self, reactor: Any, factory: SOCKS5ExtFactory, slot: int, listeners: list[dict[str, Any]]) -> None:
        self._factory = factory
        self._slot = slot
        self._listeners = [
            (AdoptingEndpoint(reactor, each["description"], each["family"]), each["descriptors"]) for each in listeners
        ]
        self._open: dict[int, list[IListeningPort]] = {}

    def startService(self) -> None:
        """Accept from this worker's own sockets, and from those that are for all."""
        super().startService()
        self.listening = self.take(self._slot)

    def stopService(self) -> Deferred[None]:
        """Accept no more, and let go of the sockets: connections are refused when no process has them."""
        super().stopService()
        for _, descriptors in self._listeners:
            for each in descriptors:
                os.close(each)
        return Deferred.fromCoroutine(self._close(list(self._open)))

    def take(self, slot: int) -> Deferred[None]:
        """
        Accept from the sockets of a slot, unless it has stopped: the descriptors may be others' by then.

        :returns: fires when it accepts from all of them, and fails as the first
            ``listen`` that failed.
        """
        if slot in self._open or not self.running:
            return succeed(None)
        ports = self._open[slot] = []
        beginning = []
        for endpoint, descriptors in self._listeners:
            is_for_all = len(descriptors) == 1
            if not is_for_all or slot == self._slot:
                descriptor = descriptors[0 if is_for_all else slot]
                beginning.append(endpoint.listen(self._factory, descriptor).addCallback(ports.append))
        began: Deferred[Any] = gatherResults(beginning, consumeErrors=True)
        return began.addCallbacks(lambda _: None, self._took_in_vain, errbackArgs=(slot,))

    def _took_in_vain(self, failure: Failure, slot: int) -> Failure:
        """So that it can be taken again."""
        self.leave(slot)
        return _first_failure(failure)

    def leave(self, slot: int) -> None:
        """Leave the sockets of a slot to its own worker, which is back."""
        Deferred.fromCoroutine(self._close([slot]))

    async def _close(self, slots: list[int]) -> None:
        for port in [port for slot in slots for port in self._open.pop(slot, ())]:
            await maybeDeferred(port.stopListening)


def main() -> int:
    """Work until the supervisor says stop, in the reactor that is installed; the status of the process."""
    from twisted.internet import reactor as installed
    from twisted.internet import stdio

    reactor: Any = installed
    # What a library prints must not stand among our answers.
    sys.stdout = sys.stderr
    worker = Worker(reactor)
    stdio.StandardIO(worker)
    # Not Twisted's: it may come besides the supervisor's word, and twice.
    on_signals(reactor, worker.stop, signal.SIGTERM)
    keep_what_is_loaded(reactor)
    reactor.run(installSignalHandlers=False)
    return worker.status
