"""
How much a server takes, and how long it waits.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass, field, fields

from ..protocol.pairs import DEFAULT_PAIR_LIMITS, PairLimits, check_limit

RESERVED_DESCRIPTORS = 64
"""Descriptors left for listeners, logs, look-ups and the reactor."""


def connections_by_descriptors() -> int:
    """Return how many connections the open files allow, at one descriptor and two attempts to connect each."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 1 << 20
    return max(1, (soft - RESERVED_DESCRIPTORS) // 3)


@dataclass(frozen=True, slots=True)
class Limits:
    """
    A server's limits. Times are in seconds, sizes in bytes.

    :ivar handshake_timeout: from a connection's first moment to its complete request.
    :ivar connect_timeout: from the request to the reply. Clients wait 60 seconds;
        a longer time here would lose them the reason of a failure.
    :ivar idle_timeout: of a stream, without a byte either way; ``None`` for none.
    :ivar max_connections: at once; more are closed as they come.
    :ivar max_per_peer: at once from one IPv4 address or one IPv6 network of 64 bits;
        loopback and unix peers do not count.
    :ivar pairs: of one request of method 97.
    :ivar read_ahead: what a client may send before it is answered; then its
        reading is paused.
    :ivar linger: how long a connection stays after a failing answer, so that
        the answer arrives.
    :ivar login_delay: the longest that the answer to a failed login waits, where others of
        the same peer failed before. It is sent within `handshake_timeout` in any case.
    :raises ValueError: one of them is no number above 0, or a time that is not finite; `read_ahead` and `linger` may
        be 0, and numbers of connections ``math.inf``.
    """

    handshake_timeout: float = 10.0
    connect_timeout: float = 45.0
    idle_timeout: float | None = None
    max_connections: int = field(default_factory=connections_by_descriptors)
    max_per_peer: int = 256
    pairs: PairLimits = DEFAULT_PAIR_LIMITS
    read_ahead: int = 64 * 1024
    linger: float = 2.0
    login_delay: float = 10.0

    def __post_init__(self) -> None:
        """Refuse what would end every connection at once, or fail each time that it is used."""
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name == "pairs":
                if not isinstance(value, PairLimits):
                    raise ValueError(f"pairs must be PairLimits, not {type(value).__name__}")
            elif each.name != "idle_timeout" or value is not None:
                check_limit(
                    each.name, value, may_be_0=each.name in ("read_ahead", "linger"), is_time="float" in each.type
                )
