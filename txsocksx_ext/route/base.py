"""
The interface of routes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from twisted.application.service import IService
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IStreamClientEndpoint, ITransport
from zope.interface import Attribute, Interface, implementer

from ..checks import kind_of
from ..context import Session
from ..errors import CommandNotSupported
from ..net.resolver import Resolver
from ..protocol.messages import Address, Request


class Part(NamedTuple):
    """
    The state of a program that a route needs, for the status page.

    :ivar kind: ``tor`` or ``transport``, or another word.
    :ivar name: tells it from others of its kind; no secret.
    :ivar is_up: whether it can be used.
    :ivar state: in a few words.
    :ivar bootstrap: how far tor has bootstrapped, from 0 to 1; ``None`` if that is not known.
    """

    kind: str
    name: str
    is_up: bool
    state: str
    bootstrap: float | None = None


class IRoute(Interface):
    """Reaches targets for clients."""

    name: str = Attribute("Its name in logs (str): neither a target nor a secret.")
    keys: frozenset[str] = Attribute(
        "The keys (frozenset of str) of a client's pairs that this route honours."
        " A name that ends in a dot stands for every key that begins with it."
    )
    uses_credentials: bool = Attribute(
        "Whether this route does something with a client's user name and password, such as to keep users apart."
        " Then clients that offer both 0x00 and 0x02 are asked for them."
    )
    resolver: Resolver | None = Attribute(
        "Resolves the names of this route's targets for the policy, which admits the addresses; ``None`` if the"
        " route takes names as they are."
    )
    service: IService | None = Attribute(
        "A service that runs while the server runs, or ``None``. Servers that share the route share it: it runs from"
        " the first start to the last stop."
    )
    is_for_each_process: bool = Attribute(
        "Whether each worker process may run `service` for itself. Otherwise it runs once, in the process that"
        " supervises the workers, and they reach the route there."
    )

    is_over_tor: bool = Attribute(
        "Whether each stream goes over Tor, so that an HTTP client may be told ``Via: tor/1.0``. May be missing."
    )

    def parts() -> Sequence[Part]:
        """Return the states of the programs that this route needs. May be missing."""

    def connect(request: Request, addresses: Sequence[Address] | None, session: Session) -> Deferred[ITransport]:
        """
        Reach the request's destination.

        :param addresses: the addresses of the destination that the policy
            admitted, one or more; ``None`` if `resolver` is.
        :returns: fires with a connected transport when the stream may begin, or
            fails with an exception of `txsocksx_ext.errors`, one of Twisted's
            connection errors, or any other (answered with 0x01). It is cancelled
            when the client leaves or at a timeout; its failure then decides the
            reply. A plain `CancelledError` means TTL expired (0x06).
        """

    def resolve(request: Request, addresses: Sequence[Address] | None, session: Session) -> Deferred[Address]:
        """
        Answer RESOLVE or RESOLVE_PTR (Tor's SOCKS extensions).

        :param addresses: as for `connect`.
        :returns: fires with the address or the name found, or fails as `connect` does.
        """


class IRouteKind(Interface):
    """
    A kind of route for ``--route`` and `route_from_string`, from another package.

    A Twisted plugin: an object in a module of ``twisted.plugins`` that provides this interface and
    `twisted.plugin.IPlugin`.
    """

    name: str = Attribute("What a description begins with (str).")
    help: str = Attribute("One line that says what such a route does (str).")
    keys: frozenset[str] = Attribute("The keys of pairs that such routes honour (frozenset of str).")

    def from_string(reactor: Any, args: Sequence[str], kwargs: Mapping[str, str]) -> IRoute:
        """
        Make the route of ``NAME:ARGUMENT:KEYWORD=VALUE``.

        :param args: the arguments without a name, behind the kind.
        :param kwargs: those with one.
        :raises ValueError: it does not take these; the message is one line for the user.
        """


def check_route(name: str, route: object) -> None:
    """
    Check that an argument is a route.

    :raises TypeError: the argument is not a route; the message helps if it is a route's description.
    """
    # An endpoint has a connect() too, which takes something else.
    if isinstance(route, type) or not hasattr(route, "connect") or IStreamClientEndpoint.providedBy(route):
        hint = ": route_from_string() makes one of a description" if isinstance(route, str) else ""
        raise TypeError(f"{name} must provide IRoute, not {kind_of(route)}{hint}")


@implementer(IRoute)
class Route:
    """A base for routes: honours no keys, takes names as they are, and resolves nothing."""

    name = "route"
    keys: frozenset[str] = frozenset()
    uses_credentials = False
    resolver: Resolver | None = None
    service: IService | None = None
    is_for_each_process = False
    is_over_tor = False

    def parts(self) -> Sequence[Part]:
        """See `IRoute`: this route needs no other program."""
        return ()

    def connect(self, request: Request, addresses: Sequence[Address] | None, session: Session) -> Deferred[ITransport]:
        """See `IRoute`."""
        raise NotImplementedError(f"{type(self).__name__} has no connect()")

    def resolve(self, request: Request, addresses: Sequence[Address] | None, session: Session) -> Deferred[Address]:
        """Fail: this route resolves nothing."""
        return fail(CommandNotSupported())
