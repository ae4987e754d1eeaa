"""
The signals that come while the server drains.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any


def hurry_on_signals(reactor: Any, hurry: Callable[[], object]) -> None:
    """
    From now on, have SIGINT and SIGTERM do this, in the reactor.

    A reactor that stops already makes an error of another signal, and goes on to wait.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: reactor.callFromThread(hurry))
