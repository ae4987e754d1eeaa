"""
What a route is.
"""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING

from twisted.application.service import IService
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import ITransport
from zope.interface import Attribute, Interface, implementer

from ..errors import CommandNotSupported, TTLExpired
from ..protocol.messages import Address, Request

if TYPE_CHECKING:
    from ..context import Session


class IRoute(Interface):
    """A way out: something that reaches a target for a client."""

    name: str = Attribute("What logs call it (str): no target, nothing secret.")
    keys: frozenset[str] = Attribute(
        "The keys (frozenset of str) of a client's pairs that this route honours."
        " A name that ends in a dot stands for every key that begins with it."
    )
    uses_credentials: bool = Attribute(
        "Whether this route does something with a client's user name and password, such as to keep users apart."
        " Then clients that offer both 0x00 and 0x02 are asked for them."
    )

    service: IService | None = Attribute(
        "What has to run for this route while the server runs, or ``None``. Servers that share the route share it:"
        " it runs from the first start to the last stop."
    )
    is_for_each_process: bool = Attribute(
        "Whether each worker process may run `service` for itself. Otherwise it runs once, in the process that"
        " supervises them, and they reach the route there."
    )

    def connect(request: Request, session: Session) -> Deferred[ITransport]:
        """
        Reach the request's destination.

        :returns: fires with a connected transport when the stream may begin, or
            fails with an exception of `txsocksx_ext.errors`, one of Twisted's
            connection errors, or any other (answered with 01). It is cancelled
            when the client goes away, or when the time for it is over.
        """

    def resolve(request: Request, session: Session) -> Deferred[Address]:
        """
        Answer RESOLVE or RESOLVE_PTR (Tor's SOCKS extensions).

        :returns: fires with the address or the name found, or fails as `connect` does.
        """

    def timed_out(request: Request, session: Session) -> Exception:
        """
        Say what it means that this route was cancelled because its time was over.

        :returns: an exception as `connect` fails with.
        """


def is_among(key: str, keys: Container[str]) -> bool:
    """Whether `key` is one of `keys`, where a name that ends in a dot stands for all that begin with it."""
    if key in keys:
        return True
    space, dot, _ = key.partition(".")
    return bool(dot) and f"{space}." in keys


@implementer(IRoute)
class Route:
    """A route that honours no keys and resolves nothing: a base for others."""

    name = "route"
    keys: frozenset[str] = frozenset()
    uses_credentials = False
    service: IService | None = None
    is_for_each_process = False

    def connect(self, request: Request, session: Session) -> Deferred[ITransport]:
        """See `IRoute`."""
        raise NotImplementedError(f"{type(self).__name__} has no connect()")

    def resolve(self, request: Request, session: Session) -> Deferred[Address]:
        """Fail: this route resolves nothing."""
        return fail(CommandNotSupported())

    def timed_out(self, request: Request, session: Session) -> Exception:
        """The target did not answer: TTL expired."""
        return TTLExpired()
