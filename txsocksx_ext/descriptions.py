"""
Descriptions such as ``socks:tcp\\:127.0.0.1\\:9050:dialect=tor``, written like Twisted's endpoint strings.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.endpoints import _parse as _parse_with_twisted
from twisted.internet.endpoints import clientFromString, quoteStringArgument
from twisted.internet.interfaces import IStreamClientEndpoint

from .secret_files import read_secret_file


def parse_description(text: str) -> tuple[list[str], dict[str, str]]:
    """
    Split a description at its colons, undoing the backslashes.

    Twisted's own parser is private, and stays behind this function.

    :returns: the arguments without a name, the kind first, and those with one. The
        kind is empty where the description names none.
    """
    arguments, keywords = _parse_with_twisted(text)
    return list(arguments) or [""], dict(keywords)


def refuse_unknown(
    keywords: Mapping[str, object],
    known: frozenset[str],
    where: str,
    holds_secret: Callable[[str], bool] = lambda keyword: False,
) -> None:
    """
    Raise `ValueError` for the first of `keywords` that is not among `known`.

    What stands after a secret may be the rest of it, behind a colon without a
    backslash, and is not named. Nor is what stands after an unknown keyword:
    that may be one for a secret, mistyped.

    :param keywords: in the order in which they were written.
    :param where: what the description is of, for the message.
    :param holds_secret: whether the value of a keyword is a secret; such a keyword counts as known.
    """
    is_after_secret = False
    previous = ""
    for keyword in keywords:
        is_secret = holds_secret(keyword)
        if not is_secret and keyword not in known:
            shown = f"the keyword after {previous}" if is_after_secret else keyword
            raise ValueError(
                f"{where} does not know {shown}; it knows {', '.join(sorted(known))}"
                " (a colon or backslash inside a value is written with a backslash before it)"
            )
        is_after_secret = is_after_secret or is_secret
        previous = f"{keyword}=" if keyword in known else "a pair"


def secret_from_file(path: str) -> bytes:
    """
    Return the first line of a file, without its end.

    :raises ValueError: the file cannot be read, is UTF-16, or its first line is empty.
    """
    try:
        content, _ = read_secret_file(Path(path))
    except OSError as error:
        raise ValueError(f"the secret cannot be read from {path}: {error.strerror}") from None
    lines = content.splitlines()
    if not lines or not lines[0]:
        raise ValueError(f"the first line of {path} is empty: the secret has to stand there")
    return lines[0]


def yes_or_no(name: str, value: str) -> bool:
    """
    Read ``yes`` or ``no``.

    :raises ValueError: it is neither.
    """
    if value not in ("yes", "no"):
        raise ValueError(f"{name} is yes or no, not {value!r}")
    return value == "yes"


def check_kind(description: str) -> None:
    """
    Check that an endpoint string begins with a kind, which parsers of Twisted's take for granted.

    :raises ValueError: it does not.
    """
    (kind, *_), _ = parse_description(description)
    if not kind:
        raise ValueError("it begins with no kind, as tcp:HOST:PORT does")
    if "@" in kind:  # Twisted's error would show it, and it may be a password
        raise ValueError("it begins with no kind of endpoint, as tcp:HOST:PORT does, and a URL has its scheme")


def client_endpoint(reactor: Any, description: str) -> IStreamClientEndpoint:
    """
    Make an endpoint of ``HOST:PORT``, ``[IPV6]:PORT`` or a client endpoint string.

    :raises ValueError: the string is faulty, or could never connect; parsers may raise anything else.
    """
    try:
        endpoint: IStreamClientEndpoint = clientFromString(reactor, endpoint_string(description))
    except Exception as error:
        raise ValueError(
            f"this is neither HOST:PORT nor a valid client endpoint string ({without_function(error)});"
            r" inside another string, write it with backslashes, as tcp\:HOST\:PORT"
        ) from None
    return endpoint


def with_joined_addresses(arguments: Sequence[str]) -> list[str]:
    """
    Join IPv6 addresses in brackets that were split at their colons, and take the brackets away.

    :param arguments: as `parse_description` returns them.
    """
    joined: list[str] = []
    for position, argument in enumerate(arguments):
        is_inside = bool(joined) and joined[-1].startswith("[") and "]" not in joined[-1]
        if is_inside and any("]" in each for each in arguments[position:]):
            joined[-1] += f":{argument}"
        else:
            joined.append(argument)
    return [_BRACKETS.sub(r"\1", argument) for argument in joined]


_BRACKETS = re.compile(r"\A\[([^]]*:[^]]*)]\Z")
_WITH_ADDRESS = ("tcp", "tls", "ssl")
"""Client endpoints of Twisted's own that are a host and a port."""
_LONGEST_PATH = 107
"""Bytes of the path of a unix socket: ``sun_path`` without the NUL at its end."""


def endpoint_string(description: str) -> str:
    """
    Return the client endpoint string for ``HOST:PORT``, ``[IPV6]:PORT`` or one whose address stands in brackets.

    :raises ValueError: it can never connect.
    """
    check_kind(description)
    arguments, keywords = parse_description(description)
    arguments = with_joined_addresses(arguments)
    kind = arguments[0].lower()
    if len(arguments) == 2 and is_number(arguments[1]) and not keywords and kind not in _SHOWN_KINDS:
        kind = "tcp"
        arguments.insert(0, kind)
    if kind in _WITH_ADDRESS:
        host, port = _checked_address(kind, arguments, keywords)
        if kind == "tls" and _is_ipv6(host) and "endpoint" not in keywords:
            # Twisted's parser takes every host of tls: for a name, but not that of the endpoint below it.
            way = {name: value for name, value in keywords.items() if name in ("timeout", "bindAddress")}
            keywords["endpoint"] = write_description(["tcp", host, port], way)
    elif kind == "unix":
        path = arguments[1] if len(arguments) == 2 else keywords.get("path", "")
        if len(os.fsencode(path)) > _LONGEST_PATH:
            raise ValueError(f"the path of a unix socket has at most {_LONGEST_PATH} bytes")
    return write_description(arguments, keywords)


def write_description(arguments: Sequence[str], keywords: Mapping[str, str]) -> str:
    """Return what `parse_description` takes apart."""

    def quoted(text: str) -> str:
        escaped: str = quoteStringArgument(text)
        return escaped.replace("=", "\\=")

    named = (f"{quoted(name)}={quoteStringArgument(value)}" for name, value in keywords.items())
    return ":".join([*map(quoted, arguments), *named])


def _checked_address(kind: str, arguments: list[str], keywords: Mapping[str, str]) -> tuple[str, str]:
    """
    Return host and port of a client endpoint string, wherever they stand in it.

    :raises ValueError: nothing can be there.
    """
    _, *places = arguments
    host = keywords["host"] if "host" in keywords else places.pop(0) if places else None
    port = keywords["port"] if "port" in keywords else places.pop(0) if places else None
    if host is None or port is None:
        raise ValueError(f"{kind} is written {kind}:HOST:PORT")
    if "@" in host or "@" in port:
        raise ValueError(f"{kind} is written {kind}:HOST:PORT: no user name and no password belong there")
    if not is_number(port) or not 0 < int(port) <= 0xFFFF:
        raise ValueError(f"there is no port {port}, but 1 to 65535")
    if not _is_ipv6(host) and _NAME_OR_IPV4.fullmatch(host) is None:
        raise ValueError(f"{host!r} is neither a name nor an address")
    return host, port


_NAME_OR_IPV4 = re.compile(r"[^\x00-\x20\x7f:/\[\]]+")


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


_SHOWN_KINDS = frozenset({"tcp", "tls", "ssl", "unix"})
"""Client endpoints of Twisted's own, whose arguments without a name are hosts, ports and paths."""


def shown_endpoint(description: str) -> str:
    """
    Return a client endpoint string as logs may show it: no value in it can be a secret.

    :param description: one of which `client_endpoint` makes an endpoint.
    """
    (kind, *arguments), _ = parse_description(endpoint_string(description))
    if kind.lower() not in _SHOWN_KINDS:
        return kind
    return ":".join([kind, *(f"[{each}]" if _is_ipv6(each) else each for each in arguments)])


def without_function(error: Exception) -> str:
    """Return what a parser says of its arguments, without the name that Python gives it; never nothing."""
    # Of a folder that cannot be listed, Twisted's own error has no words.
    text = str(error) or str(getattr(error, "originalException", "")) or type(error).__name__
    return text.partition("() ")[2] or text if isinstance(error, TypeError) else text


def is_number(text: str) -> bool:
    """Return whether `text` is written with the digits 0 to 9 alone."""
    return text.isascii() and text.isdigit()


def endpoint_description(arguments: Sequence[str]) -> str:
    """
    Return the endpoint string in the arguments of another description.

    It may stand there whole, with its colons written ``\\:``; with its colons
    bare, where no other argument follows; or as HOST and PORT. So may a URL.

    :raises ValueError: it can never connect.
    """
    if len(arguments) == 1:
        return arguments[0]
    if arguments[1].startswith("//"):
        return ":".join(arguments)
    return endpoint_string(write_description(with_joined_addresses(arguments), {}))
