"""
The transports of one program, as they start, say so, and end.
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
from .protocol import Side, Transport, TransportProtocol
from .server import ConnectToTor, TransportServerFactory, way_to_tor

LOOPBACK = "127.0.0.1"

EXPECTED = (SOCKS5Error, ValueError, OSError, CannotListenError)
"""What may keep a transport from starting without being a fault in a program."""

_log = Logger(namespace="transport")


class TransportProgram:
    """
    One side of some transports, for one parent.

    :param reactor: provides TCP and time.
    :param transports: those that this program has.
    :param environment: what the parent wants.
    :param say: takes each line for the parent.
    :raises EnvironmentFault: tor's cookie cannot be read.
    """

    def __init__(
        self,
        reactor: Any,
        transports: Sequence[Transport],
        environment: ClientEnvironment | ServerEnvironment,
        say: Callable[[Line], None],
    ) -> None:
        self._reactor = reactor
        self._transports = {transport.name: transport for transport in transports}
        if len(self._transports) != len(transports):
            raise ValueError("two transports have the same name")
        self._environment = environment
        self._say = say
        self._ports: list[IListeningPort] = []
        self._factories: list[TransportSOCKSFactory | TransportServerFactory] = []
        self._connect_to_tor: ConnectToTor | None = None
        if isinstance(environment, ServerEnvironment):
            try:
                self._connect_to_tor = way_to_tor(reactor, environment)
            except ValueError as error:
                raise env_error("AUTH_COOKIE_FILE", str(error)) from None

    async def start(self) -> bool:
        """
        Start what the parent asked for and this program has, and say so.

        :returns: whether anything was started.
        """
        environment = self._environment
        is_client = isinstance(environment, ClientEnvironment)
        if isinstance(environment, ClientEnvironment) and environment.proxy is not None:
            self._say(Line(Keyword.PROXY))
        for name in environment.transports:
            # No line of the configuration says anything of those that are not ours.
            if name in self._transports:
                self._say(await self._start(self._transports[name], is_client))
        if not self._transports.keys() & set(environment.transports):
            wanted, known = ", ".join(environment.transports), ", ".join(self._transports) or "none"
            _log.warn("this program has no transport {wanted}; it has {known}", wanted=wanted, known=known)
        self._say(Line(Keyword.CMETHODS if is_client else Keyword.SMETHODS))
        return bool(self._ports)

    async def _start(self, transport: Transport, is_client: bool) -> Line:
        try:
            protocol = transport.protocol(is_client)
            if protocol is None:
                raise ValueError(f"it has no {'client' if is_client else 'server'}")
            side = self._side(transport.name)
            published = Arguments(await maybeDeferred(protocol.set_up, side) or ())
            return self._listen_for_tor(side, protocol) if is_client else self._listen(side, protocol, published)
        except Exception as error:
            if not isinstance(error, EXPECTED):
                _log.failure("{transport} does not start", transport=transport.name)
            text = scrub(str(error)) or type(error).__name__
            return Line(Keyword.CMETHOD_ERROR if is_client else Keyword.SMETHOD_ERROR, name=transport.name, text=text)

    def _side(self, name: str) -> Side:
        environment = self._environment
        is_client = isinstance(environment, ClientEnvironment)
        return Side(
            self._reactor,
            name,
            is_client,
            state_location=environment.state_location,
            options=Arguments() if isinstance(environment, ClientEnvironment) else _options(environment, name),
            outgoing=Outgoing(
                self._reactor,
                environment.proxy if isinstance(environment, ClientEnvironment) else None,
                environment.outbound_v4,
                environment.outbound_v6,
            ),
            say_status=self._say_status,
        )

    def _listen_for_tor(self, side: Side, protocol: type[TransportProtocol]) -> Line:
        port = self._open(0, TransportSOCKSFactory(side, protocol), LOOPBACK)
        address = (LOOPBACK, port.getHost().port)
        return Line(Keyword.CMETHOD, name=side.name, protocol="socks5", address=address)

    def _listen(self, side: Side, protocol: type[TransportProtocol], published: Arguments) -> Line:
        format_arguments(published.pairs)
        side.publish(published)
        TransportAdapter(side, protocol(), side.arguments, None).prepare()
        assert isinstance(self._environment, ServerEnvironment)
        assert self._connect_to_tor is not None
        host, number = self._environment.bind_addresses[side.name]
        port = self._open(number, TransportServerFactory(side, protocol, self._connect_to_tor), host)
        address = (host, port.getHost().port)
        return Line(Keyword.SMETHOD, name=side.name, address=address, fields=published.pairs)

    def _open(self, number: int, factory: Any, host: str) -> Any:
        port = self._reactor.listenTCP(number, factory, interface=host)
        self._ports.append(port)
        self._factories.append(factory)
        return port

    def _say_status(self, name: str, fields: Mapping[str, str]) -> None:
        self._say(Line(Keyword.STATUS, fields=(("TRANSPORT", name), *fields.items())))

    def stop(self, seconds: float = 0.0) -> Deferred[Any]:
        """
        Take no more connections, and end those that there are.

        :param seconds: how long streams may go on.
        :returns: fires when all are ended.
        """
        ports, self._ports = self._ports, []
        closing = [maybeDeferred(port.stopListening) for port in ports]
        return DeferredList([*closing, *(factory.drain(seconds) for factory in self._factories)])


def _options(environment: ServerEnvironment, name: str) -> Arguments:
    return environment.options.get(name, Arguments())
