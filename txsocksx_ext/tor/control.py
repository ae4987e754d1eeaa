"""
A connection to tor's control port that comes back when tor does.
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
from .listeners import is_among
from .tracker import StreamEnd, StreamKey, StreamRecord, StreamTracker, onion_address

ATTACH_WITHIN = 30.0
"""Seconds for one attempt, since what answers there need not be a tor, or it may be stopped."""

BEING_MADE_FOR = 2.0
"""Seconds from the beginning of an attempt in which streams wait for its outcome."""

EVENTS_FOLLOW_WITHIN = 0.5
"""Seconds: nothing orders tor's reply and the events of the same failure."""

ANSWERS_WITHIN = 5.0
"""Seconds in which a control connection that shows no event has to answer a command."""

STANDS_AFTER = 15.0
"""Seconds after which a connection that is lost is made again without a pause."""

_pause = backoffPolicy(initialDelay=0.5, maxDelay=15.0, factor=1.7, jitter=lambda: 0.0)


_log = Logger(namespace="txsocksx_ext.tor")

_ONION_ADDRESS = re.compile("[a-z2-7]{56}")


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
        self._began: float | None = None
        self._waiting: Waiters[None] = Waiters()
        self._probes: set[Deferred[Any]] = set()
        self._is_foreign = False
        self.tor: Any = None
        self.tracker = StreamTracker()

    @property
    def _clock(self) -> Any:
        # Not before it is needed: twistd forks when services have been made.
        return clock_of(self._reactor)

    @property
    def is_live(self) -> bool:
        """Whether events of our streams are being seen."""
        return self.tor is not None and not self._is_foreign

    async def settled(self) -> None:
        """Wait for a connection that is being made, until `BEING_MADE_FOR` after that began."""
        if self._began is None:
            return
        left = self._began + BEING_MADE_FOR - self._clock.seconds()
        if left <= 0:
            return
        try:
            await self._waiting.wait().addTimeout(left, self._clock)
        except DeferredTimeout:
            _log.debug("{tor}: going on without its control port, which takes long", tor=self._tor_name)

    def expect(self, key: StreamKey, host: str) -> StreamRecord:
        """Begin to watch a stream, before tor hears of it."""
        address = onion_address(host)
        if address is not None and not self.tracker.knows(address) and _ONION_ADDRESS.fullmatch(address):
            # Of a descriptor that tor had before we came there is no event.
            asking: Deferred[Any] = self.tor.protocol.queue_command(f"GETINFO hs/client/desc/id/{address}")
            asking.addCallbacks(lambda answer: self._saw_cache(address, answer), lambda _: None)
        return self.tracker.expect(key)

    async def end_of(self, record: StreamRecord, said: ReplyError, socks_port: IAddress) -> StreamEnd | None:
        """
        Wait for the event that explains tor's reply.

        :param socks_port: the address to which the stream's connection was made.
        :returns: ``None`` where tor does not show one.
        """
        try:
            return await record.end_for(said).addTimeout(EVENTS_FOLLOW_WITHIN, self._clock)
        except DeferredTimeout:
            # Events come in the order of commands' answers, however slow the network is.
            await self.check(record, socks_port)
        if not self.is_live:
            return None
        try:
            return await record.end_for(said).addTimeout(EVENTS_FOLLOW_WITHIN, self._clock)
        except DeferredTimeout:
            return None

    async def check(self, record: StreamRecord, socks_port: IAddress) -> None:
        """
        Find out why there is no event of a stream that tor has.

        The control connection may be slow. If it does not answer it is given
        up. If it is that of another tor, it is not asked any more.
        """
        if self.tor is None:
            return
        # Not shared with other streams: the answer to an earlier command may come before the events of this one.
        listeners = await self._ask_for_listeners(self.tor)
        # A client that left early may leave no event of its own.
        if listeners is None or self.tracker.has_recognized or not self.is_live or is_among(socks_port, listeners):
            return
        self._is_foreign = True
        _log.warn(
            "{tor} shows no event of our streams, and does not listen where they go: it is another tor's control port,"
            " or their addresses are translated on the way. Going on without it. Its SOCKS ports: {listeners}",
            tor=self._tor_name,
            listeners=listeners or "none",
        )

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
        Return whether tor has a client authorization key for an onion address (control-spec, ONION_CLIENT_AUTH_VIEW).

        Where it does not say so, it has none.
        """
        try:
            asking: Deferred[Any] = self.tor.protocol.queue_command(f"ONION_CLIENT_AUTH_VIEW {address}")
            answer = await asking.addTimeout(ANSWERS_WITHIN, self._clock)
        except Exception as error:  # a tor that goes away, or that is too old to know the command
            _log.debug("{tor} does not show its client keys: {error}", tor=self._tor_name, error=_said(error))
            return False
        return "CLIENT " in answer

    async def _keep_attached(self) -> None:
        failures, said = 0, ""
        while self.running:
            self._began = self._clock.seconds()
            try:
                tor = await Deferred.fromCoroutine(self._attach()).addTimeout(ATTACH_WITHIN, self._clock)
            except CancelledError:
                self._settle()
                raise
            except Exception as error:  # txtorcon raises many kinds, of which none is the last word
                self._settle()
                # Once for each reason: what comes when tor is up at last may be another one.
                said_before, said = said, _said(error)
                if said != said_before:
                    _log.warn("{tor} cannot be controlled: {error}", tor=self._tor_name, error=said)
                await deferLater(self._clock, _pause(failures))
                failures += 1
                continue
            said, self._last_step, self._is_foreign, self.tor = "", None, False, tor
            began = self._clock.seconds()
            self._settle()
            _log.info(
                "{tor} is under control, and {state}",
                tor=self._tor_name,
                state="has bootstrapped" if self.tracker.bootstrapped else "bootstraps",
            )
            try:
                await disconnected(tor)
            finally:
                self._lost()
            if not self.running:
                return
            _log.warn("{tor} is gone from its control port", tor=self._tor_name)
            if self._clock.seconds() - began >= STANDS_AFTER:
                failures = 0
                continue
            if failures:
                await deferLater(self._clock, _pause(failures - 1))
            failures += 1

    def _settle(self) -> None:
        """End the attempt: fire for those who wait."""
        self._began = None
        self._waiting.fire(None)

    def _lost(self) -> None:
        self.tor = None
        self.tracker.forget()
        for probe in list(self._probes):
            probe.cancel()

    async def _ask_for_listeners(self, tor: Any) -> str | None:
        """Return what tor says of its SOCKS ports; ``None`` if it says nothing."""
        probe: Deferred[Any] = tor.protocol.get_info("net/listeners/socks")
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
        return str(answer["net/listeners/socks"])

    def _stalled(self, tor: Any) -> None:
        """The control connection stands, and nothing comes."""
        _log.warn(
            "{tor} has not answered for {seconds:g} seconds: connecting to its control port again",
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
