"""
The baseline: a SOCKS5 server written the ordinary way on Twisted.

CONNECT without authentication or with any user name and password, ``connectTCP``, and producers both ways.
Run it with the port to listen on.
"""

import sys
from socket import inet_ntoa
from struct import unpack

from twisted.internet import reactor
from twisted.internet.protocol import ClientFactory, Factory, Protocol
from twisted.python import log

REPLY = b"\x05%c\x00\x01\x00\x00\x00\x00\x00\x00"


class Outgoing(Protocol):
    """The side of the target."""

    def connectionMade(self):
        self.peer = self.factory.incoming
        self.peer.reached(self)

    def dataReceived(self, data):
        self.peer.transport.write(data)

    def connectionLost(self, reason):
        self.peer.transport.loseConnection()


class OutgoingFactory(ClientFactory):
    protocol = Outgoing
    noisy = False

    def __init__(self, incoming):
        self.incoming = incoming

    def clientConnectionFailed(self, connector, reason):
        self.incoming.refuse(5)


class Incoming(Protocol):
    """The side of the client."""

    def connectionMade(self):
        self.buffer = b""
        self.peer = None
        self.next = self.greeting

    def dataReceived(self, data):
        if self.peer is not None:
            self.peer.transport.write(data)
            return
        self.buffer += data
        while self.next is not None and self.next():
            pass

    def take(self, length):
        taken, self.buffer = self.buffer[:length], self.buffer[length:]
        return taken

    def greeting(self):
        if len(self.buffer) < 2 or len(self.buffer) < 2 + self.buffer[1]:
            return False
        methods = self.take(2 + self.buffer[1])[2:]
        if 0 in methods:
            self.transport.write(b"\x05\x00")
            self.next = self.request
        elif 2 in methods:
            self.transport.write(b"\x05\x02")
            self.next = self.login
        else:
            self.transport.write(b"\x05\xff")
            self.transport.loseConnection()
            self.next = None
        return True

    def login(self):
        if len(self.buffer) < 2 or len(self.buffer) < 3 + self.buffer[1]:
            return False
        user_end = 2 + self.buffer[1]
        if len(self.buffer) < user_end + 1 + self.buffer[user_end]:
            return False
        self.take(user_end + 1 + self.buffer[user_end])
        self.transport.write(b"\x01\x00")
        self.next = self.request
        return True

    def request(self):
        if len(self.buffer) < 7:
            return False
        _, command, _, address_type = self.buffer[:4]
        length = {1: 10, 3: 7 + self.buffer[4]}.get(address_type)
        if command != 1 or length is None:
            self.refuse(7)
            return False
        if len(self.buffer) < length:
            return False
        address = self.take(length)
        host = inet_ntoa(address[4:8]) if address_type == 1 else address[5:-2].decode("ascii")
        (port,) = unpack(">H", address[-2:])
        self.next = None
        reactor.connectTCP(host, port, OutgoingFactory(self))
        return False

    def reached(self, peer):
        self.transport.write(REPLY % 0)
        if self.buffer:
            peer.transport.write(self.buffer)
        self.peer = peer
        peer.transport.registerProducer(self.transport, True)
        self.transport.registerProducer(peer.transport, True)

    def refuse(self, code):
        self.next = None
        self.transport.write(REPLY % code)
        self.transport.loseConnection()

    def connectionLost(self, reason):
        if self.peer is not None:
            self.peer.transport.loseConnection()


if __name__ == "__main__":
    log.startLogging(sys.stdout)
    factory = Factory.forProtocol(Incoming)
    factory.noisy = False
    reactor.listenTCP(int(sys.argv[1]), factory, interface="127.0.0.1", backlog=1024)
    reactor.run()
