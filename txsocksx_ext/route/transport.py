"""
The route through a pluggable transport: ``transport:NAME:exec=PROGRAM``.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import ITransport
from twisted.logger import Logger

from ..client.methods import ClientMethods
from ..client.socks5 import SOCKS5ExtClientFactory
from ..descriptions import refuse_unknown
from ..errors import (
    AddressTypeNotSupported,
    AuthenticationFailed,
    GeneralServerFailure,
    NoAcceptableMethod,
    OnionServiceError,
    ReplyError,
    TransportError,
    TransportInternalError,
    TransportProtocolFailure,
    TransportTemporaryFailure,
    TTLExpired,
    UnknownReply,
)
from ..failures import reply_error
from ..net.twisted_transports import PausedFactory
from ..protocol import codes
from ..protocol.codes import Dialect, Method
from ..protocol.messages import Address, ExtendedResponse, Reply, Request, UsernamePasswordResponse
from ..protocol.pairs import TRANSPORT_ARGUMENT, Pairs
from ..protocol.socks5 import Initiator
from ..transports.arguments import Arguments, encode_arguments, from_credentials, from_pairs, to_credentials
from ..transports.attempts import Attempt
from ..transports.managed import ChildState, ManagedTransport
from ..transports.process import TransportProcess
from .base import Part, Route

if TYPE_CHECKING:
    from ..context import Session

ENDS_WITHIN = 2.0
"""Seconds in which a transport that closed a connection turns out to have ended, with its output read."""

CERTAIN_WITHIN = 1.0
"""Seconds in which the outcomes of overlapping attempts become known."""

_NOT_REACHED = (codes.NETWORK_UNREACHABLE, codes.HOST_UNREACHABLE, codes.CONNECTION_REFUSED, codes.TTL_EXPIRED)
"""Outcomes of a transport's connection to a bridge that are passed on to the client unchanged."""

_log = Logger(namespace="txsocksx_ext.pt")


class TransportRoute(Route):
    """
    Connects to bridges through a pluggable transport, a program that runs as our child.

    The request's destination is the bridge. The pairs ``pt.<argument>`` are its
    arguments; so are the user name and password of a client that came by method
    02, where no portal checks them and the name holds a ``=``, as tor writes
    arguments there.

    :param reactor: provides processes, TCP, time, threads and a name resolver.
    :param transport: the transport's name, as ``obfs4``.
    :param program: the path of the transport's program, or its name on PATH.
    :param arguments: the program's command line, without its name.
    :param state: the program's state folder; a temporary one by default.
    :raises ValueError: `transport` is not the name of a transport.
    :raises TypeError: an argument is of a wrong type.
    :ivar service: the program runs while this service runs; ``status`` is its state.
    """

    name = "transport"
    keys = frozenset({TRANSPORT_ARGUMENT})
    uses_credentials = True

    def __init__(
        self,
        reactor: Any,
        transport: str,
        program: str | os.PathLike[str],
        arguments: Sequence[str] = (),
        state: str | os.PathLike[str] | None = None,
    ) -> None:
        self._reactor = reactor
        self.service = self._child = ManagedTransport(reactor, transport, program, arguments, state)

    def parts(self) -> Sequence[Part]:
        """See `IRoute`."""
        child = self._child
        is_ready = child.status is ChildState.READY
        state = child.status.value if is_ready or not child.why else f"{child.status.value}: {child.why}"
        return [Part("transport", child.transport_name, is_ready, state)]

    def connect(self, request: Request, addresses: Sequence[Address] | None, session: Session) -> Deferred[ITransport]:
        """See `IRoute`."""
        return Deferred.fromCoroutine(self._connect(request, session))

    async def _connect(self, request: Request, session: Session) -> ITransport:
        if request.destination.is_name:
            raise AddressTypeNotSupported(
                "a bridge must be an IP address: looking its name up would reveal it to the network"
            )
        arguments = _arguments_of(session)
        asking = _BridgeClientFactory(request, arguments, self._reactor)
        try:
            process = await self._child.when_ready()
        except CancelledError:
            if session.end:  # the client left
                raise
            raise self._failed(TransportTemporaryFailure(), "it is still starting") from None
        except TransportError as error:
            why = self._child.why or "as it was not started"
            raise self._failed(error, f"{self._child.status.value}, {why}") from None
        process.hide(value for _, value in arguments.pairs)
        return await self._ask(asking, process, session)

    async def _ask(self, asking: _BridgeClientFactory, process: TransportProcess, session: Session) -> ITransport:
        bridge = asking.request.destination
        attempt = None if process.outbound_proxy is None else process.outbound_proxy.expect(bridge, session.is_local)
        succeeded = False
        try:
            protocol = await asking.begin(process.endpoint, timeout=None)
            succeeded = True
        except CancelledError:
            if session.end:  # the client left
                raise
            is_reached = attempt is not None and attempt.outcome is codes.SUCCEEDED
            why = "the bridge was reached, and is silent" if is_reached else "there was no answer in time"
            raise self._failed(TTLExpired(), why) from None
        except Exception as failure:
            raise await self._explained(failure, process, attempt, asking) from None
        finally:
            if attempt is not None:
                attempt.over(succeeded)
        transport: ITransport = protocol.transport
        return transport

    async def _explained(
        self, failure: Exception, process: TransportProcess, attempt: Attempt | None, asking: _BridgeClientFactory
    ) -> Exception:
        """Return what a failure of the transport means, from the transport's answer and its connections."""
        if isinstance(failure, NoAcceptableMethod) and asking.too_long:
            return self._failed(TransportProtocolFailure(asking.too_long), asking.too_long)
        if isinstance(failure, AuthenticationFailed):
            return self._failed(TransportProtocolFailure(), "it does not take the arguments")
        if isinstance(failure, ReplyError) and not isinstance(failure, GeneralServerFailure):
            return self._failed(failure, "it said so itself")
        if not isinstance(failure, ReplyError) and await process.ends_within(ENDS_WITHIN):
            return self._failed(TransportInternalError(), "it ended")
        outcome = None if attempt is None else await attempt.certain_outcome(self._reactor, CERTAIN_WITHIN)
        if outcome is codes.SUCCEEDED:
            return self._failed(TransportProtocolFailure(), "the bridge was reached, and the transport gave up")
        if outcome in _NOT_REACHED:
            return self._failed(reply_error(outcome.number, Dialect.PLAIN), "the bridge was not reached")
        return self._failed(GeneralServerFailure(), "it did not say why, and nothing was seen")

    def _failed(self, error: Exception, why: str) -> Exception:
        name, kind = self._child.transport_name, type(error).__name__
        _log.info("the transport {name} failed a client, {error}: {why}", name=name, error=kind, why=why)
        return error


class _BridgeClientFactory(SOCKS5ExtClientFactory):
    """
    Asks a transport for a bridge, by method 0x97 if it knows that: all others must pass over it.

    :ivar too_long: what keeps the arguments from going by RFC 1929; empty if nothing does.
    :raises TransportProtocolFailure: the arguments cannot be carried at all.
    """

    def __init__(self, request: Request, arguments: Arguments, reactor: Any) -> None:
        self.too_long = ""
        login = None
        try:
            login = to_credentials(encode_arguments(arguments))
        except ValueError as error:
            self.too_long = str(error)
        try:
            self._pairs: Pairs | None = Pairs((TRANSPORT_ARGUMENT + key, value) for key, value in arguments.pairs)
        except ValueError:  # RFC 1929 lets a key stand twice, and hold any character
            self._pairs = None
        methods = ClientMethods(anonymous=not arguments, login=login, pairs=self._pairs)
        if not methods.offer():
            raise TransportProtocolFailure(self.too_long)
        super().__init__(request, methods, PausedFactory(), dialect=Dialect.PROP229, reactor=reactor)

    def pairs(self) -> Pairs:
        """Return the arguments alone: they are not a login."""
        return self._pairs or Pairs()

    def error_for(self, answer: UsernamePasswordResponse | ExtendedResponse | Reply, initiator: Initiator) -> Exception:
        """Read a reply as a transport's, which has extended codes by method 0x97 alone, and none of onion services."""
        error = super().error_for(answer, initiator)
        if not isinstance(error, ReplyError):
            return error
        is_misplaced = isinstance(error, TransportError) and initiator.selected != Method.EXTENDED
        if is_misplaced or isinstance(error, (UnknownReply, OnionServiceError)):
            return GeneralServerFailure()
        return error


def _arguments_of(session: Session) -> Arguments:
    """
    Return a client's arguments for the transport.

    :raises TransportProtocolFailure: they are malformed.
    """
    credentials = session.credentials
    is_login = session.avatar is not None or session.method != Method.USERNAME_PASSWORD
    try:
        arguments = from_pairs(session.pairs)
        if arguments or is_login or credentials is None or b"=" not in credentials.username:
            return arguments
        return from_credentials(credentials)
    except ValueError as error:
        raise TransportProtocolFailure(f"the transport's arguments are faulty: {error}") from None


KEYWORDS = frozenset({"exec", "arg", "state"})


def from_description(reactor: Any, arguments: Sequence[str], keywords: Mapping[str, str]) -> TransportRoute:
    """
    Make the route of ``transport:NAME:exec=PROGRAM[:arg=ARGUMENTS][:state=DIR]``.

    ARGUMENTS are separated and quoted as in a shell.
    """
    refuse_unknown(keywords, KEYWORDS, "the route transport")
    if len(arguments) != 1 or not keywords.get("exec"):
        raise ValueError(
            "the route transport needs a name and a program, as in transport:obfs4:exec=/usr/bin/obfs4proxy"
        )
    try:
        words = shlex.split(keywords.get("arg", ""))
    except ValueError as error:
        raise ValueError(f"the route transport cannot read arg: {error}") from None
    route = TransportRoute(reactor, arguments[0], keywords["exec"], words, keywords.get("state"))
    if shutil.which(keywords["exec"]) is None:
        raise ValueError(f"the route transport: there is no program {keywords['exec']}, or it may not be run")
    return route
