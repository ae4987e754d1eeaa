"""
Incremental, bounded decoding.

A decoder is a generator that yields how many bytes it needs next, is sent
exactly those, and returns a message. So the same bytes give the same messages
however they are split, each byte is looked at once, and no count is believed
before it was checked.
"""

from __future__ import annotations

import enum
import socket
from collections.abc import Callable, Generator
from typing import Any, TypeVar

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
from .whole import greeting_with, whole_extended_request, whole_greeting, whole_request

M = TypeVar("M")
Decoder = Generator[int, bytes, M]


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

    :ivar buffer: what waits to be decoded.
    """

    def __init__(self) -> None:
        # What came at once stays as it came; only what comes in pieces is joined.
        self.buffer: bytes | bytearray = b""
        self._decoder: Decoder[Any] | None = None
        self._needed = 0

    def feed(self, data: bytes) -> None:
        """Add bytes that came from the peer."""
        if not self.buffer:
            self.buffer = data
            return
        if not isinstance(self.buffer, bytearray):
            self.buffer = bytearray(self.buffer)
        self.buffer += data

    @property
    def buffered(self) -> int:
        """How many bytes came and are not part of a message yet."""
        return len(self.buffer)

    def take_read_ahead(self) -> bytes:
        """Remove and return the bytes after the last message."""
        rest, self.buffer = bytes(self.buffer), b""
        return rest

    def decode(self, decoder_function: Callable[..., Decoder[M]], limits: PairLimits = DEFAULT_PAIR_LIMITS) -> M | None:
        """
        The next message, or ``None`` if more bytes are needed.

        A message that was begun is gone on with: then `decoder_function` must
        be the one that it was begun with.

        :param limits: of pairs, if there are any in this message.
        :raises MalformedMessage: the bytes are not such a message. The reader
            is of no more use then.
        """
        decoder = self._decoder
        if decoder is None:
            whole = _WHOLE.get(decoder_function)
            found = None if whole is None else whole(self.buffer, limits)
            if found is not None:
                self.buffer = b""
                return found  # type: ignore[no-any-return]
            takes_limits = decoder_function in _OF_PAIRS
            decoder = self._decoder = decoder_function(limits) if takes_limits else decoder_function()
            self._needed = next(decoder)
        buffer, position = self.buffer, 0
        try:
            while len(buffer) >= (end := position + self._needed):
                field = bytes(buffer[position:end])
                position = end
                self._needed = decoder.send(field)
        except StopIteration as stop:
            self._decoder = None
            message: M = stop.value
            return message
        finally:
            if position:
                self.buffer = buffer[position:]
        return None


def greeting() -> Decoder[Greeting]:
    """Decode a `Greeting`."""
    _check_version(Greeting, SOCKS_VERSION, (yield 1))
    (count,) = yield 1
    if not count:
        raise MalformedMessage("Greeting", Fault.NO_METHODS)
    return greeting_with((yield count))


def method_selection() -> Decoder[MethodSelection]:
    """Decode a `MethodSelection`."""
    _check_version(MethodSelection, SOCKS_VERSION, (yield 1))
    (method,) = yield 1
    return MethodSelection(Method(method))


def username_password() -> Decoder[UsernamePassword]:
    """Decode a `UsernamePassword`."""
    _check_version(UsernamePassword, SUBNEGOTIATION_VERSION, (yield 1))
    (username_length,) = yield 1
    # PLEN always follows, so it is fetched together with UNAME.
    field = yield username_length + 1
    password = (yield field[-1]) if field[-1] else b""
    return UsernamePassword(field[:-1], password)


def username_password_response() -> Decoder[UsernamePasswordResponse]:
    """Decode a `UsernamePasswordResponse`."""
    _check_version(UsernamePasswordResponse, SUBNEGOTIATION_VERSION, (yield 1))
    (status,) = yield 1
    return UsernamePasswordResponse(Status(status))


def extended_request(limits: PairLimits = DEFAULT_PAIR_LIMITS) -> Decoder[ExtendedRequest]:
    """Decode an `ExtendedRequest` within `limits`."""
    _check_version(ExtendedRequest, SUBNEGOTIATION_VERSION, (yield 1))
    return ExtendedRequest((yield from _pairs(ExtendedRequest, limits)))


def extended_response(limits: PairLimits = DEFAULT_PAIR_LIMITS) -> Decoder[ExtendedResponse]:
    """Decode an `ExtendedResponse` within `limits`."""
    _check_version(ExtendedResponse, SUBNEGOTIATION_VERSION, (yield 1))
    (status,) = yield 1
    return ExtendedResponse(Status(status), (yield from _pairs(ExtendedResponse, limits)))


def request() -> Decoder[Request]:
    """Decode a `Request`: strict, as C tor is, about all that could be read in two ways."""
    _check_version(Request, SOCKS_VERSION, (yield 1))
    command, reserved, address_type = yield 3
    if reserved:
        raise MalformedMessage("Request", Fault.RESERVED)
    destination = yield from _address(Request, address_type)
    if destination.is_name:
        problem = domain_name_problem(destination.host.encode("ascii", "surrogateescape"))
        if problem:
            raise MalformedMessage("Request", Fault.DOMAIN_NAME, f"the host name {problem}")
    return Request(Command(command), destination)


def reply_or_its_code() -> Decoder[Reply]:
    """
    Decode a `Reply`, and of a failing one only the code. The reserved byte is ignored, as tor ignores it.

    Some servers send three or four bytes of a failure, and some of those wait.
    """
    _check_version(Reply, SOCKS_VERSION, (yield 1))
    (code,) = yield 1
    if code:
        return Reply(code)
    _reserved, address_type = yield 2
    return Reply(code, (yield from _address(Reply, address_type)))


def rest_of_failed_reply() -> Decoder[Address]:
    """Decode what follows the code of a failing reply: its bound address."""
    _reserved, address_type = yield 2
    return (yield from _address(Reply, address_type))


def decode_datagram(data: bytes) -> Datagram:
    """
    Decode a whole UDP datagram.

    :raises MalformedMessage: it is not one of SOCKS5; RFC 1928 says to drop it
        in silence.
    """
    reader = MessageReader()
    reader.feed(data)
    header = reader.decode(_datagram_header)
    if header is None:
        raise MalformedMessage("Datagram", Fault.TRUNCATED)
    fragment, address = header
    return Datagram(fragment, address, reader.take_read_ahead())


def _datagram_header() -> Decoder[tuple[int, Address]]:
    high, low, fragment, address_type = yield 4
    if high or low:
        raise MalformedMessage("Datagram", Fault.RESERVED)
    return fragment, (yield from _address(Datagram, address_type))


def _check_version(message: type, expected: int, field: bytes) -> None:
    (version,) = field
    if version != expected:
        raise MalformedMessage(message.__name__, Fault.VERSION, f"the version is {version:02X}, not {expected:02X}")


def _address(message: type, address_type: int) -> Decoder[Address]:
    if address_type == AddressType.IPV4:
        field = yield 6
        return Address(AddressType.IPV4, socket.inet_ntoa(field[:4]), int.from_bytes(field[4:], "big"))
    if address_type == AddressType.DOMAINNAME:
        (length,) = yield 1
        field = yield length + 2
        name = field[:length].decode("ascii", "surrogateescape")
        return Address(AddressType.DOMAINNAME, name, int.from_bytes(field[length:], "big"))
    if address_type == AddressType.IPV6:
        field = yield 18
        host = socket.inet_ntop(socket.AF_INET6, field[:16])
        return Address(AddressType.IPV6, host, int.from_bytes(field[16:], "big"))
    if address_type == AddressType.NONE and message is Reply:
        yield 6
        return NO_ADDRESS
    raise MalformedMessage(message.__name__, Fault.ADDRESS_TYPE, f"the address type {address_type:02X} is unknown")


def _pairs(message: type, limits: PairLimits) -> Decoder[Pairs]:
    name = message.__name__
    count = int.from_bytes((yield 2), "big")
    if count > limits.pairs:
        raise MalformedMessage(name, Fault.LIMIT, f"{count} pairs, and at most {limits.pairs} are taken")
    values: dict[str, bytes] = {}
    total = 0
    for number in range(1, count + 1):
        key_length = int.from_bytes((yield 2), "big")
        if not key_length:
            raise MalformedMessage(name, Fault.KEY_EMPTY, f"the key of pair {number} is empty")
        if key_length > limits.key_bytes:
            raise MalformedMessage(
                name, Fault.LIMIT, f"the key of pair {number} has {key_length} bytes, at most {limits.key_bytes}"
            )
        total += 4 + key_length
        _check_total(name, total, limits)
        # VLEN always follows a key, so both are fetched together.
        field = yield key_length + 2
        key = field[:key_length].decode("latin-1")
        if not has_key_characters(key):
            raise MalformedMessage(name, Fault.KEY_CHARACTERS, f"the key of pair {number} is not printable ASCII")
        if key in values:
            raise MalformedMessage(name, Fault.KEY_TWICE, f"the key {key} stands twice")
        value_length = int.from_bytes(field[key_length:], "big")
        if value_length > limits.value_bytes:
            raise MalformedMessage(
                name, Fault.LIMIT, f"the value of {key} has {value_length} bytes, at most {limits.value_bytes}"
            )
        total += value_length
        _check_total(name, total, limits)
        values[key] = (yield value_length) if value_length else b""
    return Pairs.checked(values)


_WHOLE: dict[Any, Callable[..., Any]] = {
    greeting: whole_greeting,
    request: whole_request,
    extended_request: whole_extended_request,
}
"""
The messages that most connections consist of, as they mostly come: alone, and all at once.

See `txsocksx_ext.protocol.whole`.
"""

_OF_PAIRS = frozenset({extended_request, extended_response})
"""The decoders that take limits."""


def _check_total(name: str, total: int, limits: PairLimits) -> None:
    if total > limits.total_bytes:
        raise MalformedMessage(name, Fault.LIMIT, f"the pairs have more than {limits.total_bytes} bytes in all")
