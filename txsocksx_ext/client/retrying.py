"""
Retries: of one connection, and of a service that stays connected.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.application.internet import ClientService, backoffPolicy
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ..checks import check_callable, check_endpoint, check_integer, check_protocol_factory, check_reactor
from ..errors import Retry, SOCKS5Error, TransportError
from ..failures import describe

DEFAULT_RETRIES = 3
"""How often an endpoint tries again at once, and how often after a pause."""

_LONGER_THAN_STOPPING_TAKES = 60.0
"""Seconds before an attempt that stopping prevents."""

_log = Logger(namespace="txsocksx_ext.client")


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

    0xF0 is tried again at once; 0xF2, and a 0xF0 that stays, after pauses; 0xF1 is not
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


class ReconnectingClientService(ClientService):
    """
    Twisted's `ClientService`, which says why it is not connected, and stops where a retry cannot help.

    Each failed attempt is logged with its reason. An error whose ``retry`` is ``never``, such as a wrong password,
    stops the service: `whenConnected` fails with that error. One whose ``retry`` is ``now`` is tried again at once.

    :param endpoint: the target's: a `SOCKS5ClientEndpoint`, or any other, whose failures are all tried again later.
    :param factory: builds the protocol of each connection.
    :param retryPolicy: the seconds before the first, second, ... retry in a row; by default Twisted's.
    :param clock: provides time; by default the global reactor.
    :param prepareConnection: see `ClientService`.
    :param at_once: how many attempts in a row at most are made at once.
    :ivar last_failure: of the latest attempt that failed; ``None`` before any has.
    :raises ValueError: `at_once` is not an integer of 0 or more.
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
    ) -> None:
        if clock is None:
            from twisted.internet import reactor as clock
        check_endpoint("endpoint", endpoint)
        check_protocol_factory("factory", factory)
        check_reactor("clock", clock)
        check_integer("at_once", at_once, 0)
        for name, function in (("retryPolicy", retryPolicy), ("prepareConnection", prepareConnection)):
            if function is not None:
                check_callable(name, function)
        self.last_failure: Failure | None = None
        self._clock = clock
        self._stopping: IDelayedCall | None = None
        self._at_once = at_once
        self._attempts_at_once = 0
        self._retry = Retry.LATER
        self._pauses = backoffPolicy() if retryPolicy is None else retryPolicy
        super().__init__(_Observed(endpoint, self), factory, self._seconds, clock, prepareConnection)

    def startService(self) -> None:
        """See `ClientService`."""
        if not self.running:
            self.last_failure, self._retry, self._attempts_at_once = None, Retry.LATER, 0
        super().startService()

    def stopService(self) -> Deferred[None]:
        """See `ClientService`."""
        stopping, self._stopping = self._stopping, None
        if stopping is not None and stopping.active():
            stopping.cancel()
        if self._retry is Retry.NEVER and not self.running:
            # A caller that learns of it may call again before `ClientService` has stopped.
            return succeed(None)
        stopped: Deferred[None] = super().stopService()
        return stopped

    def whenConnected(self, failAfterFailures: int | None = None) -> Deferred[IProtocol]:
        """
        See `ClientService`.

        :returns: also fails with the error after which the service stopped by itself.
        """
        return super().whenConnected(failAfterFailures).addErrback(self._reason)

    def _heard(self, outcome: Any) -> Any:
        """Take note of what became of an attempt, before `ClientService` does."""
        self._retry = Retry.LATER
        if not isinstance(outcome, Failure):
            self._attempts_at_once = 0
        elif self.running:  # and not cancelled because it stops
            self.last_failure, error = outcome, outcome.value
            assert error is not None
            self._retry = self._retry_after(error)
            # Texts of other errors may hold the target.
            why = str(error) if isinstance(error, SOCKS5Error) else describe(error)
            _log.warn("not connected: {why}; retry: {retry}", why=why, retry=self._retry.value)
            if self._retry is Retry.NEVER:
                # Later, since `ClientService` has yet to hear of the failure.
                self._stopping = self._clock.callLater(0, self.stopService)
        return outcome

    def _retry_after(self, error: BaseException) -> Retry:
        retry = error.retry if isinstance(error, SOCKS5Error) else Retry.LATER
        if retry is Retry.NOW:
            self._attempts_at_once += 1
            # What fails so often may need the time that a transport takes to restart.
            return Retry.NOW if self._attempts_at_once <= self._at_once else Retry.LATER
        return retry

    def _seconds(self, attempt: int) -> float:
        if self._retry is Retry.NEVER:
            return _LONGER_THAN_STOPPING_TAKES
        return 0 if self._retry is Retry.NOW else self._pauses(attempt)

    def _reason(self, failure: Failure) -> Failure:
        is_ours = self._retry is Retry.NEVER and failure.check(CancelledError)
        return self.last_failure if is_ours and self.last_failure is not None else failure


@implementer(IStreamClientEndpoint)
class _Observed:
    """Tells a service what became of each try, since `ClientService` does not tell its policy."""

    def __init__(self, endpoint: IStreamClientEndpoint, service: ReconnectingClientService) -> None:
        self._endpoint = endpoint
        self._service = service

    def __repr__(self) -> str:
        return repr(self._endpoint)

    def connect(self, protocol_factory: IProtocolFactory) -> Deferred[IProtocol]:
        connecting: Deferred[IProtocol] = self._endpoint.connect(protocol_factory)
        return connecting.addBoth(self._service._heard)
