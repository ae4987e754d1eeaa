"""
The server: factory, protocol, credentials, rules and limits.
"""

from ..context import Session
from ..policy.table import RouteTable
from .connection import SOCKS5ExtProtocol
from .factory import SOCKS5ExtFactory
from .limits import Limits

__all__ = ["Limits", "RouteTable", "SOCKS5ExtFactory", "SOCKS5ExtProtocol", "Session"]
