"""
A proxy that answers what a test wants.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

from twisted.internet.interfaces import IAddress, IProtocolFactory
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from ..checks import check_integer, check_protocol_factory, check_type, kind_of
from ..client.tunnel import SOCKS5Address
from ..net.twisted_transports import hand_over
from ..protocol.codes import Command, Method, Status
from ..protocol.decoding import MalformedMessage
from ..protocol.messages import (
    UNSPECIFIED,
    Address,
    ExtendedRequest,
    Greeting,
    Message,
    Reply,
    Request,
    UsernamePassword,
)
from ..protocol.pairs import NO_PAIRS, Pairs
from ..protocol.socks5 import Responder, State
from .attributes import CheckedAttributes, anything, optional
from .connections import Hangup
from .endpoints import MemoryEndpoint
from .recorders import Recorder


class Ending(enum.Enum):
    """What a `FakeProxy` does after it stopped in the middle of what it says."""

    CLOSE = "close"
    ABORT = "abort"
    SILENCE = "silence"


_ANSWERING = (State.SELECTION, State.CREDENTIALS_ANSWER, State.PAIRS_ANSWER, State.REPLY)
"""The states in which a proxy says something."""


def _check_byte(name: str, value: object) -> None:
    check_integer(name, value, 0, 0xFF)


def _check_pairs(name: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping, not {kind_of(value)}")
    Pairs(value)


def _check_answering_state(name: str, value: object) -> None:
    check_type(name, value, State)
    if value not in _ANSWERING:
        raise ValueError(f"{name} must be one of {', '.join(map(str, _ANSWERING))}, not {value}")


def _check_instead(name: str, value: object) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping of State to bytes, not {kind_of(value)}")
    for state, said in value.items():
        _check_answering_state(f"a key of {name}", state)
        check_type(f"{name}[{state}]", said, bytes)


class FakeProxy(CheckedAttributes, Factory):
    """
    A SOCKS5 proxy that answers what a test wants.

    Pass `endpoint` to the client under test. This is a factory too: it can listen
    on a port, or behind TLS. Its parameters are attributes, which may be changed
    between connections.

    :param server: builds the far end of each tunnel, with a `SOCKS5Address` of
        the target; by default a `Recorder`.
    :param method: the method to select, offered or not; by default the best of
        those offered.
    :param status: the answer to credentials and pairs.
    :param pairs: what goes with it where the method is 0x97.
    :param code: the reply's code. It is sent to any client, so that you can see
        what yours makes of it.
    :param bound: the reply's address.
    :param joined: bytes sent together with the reply.
    :param instead: by `State`, bytes to say instead of the right ones.
    :param stop_at: the `State` in which the proxy stops: ``SELECTION``,
        ``CREDENTIALS_ANSWER``, ``PAIRS_ANSWER`` or ``REPLY``.
    :param stop_after: how many bytes of its answer it still says then.
    :param ending: what it does after that.
    :param endpoint_options: of `MemoryEndpoint`: ``clock``, ``address``,
        ``most_at_once``, ``failure`` and ``hangs``.
    :raises TypeError: a parameter is of a wrong type, when it is passed or set.
    :raises ValueError: a number is too small or too great, or the proxy says nothing in a state.
    :raises AttributeError: an unknown attribute is set.
    :ivar endpoint: the endpoint of this proxy, a `MemoryEndpoint`.
    :ivar conversations: one `FakeConversation` for each connection.
    """

    noisy = False

    checks = {
        "server": check_protocol_factory,
        "method": optional(_check_byte),
        "status": _check_byte,
        "pairs": _check_pairs,
        "code": _check_byte,
        "bound": lambda name, value: check_type(name, value, Address),
        "joined": lambda name, value: check_type(name, value, bytes),
        "instead": _check_instead,
        "stop_at": optional(_check_answering_state),
        "stop_after": lambda name, value: check_integer(name, value, 0),
        "ending": lambda name, value: check_type(name, value, Ending),
        "endpoint": anything,
        "conversations": anything,
    }

    def __init__(
        self,
        server: IProtocolFactory | None = None,
        *,
        method: int | None = None,
        status: int = 0,
        pairs: Mapping[str, bytes | str] = NO_PAIRS,
        code: int = 0,
        bound: Address = UNSPECIFIED,
        joined: bytes = b"",
        instead: Mapping[State, bytes] | None = None,
        stop_at: State | None = None,
        stop_after: int = 0,
        ending: Ending = Ending.CLOSE,
        **endpoint_options: Any,
    ) -> None:
        self.server = Factory.forProtocol(Recorder) if server is None else server
        self.method = method
        self.status = status
        self.pairs = pairs
        self.code = code
        self.bound = bound
        self.joined = joined
        self.instead = {} if instead is None else instead
        self.stop_at = stop_at
        self.stop_after = stop_after
        self.ending = ending
        self.endpoint = MemoryEndpoint(self, **endpoint_options)
        self.conversations: list[FakeConversation] = []

    @property
    def requests(self) -> list[Request]:
        """What clients asked for, in their order."""
        return [each.request for each in self.conversations if each.request is not None]

    def buildProtocol(self, addr: IAddress | None) -> FakeConversation:
        conversation = FakeConversation(self)
        self.conversations.append(conversation)
        return conversation


class FakeConversation(Protocol):
    """
    One client's connection to a `FakeProxy`: what it said, ``None`` where it did not come to that.

    :ivar greeting: the methods offered are its ``methods``.
    :ivar credentials: what RFC 1929 carried.
    :ivar pairs: what method 0x97 carried.
    :ivar request: what the client wants.
    :ivar violation: what the client said wrong.
    :ivar tunnel: after success, the protocol that `FakeProxy.server` built.
    :ivar lost: why the connection was lost before that.
    """

    transport: Any

    def __init__(self, proxy: FakeProxy) -> None:
        self._proxy = proxy
        self._responder = Responder()
        self.greeting: Greeting | None = None
        self.credentials: UsernamePassword | None = None
        self.pairs: Pairs | None = None
        self.request: Request | None = None
        self.violation: MalformedMessage | None = None
        self.tunnel: Any = None
        self.lost: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self._responder.feed(data)
        try:
            while (message := self._responder.next_message()) is not None:
                self._heard(message)
        except MalformedMessage as violation:
            self.violation = violation
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason

    def _heard(self, message: Message) -> None:
        proxy, responder = self._proxy, self._responder
        if isinstance(message, Request):
            self.request = message
            self._reply(message)
            return
        state = responder.state
        if isinstance(message, Greeting):
            self.greeting = message
            answer = responder.select(responder.preferred_method() if proxy.method is None else Method(proxy.method))
        else:
            if isinstance(message, UsernamePassword):
                self.credentials = message
            elif isinstance(message, ExtendedRequest):
                self.pairs = message.pairs
            answer = responder.answer(Status(proxy.status), Pairs(proxy.pairs))
        ends = responder.state is State.CLOSED
        if self._say(state, answer) and ends:
            self.transport.loseConnection()

    def _reply(self, request: Request) -> None:
        proxy = self._proxy
        # Not by the responder, which would not send each code to each client.
        if not self._say(State.REPLY, Reply(proxy.code, proxy.bound).encode() + proxy.joined):
            return
        self._responder.close()
        if proxy.code or request.command != Command.CONNECT:
            self.transport.loseConnection()
            return
        target = request.destination
        self.tunnel = proxy.server.buildProtocol(SOCKS5Address(target.host, target.port)) or Hangup()
        hand_over(self.transport, self.tunnel)
        early = self._responder.take_read_ahead()
        if early:
            self.tunnel.dataReceived(early)

    def _say(self, state: State, answer: bytes) -> bool:
        """Say something, or so much of it as was wanted; whether the conversation goes on."""
        proxy = self._proxy
        answer = proxy.instead.get(state, answer)
        if proxy.stop_at is not state:
            self.transport.write(answer)
            return True
        self.transport.write(answer[: proxy.stop_after])
        self._responder.close()
        if proxy.ending is Ending.CLOSE:
            self.transport.loseConnection()
        elif proxy.ending is Ending.ABORT:
            self.transport.abortConnection()
        return False
