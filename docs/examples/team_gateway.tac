"""
A gateway to Tor for a team: each member has a password and separate circuits.

TEAM_USERS=/etc/team.users twistd -ny team_gateway.tac

To add a member: python -m txsocksx_ext.server.passwords set /etc/team.users NAME
"""

import os

from twisted.application.service import Application
from twisted.internet import reactor

from txsocksx_ext import Limits, RouteTable, SOCKS5ExtFactory, route_from_string
from txsocksx_ext.server.auth import HashedPasswordFile, portal_for
from txsocksx_ext.server.service import SOCKS5ExtService

SOCKS_PORT = os.environ.get("TEAM_TOR", r"tcp\:127.0.0.1\:9050")
CONTROL_PORT = os.environ.get("TEAM_CONTROL", r"tcp\:127.0.0.1\:9051")
LISTENER = os.environ.get("TEAM_LISTENER", "tcp:1080:interface=127.0.0.1")

tor = route_from_string(reactor, f"tor:{SOCKS_PORT}:control={CONTROL_PORT}")
refuse = route_from_string(reactor, "refuse")


class TeamFactory(SOCKS5ExtFactory):
    """Lets guests reach web ports only. Rules match targets; this override depends on the user."""

    def route(self, session):
        if session.user == b"guest" and session.request.destination.port not in (80, 443):
            return refuse
        return super().route(session)


factory = TeamFactory(
    reactor,
    portal=portal_for([HashedPasswordFile(os.environ["TEAM_USERS"])]),
    # Refuse mail, and send everything else through tor.
    policy=RouteTable([("*:25", refuse)], default=tor),
    limits=Limits(connect_timeout=30.0),
)
application = Application("team gateway")
SOCKS5ExtService(reactor, factory, [LISTENER], drain=5.0).setServiceParent(application)
