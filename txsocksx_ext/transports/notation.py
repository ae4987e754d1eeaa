"""
The notation of names, addresses, arguments and texts between a transport and its parent (pt-spec, section 3.3).

No exception repeats the text that could not be read.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from contextlib import suppress

from ..addresses import host_and_port
from ..checks import check_type

Fields = tuple[tuple[str, str], ...]
"""Keys and values in their order."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f.]*:[0-9A-Fa-f:.]*)\]|([0-9.]+)):([0-9]{1,5})")
_KEY = re.compile(r"[!#-<>-~]+")
_SIMPLE_VALUE = re.compile(r"[!#-\[\]-~]+")
_FIELD = re.compile(r'([^\s="]+)=("(?:[^"\\]|\\.)*"|[^\s"]*)(?:\s+|$)', re.DOTALL)
_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|x([0-9A-Fa-f]{2})|(.))", re.DOTALL)
_LETTERS = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"\\": b"\\", b'"': b'"', b"'": b"'"}


def checked_name(name: str) -> str:
    """
    Return the name of a transport: a C identifier.

    :raises ValueError: `name` is not one.
    :raises TypeError: `name` is not str.
    """
    check_type("the name of a transport", name, str)
    if _NAME.fullmatch(name) is None:
        raise ValueError("the name of a transport is letters, digits and underscores, and begins with no digit")
    return name


def printable(text: str) -> str:
    """Return `text` as one line of ASCII; other characters become escapes."""
    return "".join(c if " " <= c <= "~" else c.encode("unicode_escape").decode("ascii") for c in text)


# Addresses.


def format_address(host: str, port: int, least_port: int = 1) -> str:
    """
    Return an IP address and a port, as ``127.0.0.1:80`` or ``[::1]:80``.

    :param least_port: 0 for an address to listen at, where it stands for any free port.
    :raises ValueError: `host` is no IP address, or the port is out of range.
    """
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise ValueError("the host is no IP address") from None
    if not least_port <= port <= 0xFFFF:
        raise ValueError(f"a port is a number from {least_port} to 65535")
    return host_and_port(host, port)


def parse_address(text: str, least_port: int = 1) -> tuple[str, int]:
    """
    Read what `format_address` writes.

    :returns: the address, without brackets, and the port.
    :raises ValueError: the text is not such an address.
    """
    match = _ADDRESS.fullmatch(text)
    if match is not None:
        host, port = match[1] or match[2], int(match[3])
        with suppress(ValueError):
            format_address(host, port, least_port)
            return host, port
    raise ValueError("an address is not IP:PORT")


# Lists of key=value: the arguments of one connection, of an SMETHOD, and a server's options.


def join_pairs(pairs: Iterable[tuple[str, str]], separator: str, in_value: str = "\\") -> str:
    """
    Write ``key=value;key=value``, with a backslash before each character that has a meaning.

    :param separator: what stands between two pairs.
    :param in_value: the further characters that a value may not hold unescaped.
    :raises ValueError: a key is empty.
    """
    fields = []
    for key, value in pairs:
        if not key:
            raise ValueError("a transport's argument has no name")
        fields.append(f"{_escaped(key, separator + '=' + in_value)}={_escaped(value, separator + in_value)}")
    return separator.join(fields)


def _escaped(text: str, special: str) -> str:
    return "".join("\\" + character if character in special else character for character in text)


def split_pairs(text: str, separator: str, escapable: str = "") -> Fields:
    """
    Read what `join_pairs` writes. The first ``=`` without a backslash ends the key.

    :param escapable: the only characters that may follow a backslash; any if empty.
    :raises ValueError: the text is not such a list.
    """
    pairs: list[tuple[str, str]] = []
    key, part = None, ""
    # A token is one character, or a backslash and the character behind it.
    for token in [*re.findall(r"\\?.", text, re.DOTALL), separator] if text else []:
        argument = f"argument {len(pairs) + 1}"
        if token == separator:
            if not key:
                raise ValueError(f"{argument} {'is not key=value' if key is None else 'has no name'}")
            pairs.append((key, part))
            key, part = None, ""
        elif token == "=" and key is None:
            key, part = part, ""
        elif token == "\\":
            raise ValueError(f"{argument} ends in a lone backslash")
        elif len(token) == 2 and escapable and token[1] not in escapable:
            raise ValueError(f"{argument} has a backslash before an ordinary character")
        else:
            part += token[-1]
    return tuple(pairs)


# Fields of LOG and STATUS.


def format_field(key: str, value: str, quote: bool = False) -> str:
    """
    Return ``key=value``, with the value quoted if it has spaces or other characters that need it.

    :param quote: whether to quote any value.
    :raises ValueError: `key` is not printable ASCII without spaces and ``=``.
    """
    if _KEY.fullmatch(key) is None:
        raise ValueError("a key is printable ASCII without spaces and =")
    return f"{key}={value if not quote and _SIMPLE_VALUE.fullmatch(value) else _quoted(value)}"


def _quoted(text: str) -> str:
    """Return `text` as a CString of tor's control protocol."""
    escaped = _escaped(text.encode("utf-8", "surrogateescape").decode("latin-1"), '"\\')
    return '"' + re.sub("[^ -~]", lambda match: f"\\{ord(match[0]):03o}", escaped) + '"'


def parse_fields(text: str) -> Fields:
    """
    Read ``key=value key="quoted value"``.

    :raises ValueError: the text is not written like that.
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
