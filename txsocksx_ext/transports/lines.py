"""
What a managed transport says to its parent on stdout, line by line (pt-spec, section 3.3).

Every line is an immutable object whose `encode` gives its bytes, and `parse_line`
makes one of what was read. No `repr` shows arguments, or the text of a message.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Union

from .notation import (
    Fields,
    checked_name,
    format_address,
    format_arguments,
    format_field,
    parse_address,
    parse_arguments_of_server,
    parse_fields,
    printable,
)

VERSION = "1"
"""The one version of the conversation that there is."""

SEVERITIES = ("error", "warning", "notice", "info", "debug")


@dataclass(frozen=True, slots=True)
class _Line:
    keyword: ClassVar[str]

    def encode(self) -> bytes:
        """Return the line, with its end."""
        rest = self._rest()
        return (f"{self.keyword} {rest}" if rest else self.keyword).encode("ascii") + b"\n"

    def _rest(self) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class _DoneLine(_Line):
    def _rest(self) -> str:
        return "DONE"


@dataclass(frozen=True, slots=True)
class _TextLine(_Line):
    """
    A keyword and a text for people.

    :ivar text: what went wrong; what would break the line is escaped in it.
    """

    text: str = field(default="", repr=False)

    def _rest(self) -> str:
        return printable(self.text)


@dataclass(frozen=True, slots=True)
class _NamedTextLine(_Line):
    """
    A keyword, a transport, and a text for people.

    :ivar name: the transport's.
    :ivar text: what went wrong; what would break the line is escaped in it.
    """

    name: str
    text: str = field(default="", repr=False)

    def _rest(self) -> str:
        return f"{checked_name(self.name)} {printable(self.text)}"


@dataclass(frozen=True, slots=True)
class VersionLine(_Line):
    """VERSION: the version that the transport chose."""

    keyword = "VERSION"
    version: str = VERSION

    def _rest(self) -> str:
        return printable(self.version)


@dataclass(frozen=True, slots=True)
class VersionErrorLine(_TextLine):
    """VERSION-ERROR: it speaks none of the versions offered."""

    keyword = "VERSION-ERROR"
    text: str = "no-version"


@dataclass(frozen=True, slots=True)
class EnvErrorLine(_TextLine):
    """ENV-ERROR: a variable of the environment is missing or faulty."""

    keyword = "ENV-ERROR"


@dataclass(frozen=True, slots=True)
class ProxyDoneLine(_DoneLine):
    """PROXY DONE: it will use the proxy that it was given."""

    keyword = "PROXY"


@dataclass(frozen=True, slots=True)
class ProxyErrorLine(_TextLine):
    """PROXY-ERROR: it cannot use that proxy."""

    keyword = "PROXY-ERROR"


@dataclass(frozen=True, slots=True)
class ClientMethodLine(_Line):
    """
    CMETHOD: a client transport listens.

    :ivar name: the transport's.
    :ivar protocol: ``socks4`` or ``socks5``.
    :ivar host: an IP address, without brackets.
    :ivar port: 1 to 65535.
    """

    keyword = "CMETHOD"
    name: str
    protocol: str
    host: str
    port: int

    def _rest(self) -> str:
        return f"{checked_name(self.name)} {self.protocol} {format_address(self.host, self.port)}"


@dataclass(frozen=True, slots=True)
class ClientMethodErrorLine(_NamedTextLine):
    """CMETHOD-ERROR: a client transport cannot start."""

    keyword = "CMETHOD-ERROR"


@dataclass(frozen=True, slots=True)
class ClientMethodsDoneLine(_DoneLine):
    """CMETHODS DONE: all client transports were named."""

    keyword = "CMETHODS"


@dataclass(frozen=True, slots=True)
class ServerMethodLine(_Line):
    """
    SMETHOD: a server transport listens.

    :ivar name: the transport's.
    :ivar host: an IP address, without brackets.
    :ivar port: 1 to 65535.
    :ivar arguments: what clients need to know, in their order.
    """

    keyword = "SMETHOD"
    name: str
    host: str
    port: int
    arguments: Fields = field(default=(), repr=False)

    def _rest(self) -> str:
        rest = f"{checked_name(self.name)} {format_address(self.host, self.port)}"
        return f"{rest} ARGS:{format_arguments(self.arguments)}" if self.arguments else rest


@dataclass(frozen=True, slots=True)
class ServerMethodErrorLine(_NamedTextLine):
    """SMETHOD-ERROR: a server transport cannot start."""

    keyword = "SMETHOD-ERROR"


@dataclass(frozen=True, slots=True)
class ServerMethodsDoneLine(_DoneLine):
    """SMETHODS DONE: all server transports were named."""

    keyword = "SMETHODS"


@dataclass(frozen=True, slots=True)
class LogLine(_Line):
    """
    LOG: something for the parent's log.

    :ivar severity: one of `SEVERITIES`.
    :ivar message: any text.
    """

    keyword = "LOG"
    severity: str
    message: str = field(repr=False)

    def _rest(self) -> str:
        if self.severity not in SEVERITIES:
            raise ValueError(f"the severity is one of {', '.join(SEVERITIES)}, not {self.severity!r}")
        return f"SEVERITY={self.severity} {format_field('MESSAGE', self.message, quote=True)}"


@dataclass(frozen=True, slots=True)
class StatusLine(_Line):
    """
    STATUS: how a transport fares.

    :ivar fields: keys and values, with TRANSPORT or TYPE among them.
    """

    keyword = "STATUS"
    fields: Fields = field(repr=False)

    @property
    def transport(self) -> str | None:
        """The transport that it is about, if it says so."""
        return dict(self.fields).get("TRANSPORT")

    def _rest(self) -> str:
        return " ".join(format_field(key, value) for key, value in self.fields)


@dataclass(frozen=True, slots=True)
class UnknownLine:
    """
    Any other line, which a parent passes over: an unknown keyword, or a LOG or STATUS that cannot be read.

    :ivar text: the line, without its end.
    """

    text: str = field(repr=False)

    @property
    def keyword(self) -> str:
        """The first word."""
        return self.text.partition(" ")[0]

    def encode(self) -> bytes:
        """Return the line, with its end."""
        return printable(self.text).encode("ascii") + b"\n"


Line = Union[
    VersionLine,
    VersionErrorLine,
    EnvErrorLine,
    ProxyDoneLine,
    ProxyErrorLine,
    ClientMethodLine,
    ClientMethodErrorLine,
    ClientMethodsDoneLine,
    ServerMethodLine,
    ServerMethodErrorLine,
    ServerMethodsDoneLine,
    LogLine,
    StatusLine,
    UnknownLine,
]


def parse_line(data: bytes) -> Line:
    """
    Read one line.

    :param data: the line, with or without its end.
    :returns: `UnknownLine` for an unknown keyword, and for a LOG or STATUS that
        cannot be read: tor passes over both.
    :raises ValueError: a line of the configuration that is not as it must be,
        which breaks the conversation. The text does not repeat the line.
    """
    text = data.decode("utf-8", "backslashreplace").rstrip("\r\n")
    keyword, _, rest = text.partition(" ")
    if keyword not in _PARSERS:
        return UnknownLine(text)
    try:
        return _PARSERS[keyword](rest)
    except ValueError as error:
        if keyword in ("LOG", "STATUS"):
            return UnknownLine(text)
        raise ValueError(f"a line {keyword} is faulty: {error}") from None


def _parse_done(line: type[_DoneLine]) -> Callable[[str], Line]:
    def parse(rest: str) -> Line:
        if rest != "DONE":
            raise ValueError("it does not say DONE")
        return line()  # type: ignore[return-value]

    return parse


def _parse_named(line: type[_NamedTextLine]) -> Callable[[str], Line]:
    def parse(rest: str) -> Line:
        name, _, text = rest.partition(" ")
        return line(checked_name(name), text)  # type: ignore[return-value]

    return parse


def _parse_client_method(rest: str) -> Line:
    name, protocol, address = (*rest.split(), "", "", "")[:3]
    if protocol not in ("socks4", "socks5"):
        raise ValueError("the protocol is neither socks4 nor socks5")
    return ClientMethodLine(checked_name(name), protocol, *parse_address(address))


def _parse_server_method(rest: str) -> Line:
    name, address, *options = (*rest.split(), "", "")
    arguments = next((each.removeprefix("ARGS:") for each in options if each.startswith("ARGS:")), "")
    return ServerMethodLine(checked_name(name), *parse_address(address), parse_arguments_of_server(arguments))


def _parse_log(rest: str) -> Line:
    fields = dict(parse_fields(rest))
    severity, message = fields.get("SEVERITY"), fields.get("MESSAGE")
    if severity not in SEVERITIES or message is None:
        raise ValueError("a LOG has a SEVERITY and a MESSAGE")
    return LogLine(severity, message)


_PARSERS: dict[str, Callable[[str], Line]] = {
    "VERSION": VersionLine,
    "VERSION-ERROR": VersionErrorLine,
    "ENV-ERROR": EnvErrorLine,
    "PROXY": _parse_done(ProxyDoneLine),
    "PROXY-ERROR": ProxyErrorLine,
    "CMETHOD": _parse_client_method,
    "CMETHOD-ERROR": _parse_named(ClientMethodErrorLine),
    "CMETHODS": _parse_done(ClientMethodsDoneLine),
    "SMETHOD": _parse_server_method,
    "SMETHOD-ERROR": _parse_named(ServerMethodErrorLine),
    "SMETHODS": _parse_done(ServerMethodsDoneLine),
    "LOG": _parse_log,
    "STATUS": lambda rest: StatusLine(parse_fields(rest)),
}
