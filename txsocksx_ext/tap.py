"""
``twistd socks5ext``: its options, and the service that they describe.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.application.service import IService
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.strcred import AuthOptionMixin
from twisted.internet.endpoints import serverFromString
from twisted.python.usage import Options as TwistedOptions
from twisted.python.usage import UsageError

from .descriptions import check_kind, without_function
from .policy.rules import RuleSpec
from .protocol.pairs import MAX_FIELD_LENGTH, PairLimits
from .route import plugin_route_kinds
from .server import Limits
from .server.frontends import PROTOCOLS
from .server.listeners import ListenerString
from .server.memory import freeze_gc
from .server.service import SOCKS5ExtService
from .server.settings import ServerSettings
from .server.start_failures import reason_of, report_start_failures
from .server.text_log import LoggingService
from .server.workers import WorkersService
from .server.workers.sockets import SHAREABLE_KINDS, can_share_sockets

DEFAULT_LISTENER = "tcp:1080:interface=127.0.0.1"

_DEFAULTS = Limits()


def _parameter(name: str, default: object, help: str, kind: type, least: float, what: str) -> list[Any]:
    """Return an item of ``optParameters`` whose value is a number, with an error that names the option."""

    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        # "not >=" rather than "<", so that nan is refused too.
        if value is None or not value >= least or value == float("inf"):
            raise ValueError(f"--{name} is {what}, not {text!r}")
        return value

    return [name, None, default, help, read]


def _seconds(name: str, default: float, help: str, zero: str = "") -> list[Any]:
    what = f"a number of seconds, or 0 for {zero}" if zero else "a number of seconds above 0"
    return _parameter(name, default, help, float, 0 if zero else 0.001, what)


def _count(name: str, default: int | None, help: str) -> list[Any]:
    return _parameter(name, default, help, int, 1, "a whole number above 0")


def _folded(option: Callable[[Any, str], None]) -> Callable[[Any, str], None]:
    """Join the lines of an option's docstring, which --help prints without change."""
    option.__doc__ = " ".join((option.__doc__ or "").split())
    return option


class Options(TwistedOptions, AuthOptionMixin):
    """The options of ``twistd socks5ext``."""

    synopsis = "[options]"
    longdesc = (
        "A proxy for SOCKS5, SOCKS4 and HTTP CONNECT that also speaks Tor's proposal 229: key/value pairs by method"
        " 0x97, and reply codes that say why an onion service failed."
    )
    supportedInterfaces = (IUsernamePassword,)

    def getUsage(self, width: int | None = None) -> str:
        """Return the text of ``--help``, with the route kinds of other packages."""
        usage: str = super().getUsage(width)
        kinds = [f"  {kind.name}: {kind.help}" for kind in plugin_route_kinds()]
        return "\n".join([usage, "Kinds of route of other packages:", *kinds, ""]) if kinds else usage

    optFlags = [
        ["allow-remote", None, "Allow listeners that others could sniff: not loopback, a unix socket or TLS."],
        ["anonymous", None, "With --auth: let clients in without credentials too."],
        ["log-targets", None, "Write targets and user names to the log."],
    ]
    optParameters = [
        _seconds("handshake-timeout", _DEFAULTS.handshake_timeout, "Seconds for a client to say what it wants."),
        _seconds("connect-timeout", _DEFAULTS.connect_timeout, "Seconds to reach a target."),
        _seconds("idle-timeout", 0.0, "Seconds without a byte after which a stream is closed; 0 for never.", "never"),
        _seconds("drain", 10.0, "Seconds for open streams to end on SIGTERM.", "none"),
        _count("max-connections", None, "Connections at once. Default: by the limit of open files."),
        _count(
            "max-per-peer",
            _DEFAULTS.max_per_peer,
            "Connections at once from one IPv4 address or one IPv6 network of 64 bits; loopback and unix sockets do not"
            " count.",
        ),
        _count("workers", 1, "Processes that serve. Each has its part of max-connections and max-per-peer."),
        _count("max-pairs", _DEFAULTS.pairs.pairs, "Pairs in one request of method 0x97."),
        _count("max-auth-bytes", _DEFAULTS.pairs.total_bytes, "Bytes of all pairs in one request of method 0x97."),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.listeners: list[str] = []
        self.protocols: list[str] = []
        self.rules: list[RuleSpec] = []
        self.checkers: list[str] = []

    @_folded
    def opt_listen(self, description: str) -> None:
        """
        Where to listen: any Twisted server endpoint string. Can be given several times. By default that is
        tcp:1080:interface=127.0.0.1.
        """
        self.listeners.append(description)

    @_folded
    def opt_protocol(self, name: str) -> None:
        """
        A protocol to serve on each listener: socks5, socks4 or http. Can be given several times. By default all are
        served.
        """
        if name not in PROTOCOLS:
            raise UsageError(f"--protocol: unknown protocol {name!r}; known are {', '.join(PROTOCOLS)}")
        self.protocols.append(name)

    @_folded
    def opt_auth(self, description: str) -> None:
        """
        How to check credentials: see --help-auth. Can be given several times.
        """
        try:
            super().opt_auth(description)
        except Exception as error:  # checkers raise what they like
            # What follows the kind may be a password.
            kind = description.partition(":")[0]
            reason = str(error).removeprefix("Unexpected error: ")
            raise UsageError(f"--auth {kind}: {reason}") from None
        self.checkers.append(description)

    @_folded
    def opt_route(self, rule: str) -> None:
        """
        Which route targets take: PATTERN=ROUTE. Can be given several times; the first match
        wins, and what matches none goes direct. PATTERN is a host name with wildcards,
        an address or a network, with :PORT or :PORT-PORT after it. ROUTE is direct, refuse,
        socks:ENDPOINT[:username=...:password-file=...][:dialect=...],
        tor:ENDPOINT[:ENDPOINT...][:control=ENDPOINT[,ENDPOINT...]][:control-password-file=...][:extended=yes|no],
        tor:launch[:exec=...][:torrc=...][:state=...],
        or transport:NAME:exec=PROGRAM[:arg=...][:state=...].
        """
        try:
            self.rules.append(RuleSpec.of(rule))
        except ValueError as error:
            raise UsageError(f"--route: {error}") from None

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """
        Read a command line.

        :raises SystemExit: an option is wrong and a command of Twisted's reads the options; the message is one
            line. Before that of a `UsageError`, Twisted's commands would print the whole usage.
        :raises UsageError: an option is wrong and a program reads the options.
        """
        try:
            super().parseOptions(options)
        except UsageError as error:
            if self.parent is None:
                raise
            raise SystemExit(f"socks5ext: {' '.join(str(error).split())}") from None

    def postOptions(self) -> None:
        """Make the service, so that every fault in the options is a usage error."""
        from twisted.internet import reactor

        if self["max-pairs"] > MAX_FIELD_LENGTH:
            raise UsageError(f"--max-pairs is at most {MAX_FIELD_LENGTH}: the format has no place for more")
        listeners = self.listeners or [DEFAULT_LISTENER]
        for description in listeners:
            self._check_listener(reactor, description)
        settings = ServerSettings(
            auth=tuple(self.checkers),
            anonymous=bool(self["anonymous"]) or not self.checkers,
            rules=tuple(self.rules),
            limits=self._limits(),
            log_targets=bool(self["log-targets"]),
            protocols=tuple(self.protocols) or PROTOCOLS,
        )
        try:
            factory = settings.make_factory(reactor)
        except ValueError as error:
            raise UsageError(f"--route: {error}") from None
        self.service: LoggingService
        if self["workers"] == 1:
            self.service = SOCKS5ExtService(reactor, factory, listeners, self["drain"])
        else:
            self._check_workers(listeners)
            self.service = WorkersService(reactor, settings, listeners, self["workers"], self["drain"])

    def _check_workers(self, listeners: list[str]) -> None:
        if not can_share_sockets():
            raise UsageError("--workers: this system does not spread connections over processes; Linux does")
        for description in listeners:
            kind = ListenerString(description).kind
            if kind not in SHAREABLE_KINDS:
                raise UsageError(
                    f"--listen {description}: several workers cannot share a listener of the kind {kind}, only"
                    f" {', '.join(SHAREABLE_KINDS)}, and these behind haproxy; take that one or --workers 1"
                )

    def _check_listener(self, reactor: Any, description: str) -> None:
        try:
            check_kind(description)
            serverFromString(reactor, description)
            listener = ListenerString(description)
            is_exposed = listener.is_exposed
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise UsageError(
                f"--listen {description} is no server endpoint string: {without_function(error)}"
            ) from None
        except Exception as error:  # of a file that the string names, or of a plugin
            raise UsageError(f"--listen {description} cannot be opened: {reason_of(error)}") from None
        try:
            listener.check()
        except ValueError as error:
            raise UsageError(f"--listen {description}: {error}") from None
        port = listener.port
        if port is not None and not 0 <= port <= 0xFFFF:
            raise UsageError(f"--listen {description}: there is no port {port}, but 0 to 65535")
        if is_exposed and not self["allow-remote"]:
            raise UsageError(
                f"--listen {description}: others could read what clients send there. Listen on loopback,"
                " a unix socket or TLS, or say --allow-remote if you must"
            )

    def _limits(self) -> Limits:
        # Without the option, each process derives its limit from its own limit of open files.
        given = {} if self["max-connections"] is None else {"max_connections": self._part_of("max-connections")}
        return Limits(
            handshake_timeout=self["handshake-timeout"],
            connect_timeout=self["connect-timeout"],
            idle_timeout=self["idle-timeout"] or None,
            max_per_peer=self._part_of("max-per-peer"),
            pairs=PairLimits(pairs=self["max-pairs"], total_bytes=self["max-auth-bytes"]),
            **given,
        )

    def _part_of(self, option: str) -> int:
        """Return each worker's part of an option, rounded up."""
        return -(-int(self[option]) // int(self["workers"]))


def makeService(options: Options) -> IService:
    """Return the service that the options describe. See `twisted.application.service.IServiceMaker`."""
    from twisted.internet import reactor

    freeze_gc(reactor)
    if options.parent is not None:
        report_start_failures(options.parent)
        options.service.twistd_options = options.parent
    return options.service
