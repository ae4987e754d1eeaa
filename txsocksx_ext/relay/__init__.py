"""
Two transports become one stream.

`join` is the one place that decides which relay serves a stream.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime, ITransport

from .producers import ProducerRelay, RelayEnded

__all__ = ["ProducerRelay", "RelayEnded", "join"]


def join(
    client: ITransport,
    target: ITransport,
    clock: IReactorTime,
    ended: RelayEnded,
    idle_timeout: float | None = None,
) -> ProducerRelay:
    """
    Make the relay for two connected transports. Its ``start()`` lets bytes flow.

    :param client: where the request came from.
    :param target: where it went to.
    :param ended: called once, with the reason, when both are closed.
    :param idle_timeout: seconds without a byte in either direction after which
        both are closed; ``None`` for never.
    """
    return ProducerRelay(client, target, clock, ended, idle_timeout)
