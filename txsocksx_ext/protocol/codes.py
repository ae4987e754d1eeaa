"""
The numbers of SOCKS5 and their names.

Every enumeration is open: a number without a name decodes, compares and
prints (``0x7F``), so that what a peer sent is never lost. All are integers that
print in hexadecimal, as the specifications write them.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


class Byte(int):
    """A number from 0 to 255 that prints in hexadecimal: ``0x97``."""

    def __repr__(self) -> str:
        return f"0x{self:02X}"

    __str__ = __repr__

    def __format__(self, specification: str) -> str:
        return int.__format__(self, specification) if specification else repr(self)


class OpenEnum(enum.IntEnum):
    """An enumeration of one byte that takes any number from 0 to 255, and prints in hexadecimal as `Byte` does."""

    # Members are looked up in dicts on every connection. As they equal their numbers, they hash alike.
    __hash__ = int.__hash__

    def __repr__(self) -> str:
        return f"<{type(self).__name__}.{self.name}: {self}>"

    def __str__(self) -> str:
        return f"0x{self:02X}"

    def __format__(self, specification: str) -> str:
        return int.__format__(self, specification) if specification else str(self)

    @classmethod
    def _missing_(cls, value: object) -> Any:
        if not isinstance(value, int) or not 0 <= value <= 0xFF:
            return None
        unknown = int.__new__(cls, value)
        unknown._name_ = f"0x{value:02X}"
        unknown._value_ = value
        # At most 256 of them exist, so keeping each makes the second look-up fast.
        return cls._value2member_map_.setdefault(value, unknown)

    @property
    def is_known(self) -> bool:
        """Whether this number has a name of its own here."""
        return self._name_ in type(self).__members__


class Method(OpenEnum):
    """Authentication methods (RFC 1928, section 3; proposal 229, section 2.1)."""

    NO_AUTHENTICATION = 0x00
    GSSAPI = 0x01
    USERNAME_PASSWORD = 0x02
    EXTENDED = 0x97
    NO_ACCEPTABLE = 0xFF


class Command(OpenEnum):
    """Commands (RFC 1928, section 4; Tor's SOCKS extensions)."""

    CONNECT = 0x01
    BIND = 0x02
    UDP_ASSOCIATE = 0x03
    RESOLVE = 0xF0
    RESOLVE_PTR = 0xF1


class AddressType(OpenEnum):
    """Address types (RFC 1928, section 5). Tor answers a failed RESOLVE with 0."""

    NONE = 0x00
    IPV4 = 0x01
    DOMAINNAME = 0x03
    IPV6 = 0x04


class Status(OpenEnum):
    """The outcome of authentication (RFC 1929; proposal 229, section 2.1)."""

    SUCCESS = 0x00
    AUTHENTICATION_FAILED = 0x01
    INVALID_ARGUMENTS = 0x02


class Dialect(enum.Enum):
    """
    Which table of reply codes is spoken.

    The same number means different things in different tables, so a code is
    never read or sent without one.
    """

    PLAIN = "plain"
    """RFC 1928's codes alone."""
    PROP229 = "prop229"
    """Those, and proposal 229's 0xE0, 0xE1 (onion services), 0xF0 to 0xF2 (transports)."""
    TOR = "tor"
    """Those of RFC 1928, and Tor's deployed 0xF0 to 0xF7 (proposal 304)."""


@dataclass(frozen=True, slots=True)
class ReplyCode:
    """
    One row of the tables of reply codes.

    :ivar number: the byte in the REP field.
    :ivar dialect: the table in which the number has this meaning.
    :ivar name: the specification's name.
    :ivar sentence: what happened, in words.
    :ivar plain: what to send instead to a client that knows RFC 1928 alone.
    :ivar prop229: what to send instead to a client that knows 0xE0 and 0xE1 but not
        this code; ``None`` where only `plain` will do.
    """

    number: int
    dialect: Dialect
    name: str
    sentence: str
    plain: int
    prop229: int | None = None

    def __post_init__(self) -> None:
        for name in ("number", "plain", "prop229"):
            number = getattr(self, name)
            if number is not None:
                object.__setattr__(self, name, Byte(number))

    def __str__(self) -> str:
        return f"{self.number} {self.name}"


def _rfc1928(number: int, name: str, sentence: str) -> ReplyCode:
    return ReplyCode(number, Dialect.PLAIN, name, sentence, number)


SUCCEEDED = _rfc1928(0x00, "succeeded", "the connection stands")
GENERAL_FAILURE = _rfc1928(0x01, "general SOCKS server failure", "the proxy failed, and did not say how")
NOT_ALLOWED = _rfc1928(0x02, "connection not allowed by ruleset", "the proxy's rules do not allow it")
NETWORK_UNREACHABLE = _rfc1928(0x03, "network unreachable", "the target's network cannot be reached")
HOST_UNREACHABLE = _rfc1928(0x04, "host unreachable", "the target was not found, or cannot be reached")
CONNECTION_REFUSED = _rfc1928(0x05, "connection refused", "the target refused the connection")
TTL_EXPIRED = _rfc1928(0x06, "TTL expired", "the target did not answer in time")
COMMAND_NOT_SUPPORTED = _rfc1928(0x07, "command not supported", "the proxy does not know this command")
ADDRESS_TYPE_NOT_SUPPORTED = _rfc1928(
    0x08, "address type not supported", "the proxy cannot reach addresses of this type"
)

# The proposal's names and sentences for 0xE0 and 0xE1 contradict each other; the
# names hold (docs/protocol.rst says why).
ONION_SERVICE_NOT_FOUND = ReplyCode(
    0xE0, Dialect.PROP229, "onion service not found", "there is no such onion service", plain=0x04
)
ONION_SERVICE_NOT_REACHABLE = ReplyCode(
    0xE1, Dialect.PROP229, "onion service not reachable", "the onion service could not be reached", plain=0x04
)
TRANSPORT_TEMPORARY_FAILURE = ReplyCode(
    0xF0,
    Dialect.PROP229,
    "temporary pluggable transport failure, retry immediately",
    "the transport failed, and is likely to succeed at once",
    plain=0x01,
)
TRANSPORT_PROTOCOL_FAILURE = ReplyCode(
    0xF1,
    Dialect.PROP229,
    "pluggable transport protocol failure, invalid bridge",
    "the bridge does not speak this transport, or not with these arguments",
    plain=0x01,
)
TRANSPORT_INTERNAL_ERROR = ReplyCode(
    0xF2, Dialect.PROP229, "pluggable transport internal error", "the transport itself failed", plain=0x01
)

DESCRIPTOR_NOT_FOUND = ReplyCode(
    0xF0,
    Dialect.TOR,
    "onion service descriptor can not be found",
    "there is no such onion service",
    plain=0x04,
    prop229=0xE0,
)
DESCRIPTOR_INVALID = ReplyCode(
    0xF1,
    Dialect.TOR,
    "onion service descriptor is invalid",
    "the onion service's descriptor cannot be used",
    plain=0x04,
    prop229=0xE1,
)
INTRODUCTION_FAILED = ReplyCode(
    0xF2,
    Dialect.TOR,
    "onion service introduction failed",
    "the onion service was found, and no introduction point leads to it",
    plain=0x04,
    prop229=0xE1,
)
RENDEZVOUS_FAILED = ReplyCode(
    0xF3,
    Dialect.TOR,
    "onion service rendezvous failed",
    "the onion service was found, and did not come to the rendezvous",
    plain=0x06,
    prop229=0xE1,
)
CLIENT_AUTHORIZATION_MISSING = ReplyCode(
    0xF4,
    Dialect.TOR,
    "onion service missing client authorization",
    "the onion service asks for a client key, and there is none",
    plain=0x01,
    prop229=0xE1,
)
CLIENT_AUTHORIZATION_WRONG = ReplyCode(
    0xF5,
    Dialect.TOR,
    "onion service wrong client authorization",
    "the onion service does not accept the client key",
    plain=0x01,
    prop229=0xE1,
)
ONION_ADDRESS_INVALID = ReplyCode(
    0xF6,
    Dialect.TOR,
    "onion service invalid address",
    "this is not the address of an onion service",
    plain=0x01,
    prop229=0xE0,
)
INTRODUCTION_TIMED_OUT = ReplyCode(
    0xF7,
    Dialect.TOR,
    "onion service introduction timed out",
    "the onion service was found, and its introduction points did not answer",
    plain=0x04,
    prop229=0xE1,
)

ONION_NUMBERS = frozenset({ONION_SERVICE_NOT_FOUND.number, ONION_SERVICE_NOT_REACHABLE.number})
"""0xE0 and 0xE1, which mean the same in every dialect."""

REPLY_CODES: tuple[ReplyCode, ...] = tuple(row for row in globals().values() if isinstance(row, ReplyCode))
"""Every row of every table, in the order of the dialects."""

_ROWS: dict[tuple[Dialect, int], ReplyCode] = {(row.dialect, row.number): row for row in REPLY_CODES}
_IN_EVERY_DIALECT: dict[int, ReplyCode] = {
    row.number: row for row in REPLY_CODES if row.dialect is Dialect.PLAIN or row.number in ONION_NUMBERS
}


def reply_row(number: int, dialect: Dialect) -> ReplyCode | None:
    """
    Return what `number` means to a reader of `dialect`, or ``None`` if it means nothing there.

    RFC 1928's codes, and 0xE0 and 0xE1, mean the same to every reader.

    :param number: 0 to 255.
    """
    return _ROWS.get((dialect, number)) or _IN_EVERY_DIALECT.get(number)


def reply_rows(dialect: Dialect) -> Iterator[ReplyCode]:
    """Every code that means something in `dialect`, by number."""
    for number in range(0x100):
        row = reply_row(number, dialect)
        if row is not None:
            yield row


def reply_name(number: int, dialect: Dialect) -> str:
    """Return the name of a reply code in `dialect`, such as ``0xE0 onion service not found``."""
    row = reply_row(number, dialect)
    return f"0x{number:02X} unknown" if row is None else str(row)


def permitted_code(code: int | ReplyCode, *, offered_extended: bool, selected: Method, dialect: Dialect) -> int:
    """
    Return the reply code that may leave instead of `code`: the only gate for extended codes.

    Proposal 229, section 2.2: no extended code to a client that did not offer
    method 0x97. 0xE0 and 0xE1 may be sent as soon as it was offered; 0xF0 to
    0xF2 only if it was selected too, because another client reads them as
    Tor's; Tor's own 0xF0 to 0xF7 only to a client that asked for them.

    :param code: a row, or the number of one: RFC 1928's, 0xE0, 0xE1, or an
        F-code in the meaning of `dialect`.
    :param offered_extended: whether 0x97 was among the methods offered.
    :param selected: the method selected.
    :param dialect: what the client asked for by ``tor.errors``.
    :returns: the number itself, or the nearest that this client understands.
    """
    row = code if isinstance(code, ReplyCode) else reply_row(code, dialect)
    if row is None:
        return GENERAL_FAILURE.number
    if row.dialect is Dialect.PLAIN:
        return row.number
    if not offered_extended or dialect is Dialect.PLAIN:
        return row.plain
    if row.number in ONION_NUMBERS or (row.dialect is dialect and selected == Method.EXTENDED):
        return row.number
    return row.plain if row.prop229 is None else row.prop229
