"""
How names, addresses, arguments and texts are written in what a transport says (pt-spec, section 3.3).

No exception repeats what it could not read.
"""

from __future__ import annotations

import ipaddress
import re

from ..addresses import host_and_port
from ..checks import check_type

Fields = tuple[tuple[str, str], ...]
"""Keys and values in their order."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEY = re.compile(r"[!#-<>-~]+")
_SIMPLE_VALUE = re.compile(r"[!#-\[\]-~]+")
_FIELD = re.compile(r'([^\s="]+)=("(?:[^"\\]|\\.)*"|[^\s"]*)(?:\s+|$)', re.DOTALL)
_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|x([0-9A-Fa-f]{2})|(.))", re.DOTALL)
_LETTERS = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"\\": b"\\", b'"': b'"', b"'": b"'"}
_ARGUMENT = re.compile(r"((?:[^\\=,]|\\.)+)=((?:[^\\,]|\\.)*)(?:,(?!$)|$)")


def checked_name(name: str) -> str:
    """
    `name`, which names a transport: a C identifier.

    :raises ValueError: it cannot.
    :raises TypeError: it is not str.
    """
    check_type("the name of a transport", name, str)
    if _NAME.fullmatch(name) is None:
        raise ValueError("the name of a transport is letters, digits and underscores, and begins with no digit")
    return name


def printable(text: str) -> str:
    """`text` on one line of ASCII: what else is in it stands there as an escape."""
    return "".join(c if " " <= c <= "~" else c.encode("unicode_escape").decode("ascii") for c in text)


# Addresses.


def format_address(host: str, port: int) -> str:
    """
    Return an IP address and a port, as ``127.0.0.1:80`` or ``[::1]:80``.

    :raises ValueError: `host` is no IP address, or the port is not 1 to 65535.
    """
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise ValueError("the host is no IP address") from None
    if not 0 < port <= 0xFFFF:
        raise ValueError("a port is a number from 1 to 65535")
    return host_and_port(host, port)


def parse_address(text: str) -> tuple[str, int]:
    """
    Read ``127.0.0.1:80`` or ``[::1]:80``.

    :returns: the address, without brackets, and the port.
    :raises ValueError: it is neither, or the port is not 1 to 65535.
    """
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):([0-9]{1,5})", text)
    host, port = ("", 0) if match is None else (match[1] or match[2], int(match[3]))
    try:
        is_same = format_address(host, port) == f"{text.rpartition(':')[0]}:{port}"
    except ValueError:
        is_same = False
    if not is_same:
        raise ValueError("an address is not IP:PORT")
    return host, port


# Arguments of SMETHOD.


def format_arguments(arguments: Fields) -> str:
    """
    ``key=value,key=value``, with a backslash before what has a meaning there.

    :raises ValueError: tor could not read it: a key is empty, or something is
        not printable ASCII, or a space.
    """
    if not all(key for key, _ in arguments):
        raise ValueError("an argument of a server transport has no name")
    return ",".join(f"{_argument(key)}={_argument(value)}" for key, value in arguments)


def _argument(text: str) -> str:
    # Parents split the line at its spaces before they look for escapes.
    if not all("!" <= character <= "~" for character in text):
        raise ValueError("the arguments of a server transport are printable ASCII without spaces")
    return re.sub(r"([=,\\])", r"\\\1", text)


def parse_arguments_of_server(text: str) -> Fields:
    """
    Read ``key=value,key=value``.

    The first ``=`` without a backslash ends the key.

    :param text: empty for none, which obfs4proxy writes.
    :raises ValueError: it is anything else.
    """
    arguments, position = [], 0
    while position < len(text):
        match = _ARGUMENT.match(text, position)
        if match is None:
            raise ValueError("the arguments of an SMETHOD are not KEY=VALUE,KEY=VALUE")
        arguments.append((_without_backslashes(match[1]), _without_backslashes(match[2])))
        position = match.end()
    return tuple(arguments)


def _without_backslashes(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


# Fields of LOG and STATUS.


def format_field(key: str, value: str, quote: bool = False) -> str:
    """
    ``key=value``, with the value as a quoted text where it must be one.

    :param quote: whether it is one in any case.
    :raises ValueError: `key` is not printable ASCII without spaces and ``=``.
    """
    if _KEY.fullmatch(key) is None:
        raise ValueError("a key is printable ASCII without spaces and =")
    return f"{key}={value if not quote and _SIMPLE_VALUE.fullmatch(value) else _quoted(value)}"


def _quoted(text: str) -> str:
    """`text` as a CString of tor's control protocol."""
    return '"' + "".join(map(_quoted_byte, text.encode("utf-8", "surrogateescape"))) + '"'


def _quoted_byte(byte: int) -> str:
    if byte in b'"\\':
        return "\\" + chr(byte)
    return chr(byte) if 0x20 <= byte < 0x7F else f"\\{byte:03o}"


def parse_fields(text: str) -> Fields:
    """
    Read ``key=value key="quoted value"``.

    :raises ValueError: it is anything else.
    """
    fields, position = [], 0
    while position < len(text):
        match = _FIELD.match(text, position)
        if match is None:
            raise ValueError("this is not KEY=VALUE KEY=VALUE")
        fields.append((match[1], _unquoted(match[2])))
        position = match.end()
    return tuple(fields)


def _unquoted(text: str) -> str:
    if not text.startswith('"'):
        return text
    return _ESCAPE.sub(_byte_of, text[1:-1].encode("utf-8")).decode("utf-8", "backslashreplace")


def _byte_of(escape: re.Match[bytes]) -> bytes:
    octal, hexadecimal, letter = escape.groups()
    if letter is None:
        return bytes([int(octal, 8) if octal else int(hexadecimal, 16)])
    if letter not in _LETTERS:
        raise ValueError("a quoted text has an unknown escape")
    return _LETTERS[letter]
