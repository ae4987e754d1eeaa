"""
From a proxy's endpoint to the result of one conversation, within one deadline.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint
from twisted.python.failure import Failure

from ..errors import SOCKS5Error
from ..failures import proxy_unreachable
from ..net.timers import clock_of
from . import loopback
from .diagnosis import place_of
from .factory import SOCKS5ExtClientFactory

PROXY_NOT_REACHED = (ConnectError, DNSLookupError)
"""What Twisted's endpoints fail with."""


def negotiate(
    reactor: Any,
    proxy_endpoint: IStreamClientEndpoint,
    factory: SOCKS5ExtClientFactory,
    timeout: float | None,
) -> Deferred[Any]:
    """
    Connect to the proxy, and hold the conversation that `factory` describes.

    :param reactor: provides time.
    :param timeout: seconds for all of it, the connection to the proxy too;
        ``None`` for no deadline.
    :returns: the factory's result. Fails with `ProxyUnreachable`, which names the proxy,
        where that was not reached, and with what the factory's
        ``error_of_timeout`` says when the time is over. Cancelling it at any moment closes the socket,
        and builds nothing later.
    """
    result = factory.result
    connecting: Deferred[Any] = loopback.connect(proxy_endpoint, factory)
    deadline: IDelayedCall | None = None

    def settled(value: Any) -> Any:
        if deadline is not None and deadline.active():
            deadline.cancel()
        # Still connecting: the caller cancelled, or the deadline has passed. A connection
        # that was made already is the factory's to close, and its endpoint is about to say so.
        if not factory.was_built:
            connecting.cancel()
        return value

    def not_connected(failure: Failure) -> None:
        if result.called:
            return
        # An endpoint that leads to this proxy through another one fails with exceptions of ours.
        error = failure.value
        if isinstance(error, PROXY_NOT_REACHED) and not isinstance(error, SOCKS5Error):
            factory.give_up(proxy_unreachable(error, place_of(proxy_endpoint)))
        else:
            factory.give_up(failure)

    def expired() -> None:
        try:
            error: BaseException = factory.error_of_timeout()
        except BaseException as raised:  # by an override: as the protocol takes it of the other choices
            error = raised
        factory.give_up(error)

    if timeout is not None and not result.called:
        deadline = clock_of(reactor).callLater(timeout, expired)
    # The endpoint need not keep our protocol, which gives its transport away.
    connecting.addCallbacks(_forget, not_connected)
    return result.addBoth(settled)


def _forget(_: object) -> None:
    """Hold on to nothing."""
