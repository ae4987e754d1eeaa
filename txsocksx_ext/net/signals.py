"""
Signal handlers that run in the reactor.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any


def on_signals(reactor: Any, act: Callable[[], object], *numbers: signal.Signals) -> None:
    """
    Replace the handlers of signals by a call in the reactor.

    :param numbers: as in `signal.SIGTERM`.
    :raises ValueError: this is not the main thread; Python sets handlers only there.
    """
    for number in numbers:
        signal.signal(number, lambda *_: reactor.callFromThread(act))
