"""
A client that overrides what to offer, what to send, and which exception to raise.

python extended_client.py HOST PORT PROXY TICKET
"""

import sys

from twisted.internet.endpoints import clientFromString
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import react

from txsocksx_ext import SOCKS5ClientEndpoint, SOCKS5ExtClientFactory
from txsocksx_ext.errors import HostUnreachable, SOCKS5Error
from txsocksx_ext.protocol.codes import Method
from txsocksx_ext.protocol.pairs import Pairs


class NotFoundOrNotForGuests(HostUnreachable):
    message = "the target does not exist or is not open to guests: become a member"


class ClubClientFactory(SOCKS5ExtClientFactory):
    def offer(self):
        """Return the methods to offer."""
        return (Method.EXTENDED,)

    def pairs(self):
        """Return the pairs for method 0x97. Called for each connection."""
        return Pairs({"club.ticket": read_ticket()})

    def error_for(self, answer, initiator):
        """Return the exception for a failing answer."""
        error = super().error_for(answer, initiator)
        return NotFoundOrNotForGuests(code=error.code) if type(error) is HostUnreachable else error


class ClubEndpoint(SOCKS5ClientEndpoint):
    factory = ClubClientFactory


def read_ticket():
    return sys.argv[4]


class GreetedFactory(Factory):
    protocol = Protocol

    def buildProtocol(self, address):
        """Read the proxy's answer from the address."""
        print("welcome,", address.pairs["club.rank"].decode())
        return super().buildProtocol(address)


async def main(reactor, host, port, proxy, ticket):
    try:
        protocol = await ClubEndpoint(host, int(port), clientFromString(reactor, proxy)).connect(GreetedFactory())
    except SOCKS5Error as error:
        print(f"{type(error).__name__}: {error}")
    else:
        protocol.transport.loseConnection()


if __name__ == "__main__":
    react(main, sys.argv[1:])
