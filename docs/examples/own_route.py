"""
A server with a route of its own: names under .internal are unix sockets in a folder.

FOLDER=/run/services LISTEN=tcp:1080:interface=127.0.0.1 twistd -n --pidfile= -y own_route.py
"""

import os
import re
from pathlib import Path

from twisted.application.service import Application
from twisted.internet import reactor
from twisted.internet.defer import fail
from twisted.internet.endpoints import UNIXClientEndpoint

from txsocksx_ext import Route, RouteTable, SOCKS5ExtFactory, open_transport, route_from_string
from txsocksx_ext.errors import HostUnreachable
from txsocksx_ext.server.service import SOCKS5ExtService


class InternalRoute(Route):
    name = "internal"
    """The route's name in the log."""

    def __init__(self, reactor, folder):
        self.reactor = reactor
        self.folder = Path(folder)

    def connect(self, request, addresses, session):
        """Fire with a connected transport, or fail with an exception that has a reply code."""
        name = request.destination.host.removesuffix(".internal")
        if not re.fullmatch(r"[a-z0-9-]+", name) or not (self.folder / name).exists():
            return fail(HostUnreachable())
        return open_transport(UNIXClientEndpoint(self.reactor, str(self.folder / name)))


internal = InternalRoute(reactor, os.environ.get("FOLDER", "/run/services"))
routes = RouteTable([("*.internal", internal)], default=route_from_string(reactor, "refuse"))

application = Application("internal")
listener = os.environ.get("LISTEN", "tcp:1080:interface=127.0.0.1")
SOCKS5ExtService(reactor, SOCKS5ExtFactory(reactor, policy=routes), [listener]).setServiceParent(application)
