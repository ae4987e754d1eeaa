"""
A managed transport as our child: started, configured, watched, started again, ended (pt-spec, section 3).
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
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..checks import check_method, check_type, kind_of
from ..errors import TransportInternalError, TransportTemporaryFailure
from ..net.timers import clock_of
from ..net.twisted_transports import endpoint_to
from ..state_folders import private_folder
from .environment import PREFIX, ClientEnvironment
from .lines import ClientMethodLine
from .notation import checked_name
from .outbound_proxy import OutboundProxy
from .parent import ConversationFault, ProxyRefused, without_addresses
from .process import TransportProcess

START_WITHIN = 30.0
"""Seconds for a transport to say that it is ready."""

HEALTHY_AFTER = 30.0
"""Seconds of life after which an end is not held against it."""

_pause = backoffPolicy(initialDelay=0.2, maxDelay=60.0, factor=3.0, jitter=lambda: 0.0)

_log = Logger(namespace="txsocksx_ext.pt")


class ChildState(enum.Enum):
    """How a transport that is our child fares."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    """It was ready, and has ended."""
    FAILED = "failed"
    """It could not be started, and will be tried again."""


class ManagedTransport(Service):
    """
    Keeps one transport running as our child while the service runs.

    :param reactor: provides processes, TCP, time, threads and a name resolver.
    :param name: the transport's, as ``obfs4``.
    :param program: the path of the program that has it, or its name on PATH.
    :param arguments: its command line, without its name.
    :param state: a folder that it may keep things in, created if it does not exist;
        by default one that is gone with the service. It does not start with one
        that other users can write to or replace, or a symbolic link.
    :raises ValueError: `name` cannot be a transport's.
    :raises TypeError: an argument is of a wrong type.
    :ivar status: how it fares, a `ChildState`.
    :ivar why: why it ended or did not start, the last time that it did.
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
        # A daemon changes its folder before it starts anything.
        self._program = os.path.abspath(program) if os.sep in program else program
        self._arguments = list(arguments)
        self._state = None if state is None else os.path.abspath(state)
        self._own_folder: str | None = None
        self._takes_proxy = True
        self._keeping: Deferred[None] | None = None
        self._life: Life | None = None
        self._waiting: list[Deferred[Life]] = []
        self.status = ChildState.STOPPED
        self.why = ""

    @property
    def pid(self) -> int | None:
        """The number of the process; ``None`` where none runs."""
        return None if self._life is None else self._life.pid

    def when_ready(self) -> Deferred[Life]:
        """
        Ask for the transport.

        :returns: fires with its life when it is ready, which may take as long
            as it takes to start. Fails with `TransportTemporaryFailure` while
            it waits to be started again, and with `TransportInternalError`
            where it cannot be started, or where the service does not run.
        """
        if self.status is ChildState.STARTING:
            waiting: Deferred[Life] = Deferred(self._waiting.remove)
            self._waiting.append(waiting)
            return waiting
        if self.status is ChildState.READY:
            assert self._life is not None
            return succeed(self._life)
        if self.status is ChildState.RESTARTING:
            return fail(TransportTemporaryFailure())
        return fail(TransportInternalError())

    def startService(self) -> None:
        """Start it, and again whenever it ends."""
        super().startService()
        self._keeping = Deferred.fromCoroutine(self._keep_running())
        self._keeping.addErrback(self._kept_no_more)

    def stopService(self) -> Deferred[None]:
        """
        End it: close its stdin, then SIGTERM, then SIGKILL.

        :returns: fires when it has ended.
        """
        super().stopService()
        keeping, self._keeping = self._keeping, None
        if keeping is not None:
            keeping.cancel()
        self._enter(ChildState.STOPPED)
        # A service that is started again before this life has ended gets another folder.
        folder, self._own_folder = self._own_folder, None
        return Deferred.fromCoroutine(self._end(folder))

    async def _end(self, folder: str | None) -> None:
        await self._close()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def _kept_no_more(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            _log.failure("the transport {name} is not kept any more", failure, name=self.transport_name)
            self._enter(ChildState.FAILED, type(failure.value).__name__)

    def _enter(self, status: ChildState, why: str = "") -> None:
        self.status = status
        self.why = why or self.why
        if status is not ChildState.STARTING and self._waiting:
            # In the reactor's next turn: a caller may stop the service from its callback.
            self._reactor.callLater(0, self._answer_waiting)

    def _answer_waiting(self) -> None:
        for each in list(self._waiting):
            if self.status is ChildState.STARTING:  # again: they go on waiting
                return
            if each in self._waiting:  # it was not cancelled by one that was answered before it
                self._waiting.remove(each)
                self.when_ready().chainDeferred(each)

    async def _keep_running(self) -> None:
        ends = 0
        while self.running:
            began = clock_of(self._reactor).seconds()
            await self._live()
            if clock_of(self._reactor).seconds() - began >= HEALTHY_AFTER:
                ends = 0
            await deferLater(self._reactor, _pause(ends))
            ends += 1

    async def _live(self) -> None:
        """Start it, and wait for its end."""
        self._enter(ChildState.STARTING)
        try:
            life = await self._start()
        except (ConversationFault, OSError, CannotListenError, DeferredTimeoutError) as error:
            why = _words_of(error)
            _log.warn("the transport {name} does not start: {why}", name=self.transport_name, why=why)
            self._enter(ChildState.FAILED, why)
        else:
            _log.info("the transport {name} is ready", name=self.transport_name)
            self._enter(ChildState.READY)
            why = await life.ended()
            _log.warn("the transport {name} has ended: {why}", name=self.transport_name, why=why)
            self._enter(ChildState.RESTARTING, why)
        await self._close()

    async def _start(self) -> Life:
        try:
            return await self._start_once()
        except ProxyRefused:
            _log.info(
                "the transport {name} takes no proxy, so nothing is known of its connections", name=self.transport_name
            )
            self._takes_proxy = False
            await self._close()
            return await self._start_once()

    async def _start_once(self) -> Life:
        program = shutil.which(self._program)
        if program is None:
            raise ConversationFault(f"there is no program {self._program}, or it may not be run")
        folder = self._folder()
        outbound_proxy = OutboundProxy(self._reactor) if self._takes_proxy else None
        self._life = life = Life(self._reactor, self.transport_name, outbound_proxy)
        environment = ClientEnvironment(
            state_location=folder,
            transports=(self.transport_name,),
            proxy=None if outbound_proxy is None else outbound_proxy.proxy,
        )
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        life.begin(program, self._arguments, {**inherited, **environment.variables()})
        await life.configured().addTimeout(START_WITHIN, self._reactor)
        return life

    def _folder(self) -> Path:
        """Return the state folder, which only we may write to."""
        if self._state is None and self._own_folder is None:
            self._own_folder = tempfile.mkdtemp(prefix="socks5ext-pt-")
        return private_folder(Path(self._state or self._own_folder or ""))

    async def _close(self) -> None:
        life = self._life
        if life is not None:
            await life.close()
            if self._life is life:
                self._life = None


def _words_of(error: Exception) -> str:
    if isinstance(error, DeferredTimeoutError):
        return f"it is not ready after {START_WITHIN:g} seconds"
    text = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    return text or type(error).__name__


class Life:
    """
    One life of a transport: its process, and the outgoing proxy that it was given.

    :ivar outbound_proxy: ``None`` where it takes none.
    :ivar endpoint: where it speaks SOCKS5, once it is configured.
    """

    endpoint: IStreamClientEndpoint

    def __init__(self, reactor: Any, name: str, outbound_proxy: OutboundProxy | None) -> None:
        self._reactor = reactor
        self._name = name
        self.outbound_proxy = outbound_proxy
        self._process = TransportProcess(reactor, name, outbound_proxy is not None)

    @property
    def pid(self) -> int | None:
        """The number of the process."""
        return self._process.pid

    def begin(self, program: str, arguments: Sequence[str], environment: dict[str, str]) -> None:
        """Start the process."""
        self._reactor.spawnProcess(self._process, program, [program, *arguments], env=environment)

    def configured(self) -> Deferred[None]:
        """Return a Deferred that fires when the transport is ready, or fails with `ConversationFault`."""
        return self._process.configured.addCallback(self._take_method)

    def _take_method(self, methods: dict[str, ClientMethodLine]) -> None:
        method = methods.get(self._name)
        if method is None:
            refusal = self._process.conversation.refusals.get(self._name)
            said = "" if refusal is None else f", and says: {without_addresses(refusal)}"
            raise ConversationFault(f"the program does not offer it{said}")
        if method.protocol != "socks5":
            raise ConversationFault("it speaks SOCKS4 alone, which carries no arguments")
        self.endpoint = endpoint_to(self._reactor, method.host, method.port)

    def hide(self, values: Iterable[str]) -> None:
        """Leave values, which the process is given, out of what it says for the log."""
        self._process.hide(values)

    def ended(self) -> Deferred[str]:
        """Return a Deferred that fires when the process has ended, with how it did."""
        return self._process.when_ended()

    def ends_within(self, seconds: float) -> Deferred[bool]:
        """Return whether the process has ended, or does so in `seconds`."""
        ended: Deferred[Any] = self.ended()

        def still_runs(failure: Failure) -> bool:
            failure.trap(DeferredTimeoutError)
            return False

        return ended.addTimeout(seconds, self._reactor).addCallbacks(lambda _: True, still_runs)

    async def close(self) -> None:
        """End the process, if it runs, and what it opened through us."""
        await self._process.stop()
        if self.outbound_proxy is not None:
            await self.outbound_proxy.close()
