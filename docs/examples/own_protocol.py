"""
A server whose port also speaks another protocol: ``> HOST PORT``, answered with ``OK`` or ``NO CODE``.

LISTEN=tcp:1080:interface=127.0.0.1 twistd -n --pidfile= -y own_protocol.py
"""

import os

from twisted.application.service import Application
from twisted.internet import reactor

from txsocksx_ext import SOCKS5ExtFactory
from txsocksx_ext.protocol.codes import Command, Method, ReplyCode
from txsocksx_ext.protocol.decoding import Fault, MalformedMessage
from txsocksx_ext.protocol.messages import Address, Request
from txsocksx_ext.server.frontends import FRONTENDS, Frontends
from txsocksx_ext.server.service import SOCKS5ExtService
from txsocksx_ext.server.socks5_frontend import SOCKS5Frontend

LONGEST_LINE = 300


class LineFrontend:
    name = "line"
    """The protocol's name in the log."""
    final_reply = b"NO 1\n"
    """The answer to a malformed line."""

    def __init__(self, limits):
        self.buffer = bytearray()
        self.replied = None
        self._is_request_read = False

    @property
    def buffered(self):
        return len(self.buffer)

    @property
    def has_request(self):
        return self._is_request_read or bool(self.buffer)

    def feed(self, data):
        self.buffer += data

    def next_message(self):
        line, newline, rest = bytes(self.buffer).partition(b"\n")
        if len(line) > LONGEST_LINE:
            raise MalformedMessage("Line", Fault.LIMIT)
        if not newline:
            return None
        try:
            word, host, port = line.decode("ascii").split()
            request = Request(Command.CONNECT, Address.of(host, int(port)))
        except ValueError:
            raise MalformedMessage("Line", Fault.TARGET) from None
        if word != ">":
            raise MalformedMessage("Line", Fault.TARGET)
        self.buffer = bytearray(rest)
        return request

    async def receive_request(self, connection):
        request = await connection.next_message()
        self._is_request_read = True
        try:
            # Without this, the server would admit clients that its portal or an override refuses.
            await connection.admit(Method.NO_AUTHENTICATION)
        except BaseException as error:
            connection.report(error)
            connection.close_after(b"NO 2\n", "authentication failed")
            return None
        return request

    def success(self, bound):
        self.replied = 0
        return b"OK\n"

    def failure(self, code, error):
        self.replied = code.number if isinstance(code, ReplyCode) else code
        return b"NO %d\n" % self.replied

    def take_read_ahead(self):
        rest, self.buffer = bytes(self.buffer), bytearray()
        return rest

    def close(self):
        self.buffer.clear()


class TwoProtocols(SOCKS5ExtFactory):
    # HTTP takes all letters as first bytes.
    frontends = Frontends({**FRONTENDS, ord(">"): LineFrontend}, default=SOCKS5Frontend)


application = Application("two protocols")
listener = os.environ.get("LISTEN", "tcp:1080:interface=127.0.0.1")
SOCKS5ExtService(reactor, TwoProtocols(reactor), [listener]).setServiceParent(application)
