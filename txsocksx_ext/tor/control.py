"""
A connection to tor's control port that comes back when tor does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from twisted.application.internet import backoffPolicy
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.task import deferLater
from twisted.logger import Logger

from .attach import disconnected
from .events import bootstrap_progress, bootstrap_summary, parse_descriptor_event, parse_stream_event
from .tracker import StreamTracker

ATTACH_WITHIN = 30.0
"""Seconds for one attempt, since what answers there need not be a tor, or it may be stopped."""

STANDS_AFTER = 15.0
"""Seconds after which a connection that is lost is made again without a pause."""

_pause = backoffPolicy(initialDelay=0.5, maxDelay=15.0, factor=1.7, jitter=lambda: 0.0)


_log = Logger(namespace="txsocksx_ext.tor")


class ControlConnection(Service):
    """
    Keeps attached to one tor while the service runs, and lets a tracker see its events.

    :param reactor: provides time.
    :param open_tor: attaches to tor, or launches it: returns a coroutine or
        Deferred of a `txtorcon.Tor`.
    :param name: what logs call this tor.
    :param close_tor: ends what `open_tor` launched, if anything.
    :ivar tor: the `txtorcon.Tor`, or ``None`` while there is no connection.
    :ivar tracker: sees the events.
    """

    def __init__(
        self,
        reactor: Any,
        open_tor: Callable[[], Awaitable[Any]],
        name: str,
        close_tor: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._reactor = reactor
        self._open_tor = open_tor
        self._close_tor = close_tor
        self._tor_name = name
        self._attaching: Deferred[None] | None = None
        self._last_step: tuple[int, str] | None = None
        self.tor: Any = None
        self.tracker = StreamTracker()

    @property
    def is_live(self) -> bool:
        """Whether events are being seen."""
        return self.tor is not None

    def startService(self) -> None:
        """Attach, and again whenever the connection is lost."""
        super().startService()
        self._attaching = Deferred.fromCoroutine(self._keep_attached())
        self._attaching.addErrback(lambda failure: failure.trap(CancelledError))

    def stopService(self) -> Deferred[None]:
        """
        Detach. A tor that was launched here ends.

        :returns: fires when that is done.
        """
        super().stopService()
        tor, attaching = self.tor, self._attaching
        self._attaching = None
        if attaching is not None:
            attaching.cancel()
        return Deferred.fromCoroutine(self._finish(tor))

    async def _finish(self, tor: Any) -> None:
        if tor is not None:
            await _detach(tor)
        if self._close_tor is not None:
            await self._close_tor()

    async def has_client_key(self, address: str) -> bool:
        """
        Whether tor has a client authorization key for an onion address (control-spec, ONION_CLIENT_AUTH_VIEW).

        Where it does not say so, it has none.
        """
        try:
            answer = await self.tor.protocol.queue_command(f"ONION_CLIENT_AUTH_VIEW {address}")
        except Exception as error:  # a tor that goes away, or that is too old to know the command
            _log.debug("{tor} does not show its client keys: {error}", tor=self._tor_name, error=_said(error))
            return False
        return "CLIENT " in answer

    async def _keep_attached(self) -> None:
        failures, said = 0, ""
        while self.running:
            try:
                tor = await Deferred.fromCoroutine(self._attach()).addTimeout(ATTACH_WITHIN, self._reactor)
            except CancelledError:
                raise
            except Exception as error:  # txtorcon raises many kinds, of which none is the last word
                # Once for each reason: what comes when tor is up at last may be another one.
                said_before, said = said, _said(error)
                if said != said_before:
                    _log.warn("{tor} cannot be controlled: {error}", tor=self._tor_name, error=said)
                await deferLater(self._reactor, _pause(failures))
                failures += 1
                continue
            said, self._last_step, self.tor = "", None, tor
            began = self._reactor.seconds()
            _log.info(
                "{tor} is under control, and {state}",
                tor=self._tor_name,
                state="has bootstrapped" if self.tracker.bootstrapped else "bootstraps",
            )
            try:
                await disconnected(tor)
            finally:
                self.tor = None
                self.tracker.forget()
            if not self.running:
                return
            _log.warn("{tor} is gone from its control port", tor=self._tor_name)
            if self._reactor.seconds() - began >= STANDS_AFTER:
                failures = 0
                continue
            if failures:
                await deferLater(self._reactor, _pause(failures - 1))
            failures += 1

    async def _attach(self) -> Any:
        tor = await self._open_tor()
        try:
            await self._listen_to(tor)
        except BaseException:
            # Cancelled too: nobody else knows of this connection.
            tor.protocol.transport.abortConnection()
            raise
        return tor

    async def _listen_to(self, tor: Any) -> None:
        protocol, tracker = tor.protocol, self.tracker
        await protocol.add_event_listener("STREAM", self._saw_stream)
        await protocol.add_event_listener("HS_DESC", self._saw_descriptor)
        await protocol.add_event_listener("STATUS_CLIENT", self._saw_status)
        phase = await protocol.get_info("status/bootstrap-phase")
        tracker.bootstrapped = bootstrap_progress(phase["status/bootstrap-phase"]) == 100

    def _saw_stream(self, line: str) -> None:
        event = parse_stream_event(line)
        if event is not None:
            self.tracker.saw_stream(event)

    def _saw_descriptor(self, line: str) -> None:
        event = parse_descriptor_event(line)
        if event is not None:
            self.tracker.saw_descriptor(event)

    def _saw_status(self, line: str) -> None:
        progress = bootstrap_progress(line)
        if progress is None:
            return
        self.tracker.bootstrapped = progress == 100
        summary = bootstrap_summary(line)
        # Tor tells a step once more for each relay that it does not reach.
        if (progress, summary) != self._last_step:
            self._last_step = (progress, summary)
            _log.info(
                "{tor} bootstraps: {progress} % {summary}", tor=self._tor_name, progress=progress, summary=summary
            )


async def _detach(tor: Any) -> None:
    gone = disconnected(tor)
    tor.protocol.transport.loseConnection()
    await gone


def _said(error: Exception) -> str:
    if isinstance(error, DeferredTimeout):  # Twisted's own words are its arguments
        return f"TimeoutError: no answer within {ATTACH_WITHIN:g} seconds"
    # On one line, whatever the other end said.
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
