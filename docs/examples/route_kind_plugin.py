"""A route kind for ``--route``: ``internal:FOLDER`` reaches unix sockets in a folder by name."""

from pathlib import Path

from twisted.internet.defer import fail
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.plugin import IPlugin
from zope.interface import implementer

from txsocksx_ext import IRouteKind, Route, open_transport
from txsocksx_ext.errors import HostUnreachable


class InternalRoute(Route):
    name = "internal"

    def __init__(self, reactor, folder):
        self.reactor = reactor
        self.folder = Path(folder)

    def connect(self, request, addresses, session):
        label = request.destination.host.partition(".")[0]
        if not label.isalnum():
            return fail(HostUnreachable())
        return open_transport(UNIXClientEndpoint(self.reactor, str(self.folder / label)))


@implementer(IPlugin, IRouteKind)
class InternalKind:
    name = "internal"
    help = "reach the unix sockets in a folder by name: internal:FOLDER"
    keys = frozenset()

    def from_string(self, reactor, args, kwargs):
        if len(args) != 1 or kwargs:
            raise ValueError("internal takes one argument, a folder: internal:/run/services")
        return InternalRoute(reactor, args[0])


internal = InternalKind()
