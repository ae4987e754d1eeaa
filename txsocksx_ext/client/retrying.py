"""
Trying again what a pluggable transport failed at, as proposal 229 (section 2.2) asks for.

F0 is tried again at once, F2 after a pause, F1 never. Nothing else is tried
again here: an onion service that is not there, a refused connection, a proxy
that is gone. Every row of tries has a bound, for transports can be wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.application.internet import ClientService, backoffPolicy
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

from ..checks import check_callable, check_endpoint, check_protocol_factory, check_reactor
from ..errors import Retry, TransportError

DEFAULT_RETRIES = 3
"""How often an endpoint tries again at once, and how often after a pause."""

DEFAULT_SERVICE_RETRIES = 10
"""How often a service tries again after a pause: with Twisted's pauses, for about three minutes."""

_LONGER_THAN_STOPPING_TAKES = 60.0
"""Seconds before a try that stopping prevents."""


class _Patience:
    """How much of a row of tries is left."""

    def __init__(self, at_once: int, after_pause: int) -> None:
        for name, count in (("at_once", at_once), ("after_pause", after_pause)):
            if not isinstance(count, int) or isinstance(count, bool) or count < 0:
                raise ValueError(f"{name} must be an integer, 0 or more, not {count!r}")
        self._at_once = at_once
        self._after_pause = after_pause
        self.pauses = 0

    def after(self, error: TransportError) -> Retry:
        """Return what to do after `error`: what it says, while tries are left."""
        if error.retry is Retry.NOW and self._at_once:
            self._at_once -= 1
            return Retry.NOW
        # What failed at once so often may need the time that a transport takes to restart.
        if error.retry is not Retry.NEVER and self.pauses < self._after_pause:
            self.pauses += 1
            return Retry.LATER
        return Retry.NEVER


@implementer(IStreamClientEndpoint)
class RetryingEndpoint:
    """
    An endpoint that tries again what a pluggable transport failed at (proposal 229, section 2.2).

    F0 is tried again at once; F2, and an F0 that stays, after pauses; F1 is not
    tried again, nor is any failure that is no `txsocksx_ext.errors.TransportError`.

    :param endpoint: leads through the transport: a `SOCKS5ClientEndpoint`, or
        any that fails with its exceptions, such as one with TLS around it.
    :param reactor: provides time; by default the global one.
    :param at_once: how often at most one call of `connect` tries again at once.
    :param after_pause: how often at most it tries again after a pause.
    :param pauses: the seconds before the first, second, ... of these; by default
        Twisted's ``backoffPolicy()``, whose pauses grow.
    :raises ValueError: `at_once` or `after_pause` is not an integer of 0 or more.
    :raises TypeError: another argument is of a wrong type.
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        reactor: Any = None,
        *,
        at_once: int = DEFAULT_RETRIES,
        after_pause: int = DEFAULT_RETRIES,
        pauses: Callable[[int], float] | None = None,
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor
        check_endpoint("endpoint", endpoint)
        check_reactor("reactor", reactor)
        _Patience(at_once, after_pause)
        if pauses is not None:
            check_callable("pauses", pauses)
        self._endpoint = endpoint
        self._reactor = reactor
        self._bounds = (at_once, after_pause)
        self._pauses = backoffPolicy() if pauses is None else pauses

    def __repr__(self) -> str:
        return f"<RetryingEndpoint {self._endpoint!r}>"

    def connect(self, protocol_factory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        Connect, and try again where the transport says that this helps.

        :param protocol_factory: starts and stops with each try.
        :returns: what the endpoint's ``connect`` returns; fails with the last
            failure. Cancelling it at any moment leaves neither a connection nor a timer.
        """
        return Deferred.fromCoroutine(self._connect(protocol_factory))

    async def _connect(self, protocol_factory: IProtocolFactory) -> IProtocol:
        patience = _Patience(*self._bounds)
        while True:
            try:
                protocol: IProtocol = await self._endpoint.connect(protocol_factory)
                return protocol
            except TransportError as error:
                what = patience.after(error)
                if what is Retry.NEVER:
                    raise
            if what is Retry.LATER:
                await deferLater(self._reactor, self._pauses(patience.pauses))


class RetryingClientService(ClientService):
    """
    Twisted's `ClientService`, which heeds what a pluggable transport says of trying again.

    After F0 it connects again at once; after F2, an F0 that stays, and all that
    is no failure of a transport, as every `ClientService` does. After F1, or
    when a transport failed more often in a row than is allowed, it stops, and
    `whenConnected` fails with that failure. A connection, or a failure of
    another kind, begins a new row.

    :param endpoint: leads through the transport.
    :param factory: builds the protocol of each connection.
    :param retryPolicy: the seconds before the first, second, ... try of a row.
    :param clock: provides time; by default the global reactor.
    :param prepareConnection: see `ClientService`.
    :param at_once: how often at most in a row it tries again at once.
    :param after_pause: how often at most in a row it tries again after a pause
        what a transport failed at.
    :ivar gave_up: the failure after which it stopped by itself; ``None`` if it did not.
    :raises ValueError: `at_once` or `after_pause` is not an integer of 0 or more.
    :raises TypeError: another argument is of a wrong type.
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        factory: IProtocolFactory,
        retryPolicy: Callable[[int], float] | None = None,
        clock: Any = None,
        prepareConnection: Callable[[IProtocol], object] | None = None,
        *,
        at_once: int = DEFAULT_RETRIES,
        after_pause: int = DEFAULT_SERVICE_RETRIES,
    ) -> None:
        if clock is None:
            from twisted.internet import reactor as clock
        check_endpoint("endpoint", endpoint)
        check_protocol_factory("factory", factory)
        check_reactor("clock", clock)
        for name, function in (("retryPolicy", retryPolicy), ("prepareConnection", prepareConnection)):
            if function is not None:
                check_callable(name, function)
        self._clock = clock
        self._stopping: IDelayedCall | None = None
        self.gave_up: TransportError | None = None
        self._bounds = (at_once, after_pause)
        self._patience = _Patience(at_once, after_pause)
        self._is_at_once = False
        self._pauses = backoffPolicy() if retryPolicy is None else retryPolicy
        super().__init__(_Observed(endpoint, self), factory, self._seconds, clock, prepareConnection)

    def startService(self) -> None:
        """Begin to connect, with all patience."""
        if not self.running:
            self.gave_up = None
            self._patience = _Patience(*self._bounds)
        super().startService()

    def stopService(self) -> Deferred[None]:
        """See `ClientService`."""
        stopping, self._stopping = self._stopping, None
        if stopping is not None and stopping.active():
            stopping.cancel()
        if self.gave_up is not None and not self.running:
            # A caller that learns of it may call again before `ClientService` has stopped.
            return succeed(None)
        stopped: Deferred[None] = super().stopService()
        return stopped

    def whenConnected(self, failAfterFailures: int | None = None) -> Deferred[IProtocol]:
        """
        See `ClientService`.

        :returns: also fails with a `txsocksx_ext.errors.TransportError`, when the service gives up.
        """
        return super().whenConnected(failAfterFailures).addErrback(self._why)

    def _heard(self, outcome: Any) -> Any:
        """Take note of what became of a try, before `ClientService` does."""
        self._is_at_once = False
        if not isinstance(outcome, Failure) or not isinstance(outcome.value, TransportError):
            self._patience = _Patience(*self._bounds)
            return outcome
        what = self._patience.after(outcome.value)
        self._is_at_once = what is Retry.NOW
        if what is Retry.NEVER and self.running:
            self.gave_up = outcome.value
            # Later, since `ClientService` has yet to hear of the failure.
            self._stopping = self._clock.callLater(0, self.stopService)
        return outcome

    def _seconds(self, attempt: int) -> float:
        if self.gave_up is not None:
            return _LONGER_THAN_STOPPING_TAKES
        return 0 if self._is_at_once else self._pauses(attempt)

    def _why(self, failure: Failure) -> Failure:
        is_ours = self.gave_up is not None and failure.check(CancelledError)
        return Failure(self.gave_up) if is_ours else failure


@implementer(IStreamClientEndpoint)
class _Observed:
    """Tells a service what became of each try, since `ClientService` does not tell its policy."""

    def __init__(self, endpoint: IStreamClientEndpoint, service: RetryingClientService) -> None:
        self._endpoint = endpoint
        self._service = service

    def __repr__(self) -> str:
        return repr(self._endpoint)

    def connect(self, protocol_factory: IProtocolFactory) -> Deferred[IProtocol]:
        connecting: Deferred[IProtocol] = self._endpoint.connect(protocol_factory)
        return connecting.addBoth(self._service._heard)
