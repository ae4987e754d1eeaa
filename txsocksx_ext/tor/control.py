"""
A connection to tor's control port that comes back when tor does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.application.internet import backoffPolicy
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from .events import bootstrap_progress, parse_descriptor_event, parse_stream_event
from .witness import Witness

_pause = backoffPolicy(initialDelay=0.5, maxDelay=15.0, factor=1.7, jitter=lambda: 0.0)


_log = Logger(namespace="txsocksx_ext.tor")


class ControlConnection(Service):
    """
    Keeps attached to one tor while the service runs, and lets a witness see its events.

    :param reactor: provides time.
    :param open_tor: attaches to tor, or launches it: returns a Deferred that
        fires with a `txtorcon.Tor`.
    :param name: what logs call this tor.
    :ivar tor: the `txtorcon.Tor`, or ``None`` while there is no connection.
    :ivar witness: sees the events.
    """

    def __init__(self, reactor: Any, open_tor: Callable[[], Deferred[Any]], name: str) -> None:
        self._reactor = reactor
        self._open_tor = open_tor
        self._tor_name = name
        self._running: Deferred[None] | None = None
        self.tor: Any = None
        self.witness = Witness()

    @property
    def is_live(self) -> bool:
        """Whether events are being seen."""
        return self.tor is not None

    def startService(self) -> None:
        """Attach, and again whenever the connection is lost."""
        super().startService()
        self._running = Deferred.fromCoroutine(self._keep_attached())
        self._running.addErrback(lambda failure: failure.trap(CancelledError))

    async def stopService(self) -> None:
        """Detach. A tor that was launched here ends."""
        super().stopService()
        tor, running = self.tor, self._running
        self._running = None
        if running is not None:
            running.cancel()
        if tor is not None:
            await _quit(tor)

    async def has_client_key(self, address: str) -> bool:
        """Whether tor has a client authorization key for an onion address (control-spec, ONION_CLIENT_AUTH_VIEW)."""
        answer = await self.tor.protocol.queue_command(f"ONION_CLIENT_AUTH_VIEW {address}")
        return "CLIENT " in answer

    async def _keep_attached(self) -> None:
        failures = 0
        while self.running:
            try:
                tor = await self._open_tor()
                await self._listen_to(tor)
            except CancelledError:
                raise
            except Exception as error:  # txtorcon raises many kinds, of which none is the last word
                if not failures:
                    _log.warn("{tor} cannot be controlled: {error}", tor=self._tor_name, error=_said(error))
                await deferLater(self._reactor, _pause(failures))
                failures += 1
                continue
            failures = 0
            self.tor = tor
            _log.info("{tor} is under control", tor=self._tor_name)
            try:
                await _disconnected(tor)
            finally:
                self.tor = None
                self.witness.forget()
            _log.warn("{tor} is gone from its control port", tor=self._tor_name)

    async def _listen_to(self, tor: Any) -> None:
        protocol, witness = tor.protocol, self.witness
        await protocol.add_event_listener("STREAM", self._saw_stream)
        await protocol.add_event_listener("HS_DESC", self._saw_descriptor)
        await protocol.add_event_listener("STATUS_CLIENT", self._saw_status)
        phase = await protocol.get_info("status/bootstrap-phase")
        witness.bootstrapped = bootstrap_progress(phase["status/bootstrap-phase"]) == 100

    def _saw_stream(self, line: str) -> None:
        event = parse_stream_event(line)
        if event is not None:
            self.witness.saw_stream(event)

    def _saw_descriptor(self, line: str) -> None:
        event = parse_descriptor_event(line)
        if event is not None:
            self.witness.saw_descriptor(event)

    def _saw_status(self, line: str) -> None:
        progress = bootstrap_progress(line)
        if progress is not None:
            self.witness.bootstrapped = progress == 100
            _log.info("{tor} bootstraps: {progress} %", tor=self._tor_name, progress=progress)


def _disconnected(tor: Any) -> Deferred[None]:
    """Fires when the control connection is lost, for whatever reason."""
    gone: Deferred[Any] = tor.protocol.when_disconnected()
    return gone.addBoth(lambda _: None)


async def _quit(tor: Any) -> None:
    """End the connection, and with it a tor that was launched for it."""
    gone = _disconnected(tor)
    if tor.process is not None:
        await tor.process.quit()
    else:
        tor.protocol.transport.loseConnection()
    await gone


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
