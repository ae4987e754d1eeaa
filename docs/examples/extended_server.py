"""
A server that decides for itself who may come in, where to go, and what to answer: one override each.

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
"""What each ticket makes of its bearer."""


class ClubFactory(SOCKS5ExtFactory):
    keys = frozenset({"club.ticket"})
    """The keys of pairs that our authenticate() understands; unknown ones are refused before it is asked."""

    async def authenticate(self, session):
        """Who may come in? What is returned goes to the client, as pairs."""
        rank = RANKS.get(session.pairs.get("club.ticket"))
        if rank is None:
            raise AuthenticationFailed()
        session.avatar = rank
        return {"club.rank": rank}

    def route(self, session):
        """Where to go? Guests to the web alone, members wherever the rules allow."""
        if session.avatar == "guest" and session.request.destination.port not in (80, 443):
            return route_from_string(self.reactor, "refuse")
        return super().route(session)

    def reply_for(self, failure, session):
        """What to answer? Guests cannot tell what is refused from what is not there."""
        if session.avatar == "guest":
            return codes.HOST_UNREACHABLE
        return super().reply_for(failure, session)


application = Application("club")
listener = os.environ.get("LISTEN", "tcp:1080:interface=127.0.0.1")
SOCKS5ExtService(reactor, ClubFactory(reactor), [listener]).setServiceParent(application)
