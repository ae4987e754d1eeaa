"""
The route that leads nowhere: ``refuse``, answered with 0x02.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import ITransport

from ..descriptions import refuse_unknown
from ..errors import ConnectionNotAllowed
from ..protocol.messages import Address, Request
from .base import Route

if TYPE_CHECKING:
    from ..context import Session


class RefuseRoute(Route):
    """Refuses everything: connection not allowed by ruleset."""

    name = "refuse"

    def connect(self, request: Request, addresses: Sequence[Address] | None, session: Session) -> Deferred[ITransport]:
        """Fail with `ConnectionNotAllowed`."""
        return fail(ConnectionNotAllowed())

    def resolve(self, request: Request, addresses: Sequence[Address] | None, session: Session) -> Deferred[Address]:
        """Fail with `ConnectionNotAllowed`."""
        return fail(ConnectionNotAllowed())


def from_description(reactor: Any, arguments: Sequence[str], keywords: Mapping[str, str]) -> RefuseRoute:
    """Make the route of ``refuse``."""
    if arguments:
        raise ValueError("the route refuse takes no arguments")
    refuse_unknown(keywords, frozenset(), "the route refuse")
    return RefuseRoute()
