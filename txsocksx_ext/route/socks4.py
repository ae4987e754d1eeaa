"""
The route through a SOCKS4a proxy: ``socks4:ENDPOINT``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..client.socks4 import SOCKS4ClientFactory
from .proxy import ProxyRoute


class SOCKS4Route(ProxyRoute):
    """Reaches every target through a SOCKS4a proxy, which resolves the names."""

    name = "socks4"
    factory = SOCKS4ClientFactory


KEYWORDS = frozenset({"allow-cleartext"})


def from_description(reactor: Any, arguments: Sequence[str], keywords: Mapping[str, str]) -> ProxyRoute:
    """Make the route of ``socks4:PROXY[:allow-cleartext=…]``, whose URL may hold a user id."""
    return SOCKS4Route.from_description(reactor, arguments, keywords, KEYWORDS)
