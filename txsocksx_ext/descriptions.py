"""
Descriptions such as ``socks:tcp\\:127.0.0.1\\:9050:dialect=tor``, written like Twisted's endpoint strings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.endpoints import _parse as _parse_with_twisted
from twisted.internet.endpoints import clientFromString, quoteStringArgument
from twisted.internet.interfaces import IStreamClientEndpoint


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
    The first line of a file, without its end.

    :raises ValueError: the file cannot be read, or its first line is empty.
    """
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError as error:
        raise ValueError(f"the secret cannot be read from {path}: {error.strerror}") from None
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


def client_endpoint(reactor: Any, description: str) -> IStreamClientEndpoint:
    """
    Make an endpoint of a client endpoint string.

    :raises ValueError: it is none; parsers raise what they like.
    """
    try:
        check_kind(description)
        endpoint: IStreamClientEndpoint = clientFromString(reactor, description)
    except Exception as error:
        raise ValueError(
            f"this is no client endpoint string that works ({without_function(error)});"
            r" one inside another string is written with backslashes, as tcp\:HOST\:PORT"
        ) from None
    return endpoint


_SHOWN_KINDS = frozenset({"tcp", "tls", "ssl", "unix"})
"""Client endpoints of Twisted's own, whose arguments without a name are hosts, ports and paths."""


def shown_endpoint(description: str) -> str:
    """
    A client endpoint string as logs may show it: no value in it can be a secret.

    :param description: one of which `client_endpoint` makes an endpoint.
    """
    (kind, *arguments), _ = parse_description(description)
    return ":".join([kind, *arguments]) if kind.lower() in _SHOWN_KINDS else kind


def without_function(error: Exception) -> str:
    """What a parser says of its arguments, without the name that Python gives it; never nothing."""
    # Of a folder that cannot be listed, Twisted's own error has no words.
    text = str(error) or str(getattr(error, "originalException", "")) or type(error).__name__
    return text.partition("() ")[2] or text if isinstance(error, TypeError) else text


def is_number(text: str) -> bool:
    """Whether `text` is written with the digits 0 to 9 alone."""
    return text.isascii() and text.isdigit()


def endpoint_description(arguments: Sequence[str]) -> str:
    """
    The endpoint string in the arguments of another description.

    It may stand there whole, with its colons written ``\\:``; with its colons
    bare, where no other argument follows; or as HOST and PORT.

    :raises ValueError: there is no such port.
    """
    if len(arguments) == 1:
        return arguments[0]
    quoted = [quoteStringArgument(argument).replace("=", "\\=") for argument in arguments]
    if len(arguments) == 2 and is_number(arguments[1]):
        if not 0 < int(arguments[1]) <= 0xFFFF:
            raise ValueError(f"there is no port {arguments[1]}, but 1 to 65535")
        quoted.insert(0, "tcp")
    return ":".join(quoted)
