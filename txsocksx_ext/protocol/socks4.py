"""
SOCKS4 and its extension 4a, both ends, without I/O.

One request, ``04 CD DSTPORT DSTIP USERID 00``, and one reply, ``00 CD DSTPORT
DSTIP``. SOCKS4a adds a name behind the request, for which DSTIP is 0.0.0.x.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

from .codes import AddressType, Command
from .decoding import Buffer, Decoded, Fault, MalformedMessage, MessageReader
from .messages import UNSPECIFIED, Address, Request, domain_name_problem
from .pairs import PairLimits

SOCKS4_VERSION = 0x04
GRANTED = 0x5A
REJECTED = 0x5B
"""The two codes that are sent here: the others are about identd."""

LONGEST_FIELD = 255
"""The most bytes of a user id or a name."""


@dataclass(frozen=True, slots=True)
class SOCKS4Request:
    """
    What the client wants.

    :ivar user_id: tells users of one machine apart. It is no secret to the
        server, and none of its business either: programs send the login name.
    """

    command: Command
    destination: Address
    user_id: bytes = field(default=b"", repr=False)

    def encode(self) -> bytes:
        """
        Return the bytes of this message.

        :raises ValueError: SOCKS4 cannot carry the address, the name or the user id.
        """
        destination = self.destination
        name = b""
        if destination.type == AddressType.IPV4:
            address = socket.inet_aton(destination.host)
            if address[:3] == b"\0\0\0":
                raise ValueError("SOCKS4 cannot carry addresses in 0.0.0.0/24")
        else:
            # Servers of SOCKS4a take an IPv6 address as a name.
            address, name = b"\0\0\0\1", destination.host.encode("ascii") + b"\0"
        if b"\0" in self.user_id or len(self.user_id) > LONGEST_FIELD:
            raise ValueError(f"a user id has at most {LONGEST_FIELD} bytes, and none of them is 0")
        port = destination.port.to_bytes(2, "big")
        return b"".join((bytes((SOCKS4_VERSION, self.command)), port, address, self.user_id, b"\0", name))


@dataclass(frozen=True, slots=True)
class SOCKS4Reply:
    """
    The answer.

    :ivar code: 0x5A granted; any other is a failure.
    :ivar bound: `UNSPECIFIED` of a failing reply.
    """

    code: int
    bound: Address = UNSPECIFIED

    def encode(self) -> bytes:
        """Return the bytes of this message. What is not IPv4 cannot be shown, and is zero."""
        if self.bound.type != AddressType.IPV4:
            return bytes((0, self.code, 0, 0, 0, 0, 0, 0))
        return b"".join((bytes((0, self.code)), self.bound.port.to_bytes(2, "big"), socket.inet_aton(self.bound.host)))


def request(data: Buffer, limits: PairLimits) -> Decoded[SOCKS4Request]:
    """Decode a `SOCKS4Request`."""
    if not data:
        return 1
    if data[0] != SOCKS4_VERSION:
        raise MalformedMessage("SOCKS4Request", Fault.VERSION)
    if len(data) < 9:
        return 9
    end = _end_of_field(data, 8, "user id")
    if end is None:
        return len(data) + 1
    port, address = data[2] << 8 | data[3], bytes(data[4:8])
    if address[:3] != b"\0\0\0":
        destination, length = Address(AddressType.IPV4, socket.inet_ntoa(address), port), end + 1
    elif not address[3]:
        raise MalformedMessage("SOCKS4Request", Fault.ADDRESS_TYPE, "the address is 0.0.0.0")
    else:
        last = _end_of_field(data, end + 1, "host name")
        if last is None:
            return len(data) + 1
        name = bytes(data[end + 1 : last])
        problem = domain_name_problem(name)
        if problem:
            raise MalformedMessage("SOCKS4Request", Fault.DOMAIN_NAME, f"the host name {problem}")
        destination, length = Address(AddressType.DOMAINNAME, name.decode("ascii"), port), last + 1
    return SOCKS4Request(Command(data[1]), destination, bytes(data[8:end])), length


def _end_of_field(data: Buffer, start: int, what: str) -> int | None:
    """Return where the 0 behind a field is, or ``None`` while it is missing."""
    limit = start + LONGEST_FIELD + 1
    end = data.find(b"\0", start, limit)
    if end >= 0:
        return end
    if len(data) < limit:
        return None
    raise MalformedMessage("SOCKS4Request", Fault.LIMIT, f"the {what} has more than {LONGEST_FIELD} bytes")


def reply(data: Buffer, limits: PairLimits) -> Decoded[SOCKS4Reply]:
    """Decode a `SOCKS4Reply`, and of a failing one only the code: some servers send no more than four bytes."""
    if not data:
        return 1
    if data[0] != 0:
        raise MalformedMessage("SOCKS4Reply", Fault.VERSION)
    if len(data) < 2:
        return 2
    if data[1] != GRANTED:
        return SOCKS4Reply(data[1]), 2
    if len(data) < 8:
        return 8
    host = socket.inet_ntoa(bytes(data[4:8]))
    return SOCKS4Reply(GRANTED, Address(AddressType.IPV4, host, data[2] << 8 | data[3])), 8


class Responder(MessageReader):
    """
    The server's end.

    :ivar user_id: what the client sent; empty before that.
    :ivar final_reply: after a violation, the bytes to send before closing.
    """

    final_reply = b""
    user_id = b""

    def next_message(self) -> Request | None:
        """
        Decode the client's request.

        :returns: ``None`` while bytes are missing.
        :raises MalformedMessage: the client violated the protocol.
        """
        try:
            message = self.decode(request)
        except MalformedMessage as violation:
            self.final_reply = self.rejected()
            # The decoder's frames hold names; a traceback must not show them.
            raise violation.with_traceback(None) from None
        if message is None:
            return None
        self.user_id = message.user_id
        return Request(message.command, message.destination)

    def granted(self, bound: Address) -> bytes:
        """Return the bytes of the reply that the connection stands."""
        return SOCKS4Reply(GRANTED, bound).encode()

    def rejected(self) -> bytes:
        """Return the bytes of the reply to any failure."""
        return SOCKS4Reply(REJECTED).encode()


class Initiator(MessageReader):
    """The client's end: send the request, then read the reply. What follows the reply is the target's."""

    def next_message(self) -> SOCKS4Reply | None:
        """
        Decode the server's reply.

        :returns: ``None`` while bytes are missing.
        :raises MalformedMessage: the server violated the protocol.
        """
        return self.decode(reply)
