"""
The messages of RFC 1928, RFC 1929 and proposal 229, each with its encoding.

Every message is immutable. No `repr` shows a host name, a user name, a
password or the value of a pair, so that a log or a traceback cannot leak one.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from socket import inet_aton
from struct import Struct
from typing import Any, Union

from .codes import AddressType, Command, Method, Status
from .pairs import NO_PAIRS, Pairs, as_bytes

SOCKS_VERSION = 0x05
SUBNEGOTIATION_VERSION = 0x01
"""The first byte of RFC 1929's and of proposal 229's messages."""


def _setters(message: type) -> list[Callable[[Any, Any], None]]:
    """
    Return what sets each slot of a class, for its ``__init__``.

    Every connection makes some messages, and what `dataclass` writes for frozen
    ones takes twice as long.
    """
    return [vars(message)[slot.name].__set__ for slot in fields(message)]


# Members of an enumeration are found quicker by names of a module's own.
_IPV4, _IPV6, _DOMAINNAME = AddressType.IPV4, AddressType.IPV6, AddressType.DOMAINNAME


@dataclass(frozen=True, slots=True)
class Address:
    """
    An address and a port as SOCKS5 carries them (RFC 1928, section 5).

    :ivar type: IPv4, IPv6 or a domain name.
    :ivar host: the address in its usual notation, or the name; bytes outside
        ASCII, which only a reply may hold, stand as surrogate escapes.
    :ivar port: 0 to 65535.
    """

    type: AddressType
    host: str = field(repr=False)
    port: int

    def __init__(self, type: AddressType, host: str, port: int) -> None:
        _set_type(self, type)
        _set_host(self, host)
        _set_port(self, port)

    @classmethod
    def of(cls, host: str, port: int) -> Address:
        """
        Return the address of `host`: an IPv4 or IPv6 literal, or a domain name.

        :param host: a literal without brackets, or a name in ASCII; for other
            names see `txsocksx_ext.client.endpoints`.
        :raises ValueError: a name that SOCKS5 cannot carry, or a bad port.
        """
        if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port <= 0xFFFF:
            raise ValueError(f"port must be an integer from 0 to 65535, not {port!r}")
        return cls(_type_of(host), host, port)

    @property
    def is_name(self) -> bool:
        """Whether this is a domain name, which someone has to resolve."""
        return self.type == _DOMAINNAME

    @property
    def is_onion(self) -> bool:
        """Whether this is an onion service's name, which only Tor may see (RFC 7686)."""
        name = self.host.lower().rstrip(".")
        return self.is_name and (name == "onion" or name.endswith(".onion"))

    @property
    def is_well_formed(self) -> bool:
        """Whether this is an address, or a name of letters, digits, ``-`` and ``_`` that DNS could hold."""
        if not self.is_name:
            return self.type != AddressType.NONE
        host = self.host.removesuffix(".")
        if ":" in host:
            return _is_literal(socket.AF_INET6, host)
        return len(host) <= _LONGEST_NAME and _HOST_NAME.fullmatch(host) is not None

    def encode(self) -> bytes:
        """ATYP, ADDR, PORT."""
        if self.type == _IPV4:
            return _ipv4_fields(0x01, inet_aton(self.host), self.port)
        port = self.port.to_bytes(2, "big")
        if self.type == _IPV6:
            return b"\x04" + socket.inet_pton(socket.AF_INET6, self.host) + port
        if self.type == AddressType.NONE:
            return b"\x00\x00\x00\x00\x00" + port
        name = self.host.encode("ascii", "surrogateescape")
        return b"\x03" + len(name).to_bytes(1, "big") + name + port


_LONGEST_NAME = 253
"""Characters of a name in DNS, without the dot at its end (RFC 1035, section 2.3.4)."""
_HOST_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*")


_set_type, _set_host, _set_port = _setters(Address)
_ipv4_fields = Struct(">B4sH").pack


def _type_of(host: str) -> AddressType:
    for family, kind in ((socket.AF_INET, AddressType.IPV4), (socket.AF_INET6, AddressType.IPV6)):
        if _is_literal(family, host):
            return kind
    problem = domain_name_problem(as_bytes("a host name", host))
    if problem:
        raise ValueError(f"a host name {problem}")
    return AddressType.DOMAINNAME


def _is_literal(family: int, host: str) -> bool:
    try:
        socket.inet_pton(family, host)
    except (OSError, ValueError):
        return False
    return True


_PRINTABLE = re.compile(rb"[\x21-\x7e]+\Z")


def domain_name_problem(name: bytes) -> str | None:
    """
    Return why `name` may not stand in a request, as the end of a sentence; or ``None``.

    What C tor cuts at a NUL, and what it refuses, is refused here: a name must
    mean the same to everyone who reads it.
    """
    if not name:
        return "is empty"
    if len(name) > 255:
        return f"has {len(name)} bytes: SOCKS5 carries at most 255"
    if not _PRINTABLE.match(name):
        return "holds a byte that is not printable ASCII"
    return None


UNSPECIFIED = Address(AddressType.IPV4, "0.0.0.0", 0)
"""The bound address of a reply that has none to tell."""
NO_ADDRESS = Address(AddressType.NONE, "", 0)
"""The address of Tor's answer to a RESOLVE that failed: type 0, four zero bytes."""


@dataclass(frozen=True, slots=True)
class Greeting:
    """Version identifier and methods (RFC 1928, section 3): ``05 NMETHODS METHODS``."""

    methods: tuple[Method, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.methods) <= 255:
            raise ValueError(f"a greeting offers 1 to 255 methods, not {len(self.methods)}")

    def encode(self) -> bytes:
        """Return the bytes of this message."""
        return bytes((SOCKS_VERSION, len(self.methods), *self.methods))


@dataclass(frozen=True, slots=True)
class MethodSelection:
    """The method that the responder chose (RFC 1928, section 3): ``05 METHOD``."""

    method: Method

    def encode(self) -> bytes:
        """Return the bytes of this message."""
        return bytes((SOCKS_VERSION, self.method))


@dataclass(frozen=True, slots=True, repr=False)
class UsernamePassword:
    """
    Credentials (RFC 1929): ``01 ULEN UNAME PLEN PASSWD``.

    The RFC wants 1 to 255 bytes of each. Empty ones decode, since clients send
    them and a proxy accepts them.
    """

    username: bytes
    password: bytes

    def __post_init__(self) -> None:
        for name, value in (("user name", self.username), ("password", self.password)):
            if len(value) > 255:
                raise ValueError(f"a {name} of {len(value)} bytes does not fit RFC 1929: at most 255")

    def __repr__(self) -> str:
        return "<UsernamePassword>"

    def encode(self) -> bytes:
        """Return the bytes of this message."""
        return b"".join(
            (
                bytes((SUBNEGOTIATION_VERSION, len(self.username))),
                self.username,
                bytes((len(self.password),)),
                self.password,
            )
        )


@dataclass(frozen=True, slots=True)
class UsernamePasswordResponse:
    """The answer to credentials (RFC 1929): ``01 STATUS``, 0 for success."""

    status: Status

    def encode(self) -> bytes:
        """Return the bytes of this message."""
        return bytes((SUBNEGOTIATION_VERSION, self.status))


@dataclass(frozen=True, slots=True)
class ExtendedRequest:
    """Extended Authentication request (proposal 229, section 2.1): ``01`` and pairs."""

    pairs: Pairs = NO_PAIRS

    def encode(self) -> bytes:
        """Return the bytes of this message."""
        return b"\x01" + self.pairs.encode()


@dataclass(frozen=True, slots=True)
class ExtendedResponse:
    """Extended Authentication response (proposal 229, section 2.1): ``01 STATUS`` and pairs."""

    status: Status
    pairs: Pairs = NO_PAIRS

    def encode(self) -> bytes:
        """Return the bytes of this message."""
        return bytes((SUBNEGOTIATION_VERSION, self.status)) + self.pairs.encode()


@dataclass(frozen=True, slots=True)
class Request:
    """What the client wants (RFC 1928, section 4): ``05 CMD 00 ATYP DST.ADDR DST.PORT``."""

    command: Command
    destination: Address

    def encode(self) -> bytes:
        """Return the bytes of this message."""
        return bytes((SOCKS_VERSION, self.command, 0)) + self.destination.encode()


@dataclass(frozen=True, slots=True)
class Reply:
    """
    The answer to a request (RFC 1928, section 6): ``05 REP 00 ATYP BND.ADDR BND.PORT``.

    :ivar code: the byte as sent; `txsocksx_ext.protocol.codes.reply_row` says what
        it means in a dialect.
    """

    code: int
    bound: Address = UNSPECIFIED

    def __init__(self, code: int, bound: Address = UNSPECIFIED) -> None:
        _set_code(self, code)
        _set_bound(self, bound)

    def encode(self) -> bytes:
        """Return the bytes of this message."""
        return bytes((SOCKS_VERSION, self.code, 0)) + self.bound.encode()


_set_code, _set_bound = _setters(Reply)


@dataclass(frozen=True, slots=True)
class Datagram:
    """
    A UDP request header and its data (RFC 1928, section 7).

    :ivar fragment: the FRAG byte: 0 stands alone, 1 to 127 is a position in a
        sequence, and the high bit marks the last of it.
    """

    fragment: int
    address: Address
    data: bytes = field(repr=False)

    @property
    def stands_alone(self) -> bool:
        """Whether the data is no fragment."""
        return self.fragment == 0

    @property
    def position(self) -> int:
        """The place in the sequence of fragments, from 1."""
        return self.fragment & 0x7F

    @property
    def is_last(self) -> bool:
        """Whether this fragment ends its sequence."""
        return bool(self.fragment & 0x80)

    def encode(self) -> bytes:
        """Return the bytes of this datagram."""
        return bytes((0, 0, self.fragment)) + self.address.encode() + self.data


Message = Union[
    Greeting,
    MethodSelection,
    UsernamePassword,
    UsernamePasswordResponse,
    ExtendedRequest,
    ExtendedResponse,
    Request,
    Reply,
]
