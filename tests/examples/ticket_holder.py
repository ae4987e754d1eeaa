"""
A client of one's own: what to offer, what to say and what an answer means, by one override each.

``python ticket_holder.py PROXY_PORT HOST PORT TICKET`` goes to HOST through a ticket office, says hello, and
prints its seat and what it heard; or what went wrong.
"""

import sys

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import react

from txsocksx_ext import SOCKS5ClientEndpoint, SOCKS5ExtClientFactory
from txsocksx_ext.errors import AuthenticationFailed, TransportTemporaryFailure
from txsocksx_ext.protocol.codes import Method, Status
from txsocksx_ext.protocol.messages import ExtendedResponse, UsernamePassword
from txsocksx_ext.protocol.pairs import Pairs


class TicketRefused(AuthenticationFailed):
    """The office does not take our ticket."""


class TicketHolder(SOCKS5ExtClientFactory):
    """Comes in with a ticket, or where that is not known, with a visitor's name."""

    ticket = b""

    def offer(self):
        """What to offer: more than `methods` says."""
        return (Method.EXTENDED, Method.USERNAME_PASSWORD)

    def pairs(self):
        """What to say by method 97."""
        return Pairs({"office.ticket": self.ticket})

    def credentials(self):
        """What to say by method 02."""
        return UsernamePassword(b"visitor", b"please")

    def error_for(self, answer, initiator):
        """What a failing answer means."""
        if isinstance(answer, ExtendedResponse) and answer.status == Status.INVALID_ARGUMENTS:
            return TicketRefused("the ticket is not valid: buy another", pairs=answer.pairs)
        return super().error_for(answer, initiator)


def endpoint(reactor, proxy_port, host, port, ticket):
    """The way to a target with this ticket."""

    class WithTicket(TicketHolder):
        pass

    class Endpoint(SOCKS5ClientEndpoint):
        factory = WithTicket

    WithTicket.ticket = ticket
    proxy = TCP4ClientEndpoint(reactor, "127.0.0.1", proxy_port)
    return Endpoint(host, port, proxy, {"extended": {}}, reactor=reactor)


class Hello(Protocol):
    """Says hello, and waits for the answer."""

    def __init__(self, address):
        self.address = address
        self.answered = Deferred()

    def connectionMade(self):
        self.transport.write(b"hello")

    def dataReceived(self, data):
        self.transport.loseConnection()
        self.answered.callback(data)


class HelloFactory(Factory):
    """Gives each `Hello` the address, in which stands what the office answered."""

    noisy = False

    def buildProtocol(self, address):
        return Hello(address)


async def main(reactor, proxy_port, host, port, ticket):
    """Go there once."""
    way = endpoint(reactor, int(proxy_port), host, int(port), ticket.encode())
    try:
        hello = await way.connect(HelloFactory())
    except TicketRefused as refused:
        print("refused:", refused)
    except TransportTemporaryFailure as failure:
        print("closed, try again:", failure.retry.value)
    else:
        print("seat", hello.address.pairs["office.seat"].decode(), "heard", (await hello.answered).decode())


if __name__ == "__main__":
    react(main, sys.argv[1:])
