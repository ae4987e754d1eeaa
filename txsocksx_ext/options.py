"""
The table of the server's options, from which the command line, the configuration file and the documentation are made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from .addresses import client_network
from .policy.rules import RuleSpec
from .server import Limits
from .server.frontends import PROTOCOLS

Reader = Callable[[str, str], Any]
"""Reads the text of a value; the first argument names the option in errors."""

DEFAULT_LISTENER = "tcp:1080:interface=127.0.0.1"
LEAST_RATE = 1024
"""Bytes a second. With less, one read could take longer than clients wait."""

REMOVED_USERS = "removed-users"

_DEFAULTS = Limits()


@dataclass(frozen=True)
class Option:
    """
    One option of the server.

    :ivar name: on the command line after ``--``, and in a configuration file.
    :ivar kind: a flag takes no value, and a list can be given several times.
    :ivar help: one sentence.
    :ivar default: the value if the option is not given.
    :ivar read: reads the text of one value; raises `ValueError`.
    :ivar in_file: whether a configuration file may have the option.
    """

    name: str
    kind: Literal["flag", "number", "text", "list"]
    help: str
    default: Any = None
    read: Reader = lambda label, text: text
    in_file: bool = True

    @property
    def shown_default(self) -> str:
        """The default for the documentation, or an empty string."""
        if self.default is None or self.kind in ("flag", "list"):
            return ""
        return self.default if self.kind == "text" else f"{self.default:g}"

    def from_file(self, label: str, value: object) -> Any:
        """
        Return the value that a configuration file has for the option.

        :param label: the file and the key, for errors.
        :raises ValueError: the value is of another type, or the option refuses it.
        """
        if self.kind == "flag":
            if not isinstance(value, bool):
                raise ValueError(f"{label} is true or false, not {value!r}")
            return value
        if self.kind == "number":
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError(f"{label} is a number, not {value!r}")
            return self.read(label, str(value))
        if self.kind == "text":
            return self.read(label, strings(label, value, is_list=False)[0])
        return [self.read(label, text) for text in strings(label, value)]


def strings(label: str, value: object, is_list: bool = True) -> list[str]:
    """
    Return the strings of a value of a configuration file: several, or a single one.

    :raises ValueError: the value is of another type; the message does not quote it, because it may hold a password.
    """
    values = value if is_list and isinstance(value, list) else [value]
    texts = [each for each in values if isinstance(each, str)]
    if len(texts) != len(values):
        raise ValueError(f"{label} is {'a string or a list of strings' if is_list else 'a string'}")
    return texts


def _number(kind: type, least: float, what: str) -> Reader:
    def read(label: str, text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        # "not >=" rather than "<", so that nan is refused too.
        if value is None or not value >= least or value == float("inf"):
            raise ValueError(f"{label} is {what}, not {text!r}")
        return value

    return read


def _seconds(name: str, default: float, help: str, zero: str = "") -> Option:
    what = f"a number of seconds, or 0 for {zero}" if zero else "a number of seconds above 0"
    return Option(name, "number", help, default, _number(float, 0 if zero else 0.001, what))


def _count(name: str, default: int | None, help: str) -> Option:
    return Option(name, "number", help, default, _number(int, 1, "a whole number above 0"))


def _rate(name: str, help: str) -> Option:
    what = f"a whole number of bytes a second from {LEAST_RATE} on"
    return Option(name, "number", help, None, _number(int, LEAST_RATE, what))


def _one_of(what: str, known: Iterable[str]) -> Reader:
    def read(label: str, text: str) -> str:
        if text not in known:
            raise ValueError(f"{label}: unknown {what} {text!r}; known are {', '.join(known)}")
        return text

    return read


def _network(label: str, text: str) -> str:
    try:
        return str(client_network(text))
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from None


def _rule(label: str, text: str) -> RuleSpec:
    try:
        return RuleSpec.of(text)
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from None


OPTIONS = (
    # A daemon may change its folder before it reads the file again.
    Option(
        "config",
        "text",
        "A file with options, in TOML. An option on the command line replaces the file's.",
        read=lambda label, text: os.path.abspath(text),
        in_file=False,
    ),
    Option("check", "flag", "Print what would run, or what is wrong, and exit.", False, in_file=False),
    Option(
        "listen",
        "list",
        "Where to listen: any Twisted server endpoint string. Can be given several times. By default that is"
        f" {DEFAULT_LISTENER}.",
    ),
    Option(
        "proxy-protocol-from",
        "list",
        "A network whose balancers are believed at haproxy: listeners, besides those on unix sockets. Can be given"
        " several times. By default that is loopback.",
        read=_network,
    ),
    Option(
        "allow-remote", "flag", "Allow listeners that others could sniff: not loopback, a unix socket or TLS.", False
    ),
    Option(
        "protocol",
        "list",
        "A protocol to serve on each listener: socks5, socks4 or http. Can be given several times. By default all are"
        " served.",
        read=_one_of("protocol", PROTOCOLS),
    ),
    Option("auth", "list", "How to check credentials: see --help-auth. Can be given several times."),
    Option("anonymous", "flag", "With --auth: let clients in without credentials too.", False),
    Option(
        "route",
        "list",
        "Which route targets take: PATTERN=ROUTE. Can be given several times; the first match wins, and what matches"
        " none goes direct. PATTERN is a host name with wildcards, an address or a network, with :PORT or :PORT-PORT"
        " after it. ROUTE is direct[:source=ADDRESS][:family=4|6|prefer4|prefer6], refuse,"
        " socks:ENDPOINT[:username=...:password-file=...][:dialect=...],"
        " socks4:ENDPOINT, http:ENDPOINT[:username=...:password-file=...],"
        " tor:ENDPOINT[:ENDPOINT...][:control=ENDPOINT[,ENDPOINT...]][:control-password-file=...][:extended=yes|no],"
        " tor:launch[:exec=...][:torrc=...][:state=...], or transport:NAME:exec=PROGRAM[:arg=...][:state=...].",
        read=_rule,
    ),
    _seconds("handshake-timeout", _DEFAULTS.handshake_timeout, "Seconds for a client to say what it wants."),
    _seconds("connect-timeout", _DEFAULTS.connect_timeout, "Seconds to reach a target."),
    _seconds("idle-timeout", 0.0, "Seconds without a byte after which a stream is closed; 0 for never.", "never"),
    _seconds(
        "keepalive",
        0.0,
        "Seconds without data after which TCP probes the client and the target of a stream; 0 for the system's own, on"
        " Linux two hours.",
        "the system's own",
    ),
    _seconds("drain", 10.0, "Seconds for open streams to end on SIGTERM.", "none"),
    _seconds("drain-delay", 0.0, "Seconds from SIGTERM on in which connections are still accepted.", "none"),
    Option(
        "status",
        "text",
        "Where to serve a status page, metrics and /readyz: an endpoint string, as for --listen, of loopback or a unix"
        " socket. By default they are not served.",
    ),
    _count("max-connections", None, "Connections at once. Default: by the limit of open files."),
    _count(
        "max-per-peer",
        _DEFAULTS.max_per_peer,
        "Connections at once from one IPv4 address or one IPv6 network of 64 bits; loopback and unix sockets do not"
        " count.",
    ),
    _count("max-per-user", None, "Connections at once of one user name."),
    _rate("user-rate-up", "Bytes a second that all streams of one user name together may send."),
    _rate("user-rate-down", "Bytes a second that all streams of one user name together may receive."),
    _rate("connection-rate-up", "Bytes a second that one stream may send."),
    _rate("connection-rate-down", "Bytes a second that one stream may receive."),
    _count("workers", 1, "Processes that serve. Each has its part of max-connections, max-per-peer and max-per-user."),
    _count("max-pairs", _DEFAULTS.pairs.pairs, "Pairs in one request of method 0x97."),
    _count("max-auth-bytes", _DEFAULTS.pairs.total_bytes, "Bytes of all pairs in one request of method 0x97."),
    Option("log-targets", "flag", "Write targets and user names to the log.", False),
    Option(
        "reload-ends",
        "text",
        "Which streams a reload ends: none, or removed-users for those of users who cannot log in any more.",
        "none",
        _one_of("choice", ("none", REMOVED_USERS)),
    ),
)
"""Every option, in the order of the documentation."""

BY_NAME = {option.name: option for option in OPTIONS}
