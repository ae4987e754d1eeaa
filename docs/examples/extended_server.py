"""
A server that overrides whom to admit, where to connect, and what to reply.

LISTEN=tcp:1080:interface=127.0.0.1 twistd -n --pidfile= -y extended_server.py
"""

import os

from twisted.application.service import Application
from twisted.internet import reactor

from txsocksx_ext import SOCKS5ExtFactory, route_from_string
from txsocksx_ext.errors import AuthenticationFailed
from txsocksx_ext.protocol import codes
from txsocksx_ext.server.service import SOCKS5ExtService

RANKS = {b"spring": "guest", b"summer": "member"}
"""The rank of each ticket."""


class ClubFactory(SOCKS5ExtFactory):
    keys = frozenset({"club.ticket"})
    """The keys of pairs that authenticate() understands; the server refuses others before it calls it."""

    async def authenticate(self, session):
        """Admit clients with a ticket. The client gets the result as pairs."""
        rank = RANKS.get(session.pairs.get("club.ticket"))
        if rank is None:
            raise AuthenticationFailed()
        session.avatar = rank
        return {"club.rank": rank}

    def route(self, session):
        """Send guests to web ports only, and members wherever the rules allow."""
        if session.avatar == "guest" and session.request.destination.port not in (80, 443):
            return route_from_string(self.reactor, "refuse")
        return super().route(session)

    def reply_for(self, failure, session):
        """Hide from guests which targets are refused."""
        if session.avatar == "guest":
            return codes.HOST_UNREACHABLE
        return super().reply_for(failure, session)


application = Application("club")
listener = os.environ.get("LISTEN", "tcp:1080:interface=127.0.0.1")
SOCKS5ExtService(reactor, ClubFactory(reactor), [listener]).setServiceParent(application)
