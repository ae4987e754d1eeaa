"""
Pluggable transports: to be one, and to speak to them.

The names here are for those who write a transport: a `TransportProtocol` for each
side, a `Transport` that names them, and `run`, which is the program's all.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..transports.arguments import Arguments
    from .protocol import Side, Transport, TransportProtocol
    from .runner import run

_HOMES = {
    "Arguments": ".transports.arguments",
    "Side": "protocol",
    "Transport": "protocol",
    "TransportProtocol": "protocol",
    "run": "runner",
}

__all__ = ["Arguments", "Side", "Transport", "TransportProtocol", "run"]


def __getattr__(name: str) -> Any:
    # Late, since who only speaks to transports needs none of it.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
