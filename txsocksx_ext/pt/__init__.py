"""
A toolkit to write pluggable transports.

An author writes a `TransportProtocol` for each side and a `Transport` that names
them, and calls `run`, which does everything that the transport's program has to do.
"""

from __future__ import annotations

from ..transports.arguments import Arguments
from .protocol import Side, Transport, TransportProtocol
from .runner import run

__all__ = ["Arguments", "Side", "Transport", "TransportProtocol", "run"]
