"""
A server embedded in a program, with limits and rules as objects.

LISTEN=tcp:1080:interface=127.0.0.1 twistd -n --pidfile= -y inside.py
"""

import os

from twisted.application.service import Application
from twisted.internet import reactor

from txsocksx_ext import Limits, RouteTable, SOCKS5ExtFactory, route_from_string
from txsocksx_ext.server.service import SOCKS5ExtService

direct = route_from_string(reactor, "direct")
refuse = route_from_string(reactor, "refuse")

factory = SOCKS5ExtFactory(
    reactor,
    policy=RouteTable([("*:25", refuse), ("*:6660-6669", refuse)], default=direct),
    limits=Limits(idle_timeout=600.0, max_connections=1000),
)

application = Application("socks")
listener = os.environ.get("LISTEN", "tcp:1080:interface=127.0.0.1")
SOCKS5ExtService(reactor, factory, [listener], drain=20.0).setServiceParent(application)
