"""
A worker process: it serves connections from inherited sockets, as its supervisor tells it.

Commands come on standard input and answers go to standard output, one per line:
a word and JSON. The end of standard input means that the supervisor is dead.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from twisted.application.internet import TimerService
from twisted.application.service import MultiService
from twisted.cred.strcred import makeChecker
from twisted.internet.defer import Deferred, FirstError, gatherResults, maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, eventAsJSON, globalLogBeginner
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from ...net.listening import ACCEPTS_IN_A_TURN
from ...net.signals import on_signals
from ...net.timers import clock_of
from ...tor.isolation import TOKENS
from ..draining import end_removed_users
from ..factory import SOCKS5ExtFactory
from ..listeners import ListenerString
from ..memory import freeze_gc
from ..proxy_protocol import HEADER_TIMEOUT
from ..service import SOCKS5ExtService
from ..settings import ServerSettings
from ..start_failures import reason_of
from ..stats import Counters
from ..status import end_sessions, status_of
from .shared_routes import SharedRoute
from .sockets import InheritedListener

REPORT_PERIOD = 1.0
"""Seconds between two reports of the counters. What a killed worker has not reported is not counted."""

REPORT_SHARE = 0.01
"""The part of the time that reports may take: with thousands of streams, they are made less often."""

SPARE_PERIOD = 0.25
"""Seconds between two looks at the sockets of other workers."""

_PLAIN = (str, int, float, type(None))
_IN_EVERY_EVENT = frozenset({"log_level", "log_logger", "log_source"})

_log = Logger(namespace="txsocksx_ext.server")


@implementer(ILogObserver)
class Worker(LineOnlyReceiver):
    """
    The worker's end of the connection to its supervisor.

    :ivar status: the exit status of the process.
    """

    delimiter = b"\n"
    MAX_LENGTH = 1 << 24
    transport: Any
    status = 0

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._service: WorkerService | None = None
        self._is_stopping = self._is_retiring = False
        self._disconnected: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        globalLogBeginner.beginLoggingTo([self], redirectStandardIO=False)
        self._reactor.addSystemEventTrigger("before", "shutdown", self._shut_down)

    def lineReceived(self, line: bytes) -> None:
        """Run a command of the supervisor."""
        word, _, rest = line.partition(b" ")
        try:
            self._COMMANDS[word](self, json.loads(rest))
        except Exception:  # of the settings, which were good when the supervisor read them
            self._fail(Failure())

    def connectionLost(self, reason: Failure | None = None) -> None:
        # We closed the connection if we are stopping; otherwise the supervisor is dead.
        if self._service is not None and not self._is_stopping:
            self._service.remove_files()
        self._disconnected.callback(None)
        self.stop()

    def send(self, word: str, text: str = "null") -> None:
        """Send an answer, unless the supervisor is dead."""
        if not self._disconnected.called:
            self.sendLine(f"{word} {text}".encode("utf-8", "backslashreplace"))

    def _start(self, message: dict[str, Any]) -> None:
        self._service = WorkerService(self._reactor, message, self.send)
        self._service.startService()
        self._service.listening.addCallbacks(lambda _: self.send("ready"), self._fail)

    def _fail(self, failure: Failure) -> None:
        """Exit, so that the supervisor starts another worker."""
        error = f"{type(failure.value).__name__}: {failure.getErrorMessage()}"
        _log.error("a worker failed: {error}", error=error)
        self.status = 1
        self.stop()

    def stop(self, _: object = None) -> None:
        """Stop listening, drain, and exit."""
        if not self._is_stopping:
            self._is_stopping = True
            self._reactor.stop()

    def _retire(self, auth: list[str]) -> None:
        """Stop listening, and exit after the last connection. End those of users whom these checkers do not have."""
        assert self._service is not None
        if not self._is_retiring:
            self._is_retiring = True
            Deferred.fromCoroutine(self._service.retire()).addBoth(self.stop)
        try:
            end_removed_users(self._service.factory.connections, [makeChecker(each) for each in auth])
        except Exception as error:  # a file has changed since the supervisor read it: better no stream ends than all
            _log.error("cannot tell whose streams to end: {reason}", reason=reason_of(error))

    def _abort(self, _: object) -> None:
        """Abort the connections that drain."""
        if self._service is not None:
            self._service.factory.abort_all()

    def _shut_down(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._drain())

    async def _drain(self) -> None:
        self.send("leaving")
        if self._service is not None:
            await self._service.stopService()
        if not self._disconnected.called:
            # Fires when everything is written.
            self.transport.loseConnection()
            await self._disconnected

    def __call__(self, event: LogEvent) -> None:
        """Send an event to the supervisor, which logs the events of all workers. See `ILogObserver`."""
        # The supervisor itself logs Twisted's lines about ports, once for all workers.
        if event.get("log_namespace") != "log_legacy" or event.get("isError"):
            self.send("event", _as_json(event))

    def _tell_status(self, most: int | None) -> None:
        assert self._service is not None
        self._service.report()
        self.send("answer", json.dumps(status_of(self._service.factory, most).as_message()))

    def _end_sessions(self, wanted: list[str]) -> None:
        assert self._service is not None
        self.send("answer", json.dumps(end_sessions(self._service.factory, *wanted)))

    _COMMANDS: Mapping[bytes, Callable[[Any, Any], None]] = {
        b"start": _start,
        b"retire": _retire,
        b"stop": stop,
        b"abort": _abort,
        b"status": _tell_status,
        b"end": _end_sessions,
    }


def _as_json(event: LogEvent) -> str:
    """
    Return an event as one line of JSON.

    Twisted's own function takes as long as the rest of a connection's work, so only
    events that hold more than strings and numbers are left to it.
    """
    plain = {key: value for key, value in event.items() if isinstance(value, _PLAIN)}
    if event.keys() - plain.keys() - _IN_EVERY_EVENT:
        return eventAsJSON(event)
    level = event.get("log_level", LogLevel.info)
    return json.dumps({**plain, "log_level": level.name, "log_source": None})


class WorkerService(SOCKS5ExtService):
    """
    The service of a worker.

    :param message: the settings and the inherited sockets, from the supervisor.
    :param send: sends an answer to the supervisor.
    :ivar listening: once the service runs, fires when the worker accepts from all
        of its own sockets, or fails as the first that cannot be listened on.
    """

    listening: Deferred[None]

    def __init__(self, reactor: Any, message: dict[str, Any], send: Callable[[str, str], None]) -> None:
        TOKENS.secret = bytes.fromhex(message["secret"])
        routes = {description: SharedRoute(reactor, **spec) for description, spec in message["routes"].items()}
        factory = ServerSettings.from_message(message["settings"]).make_factory(reactor, routes)
        super().__init__(reactor, factory, (), message["drain"])
        self._send = send
        self._reported = Counters()
        self._next_report = 0.0
        self._files: list[tuple[str, int]] = message["files"]
        self._folder: str = message["folder"]
        self._ports = InheritedPorts(reactor, factory, message["slot"], message["listeners"])
        self._ports.setServiceParent(self)
        timer = TimerService(REPORT_PERIOD, self._report_sometimes)
        timer.clock = clock_of(reactor)
        timer.setServiceParent(self)

    def startService(self) -> None:
        """Serve. See `listening`."""
        super().startService()
        self.listening = self._ports.listening

    async def retire(self) -> None:
        """Stop listening, and wait for the last connection to end. Other workers have the same sockets."""
        # With a port less, connections whose PROXY header is to come would be closed.
        self.factory.doStart()
        await maybeDeferred(self._ports.disownServiceParent)
        if self._ports.has_headers:
            await deferLater(self.factory.reactor, HEADER_TIMEOUT)
        await self.factory.when_empty()

    def _report_sometimes(self) -> None:
        began = time.monotonic()
        if began >= self._next_report:
            self.report()
            self._next_report = began + (time.monotonic() - began) / REPORT_SHARE

    def report(self) -> None:
        """Send the counters if they have changed."""
        counters = self.factory.counters
        if counters != self._reported:
            self._reported = counters
            self._send("counters", json.dumps(counters.as_message()))

    def remove_files(self) -> None:
        """Remove the files of a dead supervisor, unless another one has replaced them with its own."""
        for path, inode in self._files:
            with contextlib.suppress(OSError):
                if os.lstat(path).st_ino == inode:
                    os.unlink(path)
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)


class InheritedPorts(MultiService):
    """
    Accepts connections from the sockets of this worker, and spare ones from those of the other workers.

    The system spreads connections over the sockets of all workers. Each worker also
    looks at the sockets of the others every `SPARE_PERIOD`, and accepts what waits
    there: that of a worker that has died, is draining or hangs.

    :param slot: this worker's number, from 0.
    :param listeners: for each listener its description, the family of its sockets,
        and their descriptors: one for each slot, or one that all workers share.
    :ivar listening: see `WorkerService`.
    :ivar has_headers: whether connections of some listener begin with a PROXY header.
    """

    listening: Deferred[None]

    def __init__(self, reactor: Any, factory: SOCKS5ExtFactory, slot: int, listeners: list[dict[str, Any]]) -> None:
        super().__init__()
        self._factory = factory
        self._slot = slot
        self._listeners = [
            (InheritedListener(reactor, each["description"], each["family"]), each["descriptors"]) for each in listeners
        ]
        self.has_headers = any(ListenerString(each["description"]).is_wrapped for each in listeners)
        self._open: list[IListeningPort] = []
        self._spare: dict[int, Any] = {}
        self._spare_poll = select.epoll()
        timer = TimerService(SPARE_PERIOD, self.accept_spare)
        timer.clock = clock_of(reactor)
        timer.setServiceParent(self)

    def startService(self) -> None:
        """Listen."""
        own = []
        for listener, descriptors in self._listeners:
            for slot, descriptor in enumerate(descriptors):
                if slot == self._slot or len(descriptors) == 1:
                    own.append(listener.listen(self._factory, descriptor).addCallback(self._open.append))
                else:
                    listener.listen(self._factory, descriptor, is_spare=True).addCallbacks(self._add_spare, _log_spare)
        listening: Deferred[Any] = gatherResults(own, consumeErrors=True)
        self.listening = listening.addCallbacks(lambda _: None, _first_failure)
        super().startService()

    def _add_spare(self, port: Any) -> None:
        self._open.append(port)
        self._spare[port.fileno()] = port
        self._spare_poll.register(port.fileno(), select.EPOLLIN)

    def accept_spare(self) -> None:
        """Accept the connections that wait for other workers."""
        for descriptor, _ in self._spare_poll.poll(0):
            # The factory would close further connections, which another worker may serve.
            room = self._factory.limits.max_connections - len(self._factory.connections)
            port = self._spare[descriptor]
            port.numberAccepts = min(room, ACCEPTS_IN_A_TURN)
            port.doRead()

    def stopService(self) -> Deferred[None]:
        """Close the sockets here: connections are refused once no process has them any more."""
        self._spare_poll.close()
        stopped: Deferred[None] = super().stopService()
        for _, descriptors in self._listeners:
            for each in descriptors:
                os.close(each)
        return stopped.addCallback(lambda _: Deferred.fromCoroutine(self._close()))

    async def _close(self) -> None:
        while self._open:
            await maybeDeferred(self._open.pop().stopListening)


def _log_spare(failure: Failure) -> None:
    _log.error("cannot accept for another worker: {error}", error=failure.getErrorMessage())


def _first_failure(failure: Failure) -> Failure:
    assert isinstance(failure.value, FirstError)
    return failure.value.subFailure


def main() -> int:
    """Serve in the installed reactor until the supervisor says stop. Return the exit status."""
    from twisted.internet import reactor as installed
    from twisted.internet import stdio

    reactor: Any = installed
    # What a library prints must not mix with the answers.
    sys.stdout = sys.stderr
    worker = Worker(reactor)
    stdio.StandardIO(worker)
    # Not Twisted's handler: SIGTERM may arrive besides the command, and twice.
    on_signals(reactor, worker.stop, signal.SIGTERM)
    freeze_gc(reactor)
    reactor.run(installSignalHandlers=False)
    return worker.status
