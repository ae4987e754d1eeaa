"""
The limits of a server: sizes, numbers and times.
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

    :ivar handshake_timeout: the time from accepting a connection to its complete request.
    :ivar connect_timeout: the time from the request to the reply. Clients usually wait 60 seconds;
        with a longer time they would not get the reason of a failure.
    :ivar idle_timeout: the time that a stream may stay without data in either direction; ``None`` for no limit.
    :ivar keepalive: the time without data after which TCP probes the peers of a stream, 32,767 seconds at most;
        ``None`` for the system's own, on Linux two hours. Linux resets the stream after nine probes, one each such
        time, without an answer.
    :ivar max_connections: open connections. Further ones are closed at once.
    :ivar max_per_peer: open connections of one IPv4 address or one IPv6 network of 64 bits;
        loopback and unix peers are not limited.
    :ivar max_per_user: open connections with a request of one user name; ``None`` for no limit.
    :ivar user_rate_up: bytes a second that all streams of one user name may send; ``None`` for no limit.
    :ivar user_rate_down: bytes a second that they may receive.
    :ivar connection_rate_up: bytes a second that one stream may send; ``None`` for no limit.
    :ivar connection_rate_down: bytes a second that it may receive.
    :ivar pairs: the limits of one message of method 0x97.
    :ivar read_ahead: bytes that a client may send before it is answered; then reading from it is paused.
    :ivar linger: the time that a connection stays open after a failing answer, so that the answer arrives.
    :ivar login_delay: the longest delay of the answer to a failed login, for peers with earlier failures. The
        answer is always sent within `handshake_timeout`.
    :raises ValueError: a limit is not a number above 0, or a time is not finite. `read_ahead` and `linger` may
        be 0, and numbers of connections ``math.inf``.
    """

    handshake_timeout: float = 10.0
    connect_timeout: float = 45.0
    idle_timeout: float | None = None
    keepalive: float | None = None
    max_connections: int = field(default_factory=connections_by_descriptors)
    max_per_peer: int = 256
    max_per_user: int | None = None
    user_rate_up: float | None = None
    user_rate_down: float | None = None
    connection_rate_up: float | None = None
    connection_rate_down: float | None = None
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
            elif value is not None or "None" not in each.type:
                check_limit(
                    each.name, value, may_be_0=each.name in ("read_ahead", "linger"), is_time="float" in each.type
                )

    @property
    def has_rates(self) -> bool:
        """Whether a stream may have a rate limit."""
        connection = self.connection_rate_up or self.connection_rate_down
        return bool(connection or self.user_rate_up or self.user_rate_down)
