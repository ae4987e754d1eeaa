"""
Decoders: one plain function for each message, over a buffer that may hold less or more than it.

A decoder takes the buffer and the limits for pairs. It returns the message and
its length, or, as long as bytes are missing, the length that the buffer must
have before it is worth calling again. That length covers the next field only,
so no count is believed, and nothing it announces is buffered, before it was
checked. A decoder looks at no byte behind its message.
"""

from __future__ import annotations

import enum
import socket
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar, Union

from .codes import AddressType, Command, Method, Status
from .messages import (
    NO_ADDRESS,
    SOCKS_VERSION,
    SUBNEGOTIATION_VERSION,
    Address,
    Datagram,
    ExtendedRequest,
    ExtendedResponse,
    Greeting,
    MethodSelection,
    Reply,
    Request,
    UsernamePassword,
    UsernamePasswordResponse,
    domain_name_problem,
)
from .pairs import DEFAULT_PAIR_LIMITS, PairLimits, Pairs, has_key_characters

M = TypeVar("M")
Buffer = Union[bytes, bytearray]
Decoded = Union[tuple[M, int], int]
"""A message and its length, or the length that the buffer must have first."""
Decoder = Callable[[Buffer, PairLimits], Decoded[M]]


class Fault(enum.Enum):
    """What can be wrong with the bytes of a message."""

    VERSION = "the version byte is wrong"
    NO_METHODS = "no method is offered"
    RESERVED = "the reserved byte is not zero"
    ADDRESS_TYPE = "the address type is unknown"
    DOMAIN_NAME = "the host name may not stand in a request"
    KEY_EMPTY = "a key is empty"
    KEY_CHARACTERS = "a key is not printable ASCII"
    KEY_TWICE = "a key stands twice"
    LIMIT = "a limit is passed"
    METHOD = "the method was not offered"
    SYNTAX = "the HTTP message is malformed"
    TARGET = "the target is malformed"
    HOST = "the request is no CONNECT, and its Host is not this machine"
    WEB_PAGE = "the request comes from a web page"
    TRUNCATED = "the datagram is too short"


class MalformedMessage(Exception):
    """
    The peer sent bytes that no message may have.

    :ivar message: the name of the message's class, such as ``Greeting``.
    :ivar fault: what is wrong with it.
    :ivar detail: where, in words, without anything secret.
    """

    def __init__(self, message: str, fault: Fault, detail: str = "") -> None:
        super().__init__(f"{message}: {detail or fault.value}")
        self.message = message
        self.fault = fault
        self.detail = detail or fault.value


class MessageReader:
    """
    A buffer of bytes from a peer, from which messages are decoded one after another.

    :ivar buffer: bytes that are not decoded yet.
    """

    buffer: Buffer = b""
    _needed = 0

    def feed(self, data: bytes) -> None:
        """Add bytes that came from the peer. Data that arrives whole is not copied; only pieces are joined."""
        if not self.buffer:
            self.buffer = data
            return
        if not isinstance(self.buffer, bytearray):
            self.buffer = bytearray(self.buffer)
        self.buffer += data

    @property
    def buffered(self) -> int:
        """The number of bytes that are not decoded yet."""
        return len(self.buffer)

    def take_read_ahead(self) -> bytes:
        """Remove and return the bytes after the last message."""
        rest, self.buffer = bytes(self.buffer), b""
        return rest

    def close(self) -> None:
        """Drop what was fed: nothing more is decoded."""
        self.buffer = b""

    def decode(self, decoder: Decoder[M], limits: PairLimits = DEFAULT_PAIR_LIMITS) -> M | None:
        """
        Decode the next message; ``None`` if more bytes are needed.

        Until it returns a message, call it with the same decoder.

        :param limits: of pairs, if there are any in this message.
        :raises MalformedMessage: the bytes are not such a message. Do not use
            the reader any further.
        """
        buffer = self.buffer
        if len(buffer) < self._needed:
            return None
        decoded = decoder(buffer, limits)
        if isinstance(decoded, int):
            self._needed = decoded
            return None
        message, length = decoded
        self.buffer, self._needed = buffer[length:], 0
        return message


@lru_cache(maxsize=128)
def _greeting_with(methods: bytes) -> Greeting:
    """Clients send one of a few greetings, so share the objects."""
    return Greeting(tuple(map(Method, methods)))


def greeting(data: Buffer, limits: PairLimits) -> Decoded[Greeting]:
    """Decode a `Greeting`."""
    if not data or data[0] != SOCKS_VERSION:
        return _bad_version(data, Greeting, SOCKS_VERSION)
    if len(data) < 2:
        return 2
    length = data[1] + 2
    if length == 2:
        raise MalformedMessage("Greeting", Fault.NO_METHODS)
    if len(data) < length:
        return length
    return _greeting_with(bytes(data[2:length])), length


def method_selection(data: Buffer, limits: PairLimits) -> Decoded[MethodSelection]:
    """Decode a `MethodSelection`."""
    if not data or data[0] != SOCKS_VERSION:
        return _bad_version(data, MethodSelection, SOCKS_VERSION)
    return 2 if len(data) < 2 else (MethodSelection(Method(data[1])), 2)


def username_password(data: Buffer, limits: PairLimits) -> Decoded[UsernamePassword]:
    """Decode a `UsernamePassword`."""
    if not data or data[0] != SUBNEGOTIATION_VERSION:
        return _bad_version(data, UsernamePassword, SUBNEGOTIATION_VERSION)
    if len(data) < 2:
        return 2
    end = 2 + data[1]
    if len(data) <= end:
        return end + 1
    length = end + 1 + data[end]
    if len(data) < length:
        return length
    return UsernamePassword(bytes(data[2:end]), bytes(data[end + 1 : length])), length


def username_password_response(data: Buffer, limits: PairLimits) -> Decoded[UsernamePasswordResponse]:
    """Decode a `UsernamePasswordResponse`."""
    if not data or data[0] != SUBNEGOTIATION_VERSION:
        return _bad_version(data, UsernamePasswordResponse, SUBNEGOTIATION_VERSION)
    return 2 if len(data) < 2 else (UsernamePasswordResponse(Status(data[1])), 2)


def login_answer(data: Buffer, limits: PairLimits) -> Decoded[UsernamePasswordResponse]:
    """
    Decode a `UsernamePasswordResponse` whose version may be that of SOCKS.

    Some servers send that, and tor does where it refuses a login. Other clients, such as curl, accept it.
    """
    if not data or data[0] != SOCKS_VERSION:
        return username_password_response(data, limits)
    return 2 if len(data) < 2 else (UsernamePasswordResponse(Status(data[1])), 2)


def extended_request(data: Buffer, limits: PairLimits) -> Decoded[ExtendedRequest]:
    """Decode an `ExtendedRequest` within `limits`."""
    if not data or data[0] != SUBNEGOTIATION_VERSION:
        return _bad_version(data, ExtendedRequest, SUBNEGOTIATION_VERSION)
    decoded = _pairs(data, 1, "ExtendedRequest", limits)
    return decoded if isinstance(decoded, int) else (ExtendedRequest(decoded[0]), decoded[1])


def extended_response(data: Buffer, limits: PairLimits) -> Decoded[ExtendedResponse]:
    """Decode an `ExtendedResponse` within `limits`."""
    if not data or data[0] != SUBNEGOTIATION_VERSION:
        return _bad_version(data, ExtendedResponse, SUBNEGOTIATION_VERSION)
    if len(data) < 2:
        return 2
    decoded = _pairs(data, 2, "ExtendedResponse", limits)
    return decoded if isinstance(decoded, int) else (ExtendedResponse(Status(data[1]), decoded[0]), decoded[1])


def request(data: Buffer, limits: PairLimits) -> Decoded[Request]:
    """Decode a `Request`: strict, as C tor is, about everything that could be read in two ways."""
    if data[:4] == _CONNECT_TO_IPV4 and len(data) >= 10:
        return _connect_to_ipv4(bytes(data[4:10])), 10
    if not data or data[0] != SOCKS_VERSION:
        return _bad_version(data, Request, SOCKS_VERSION)
    if len(data) < 4:
        return 4
    if data[2]:
        raise MalformedMessage("Request", Fault.RESERVED)
    decoded = _address(data, 3, "Request")
    if isinstance(decoded, int):
        return decoded
    destination, length = decoded
    if data[3] == _DOMAINNAME:
        problem = domain_name_problem(bytes(data[5 : length - 2]))
        if problem:
            raise MalformedMessage("Request", Fault.DOMAIN_NAME, f"the host name {problem}")
    return Request(Command(data[1]), destination), length


@lru_cache(maxsize=1024)
def _connect_to_ipv4(target: bytes) -> Request:
    """Clients repeat their targets, and the server keeps a request as long as its stream: share the objects."""
    return Request(Command.CONNECT, _ipv4_address(target))


def reply_or_its_code(data: Buffer, limits: PairLimits) -> Decoded[Reply]:
    """
    Decode a `Reply`, and of a failing one only the code. Ignore the reserved byte, as tor does.

    Some servers send three or four bytes of a failing reply, and some of those keep the connection open.
    """
    if not data or data[0] != SOCKS_VERSION:
        return _bad_version(data, Reply, SOCKS_VERSION)
    if len(data) < 2:
        return 2
    if data[1]:
        return Reply(data[1]), 2
    if len(data) < 4:
        return 4
    decoded = _bound_address(data, 3)
    return decoded if isinstance(decoded, int) else (Reply(0, decoded[0]), decoded[1])


def rest_of_failed_reply(data: Buffer, limits: PairLimits) -> Decoded[Address]:
    """Decode what follows the code of a failing reply: its bound address."""
    return 2 if len(data) < 2 else _bound_address(data, 1)


def decode_datagram(data: bytes) -> Datagram:
    """
    Decode a whole UDP datagram (RFC 1928, section 7).

    :raises MalformedMessage: it is not a SOCKS5 datagram; RFC 1928 says to drop it silently.
    """
    if len(data) >= 4:
        if data[0] or data[1]:
            raise MalformedMessage("Datagram", Fault.RESERVED)
        decoded = _address(data, 3, "Datagram")
        if not isinstance(decoded, int):
            address, length = decoded
            return Datagram(data[2], address, data[length:])
    raise MalformedMessage("Datagram", Fault.TRUNCATED)


_IPV4, _DOMAINNAME, _IPV6 = AddressType.IPV4, AddressType.DOMAINNAME, AddressType.IPV6
_CONNECT_TO_IPV4 = bytes((SOCKS_VERSION, Command.CONNECT, 0, _IPV4))


def _bad_version(data: Buffer, message: type, expected: int) -> int:
    """Fail over the first byte; of an empty buffer, say that one is needed."""
    if not data:
        return 1
    raise MalformedMessage(message.__name__, Fault.VERSION, f"the version is 0x{data[0]:02X}, not 0x{expected:02X}")


_ipv4_host = lru_cache(maxsize=4096)(socket.inet_ntoa)


def _ipv4_address(field: bytes) -> Address:
    return Address(_IPV4, _ipv4_host(field[:4]), field[4] << 8 | field[5])


def _address(data: Buffer, start: int, message: str) -> Decoded[Address]:
    """Decode ATYP, ADDR and PORT; ATYP, at `start`, is in the buffer."""
    address_type = data[start]
    if address_type == _DOMAINNAME:
        if len(data) < start + 2:
            return start + 2
        end = start + 4 + data[start + 1]
    elif address_type == _IPV4:
        end = start + 7
    elif address_type == _IPV6:
        end = start + 19
    else:
        raise MalformedMessage(message, Fault.ADDRESS_TYPE, f"the address type 0x{address_type:02X} is unknown")
    if len(data) < end:
        return end
    if address_type == _IPV4:
        return _ipv4_address(bytes(data[start + 1 : end])), end
    port = data[end - 2] << 8 | data[end - 1]
    if address_type == _IPV6:
        return Address(_IPV6, socket.inet_ntop(socket.AF_INET6, bytes(data[start + 1 : end - 2])), port), end
    return Address(_DOMAINNAME, data[start + 2 : end - 2].decode("ascii", "surrogateescape"), port), end


def _bound_address(data: Buffer, start: int) -> Decoded[Address]:
    """Decode a reply's address: tor's answer to a RESOLVE that failed has the type 0 and four bytes."""
    if data[start] != AddressType.NONE:
        return _address(data, start, "Reply")
    return start + 7 if len(data) < start + 7 else (NO_ADDRESS, start + 7)


def _pairs(data: Buffer, start: int, message: str, limits: PairLimits) -> Decoded[Pairs]:
    """Decode NR PAIRS, at `start`, and as many pairs."""
    # Slices of bytes are bytes; nothing is copied if the message came whole.
    data, size, at = bytes(data), len(data), start + 2
    if size < at:
        return at
    count = data[start] << 8 | data[start + 1]
    if count > limits.pairs:
        raise MalformedMessage(message, Fault.LIMIT, f"{count} pairs, and at most {limits.pairs} are taken")
    most_of_key, most_of_value = limits.key_bytes, limits.value_bytes
    # Clients repeat their keys, so short ones are cached.
    key_of = _cached_key if most_of_key <= _LONGEST_CACHED else _key_of
    # All sizes are checked against the end that the longest permitted pairs have.
    last = at + limits.total_bytes
    values: dict[str, bytes] = {}
    for number in range(1, count + 1):
        begin = at + 2
        if size < begin:
            return begin
        end = begin + (data[at] << 8 | data[at + 1])
        if not begin < end <= begin + most_of_key:
            raise _bad_key_length(message, number, end - begin, limits)
        # VLEN always follows a key, so both are awaited together.
        at = end + 2
        if at > last:
            raise _too_many_bytes(message, limits)
        if size < at:
            return at
        key = key_of(data[begin:end])
        if key is None:
            raise MalformedMessage(message, Fault.KEY_CHARACTERS, f"the key of pair {number} is not printable ASCII")
        if key in values:
            raise MalformedMessage(message, Fault.KEY_TWICE, f"the key {key} stands twice")
        begin, at = at, at + (data[end] << 8 | data[end + 1])
        if at - begin > most_of_value:
            raise MalformedMessage(
                message, Fault.LIMIT, f"the value of {key} has {at - begin} bytes, at most {most_of_value}"
            )
        if at > last:
            raise _too_many_bytes(message, limits)
        if size < at:
            return at
        values[key] = data[begin:at]
    return Pairs.checked(values), at


def _bad_key_length(message: str, number: int, length: int, limits: PairLimits) -> MalformedMessage:
    if not length:
        return MalformedMessage(message, Fault.KEY_EMPTY, f"the key of pair {number} is empty")
    return MalformedMessage(
        message, Fault.LIMIT, f"the key of pair {number} has {length} bytes, at most {limits.key_bytes}"
    )


def _too_many_bytes(message: str, limits: PairLimits) -> MalformedMessage:
    return MalformedMessage(message, Fault.LIMIT, f"the pairs have more than {limits.total_bytes} bytes in all")


def _key_of(field: bytes) -> str | None:
    """Return the key in a field, or ``None`` if it has other characters."""
    key = field.decode("latin-1")
    return key if has_key_characters(key) else None


_LONGEST_CACHED = 255
_cached_key = lru_cache(maxsize=1024)(_key_of)
