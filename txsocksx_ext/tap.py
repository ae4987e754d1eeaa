"""
``twistd socks5ext``: its options, and the service that they describe.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.application.service import IService
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.strcred import AuthOptionMixin
from twisted.python.usage import Options as TwistedOptions
from twisted.python.usage import UsageError

from .config import Configuration, ConfigurationError
from .options import OPTIONS, Option
from .reloading import Reloader
from .route import plugin_route_kinds
from .server.memory import freeze_gc
from .server.notify import Notifier
from .server.service import SOCKS5ExtService
from .server.start_failures import report_start_failures
from .server.workers import WorkersService


class Options(TwistedOptions, AuthOptionMixin):
    """
    The options of ``twistd socks5ext``.

    :ivar given: the values of those on the command line, by name.
    """

    synopsis = "[options]"
    longdesc = (
        "A proxy for SOCKS5, SOCKS4 and HTTP CONNECT that also speaks Tor's proposal 229: key/value pairs by method"
        " 0x97, and reply codes that say why an onion service failed."
    )
    supportedInterfaces = (IUsernamePassword,)

    def __init__(self) -> None:
        super().__init__()
        self.given: dict[str, Any] = {}

    def getUsage(self, width: int | None = None) -> str:
        """Return the text of ``--help``, with the route kinds of other packages."""
        usage: str = super().getUsage(width)
        kinds = [f"  {kind.name}: {kind.help}" for kind in plugin_route_kinds()]
        return "\n".join([usage, "Kinds of route of other packages:", *kinds, ""]) if kinds else usage

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

    def parseArgs(self, *unexpected: str) -> None:
        """
        Take no arguments besides the options.

        :raises UsageError: there is one.
        """
        if unexpected:
            raise UsageError(f"unexpected argument {unexpected[0]!r}: every setting is an option; see --help")

    def postOptions(self) -> None:
        """
        Make the service, so that every fault in the options is a usage error.

        :raises SystemExit: ``--check`` was given; see `_check`.
        """
        from twisted.internet import reactor

        if "check" in self.given:
            _check(reactor, self.given)
        try:
            configuration = Configuration(reactor, self.given)
        except ConfigurationError as error:
            raise UsageError(str(error)) from None
        self.service: SOCKS5ExtService | WorkersService
        settings, listeners, drain = configuration.settings, configuration.listeners, configuration.drain
        if configuration.workers == 1:
            self.service = SOCKS5ExtService(reactor, settings.make_factory(reactor), listeners, drain)
        else:
            self.service = WorkersService(reactor, settings, listeners, configuration.workers, drain)
        self.service.started = Reloader(reactor, self.service, configuration, self.given).started
        self.service.drain_delay = configuration.drain_delay
        if configuration.status is not None:
            from .server.status_page import StatusPage

            self.service.status_page = StatusPage(reactor, self.service, configuration.status)


def _check(reactor: Any, given: dict[str, Any]) -> None:
    """
    Print what would run.

    :raises SystemExit: always; its message is what is wrong, one line each.
    """
    try:
        configuration = Configuration(reactor, given)
    except ConfigurationError as error:
        raise SystemExit("\n".join(f"socks5ext: {each}" for each in error.faults)) from None
    for topic, items in configuration.summary().items():
        print(f"{topic}:", *(f"  {item}" for item in items), sep="\n")
    for warning in configuration.warnings:
        print(f"warning: {warning}")
    raise SystemExit(0)


def _handler(option: Option) -> Callable[..., None]:
    """Return the method of `Options` that reads an option."""

    def take_flag(self: Options) -> None:
        self.given[option.name] = True

    def take_value(self: Options, text: str) -> None:
        try:
            value = option.read(f"--{option.name}", text)
        except ValueError as error:
            raise UsageError(str(error)) from None
        if option.kind == "list":
            self.given.setdefault(option.name, []).append(value)
        else:
            self.given[option.name] = value

    handler = take_flag if option.kind == "flag" else take_value
    # Twisted prints the docstring as the option's help.
    handler.__doc__ = f"{option.help} [default: {option.shown_default}]" if option.shown_default else option.help
    return handler


for _option in OPTIONS:
    setattr(Options, f"opt_{_option.name.replace('-', '_')}", _handler(_option))


def makeService(options: Options) -> IService:
    """Return the service that the options describe. See `twisted.application.service.IServiceMaker`."""
    from twisted.internet import reactor

    freeze_gc(reactor)
    if options.parent is not None:
        report_start_failures(options.parent)
        options.service.twistd_options = options.parent
        options.service.notifier = Notifier.from_environment()
    return options.service
