"""
What a program does about signals.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any


def on_signals(reactor: Any, act: Callable[[], object], *numbers: signal.Signals) -> None:
    """
    From now on, have signals do this, in the reactor, and nothing else.

    :param numbers: as in `signal.SIGTERM`.
    :raises ValueError: this is not the main thread, where alone Python sets what they do.
    """
    for number in numbers:
        signal.signal(number, lambda *_: reactor.callFromThread(act))
