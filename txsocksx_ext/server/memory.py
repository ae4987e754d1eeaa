"""
The garbage collector in processes that only serve.
"""

from __future__ import annotations

import gc
from typing import Any


def freeze_gc(reactor: Any) -> None:
    """
    Have the garbage collector ignore all objects that exist when the reactor starts.

    Connections that come and go trigger it again and again, and most of what it
    would traverse is code.
    """
    reactor.callWhenRunning(_freeze)


def _freeze() -> None:
    gc.collect()
    gc.freeze()
