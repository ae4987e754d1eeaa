"""
The transports of one program: started, reported to the parent, and ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from ..errors import SOCKS5Error
from ..transports.arguments import Arguments
from ..transports.environment import ClientEnvironment, ServerEnvironment, env_error
from ..transports.lines import Keyword, Line, format_arguments
from ..transports.scrubbing import scrub
from .adapter import TransportAdapter
from .client import TransportSOCKSFactory
from .outgoing import Outgoing
from .protocol import Side, Transport
from .server import ConnectToTor, TransportServerFactory, tor_connector

LOOPBACK = "127.0.0.1"

EXPECTED = (SOCKS5Error, ValueError, OSError, CannotListenError)
"""Exceptions that keep a transport from starting without being a bug."""

_log = Logger(namespace="transport")


class TransportProgram:
    """
    One side of some transports, for one parent.

    :param reactor: provides TCP and time.
    :param transports: those that this program has.
    :param environment: what the parent wants.
    :param send: sends a line to the parent.
    :raises EnvironmentFault: tor's cookie cannot be read.
    """

    def __init__(
        self,
        reactor: Any,
        transports: Sequence[Transport],
        environment: ClientEnvironment | ServerEnvironment,
        send: Callable[[Line], None],
    ) -> None:
        self._reactor = reactor
        self._transports = {transport.name: transport for transport in transports}
        if len(self._transports) != len(transports):
            raise ValueError("two transports have the same name")
        self._environment = environment
        self._is_client = isinstance(environment, ClientEnvironment)
        self._send = send
        self._ports: list[IListeningPort] = []
        self._factories: list[TransportSOCKSFactory | TransportServerFactory] = []
        self._connect_to_tor: ConnectToTor | None = None
        if isinstance(environment, ServerEnvironment):
            try:
                self._connect_to_tor = tor_connector(reactor, environment)
            except ValueError as error:
                raise env_error("AUTH_COOKIE_FILE", str(error)) from None

    async def start(self) -> bool:
        """
        Start the transports that the parent wants and this program has, and report each.

        :returns: whether any was started.
        """
        wanted = self._environment.transports
        if isinstance(self._environment, ClientEnvironment) and self._environment.proxy is not None:
            self._send(Line(Keyword.PROXY))
        for name in wanted:
            # The specification has no line about the other names.
            if name in self._transports:
                self._send(await self._start(self._transports[name]))
        if not self._transports.keys() & set(wanted):
            known = ", ".join(self._transports) or "none"
            _log.warn("this program has no transport {wanted}; it has {known}", wanted=", ".join(wanted), known=known)
        self._send(Line(Keyword.CMETHODS if self._is_client else Keyword.SMETHODS))
        return bool(self._ports)

    async def _start(self, transport: Transport) -> Line:
        name = transport.name
        try:
            protocol = transport.protocol(self._is_client)
            if protocol is None:
                raise ValueError(f"it has no {'client' if self._is_client else 'server'}")
            side = self._side(name)
            published = Arguments(await maybeDeferred(protocol.set_up, side) or ())
            if isinstance(self._environment, ClientEnvironment):
                address = self._listen(TransportSOCKSFactory(side, protocol), LOOPBACK, 0)
                return Line(Keyword.CMETHOD, name=name, protocol="socks5", address=address)
            format_arguments(published.pairs)
            side.publish(published)
            TransportAdapter(side, protocol(), side.arguments, None).prepare()
            assert self._connect_to_tor is not None
            factory = TransportServerFactory(side, protocol, self._connect_to_tor)
            address = self._listen(factory, *self._environment.bind_addresses[name])
            return Line(Keyword.SMETHOD, name=name, address=address, fields=published.pairs)
        except Exception as error:
            if not isinstance(error, EXPECTED):
                _log.failure("{transport} does not start", transport=name)
            text = scrub(str(error)) or type(error).__name__
            return Line(Keyword.CMETHOD_ERROR if self._is_client else Keyword.SMETHOD_ERROR, name=name, text=text)

    def _side(self, name: str) -> Side:
        environment = self._environment
        proxy, options = None, Arguments()
        if isinstance(environment, ClientEnvironment):
            proxy = environment.proxy
        else:
            options = environment.options.get(name, options)
        return Side(
            self._reactor,
            name,
            self._is_client,
            state_location=environment.state_location,
            options=options,
            outgoing=Outgoing(self._reactor, proxy, environment.outbound_v4, environment.outbound_v6),
            say_status=self._say_status,
        )

    def _listen(self, factory: TransportSOCKSFactory | TransportServerFactory, host: str, port: int) -> tuple[str, int]:
        listening = self._reactor.listenTCP(port, factory, interface=host)
        self._ports.append(listening)
        self._factories.append(factory)
        return host, listening.getHost().port

    def _say_status(self, name: str, fields: Mapping[str, str]) -> None:
        self._send(Line(Keyword.STATUS, fields=(("TRANSPORT", name), *fields.items())))

    def stop(self, seconds: float = 0.0) -> Deferred[Any]:
        """
        Stop listening, and end all connections.

        :param seconds: how long streams may continue.
        :returns: fires when all connections are closed.
        """
        ports, self._ports = self._ports, []
        closing = [maybeDeferred(port.stopListening) for port in ports]
        return DeferredList([*closing, *(factory.drain(seconds) for factory in self._factories)])
