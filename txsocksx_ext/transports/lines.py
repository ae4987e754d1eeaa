"""
The lines that a managed transport sends to its parent on stdout (pt-spec, section 3.3).

`Keyword` is the table of these lines. Both ends follow it: `Line.encode` writes
a line, `parse_line` reads one, and `txsocksx_ext.transports.parent` checks the order.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .notation import (
    Fields,
    checked_name,
    format_address,
    format_field,
    join_pairs,
    parse_address,
    parse_fields,
    printable,
    split_pairs,
)

VERSION = "1"
"""The only version of the conversation."""

SEVERITIES = ("error", "warning", "notice", "info", "debug")


@dataclass(frozen=True, slots=True)
class _Argument:
    """
    One argument of a line.

    :ivar write: returns the argument's text; empty to leave it out.
    :ivar read: returns the attributes of `Line` that the text gives.
    :ivar is_rest: whether the argument is the rest of the line; otherwise it is one word.
    """

    write: Callable[[Line], str]
    read: Callable[[str], dict[str, Any]]
    is_rest: bool = False


def format_arguments(arguments: Fields) -> str:
    """
    Return the arguments of an SMETHOD, as ``key=value,key=value``.

    :raises ValueError: tor could not read it: a key is empty, or a character is
        a space or not printable ASCII.
    """
    # Parents split the line at its spaces before they look for escapes.
    if not all("!" <= character <= "~" for pair in arguments for text in pair for character in text):
        raise ValueError("the arguments of a server transport are printable ASCII without spaces")
    return join_pairs(arguments, ",", in_value="=\\")


def _read_options(text: str) -> dict[str, Any]:
    # Unknown options are ignored. obfs4proxy writes "ARGS:" with nothing behind it.
    arguments = next((each.removeprefix("ARGS:") for each in text.split() if each.startswith("ARGS:")), "")
    return {"fields": split_pairs(arguments, ",")}


def _read_protocol(word: str) -> dict[str, Any]:
    if word not in ("socks4", "socks5"):
        raise ValueError("the protocol is neither socks4 nor socks5")
    return {"protocol": word}


def _read_done(text: str) -> dict[str, Any]:
    if text != "DONE":
        raise ValueError("it does not say DONE")
    return {}


def _write_log(line: Line) -> str:
    if line.severity not in SEVERITIES:
        raise ValueError(f"the severity is one of {', '.join(SEVERITIES)}, not {line.severity!r}")
    return f"SEVERITY={line.severity} {format_field('MESSAGE', line.text, quote=True)}"


def _read_log(text: str) -> dict[str, Any]:
    fields = dict(parse_fields(text))
    severity, message = fields.get("SEVERITY"), fields.get("MESSAGE")
    if severity not in SEVERITIES or message is None:
        raise ValueError("a LOG has a SEVERITY and a MESSAGE")
    return {"severity": severity, "text": message}


_NAME = _Argument(lambda line: checked_name(line.name), lambda word: {"name": checked_name(word)})
_PROTOCOL = _Argument(lambda line: line.protocol, _read_protocol)
_ADDRESS = _Argument(lambda line: format_address(*line.address), lambda word: {"address": parse_address(word)})
_OPTIONS = _Argument(
    lambda line: f"ARGS:{format_arguments(line.fields)}" if line.fields else "", _read_options, is_rest=True
)
_TEXT = _Argument(lambda line: printable(line.text), lambda text: {"text": text}, is_rest=True)
_DONE = _Argument(lambda line: "DONE", _read_done, is_rest=True)
_LOG = _Argument(_write_log, _read_log, is_rest=True)
_STATUS = _Argument(
    lambda line: " ".join(format_field(key, value) for key, value in line.fields),
    lambda text: {"fields": parse_fields(text)},
    is_rest=True,
)


class Role(enum.Flag):
    """The sides of a transport."""

    CLIENT = enum.auto()
    SERVER = enum.auto()
    BOTH = CLIENT | SERVER


class Stage(enum.Enum):
    """When a line may come."""

    VERSION = "before the configuration"
    CONFIGURATION = "after VERSION, until CMETHODS DONE or SMETHODS DONE"
    ANY = "at any time"
    FATAL = "at any time; the transport exits"


class Keyword(enum.Enum):
    """
    The table of the lines: the keyword, the role of the transport that sends it, when, and the arguments.
    """

    VERSION = "VERSION", Role.BOTH, Stage.VERSION, _TEXT
    VERSION_ERROR = "VERSION-ERROR", Role.BOTH, Stage.FATAL, _TEXT
    ENV_ERROR = "ENV-ERROR", Role.BOTH, Stage.FATAL, _TEXT
    PROXY = "PROXY", Role.CLIENT, Stage.CONFIGURATION, _DONE
    PROXY_ERROR = "PROXY-ERROR", Role.CLIENT, Stage.CONFIGURATION, _TEXT
    CMETHOD = "CMETHOD", Role.CLIENT, Stage.CONFIGURATION, _NAME, _PROTOCOL, _ADDRESS
    CMETHOD_ERROR = "CMETHOD-ERROR", Role.CLIENT, Stage.CONFIGURATION, _NAME, _TEXT
    CMETHODS = "CMETHODS", Role.CLIENT, Stage.CONFIGURATION, _DONE
    SMETHOD = "SMETHOD", Role.SERVER, Stage.CONFIGURATION, _NAME, _ADDRESS, _OPTIONS
    SMETHOD_ERROR = "SMETHOD-ERROR", Role.SERVER, Stage.CONFIGURATION, _NAME, _TEXT
    SMETHODS = "SMETHODS", Role.SERVER, Stage.CONFIGURATION, _DONE
    LOG = "LOG", Role.BOTH, Stage.ANY, _LOG
    STATUS = "STATUS", Role.BOTH, Stage.ANY, _STATUS

    def __init__(self, word: str, role: Role, stage: Stage, *arguments: _Argument) -> None:
        self.word = word
        self.role = role
        self.stage = stage
        self.arguments = arguments


_KEYWORDS = {keyword.word: keyword for keyword in Keyword}


@dataclass(frozen=True, slots=True, repr=False)
class Line:
    """
    One line. Its `repr` shows neither arguments nor text.

    :ivar keyword: says which of the others have a meaning.
    :ivar name: the transport's.
    :ivar protocol: ``socks4`` or ``socks5``.
    :ivar address: where the transport listens: an IP address without brackets, and a port.
    :ivar fields: of an SMETHOD, its arguments for clients; of a STATUS, its keys
        and values, with TRANSPORT or TYPE among them.
    :ivar severity: of a LOG, one of `SEVERITIES`.
    :ivar text: of a LOG, the message; of a VERSION, the version; else what went
        wrong. Characters that would break the line are escaped.
    """

    keyword: Keyword
    name: str = ""
    protocol: str = ""
    address: tuple[str, int] = ("", 0)
    fields: Fields = ()
    severity: str = ""
    text: str = ""

    def __repr__(self) -> str:
        return f"<Line {self.keyword.word} {self.name}>"

    def encode(self) -> bytes:
        """
        Return the line, with its end.

        :raises ValueError: no parent could read it.
        """
        words = [self.keyword.word, *(argument.write(self) for argument in self.keyword.arguments)]
        return " ".join(filter(None, words)).encode("ascii") + b"\n"


def parse_line(data: bytes) -> Line | None:
    """
    Read one line.

    :param data: the line, with or without its end.
    :returns: ``None`` for lines that tor ignores: an unknown keyword, and a LOG or
        STATUS that cannot be read.
    :raises ValueError: a malformed line of the configuration, which ends the
        conversation. The text does not repeat the line.
    """
    word, _, rest = data.decode("utf-8", "backslashreplace").rstrip("\r\n").partition(" ")
    keyword = _KEYWORDS.get(word)
    if keyword is None:
        return None
    values: dict[str, Any] = {}
    try:
        for argument in keyword.arguments:
            part, rest = (rest, "") if argument.is_rest else rest.lstrip(" ").partition(" ")[::2]
            values |= argument.read(part)
    except ValueError as error:
        if keyword.stage is Stage.ANY:
            return None
        raise ValueError(f"a line {word} is faulty: {error}") from None
    return Line(keyword, **values)
