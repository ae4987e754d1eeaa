"""
Two transports become one stream.

`join` is the one place that decides which relay serves a stream.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import ITransport

from .epoll_relay import EpollRelay
from .poller import poller_of
from .relay_interface import IRelay, RelayEnded
from .timers import clock_of
from .transport import can_take
from .twisted_relay import ProducerRelay
from .twisted_transports import keep_alive
from .watches import IdleWatch, shared_watch

__all__ = ["IRelay", "RelayEnded", "join"]


def join(
    client: ITransport,
    target: ITransport,
    reactor: Any,
    ended: RelayEnded,
    idle_timeout: float | None = None,
    *,
    fast: bool = True,
) -> IRelay:
    """
    Make the relay for two connected transports. Its ``start()`` lets bytes flow.

    Both connections are kept alive from now on. Plain sockets are served past
    the reactor and its transports; all others, and those of a reactor without a
    poller, by Twisted's producers.

    :param client: where the request came from.
    :param target: where it went to.
    :param reactor: tells the time, and takes descriptors if it can.
    :param ended: called once, with the reason, when both are closed.
    :param idle_timeout: seconds without a byte in either direction after which
        both are closed; ``None`` for never.
    :param fast: false where all bytes must go through the transports.
    """
    watch = None if idle_timeout is None else shared_watch(IdleWatch, clock_of(reactor), idle_timeout)
    poller = poller_of(reactor) if fast else None
    if poller is not None and can_take(client) and can_take(target):
        return EpollRelay(client, target, poller, reactor, ended, watch)
    keep_alive(client)
    keep_alive(target)
    return ProducerRelay(client, target, clock_of(reactor), ended, watch)
