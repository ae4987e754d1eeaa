"""
A way out of the server that leads where a test wants.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import NoneType
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolFactory, ITransport
from twisted.internet.protocol import Factory

from ..checks import check_type
from ..errors import HostUnreachable
from ..net.twisted_transports import open_transport
from ..protocol.messages import Address, Request
from ..route.base import Route
from .attributes import CheckedAttributes, anything, check_keys
from .endpoints import MemoryEndpoint
from .recorders import Recorder

if TYPE_CHECKING:
    from ..context import Session


class FakeRoute(CheckedAttributes, Route):
    """
    A way out that leads to a target in memory, or fails with what a test wants.

    For a `SOCKS5ExtFactory`: ``policy=RouteTable((), FakeRoute())``.

    :param target: builds the target of each connection; by default a `Recorder`.
    :param keys: the keys of pairs that it honours.
    :param found: what it answers to look-ups; without it they fail with `HostUnreachable`.
    :param endpoint_options: of `MemoryEndpoint`: ``clock``; ``failure``, what
        connecting and look-ups fail with; ``hangs``; ``client_address``, which
        clients get as the bound one.
    :raises TypeError: a parameter is of a wrong type, when it is passed or set.
    :raises AttributeError: an unknown attribute is set.
    :ivar requests: what it was asked for.
    :ivar sessions: for whom.
    :ivar endpoint: the target's endpoint, a `MemoryEndpoint`: its ``servers``
        are the targets connected, its ``connecting`` those that hang still.
    """

    name = "fake"

    checks = {
        "keys": check_keys,
        "found": lambda name, value: check_type(name, value, Address, NoneType),
        "requests": anything,
        "sessions": anything,
        "endpoint": anything,
    }

    def __init__(
        self,
        target: IProtocolFactory | None = None,
        *,
        keys: frozenset[str] = frozenset(),
        found: Address | None = None,
        **endpoint_options: Any,
    ) -> None:
        self.keys = keys
        self.found = found
        self.requests: list[Request] = []
        self.sessions: list[Session] = []
        self.endpoint = MemoryEndpoint(Factory.forProtocol(Recorder) if target is None else target, **endpoint_options)

    def connect(self, request: Request, addresses: Sequence[Address] | None, session: Session) -> Deferred[ITransport]:
        """See `IRoute`."""
        self._note(request, session)
        return open_transport(self.endpoint)

    def resolve(self, request: Request, addresses: Sequence[Address] | None, session: Session) -> Deferred[Address]:
        """See `IRoute`."""
        self._note(request, session)
        resolving: Deferred[Address] = Deferred()
        if self.endpoint.hangs:
            return resolving
        if self.found is None or self.endpoint.failure is not None:
            resolving.errback(self.endpoint.failure or HostUnreachable())
        else:
            resolving.callback(self.found)
        return resolving

    def _note(self, request: Request, session: Session) -> None:
        self.requests.append(request)
        self.sessions.append(session)
