"""
What a parent tells a managed transport in its environment (pt-spec, section 3.2).

Both directions: a transport reads it by `read_environment`, and a parent writes
it with the same objects::

    ClientEnvironment(state_location=Path("/var/lib/us/pt"), transports=("obfs4",)).variables()
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from .arguments import Arguments
from .lines import VERSION, EnvErrorLine, ProxyErrorLine, VersionErrorLine
from .notation import checked_name, format_address, parse_address
from .upstream import UpstreamProxy

PREFIX = "TOR_PT_"
"""What the name of each variable begins with."""

ANY_ADDRESS = ("0.0.0.0", 0)
"""Where a server transport listens that was not told where."""


class EnvironmentFault(ValueError):
    """
    The environment is not one that a transport can start in.

    Its text names the variable and never repeats its value.

    :ivar line: what the transport says to its parent before it exits.
    """

    def __init__(self, line: VersionErrorLine | EnvErrorLine | ProxyErrorLine) -> None:
        super().__init__(line.text)
        self.line = line


def env_error(name: str, problem: str) -> EnvironmentFault:
    """ENV-ERROR about one variable."""
    return EnvironmentFault(EnvErrorLine(f"{PREFIX}{name} {problem}"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Environment:
    """
    What both roles are told.

    :ivar state_location: a folder for what the transport keeps; it need not exist yet.
    :ivar exit_on_stdin_close: whether the end of stdin means that the transport shall exit.
    :ivar outbound_v4: the source address of outgoing IPv4 connections, or ``None``.
    :ivar outbound_v6: the same for IPv6, without brackets.
    """

    state_location: Path
    exit_on_stdin_close: bool = True
    outbound_v4: str | None = None
    outbound_v6: str | None = None

    def _common(self) -> dict[str, str]:
        variables = {
            "MANAGED_TRANSPORT_VER": VERSION,
            "STATE_LOCATION": str(self.state_location),
            "EXIT_ON_STDIN_CLOSE": str(int(self.exit_on_stdin_close)),
        }
        if self.outbound_v4 is not None:
            variables["OUTBOUND_BIND_ADDRESS_V4"] = self.outbound_v4
        if self.outbound_v6 is not None:
            variables["OUTBOUND_BIND_ADDRESS_V6"] = f"[{self.outbound_v6}]"
        return variables


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientEnvironment(_Environment):
    """
    What the client side of transports is told.

    :ivar transports: the names of those asked for.
    :ivar proxy: what outgoing connections have to go through, or ``None``.
    """

    transports: tuple[str, ...]
    proxy: UpstreamProxy | None = field(default=None, repr=False)

    def variables(self) -> dict[str, str]:
        """Return the variables that say so, to be added to those that a child gets anyway."""
        variables = {**self._common(), "CLIENT_TRANSPORTS": _names(self.transports)}
        if self.proxy is not None:
            variables["PROXY"] = self.proxy.url()
        return {PREFIX + name: value for name, value in variables.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerEnvironment(_Environment):
    """
    What the server side of transports is told.

    :ivar transports: the names of those asked for.
    :ivar bind_addresses: by name, where each has to listen: an IP address and a
        port, 0 for any; one that is not there may listen at `ANY_ADDRESS`.
    :ivar options: by name, what the operator configured for each.
    :ivar or_port: where payload goes to, or ``None``.
    :ivar extended_or_port: where payload goes to that is told where it comes from, or ``None``.
    :ivar cookie_file: what has to be known there.
    """

    transports: tuple[str, ...]
    bind_addresses: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    options: Mapping[str, Arguments] = field(default_factory=dict, repr=False)
    or_port: tuple[str, int] | None = None
    extended_or_port: tuple[str, int] | None = None
    cookie_file: Path | None = None

    def variables(self) -> dict[str, str]:
        """Return the variables that say so, to be added to those that a child gets anyway."""
        addresses = [(name, self.bind_addresses.get(name, ANY_ADDRESS)) for name in self.transports]
        variables = {
            **self._common(),
            "SERVER_TRANSPORTS": _names(self.transports),
            "SERVER_BINDADDR": ",".join(f"{name}-{_listening(address)}" for name, address in addresses),
            # tor sets it to an empty value if there is no extended ORPort.
            "EXTENDED_SERVER_PORT": "" if self.extended_or_port is None else format_address(*self.extended_or_port),
        }
        if self.or_port is not None:
            variables["ORPORT"] = format_address(*self.or_port)
        if self.cookie_file is not None:
            variables["AUTH_COOKIE_FILE"] = str(self.cookie_file)
        if self.options:
            variables["SERVER_TRANSPORT_OPTIONS"] = ";".join(
                f"{name}:{_escaped(key)}={_escaped(value)}"
                for name, arguments in self.options.items()
                for key, value in arguments.pairs
            )
        return {PREFIX + name: value for name, value in variables.items()}


def _names(names: tuple[str, ...]) -> str:
    return ",".join(checked_name(name) for name in names)


def _listening(address: tuple[str, int]) -> str:
    host, port = address
    return format_address(host, port) if port else format_address(host, 1).removesuffix("1") + "0"


def _escaped(text: str) -> str:
    return re.sub(r"([:;\\])", r"\\\1", text)


# The way back.


def check_version(environ: Mapping[str, str]) -> None:
    """
    See whether the parent speaks the one version that there is.

    :raises EnvironmentFault: it does not, or does not say.
    """
    if VERSION not in _needed(environ, "MANAGED_TRANSPORT_VER").split(","):
        raise EnvironmentFault(VersionErrorLine())


def read_environment(environ: Mapping[str, str]) -> ClientEnvironment | ServerEnvironment:
    """
    Read what the parent set.

    :param environ: such as `os.environ`.
    :raises EnvironmentFault: a variable is missing or faulty, or both roles are
        asked for at once.
    """
    is_client, is_server = (PREFIX + name in environ for name in ("CLIENT_TRANSPORTS", "SERVER_TRANSPORTS"))
    if is_client and is_server:
        raise EnvironmentFault(
            EnvErrorLine(
                "TOR_PT_CLIENT_TRANSPORTS and TOR_PT_SERVER_TRANSPORTS are both set: a transport is one of them"
            )
        )
    if not is_client and not is_server:
        raise EnvironmentFault(EnvErrorLine("neither TOR_PT_CLIENT_TRANSPORTS nor TOR_PT_SERVER_TRANSPORTS is set"))
    return _read_client(environ) if is_client else _read_server(environ)


def _read_client(environ: Mapping[str, str]) -> ClientEnvironment:
    proxy = environ.get(PREFIX + "PROXY") or None
    return ClientEnvironment(
        **_read_common(environ),
        transports=_read(environ, "CLIENT_TRANSPORTS", _read_names),
        proxy=None if proxy is None else _read_proxy(proxy),
    )


def _read_proxy(url: str) -> UpstreamProxy:
    try:
        return UpstreamProxy.of(url)
    except ValueError as error:
        raise EnvironmentFault(ProxyErrorLine(f"{PREFIX}PROXY {error}")) from None


def _read_server(environ: Mapping[str, str]) -> ServerEnvironment:
    extended = environ.get(PREFIX + "EXTENDED_SERVER_PORT") or None
    or_port = environ.get(PREFIX + "ORPORT") or None
    if extended is None and or_port is None:
        raise EnvironmentFault(EnvErrorLine("neither TOR_PT_ORPORT nor TOR_PT_EXTENDED_SERVER_PORT is set"))
    if extended is not None and not environ.get(PREFIX + "AUTH_COOKIE_FILE"):
        raise env_error("AUTH_COOKIE_FILE", "is not set, and TOR_PT_EXTENDED_SERVER_PORT is")
    cookie_file = environ.get(PREFIX + "AUTH_COOKIE_FILE") or None
    return ServerEnvironment(
        **_read_common(environ),
        transports=_read(environ, "SERVER_TRANSPORTS", _read_names),
        bind_addresses=_read_if_set(environ, "SERVER_BINDADDR", _read_bind_addresses) or {},
        options=_read_if_set(environ, "SERVER_TRANSPORT_OPTIONS", _read_options) or {},
        or_port=_read_if_set(environ, "ORPORT", parse_address),
        extended_or_port=_read_if_set(environ, "EXTENDED_SERVER_PORT", parse_address),
        cookie_file=None if cookie_file is None else Path(cookie_file),
    )


def _read_common(environ: Mapping[str, str]) -> dict[str, Any]:
    return {
        "state_location": Path(_needed(environ, "STATE_LOCATION")).absolute(),
        "exit_on_stdin_close": environ.get(PREFIX + "EXIT_ON_STDIN_CLOSE") == "1",
        "outbound_v4": _read_if_set(environ, "OUTBOUND_BIND_ADDRESS_V4", _read_ipv4),
        "outbound_v6": _read_if_set(environ, "OUTBOUND_BIND_ADDRESS_V6", _read_ipv6),
    }


_T = TypeVar("_T")


def _needed(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(PREFIX + name)
    if not value:
        raise env_error(name, "is not set" if value is None else "is empty")
    return value


def _read(environ: Mapping[str, str], name: str, parse: Callable[[str], _T]) -> _T:
    value = _needed(environ, name)
    try:
        return parse(value)
    except ValueError as error:
        raise env_error(name, f"is faulty: {error}") from None


def _read_if_set(environ: Mapping[str, str], name: str, parse: Callable[[str], _T]) -> _T | None:
    return _read(environ, name, parse) if environ.get(PREFIX + name) else None


def _read_names(value: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(checked_name(name) for name in value.split(",")))


def _read_ipv4(value: str) -> str:
    try:
        return str(ipaddress.IPv4Address(value))
    except ValueError:
        raise ValueError("it is no IPv4 address") from None


def _read_ipv6(value: str) -> str:
    match = re.fullmatch(r"\[(.*)\]", value)
    try:
        return str(ipaddress.IPv6Address("" if match is None else match[1]))
    except ValueError:
        raise ValueError("it is no IPv6 address in brackets") from None


def _read_bind_addresses(value: str) -> dict[str, tuple[str, int]]:
    addresses = {}
    for item in value.split(","):
        name, hyphen, address = item.partition("-")
        if not hyphen:
            raise ValueError("it is not NAME-IP:PORT,NAME-IP:PORT")
        addresses[checked_name(name)] = _read_listening(address)
    return addresses


def _read_listening(text: str) -> tuple[str, int]:
    """Read an address to listen at, whose port may be 0."""
    host, colon, port = text.rpartition(":")
    if colon and port and not port.strip("0"):
        return parse_address(f"{host}:1")[0], 0
    return parse_address(text)


_OPTION = re.compile(r"((?:[^:;\\]|\\.)*):((?:[^=;\\]|\\.)+)=((?:[^;\\]|\\.)*)(?:;(?!$)|$)", re.DOTALL)


def _read_options(value: str) -> dict[str, Arguments]:
    """Read ``name:key=value;name:key=value``; a colon in a value may stand there without its backslash."""
    options: dict[str, list[tuple[str, str]]] = {}
    position = 0
    while position < len(value):
        match = _OPTION.match(value, position)
        if match is None:
            raise ValueError("it is not NAME:KEY=VALUE;NAME:KEY=VALUE")
        name, key, text = (re.sub(r"\\(.)", r"\1", part, flags=re.DOTALL) for part in match.groups())
        options.setdefault(checked_name(name), []).append((key, text))
        position = match.end()
    return {name: Arguments(pairs) for name, pairs in options.items()}
