"""
What a server's process does with its memory.
"""

from __future__ import annotations

import gc
from typing import Any


def keep_what_is_loaded(reactor: Any) -> None:
    """
    Have the collector of garbage leave alone what is there when the reactor begins to run.

    Connections that come and go make it look through everything again and
    again, and by far the most of that is code. For processes that are a server
    and nothing else.
    """
    reactor.callWhenRunning(_freeze)


def _freeze() -> None:
    gc.collect()
    gc.freeze()
