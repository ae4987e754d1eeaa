"""
A connection to tor's control port that reconnects.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from twisted.application.internet import backoffPolicy
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IAddress
from twisted.internet.task import deferLater
from twisted.logger import Logger

from ..errors import ReplyError
from ..net.timers import clock_of
from ..net.waiters import Waiters
from .attach import disconnected
from .events import bootstrap_progress, bootstrap_summary, parse_descriptor_event, parse_stream_event
from .listeners import SOCKS_LISTENERS, is_among
from .tracker import StreamEnd, StreamKey, StreamRecord, StreamTracker, onion_address

ATTACH_WITHIN = 30.0
"""Seconds for one attempt to attach: the peer may not be a tor, or may be stopped."""

SETTLE_WITHIN = 2.0
"""Seconds from the beginning of an attempt during which streams wait for its outcome."""

EVENTS_FOLLOW_WITHIN = 0.5
"""Seconds by which the events of a failure may be later than tor's reply."""

ANSWERS_WITHIN = 5.0
"""Seconds that a control connection without events has to answer a command."""

STABLE_AFTER = 15.0
"""Seconds that a connection has to last for the next attempt to follow without a delay."""

_delay = backoffPolicy(initialDelay=0.5, maxDelay=15.0, factor=1.7, jitter=lambda: 0.0)


_log = Logger(namespace="txsocksx_ext.tor")

_ONION_ADDRESS = re.compile("[a-z2-7]{56}")


class ControlConnection(Service):
    """
    A service that stays attached to one tor, and passes tor's events to a tracker.

    :param reactor: provides time.
    :param open_tor: attaches to tor or launches it; returns a coroutine or
        Deferred of a `txtorcon.Tor`.
    :param name: the name of this tor in logs.
    :param close_tor: ends a tor that `open_tor` has launched.
    :ivar tor: the `txtorcon.Tor`, or ``None`` while there is no connection.
    :ivar tracker: gets the events.
    :ivar progress: how far tor has bootstrapped, in per cent; ``None`` while there is no connection.
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
        self._began: float | None = None
        self._waiting: Waiters[None] = Waiters()
        self._probes: set[Deferred[Any]] = set()
        self._is_foreign = False
        self.tor: Any = None
        self.tracker = StreamTracker()
        self.progress: int | None = None

    @property
    def _clock(self) -> Any:
        # Not in __init__: twistd forks after it has made its services.
        return clock_of(self._reactor)

    @property
    def is_live(self) -> bool:
        """Whether the events of our streams arrive."""
        return self.tor is not None and not self._is_foreign

    async def settled(self) -> None:
        """Wait for the outcome of an attempt to attach, until `SETTLE_WITHIN` after it began."""
        if self._began is None:
            return
        left = self._began + SETTLE_WITHIN - self._clock.seconds()
        if left <= 0:
            return
        try:
            await self._waiting.wait().addTimeout(left, self._clock)
        except DeferredTimeout:
            _log.debug("{tor}: going on without its control port, which is slow", tor=self._tor_name)

    def expect(self, key: StreamKey, host: str) -> StreamRecord:
        """Watch a stream. Call this before the request is sent to tor."""
        address = onion_address(host)
        if address is not None and not self.tracker.knows(address) and _ONION_ADDRESS.fullmatch(address):
            # There is no event for a descriptor that tor had before we attached.
            asking: Deferred[Any] = self.tor.protocol.queue_command(f"GETINFO hs/client/desc/id/{address}")
            asking.addCallbacks(lambda answer: self._saw_cache(address, answer), lambda _: None)
        return self.tracker.expect(key)

    async def end_of(
        self, record: StreamRecord, said: ReplyError, socks_port: IAddress, listeners: str = SOCKS_LISTENERS
    ) -> StreamEnd | None:
        """
        Wait for the event that explains tor's reply.

        :param socks_port: the peer address of the stream's connection.
        :param listeners: tor's key for its ports of that kind.
        :returns: ``None`` if there is no such event.
        """
        for is_checked in (False, True):
            try:
                return await record.end_for(said).addTimeout(EVENTS_FOLLOW_WITHIN, self._clock)
            except DeferredTimeout:
                if is_checked:
                    break
            # Tor sends events and answers in order, so after an answer the events of the reply have arrived.
            await self.check(record, socks_port, listeners)
            if not self.is_live:
                break
        return None

    async def check(self, record: StreamRecord, socks_port: IAddress, listeners: str = SOCKS_LISTENERS) -> None:
        """
        Find out why there is no event for a stream that tor has.

        The control connection may be slow; if it does not answer, drop it. If it is
        another tor's, ignore it from now on.
        """
        if self.tor is None:
            return
        # Do not share the command with other streams: the answer to an earlier one may precede this stream's events.
        answer = await self._ask_for_listeners(self.tor, listeners)
        # The stream of a client that left early may have no event.
        if answer is None or self.tracker.has_recognized or not self.is_live or is_among(socks_port, answer):
            return
        self._is_foreign = True
        _log.warn(
            "{tor} reports no events for our streams, and listens on none of the ports that they use: this is another"
            " tor's control port, or addresses are translated on the way. Going on without it. Its SOCKS ports:"
            " {listeners}",
            tor=self._tor_name,
            listeners=answer or "none",
        )

    def startService(self) -> None:
        """Attach, and attach again whenever the connection is lost."""
        super().startService()
        self._attaching = Deferred.fromCoroutine(self._keep_attached())
        self._attaching.addErrback(lambda failure: failure.trap(CancelledError))

    def stopService(self) -> Deferred[None]:
        """
        Detach, and end a tor that was launched.

        :returns: fires when that is done.
        """
        super().stopService()
        tor, attaching = self.tor, self._attaching
        self._attaching = None
        if attaching is not None:
            attaching.cancel()
        return Deferred.fromCoroutine(self._detach(tor))

    async def _detach(self, tor: Any) -> None:
        if tor is not None:
            lost = disconnected(tor)
            tor.protocol.transport.loseConnection()
            await lost
        if self._close_tor is not None:
            await self._close_tor()

    async def has_client_key(self, address: str) -> bool:
        """
        Return whether tor has a client authorization key for an onion address (control-spec, ONION_CLIENT_AUTH_VIEW).

        If tor cannot be asked, return ``False``.
        """
        try:
            asking: Deferred[Any] = self.tor.protocol.queue_command(f"ONION_CLIENT_AUTH_VIEW {address}")
            answer = await asking.addTimeout(ANSWERS_WITHIN, self._clock)
        except Exception as error:  # the connection is lost, or tor is too old to know the command
            _log.debug("{tor} does not show its client keys: {error}", tor=self._tor_name, error=_shown(error))
            return False
        return "CLIENT " in answer

    async def _keep_attached(self) -> None:
        failures, reason = 0, ""
        while self.running:
            self._began = self._clock.seconds()
            try:
                tor = await Deferred.fromCoroutine(self._attach()).addTimeout(ATTACH_WITHIN, self._clock)
            except CancelledError:
                self._settle()
                raise
            except Exception as error:  # txtorcon raises many kinds, and the next attempt may succeed after any
                self._settle()
                # Log each reason once, but a new reason too: it may be the one that remains when tor runs.
                previous, reason = reason, _shown(error)
                if reason != previous:
                    _log.warn("{tor} cannot be controlled: {error}", tor=self._tor_name, error=reason)
                await deferLater(self._clock, _delay(failures))
                failures += 1
                continue
            reason, self._last_step, self._is_foreign, self.tor = "", None, False, tor
            began = self._clock.seconds()
            self._settle()
            _log.info(
                "{tor}: control connection established; {state}",
                tor=self._tor_name,
                state="bootstrapped" if self.tracker.bootstrapped else "bootstrapping",
            )
            try:
                await disconnected(tor)
            finally:
                self._lost()
            if not self.running:
                return
            _log.warn("{tor}: control connection lost", tor=self._tor_name)
            if self._clock.seconds() - began >= STABLE_AFTER:
                failures = 0
                continue
            if failures:
                await deferLater(self._clock, _delay(failures - 1))
            failures += 1

    def _settle(self) -> None:
        """End the attempt, and resume the streams that wait for it."""
        self._began = None
        self._waiting.fire(None)

    def _lost(self) -> None:
        self.tor = self.progress = None
        self.tracker.forget()
        for probe in list(self._probes):
            probe.cancel()

    async def _ask_for_listeners(self, tor: Any, key: str) -> str | None:
        """Return tor's answer about its SOCKS or HTTP ports; ``None`` if there is none."""
        probe: Deferred[Any] = tor.protocol.get_info(key)
        self._probes.add(probe)
        try:
            answer = await probe.addTimeout(ANSWERS_WITHIN, self._clock)
        except DeferredTimeout:
            if self.tor is tor:
                self._stalled(tor)
            return None
        except (CancelledError, Exception):  # the connection is lost, or txtorcon's own error
            return None
        finally:
            self._probes.discard(probe)
        return str(answer[key])

    def _stalled(self, tor: Any) -> None:
        """Drop a control connection that does not answer."""
        _log.warn(
            "{tor} has not answered for {seconds:g} seconds: reconnecting to its control port",
            tor=self._tor_name,
            seconds=ANSWERS_WITHIN,
        )
        tor.protocol.transport.abortConnection()

    def _saw_cache(self, address: str, answer: str) -> None:
        if "hs-descriptor " in answer:
            self.tracker.saw_cached_descriptor(address)

    async def _attach(self) -> Any:
        tor = await self._open_tor()
        try:
            await self._listen_to(tor)
        except BaseException:  # of any kind, a cancellation too: nothing else closes this connection
            tor.protocol.transport.abortConnection()
            raise
        return tor

    async def _listen_to(self, tor: Any) -> None:
        protocol = tor.protocol
        await protocol.add_event_listener("STREAM", self._saw_stream)
        await protocol.add_event_listener("HS_DESC", self._saw_descriptor)
        await protocol.add_event_listener("STATUS_CLIENT", self._saw_status)
        phase = await protocol.get_info("status/bootstrap-phase")
        self._saw_progress(bootstrap_progress(phase["status/bootstrap-phase"]))

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
        self._saw_progress(progress)
        summary = bootstrap_summary(line)
        # Tor repeats a step for each relay that it cannot reach.
        if (progress, summary) != self._last_step:
            self._last_step = (progress, summary)
            _log.info(
                "{tor}: bootstrapping ({progress} %): {summary}",
                tor=self._tor_name,
                progress=progress,
                summary=summary,
            )

    def _saw_progress(self, progress: int | None) -> None:
        self.progress = progress
        self.tracker.bootstrapped = progress == 100


def _shown(error: Exception) -> str:
    """Return an exception on one line."""
    if isinstance(error, DeferredTimeout):  # its message is that of Deferred.addTimeout()
        return f"TimeoutError: no answer within {ATTACH_WITHIN:g} seconds"
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
