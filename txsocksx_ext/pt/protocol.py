"""
The classes for authors of transports: a protocol for each side, and what its connections share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..checks import check_method, check_reactor, check_subclass, check_type
from ..net.half_close import end_writing
from ..protocol.messages import Address
from ..protocol.pairs import check_limit
from ..state_folders import private_folder
from ..transports.arguments import Arguments
from ..transports.notation import checked_name
from .outgoing import Outgoing

if TYPE_CHECKING:
    from collections.abc import Callable

    from .adapter import TransportAdapter


class Side:
    """
    One side of a transport as it runs in this program; all its connections share it.

    :ivar reactor: provides TCP and time.
    :ivar name: the transport's.
    :ivar is_client: whether this is the client's side; otherwise it is the bridge's.
    :ivar arguments: on the bridge's side, the operator's ``ServerTransportOptions``,
        overridden by what `TransportProtocol.set_up` returned; empty on the
        client's side, where each connection has its own arguments.
    :ivar log: a `twisted.logger.Logger`; tor gets its events as LOG lines.
    :ivar shared: for anything that your connections share; ``None`` at first.
    :raises ValueError: the name is not the name of a transport.
    :raises TypeError: an argument is of a wrong type.
    """

    def __init__(
        self,
        reactor: Any,
        name: str,
        is_client: bool,
        *,
        state_location: PathLike[str] | str | None,
        options: Arguments = Arguments(),  # noqa: B008  (immutable)
        outgoing: Outgoing | None = None,
        say_status: Callable[[str, Mapping[str, str]], None] | None = None,
    ) -> None:
        check_reactor("reactor", reactor)
        check_type("is_client", is_client, bool)
        check_type("state_location", state_location, PathLike, str, NoneType)
        check_type("options", options, Arguments)
        if outgoing is not None:
            check_method("outgoing", outgoing, "endpoint", "Outgoing")
        self.reactor = reactor
        self.name = checked_name(name)
        self.is_client = is_client
        self.arguments = options
        self.log = Logger(namespace=f"transport.{name}")
        self.shared: Any = None
        self._state_location = None if state_location is None else Path(state_location)
        self._outgoing = Outgoing(reactor) if outgoing is None else outgoing
        self._say_status = say_status

    @property
    def state(self) -> Path:
        """
        The transport's state folder. Other users cannot write to it, and cannot read it if it is created here.

        :raises OSError: it cannot be created, or other users can write to it or replace it, or it is a symbolic link.
        :raises ValueError: a test gave no folder.
        """
        if self._state_location is None:
            raise ValueError("this transport keeps a state, and was given no folder for it")
        return private_folder(private_folder(self._state_location) / self.name)

    def endpoint(self, host: str, port: int) -> IStreamClientEndpoint:
        """
        Return the endpoint of an address, through the proxy and from the source address that tor wants.

        :param host: an IP address.
        :raises AddressTypeNotSupported: `host` is a name, and there is no proxy to look it up.
        """
        return self._outgoing.endpoint(host, port)

    def publish(self, arguments: Arguments) -> None:
        """
        Override the operator's options by what `TransportProtocol.set_up` returned.

        :raises TypeError: `arguments` is not `Arguments`.
        """
        check_type("arguments", arguments, Arguments)
        kept = (pair for pair in self.arguments.pairs if pair[0] not in arguments)
        self.arguments = Arguments((*kept, *arguments.pairs))

    def status(self, **fields: str) -> None:
        """Send a STATUS line about this transport; controllers of tor see it as a PT_STATUS event."""
        if self._say_status is not None:
            self._say_status(self.name, fields)


class TransportProtocol(Protocol):
    """
    One connection of a transport, on either side: override what you need.

    ``self.transport`` is the connection to the peer, the other side of the
    transport. The *payload* is what the transport carries for tor. An exception
    of a method ends the connection. During the handshake it decides the client's
    reply: the code of an exception of `txsocksx_ext.errors`, else 0xF2, as for a bug
    in the transport.

    :cvar handshake_timeout: seconds until `ready`, including the connection.
    :ivar side: what all connections share, a `Side`.
    :ivar arguments: an `Arguments`: of the bridge line on the client's side, and
        `Side.arguments` on the bridge's.
    :ivar target: on the client's side, the bridge's `Address` (``host``, ``port``);
        ``None`` on the bridge's.
    """

    handshake_timeout: float = 45.0
    side: Side
    arguments: Arguments
    target: Address | None
    transport: Any
    _adapter: TransportAdapter

    # To override.

    @classmethod
    def set_up(cls, side: Side) -> Any:
        """
        Prepare the side, once, before the transport is announced.

        :returns: on the bridge's side, what clients must know (a mapping of str
            to str): tor publishes it as the bridge line's arguments. ``None`` for
            nothing; or a Deferred or coroutine of either.
        :raises Exception: any: the transport does not start, and tor logs why.
        """
        return None

    def prepare(self) -> None:
        """
        Read `arguments`, before anything is connected or sent.

        On the bridge's side it is also called when the transport starts, so that
        an operator sees at once that an option is wrong.

        :raises ValueError: the transport does not take these arguments: the client
            gets 0xF1, as it does for an argument that is missing.
        """

    def endpoint(self) -> IStreamClientEndpoint:
        """Return the endpoint of the peer, on the client's side: by default `Side.endpoint` for `target`."""
        assert self.target is not None
        return self.side.endpoint(self.target.host, self.target.port)

    def connectionMade(self) -> None:
        """Begin the handshake: the connection to the peer is established."""

    def dataReceived(self, data: bytes) -> None:
        """Handle bytes from the peer."""
        raise NotImplementedError(f"{type(self).__name__} has no dataReceived()")

    def payload_received(self, payload: bytes) -> None:
        """Handle payload, after `ready`: encode it and write it to ``self.transport``."""
        raise NotImplementedError(f"{type(self).__name__} has no payload_received()")

    def payload_ended(self) -> None:
        """Handle the end of the payload: by default, close the sending side of the connection to the peer."""
        end_writing(self.transport)

    def peer_ended(self) -> None:
        """Handle the end of the peer's bytes: by default, end the payload to tor."""
        self.end_payload()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Handle the loss of the connection to the peer. During the handshake you may `fail` with the reason."""

    # To call.

    def ready(self) -> None:
        """End the handshake: the client gets its reply, and payload flows."""
        self._adapter.ready()

    def fail(self, error: BaseException, last_words: bytes = b"") -> None:
        """
        End the connection; during the handshake, for this reason.

        :param error: an exception of `txsocksx_ext.errors`, or one of Twisted's
            connection errors; it decides the code that the client gets.
        :param last_words: bytes that are sent to the peer first, to tell it the reason.
        :raises TypeError: `error` is not an exception, but its class, say.
        """
        if not isinstance(error, BaseException):
            raise TypeError(f"fail() takes an exception, not {type(error).__name__}")
        self._adapter.fail(error, last_words)

    def write_payload(self, payload: bytes) -> None:
        """Send decoded payload to tor. It is buffered until tor can take it."""
        self._adapter.payload.deliver(payload)

    def end_payload(self) -> None:
        """Tell tor that no more payload comes."""
        self._adapter.payload.end_of_input()


@dataclass(frozen=True)
class Transport:
    """
    A transport for `run`.

    :ivar name: letters, digits and underscores.
    :ivar client: the class of its connections on the client's side, or ``None``.
    :ivar server: the same on the bridge's side; it may be the same class.
    :raises ValueError: the name is not the name of a transport, there is neither class, or a
        ``handshake_timeout`` is not a finite number above 0.
    :raises TypeError: an argument is of a wrong type.
    """

    name: str
    client: type[TransportProtocol] | None = None
    server: type[TransportProtocol] | None = None

    def __post_init__(self) -> None:
        checked_name(self.name)
        for name, protocol in (("client", self.client), ("server", self.server)):
            if protocol is not None:
                check_subclass(name, protocol, TransportProtocol)
                check_limit(f"handshake_timeout of {protocol.__name__}", protocol.handshake_timeout, is_time=True)
        if self.client is None and self.server is None:
            raise ValueError(f"the transport {self.name} has neither a client nor a server")

    def protocol(self, is_client: bool) -> type[TransportProtocol] | None:
        """Return the class for one side."""
        return self.client if is_client else self.server
