"""
A server of one's own: who may come in, where to go and what to answer, by one override each.

Clients come in with a ticket, by a key of ours, and are told their seat. Names under ``.office`` lead to a
desk on this machine, whatever they are. While the desk is closed, clients are told to try again at once.

``python ticket_office.py PORT DESK_PORT`` serves on 127.0.0.1.
"""

import sys

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import react

from txsocksx_ext import SOCKS5ExtFactory, open_transport
from txsocksx_ext.errors import InvalidArguments
from txsocksx_ext.protocol import codes

SEATS = {b"early bird": "1", b"late comer": "99"}


class Desk:
    """A way out is anything with ``connect``: this one leads to a single place."""

    def __init__(self, reactor, port):
        self._endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)

    def connect(self, request, addresses, session):
        return open_transport(self._endpoint)


class TicketOffice(SOCKS5ExtFactory):
    """A server that asks for tickets."""

    keys = frozenset({"office.ticket"})

    def __init__(self, reactor, desk):
        super().__init__(reactor)
        self._desk = desk

    def authenticate(self, session):
        """Who may come in: who has a ticket. The answer is the seat."""
        seat = SEATS.get(session.pairs.get("office.ticket"))
        if seat is None:
            raise InvalidArguments("office.ticket is missing or not valid")
        return {"office.seat": seat}

    def route(self, session):
        """Where to go: to the desk, for names under .office."""
        destination = session.request.destination
        if destination.is_name and destination.host.endswith(".office"):
            return self._desk
        return super().route(session)

    def reply_for(self, failure, session):
        """What to answer: a closed desk opens again soon."""
        if session.route_name == "Desk" and failure.check(ConnectionRefusedError):
            return codes.TRANSPORT_TEMPORARY_FAILURE
        return super().reply_for(failure, session)


async def main(reactor, port, desk_port):
    """Serve until stopped."""
    office = TicketOffice(reactor, Desk(reactor, int(desk_port)))
    await TCP4ServerEndpoint(reactor, int(port), interface="127.0.0.1").listen(office)
    await Deferred()


if __name__ == "__main__":
    react(main, sys.argv[1:])
