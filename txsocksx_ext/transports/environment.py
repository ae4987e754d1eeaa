"""
The environment of a managed transport (pt-spec, section 3.2).

The fields of `ClientEnvironment` and `ServerEnvironment` are the table of its
variables. A parent writes them by ``variables()``, and a transport reads them
by `read_environment`::

    ClientEnvironment(state_location=Path("/var/lib/us/pt"), transports=("obfs4",)).variables()
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from .arguments import Arguments
from .lines import VERSION, Keyword, Line
from .notation import checked_name, format_address, join_pairs, parse_address, split_pairs
from .upstream import UpstreamProxy

PREFIX = "TOR_PT_"
"""The prefix of each variable's name."""

ANY_ADDRESS = ("0.0.0.0", 0)
"""Where a server transport listens without an address in SERVER_BINDADDR."""


class EnvironmentFault(Exception):
    """
    No transport can start in this environment.

    The text names the variable and never repeats its value.

    :ivar line: what the transport says to its parent before it exits.
    """

    def __init__(self, text: str, keyword: Keyword = Keyword.ENV_ERROR) -> None:
        super().__init__(text)
        self.line = Line(keyword, text=text)


def env_error(name: str, problem: str) -> EnvironmentFault:
    """Return the ENV-ERROR about one variable."""
    return EnvironmentFault(f"{PREFIX}{name} {problem}")


def _variable(name: str, read: Callable[[str], Any], write: Callable[[Any], str] = str) -> dict[str, Any]:
    """
    Return the metadata of a field. A field without a default is a variable that must be set.

    :param name: the variable's, without `PREFIX`.
    """
    return {"name": name, "read": read, "write": write}


def _read_names(value: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(checked_name(name) for name in value.split(",")))


def _write_names(names: tuple[str, ...]) -> str:
    return ",".join(checked_name(name) for name in names)


def _read_ipv4(value: str) -> str:
    try:
        return str(ipaddress.IPv4Address(value))
    except ValueError:
        raise ValueError("it is no IPv4 address") from None


def _read_ipv6(value: str) -> str:
    try:
        return str(ipaddress.IPv6Address(value[1:-1] if f"[{value[1:-1]}]" == value else ""))
    except ValueError:
        raise ValueError("it is no IPv6 address in brackets") from None


def _write_address(address: tuple[str, int]) -> str:
    return format_address(*address)


def _read_bind_addresses(value: str) -> dict[str, tuple[str, int]]:
    addresses = {}
    for item in value.split(","):
        name, hyphen, address = item.partition("-")
        if not hyphen:
            raise ValueError("it is not NAME-IP:PORT,NAME-IP:PORT")
        addresses[checked_name(name)] = parse_address(address, least_port=0)
    return addresses


def _write_bind_addresses(addresses: Mapping[str, tuple[str, int]]) -> str:
    return ",".join(f"{name}-{format_address(*address, least_port=0)}" for name, address in addresses.items())


_SPECIAL_IN_OPTIONS = ":\\"


def _read_options(value: str) -> dict[str, Arguments]:
    """Read ``name:key=value;name:key=value``. A colon in a value needs no backslash."""
    options: dict[str, list[tuple[str, str]]] = {}
    for argument, text in split_pairs(value, ";"):
        # The first colon ends the name, which can hold none.
        name, colon, key = argument.partition(":")
        if not colon or not key:
            raise ValueError("it is not NAME:KEY=VALUE;NAME:KEY=VALUE")
        options.setdefault(checked_name(name), []).append((key, text))
    return {name: Arguments(pairs) for name, pairs in options.items()}


def _write_options(options: Mapping[str, Arguments]) -> str:
    return ";".join(
        f"{name}:{join_pairs([pair], ';', in_value=_SPECIAL_IN_OPTIONS)}"
        for name, arguments in options.items()
        for pair in arguments.pairs
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Environment:
    """
    The variables of both roles.

    :ivar state_location: a folder for what the transport keeps; it need not exist yet.
    :ivar exit_on_stdin_close: whether the transport exits at the end of its stdin.
    :ivar outbound_v4: the source address of outgoing IPv4 connections, or ``None``.
    :ivar outbound_v6: the same for IPv6, without brackets.
    """

    state_location: Path = field(metadata=_variable("STATE_LOCATION", lambda value: Path(value).absolute()))
    exit_on_stdin_close: bool = field(
        default=True,
        metadata=_variable("EXIT_ON_STDIN_CLOSE", lambda value: value == "1", lambda flag: str(int(flag))),
    )
    outbound_v4: str | None = field(default=None, metadata=_variable("OUTBOUND_BIND_ADDRESS_V4", _read_ipv4))
    outbound_v6: str | None = field(
        default=None, metadata=_variable("OUTBOUND_BIND_ADDRESS_V6", _read_ipv6, "[{}]".format)
    )

    def variables(self) -> dict[str, str]:
        """Return the variables, to be added to the rest of a child's environment."""
        variables = {PREFIX + "MANAGED_TRANSPORT_VER": VERSION}
        for each in fields(self):
            value = getattr(self, each.name)
            if value is not None:
                variables[PREFIX + each.metadata["name"]] = each.metadata["write"](value)
        return variables


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientEnvironment(_Environment):
    """
    The variables of the client side.

    :ivar transports: the names of the wanted transports.
    :ivar proxy: the proxy for outgoing connections, or ``None``.
    """

    transports: tuple[str, ...] = field(metadata=_variable("CLIENT_TRANSPORTS", _read_names, _write_names))
    proxy: UpstreamProxy | None = field(
        default=None, repr=False, metadata=_variable("PROXY", UpstreamProxy.of, UpstreamProxy.url)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerEnvironment(_Environment):
    """
    The variables of the server side.

    :ivar transports: the names of the wanted transports.
    :ivar bind_addresses: by name, where each transport listens: an IP address and a
        port, 0 for any; `ANY_ADDRESS` unless given.
    :ivar options: by name, the transport's options from its operator.
    :ivar or_port: where payload goes, or ``None``.
    :ivar extended_or_port: tor's extended ORPort, or ``None``.
    :ivar cookie_file: the cookie of the extended ORPort, or ``None``.
    """

    transports: tuple[str, ...] = field(metadata=_variable("SERVER_TRANSPORTS", _read_names, _write_names))
    bind_addresses: Mapping[str, tuple[str, int]] = field(
        default_factory=dict, metadata=_variable("SERVER_BINDADDR", _read_bind_addresses, _write_bind_addresses)
    )
    options: Mapping[str, Arguments] = field(
        default_factory=dict,
        repr=False,
        metadata=_variable("SERVER_TRANSPORT_OPTIONS", _read_options, _write_options),
    )
    or_port: tuple[str, int] | None = field(default=None, metadata=_variable("ORPORT", parse_address, _write_address))
    extended_or_port: tuple[str, int] | None = field(
        default=None, metadata=_variable("EXTENDED_SERVER_PORT", parse_address, _write_address)
    )
    cookie_file: Path | None = field(default=None, metadata=_variable("AUTH_COOKIE_FILE", Path))

    def __post_init__(self) -> None:
        addresses = {name: self.bind_addresses.get(name, ANY_ADDRESS) for name in self.transports}
        object.__setattr__(self, "bind_addresses", addresses)

    def variables(self) -> dict[str, str]:
        """Return the variables, to be added to the rest of a child's environment."""
        # The specification demands an empty one if there is no extended ORPort.
        return {PREFIX + "EXTENDED_SERVER_PORT": "", **_Environment.variables(self)}


def check_version(environ: Mapping[str, str]) -> None:
    """
    Check that the parent speaks `VERSION`.

    :raises EnvironmentFault: it does not, or the variable is not set.
    """
    if VERSION not in _required(environ, "MANAGED_TRANSPORT_VER").split(","):
        raise EnvironmentFault("no-version", Keyword.VERSION_ERROR)


def read_environment(environ: Mapping[str, str]) -> ClientEnvironment | ServerEnvironment:
    """
    Read what the parent set.

    :param environ: such as `os.environ`.
    :raises EnvironmentFault: a variable is missing or malformed, or both roles are
        asked for at once.
    """
    is_client, is_server = (PREFIX + name in environ for name in ("CLIENT_TRANSPORTS", "SERVER_TRANSPORTS"))
    if is_client and is_server:
        raise EnvironmentFault(
            "TOR_PT_CLIENT_TRANSPORTS and TOR_PT_SERVER_TRANSPORTS are both set: a transport is one of them"
        )
    if not is_client and not is_server:
        raise EnvironmentFault("neither TOR_PT_CLIENT_TRANSPORTS nor TOR_PT_SERVER_TRANSPORTS is set")
    kind = ClientEnvironment if is_client else ServerEnvironment
    # Unlike the default of a parent: the specification has it so.
    values: dict[str, Any] = {"exit_on_stdin_close": False}
    for each in fields(kind):
        is_required = each.default is MISSING and each.default_factory is MISSING
        if is_required or environ.get(PREFIX + each.metadata["name"]):
            values[each.name] = _read(environ, **each.metadata)
    environment = kind(**values)
    if isinstance(environment, ServerEnvironment):
        if environment.or_port is None and environment.extended_or_port is None:
            raise EnvironmentFault("neither TOR_PT_ORPORT nor TOR_PT_EXTENDED_SERVER_PORT is set")
        if environment.extended_or_port is not None and environment.cookie_file is None:
            raise env_error("AUTH_COOKIE_FILE", "is not set, and TOR_PT_EXTENDED_SERVER_PORT is")
    return environment


def _read(environ: Mapping[str, str], name: str, read: Callable[[str], Any], write: object) -> Any:
    value = _required(environ, name)
    try:
        return read(value)
    except ValueError as error:
        if name == "PROXY":
            raise EnvironmentFault(f"{PREFIX}PROXY {error}", Keyword.PROXY_ERROR) from None
        raise env_error(name, f"is faulty: {error}") from None


def _required(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(PREFIX + name)
    if not value:
        raise env_error(name, "is not set" if value is None else "is empty")
    return value
