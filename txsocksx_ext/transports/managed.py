"""
A service that keeps a managed transport running as our child (pt-spec, section 3).
"""

from __future__ import annotations

import enum
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

from twisted.application.internet import backoffPolicy
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.error import CannotListenError
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..checks import check_method, check_type, kind_of
from ..errors import TransportInternalError, TransportTemporaryFailure
from ..net.timers import clock_of
from ..net.waiters import Waiters, fired
from ..state_folders import private_folder
from .environment import PREFIX, ClientEnvironment
from .notation import checked_name
from .outbound_proxy import OutboundProxy
from .parent import ConversationFault, ProxyRefused
from .process import TransportProcess

START_WITHIN = 30.0
"""Seconds for a transport to become ready."""

HEALTHY_AFTER = 30.0
"""Seconds after which a process that ends is restarted with the shortest delay."""

_pause = backoffPolicy(initialDelay=0.2, maxDelay=60.0, factor=3.0, jitter=lambda: 0.0)

_log = Logger(namespace="txsocksx_ext.pt")


class ChildState(enum.Enum):
    """The state of a transport that runs as our child."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    """It was ready and has ended; it will be started again."""
    FAILED = "failed"
    """It could not be started; another attempt follows."""


class ManagedTransport(Service):
    """
    Keeps one transport running as our child while the service runs.

    :param reactor: provides processes, TCP, time, threads and a name resolver.
    :param name: the transport's, as ``obfs4``.
    :param program: the path of the transport's program, or its name on PATH.
    :param arguments: the program's command line, without its name.
    :param state: the transport's state folder, created if it does not exist; by
        default a temporary one. The transport does not start with a folder that
        other users can write to or replace, or with a symbolic link.
    :raises ValueError: `name` is not the name of a transport.
    :raises TypeError: an argument is of a wrong type.
    :ivar status: a `ChildState`.
    :ivar why: why the transport last ended or did not start.
    """

    def __init__(
        self,
        reactor: Any,
        name: str,
        program: str | os.PathLike[str],
        arguments: Sequence[str] = (),
        state: str | os.PathLike[str] | None = None,
    ) -> None:
        check_method("reactor", reactor, "spawnProcess", "a reactor that starts processes")
        check_type("program", program, str, os.PathLike)
        check_type("state", state, str, os.PathLike, NoneType)
        if isinstance(arguments, (str, bytes)) or not isinstance(arguments, Iterable):
            raise TypeError(f"arguments must be a sequence of str, not {kind_of(arguments)}")
        for argument in arguments:
            check_type("an argument of the program", argument, str)
        self._reactor = reactor
        self.transport_name = checked_name(name)
        program = os.fspath(program)
        # A daemon changes its working directory before it starts anything.
        self._program = os.path.abspath(program) if os.sep in program else program
        self._arguments = list(arguments)
        self._state = None if state is None else os.path.abspath(state)
        self._own_folder: str | None = None
        self._takes_proxy = True
        self._keeping: Deferred[None] | None = None
        self._process: TransportProcess | None = None
        self._waiting: Waiters[TransportProcess] = Waiters()
        self.status = ChildState.STOPPED
        self.why = ""

    @property
    def pid(self) -> int | None:
        """The number of the process; ``None`` if none runs."""
        return None if self._process is None else self._process.pid

    def when_ready(self) -> Deferred[TransportProcess]:
        """
        Wait for the transport while it starts.

        :returns: fires with its process when it is ready. Fails with
            `TransportTemporaryFailure` while it waits to be started again, and with
            `TransportInternalError` if it cannot be started or the service does not run.
        """
        return self._waiting.wait() if self.status is ChildState.STARTING else fired(self._outcome())

    def _outcome(self) -> TransportProcess | Failure:
        if self.status is ChildState.READY:
            assert self._process is not None
            return self._process
        if self.status is ChildState.RESTARTING:
            return Failure(TransportTemporaryFailure())
        return Failure(TransportInternalError())

    def startService(self) -> None:
        """Start the transport, and again whenever it ends."""
        super().startService()
        self._keeping = Deferred.fromCoroutine(self._keep_running())
        self._keeping.addErrback(self._stopped_keeping)

    def stopService(self) -> Deferred[None]:
        """
        End the transport: close its stdin, then send SIGTERM, then SIGKILL.

        :returns: fires when it has ended.
        """
        super().stopService()
        keeping, self._keeping = self._keeping, None
        if keeping is not None:
            keeping.cancel()
        self._enter(ChildState.STOPPED)
        # A service that is started again before this process has ended gets another folder.
        folder, self._own_folder = self._own_folder, None
        return Deferred.fromCoroutine(self._end(folder))

    async def _end(self, folder: str | None) -> None:
        await self._close()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def _stopped_keeping(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            _log.failure("the transport {name} is not restarted any more", failure, name=self.transport_name)
            self._enter(ChildState.FAILED, type(failure.value).__name__)

    def _enter(self, status: ChildState, why: str = "") -> None:
        self.status = status
        self.why = why or self.why
        if status is not ChildState.STARTING and self._waiting:
            # In the reactor's next turn: a caller may stop the service from its callback.
            self._reactor.callLater(0, self._answer_waiting)

    def _answer_waiting(self) -> None:
        if self.status is not ChildState.STARTING:  # else it was started again meanwhile
            self._waiting.fire(self._outcome())

    async def _keep_running(self) -> None:
        ends = 0
        while self.running:
            began = clock_of(self._reactor).seconds()
            await self._live()
            if clock_of(self._reactor).seconds() - began >= HEALTHY_AFTER:
                ends = 0
            await deferLater(clock_of(self._reactor), _pause(ends))
            ends += 1

    async def _live(self) -> None:
        """Start the process, and wait for its end."""
        self._enter(ChildState.STARTING)
        try:
            process = await self._start()
        except (ConversationFault, OSError, CannotListenError, DeferredTimeoutError) as error:
            why = _words_of(error)
            _log.warn("the transport {name} does not start: {why}", name=self.transport_name, why=why)
            self._enter(ChildState.FAILED, why)
        else:
            _log.info("the transport {name} is ready", name=self.transport_name)
            self._enter(ChildState.READY)
            why = await process.when_ended()
            _log.warn("the transport {name} has ended: {why}", name=self.transport_name, why=why)
            self._enter(ChildState.RESTARTING, why)
        await self._close()

    async def _start(self) -> TransportProcess:
        program = shutil.which(self._program)
        if program is None:
            raise ConversationFault(f"there is no program {self._program}, or it may not be run")
        folder = self._folder()
        outbound_proxy = OutboundProxy(self._reactor) if self._takes_proxy else None
        self._process = process = TransportProcess(self._reactor, self.transport_name, outbound_proxy)
        environment = ClientEnvironment(
            state_location=folder,
            transports=(self.transport_name,),
            proxy=None if outbound_proxy is None else outbound_proxy.proxy,
        )
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        process.start(program, self._arguments, {**inherited, **environment.variables()})
        try:
            await process.configured.addTimeout(START_WITHIN, clock_of(self._reactor))
        except ProxyRefused:
            if not self._takes_proxy:
                raise
            _log.info(
                "the transport {name} takes no proxy, so nothing is known of its connections", name=self.transport_name
            )
            self._takes_proxy = False
            await self._close()
            return await self._start()
        return process

    def _folder(self) -> Path:
        """Return the state folder, which only this user can write to."""
        if self._state is None and self._own_folder is None:
            self._own_folder = tempfile.mkdtemp(prefix="socks5ext-pt-")
        return private_folder(Path(self._state or self._own_folder or ""))

    async def _close(self) -> None:
        process = self._process
        if process is not None:
            await process.close()
            if self._process is process:
                self._process = None


def _words_of(error: Exception) -> str:
    if isinstance(error, DeferredTimeoutError):
        return f"it is not ready after {START_WITHIN:g} seconds"
    text = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    return text or type(error).__name__
