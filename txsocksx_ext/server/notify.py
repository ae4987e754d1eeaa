"""
What a server tells systemd of its state (sd_notify(3)), for units of ``Type=notify``.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping
from typing import Any

from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from ..net.timers import clock_of

SEND_TIMEOUT = 1.0
"""Seconds that a message may wait for systemd, which usually reads at once."""

_log = Logger(namespace="txsocksx_ext.server")


class Notifier:
    """
    Sends systemd the state of this process.

    :param address: of the datagram socket: a path, or an abstract name after ``@``. If empty, nothing is sent.
    :param watchdog: seconds after which systemd ends a process that has not sent a message; 0 for no watchdog.
    """

    def __init__(self, address: str = "", watchdog: float = 0.0) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._watchdog = watchdog
        self._pings: LoopingCall | None = None

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> Notifier:
        """
        Return the notifier that systemd asks for.

        Its variables are removed, because children such as a launched tor would send messages of their own.
        """
        address, period, process = (
            environment.pop(name, "") for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
        )
        is_watched = period.isdecimal() and process in ("", str(os.getpid()))
        return cls(address, int(period) / 1e6 if is_watched else 0.0)

    def start(self, reactor: Any) -> None:
        """Send the watchdog's messages as long as the reactor works, twice as often as is needed."""
        if self._address and self._watchdog:
            self._pings = LoopingCall(self._send, "WATCHDOG=1")
            self._pings.clock = clock_of(reactor)
            self._pings.start(self._watchdog / 2)

    def stop(self) -> None:
        """Send no more of the watchdog's messages."""
        if self._pings is not None:
            self._pings.stop()
            self._pings = None

    def ready(self, status: str = "serving") -> None:
        """Tell that the server accepts connections, or that a reload has ended."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Tell that a reload begins; `ready` ends it."""
        # For Type=notify-reload: systemd ignores a READY=1 from before the reload.
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=reloading")

    def stopping(self) -> None:
        """Tell that the server stops."""
        self._send("STOPPING=1", "STATUS=draining")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
                sending.settimeout(SEND_TIMEOUT)
                sending.sendto("\n".join(lines).encode("utf-8"), self._address)
        except OSError as error:
            _log.warn("cannot notify systemd at $NOTIFY_SOCKET: {error}", error=error.strerror or str(error))
