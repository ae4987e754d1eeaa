"""
The SOCKS5 conversation, both ends, without I/O: `Initiator` (client) and `Responder` (server).

Both ends see the same messages in the same order, so one table of states,
`TRANSITIONS`, serves both; the diagram in the documentation is drawn from it.
An end is fed the peer's bytes by ``feed()`` and returns its messages from
``next_message()``; its other methods return the bytes to send.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, ClassVar

from . import codes, decoding
from .codes import Dialect, Method, ReplyCode, Status
from .decoding import Fault, MalformedMessage
from .messages import (
    UNSPECIFIED,
    Address,
    ExtendedRequest,
    ExtendedResponse,
    Greeting,
    Message,
    MethodSelection,
    Reply,
    Request,
    UsernamePassword,
    UsernamePasswordResponse,
)
from .pairs import DEFAULT_PAIR_LIMITS, ERROR, NO_PAIRS, TOR_ERRORS, PairLimits, Pairs


class Role(enum.Enum):
    """The two ends, in the words of proposal 229."""

    INITIATOR = "initiator"
    RESPONDER = "responder"


class State(enum.Enum):
    """What comes next: a message of this kind, the application's data (``OPEN``), or nothing (``CLOSED``)."""

    GREETING = "greeting"
    SELECTION = "selection"
    CREDENTIALS = "credentials"
    CREDENTIALS_ANSWER = "credentials answer"
    PAIRS = "pairs"
    PAIRS_ANSWER = "pairs answer"
    REQUEST = "request"
    REPLY = "reply"
    OPEN = "open"
    CLOSED = "closed"

    # Members are unique, and Enum's own __hash__ is a Python function that every look-up would call.
    __hash__ = object.__hash__


# Members of an enumeration are found quicker by names of a module's own.
_GREETING, _SELECTION, _REPLY, _OPEN = State.GREETING, State.SELECTION, State.REPLY, State.OPEN
_NO_ACCEPTABLE, _PROP229 = Method.NO_ACCEPTABLE, Dialect.PROP229


@dataclass(frozen=True, slots=True)
class Transition:
    """
    The message of one state, and the states that it leads to.

    :ivar sender: the end that sends the message.
    :ivar message: the message's class.
    :ivar decoder: a function of `txsocksx_ext.protocol.decoding`.
    :ivar outcomes: the next state, by the outcome's name.
    :ivar next: the next state if there is only one outcome, else ``None``.
    """

    sender: Role
    message: type
    decoder: decoding.Decoder[Any]
    outcomes: dict[str, State]
    next: State | None = field(init=False)

    def __post_init__(self) -> None:
        states = list(self.outcomes.values())
        object.__setattr__(self, "next", states[0] if len(states) == 1 else None)

    def state_after(self, message: Any) -> State:
        """Return the state that `message` leads to."""
        return self.next or self.outcomes[_outcome_of(message)]


def _outcome_of(message: MethodSelection | UsernamePasswordResponse | ExtendedResponse | Reply) -> str:
    if isinstance(message, MethodSelection):
        return _METHOD_OUTCOMES.get(message.method, "other")
    failed = message.code if isinstance(message, Reply) else message.status
    return "failure" if failed else "success"


_METHOD_OUTCOMES = {Method.NO_AUTHENTICATION: "0x00", Method.USERNAME_PASSWORD: "0x02", Method.EXTENDED: "0x97"}
_SELECTED = {"0x00": State.REQUEST, "0x02": State.CREDENTIALS, "0x97": State.PAIRS, "other": State.CLOSED}
_ANSWERED = {"success": State.REQUEST, "failure": State.CLOSED}
_REPLIED = {"success": State.OPEN, "failure": State.CLOSED}


_client, _server = partial(Transition, Role.INITIATOR), partial(Transition, Role.RESPONDER)

TRANSITIONS: dict[State, Transition] = {
    State.GREETING: _client(Greeting, decoding.greeting, {"sent": State.SELECTION}),
    State.SELECTION: _server(MethodSelection, decoding.method_selection, _SELECTED),
    State.CREDENTIALS: _client(UsernamePassword, decoding.username_password, {"sent": State.CREDENTIALS_ANSWER}),
    State.CREDENTIALS_ANSWER: _server(UsernamePasswordResponse, decoding.login_answer, _ANSWERED),
    State.PAIRS: _client(ExtendedRequest, decoding.extended_request, {"sent": State.PAIRS_ANSWER}),
    State.PAIRS_ANSWER: _server(ExtendedResponse, decoding.extended_response, _ANSWERED),
    State.REQUEST: _client(Request, decoding.request, {"sent": State.REPLY}),
    State.REPLY: _server(Reply, decoding.reply_or_its_code, _REPLIED),
}
"""The whole conversation. In the other states neither end sends a message."""


class OutOfOrder(Exception):
    """Our own side tried to send a message in the wrong state: a bug in the caller."""


class Conversation(decoding.MessageReader):
    """
    One end of a conversation: decodes the peer's messages and encodes ours, each in its state only.

    :cvar role: which end this is.
    :ivar state: which message comes next.
    :ivar offered: the methods that the initiator offered, in its order.
    :param limits: how much the peer may send in one message of pairs.
    """

    role: ClassVar[Role]
    _incoming: ClassVar[dict[State, Transition]]
    _outgoing: ClassVar[dict[State, Transition]]

    def __init_subclass__(cls, role: Role | None = None) -> None:
        if role is not None:
            cls.role = role
            cls._incoming = {state: each for state, each in TRANSITIONS.items() if each.sender is not role}
            cls._outgoing = {state: each for state, each in TRANSITIONS.items() if each.sender is role}

    def __init__(self, limits: PairLimits = DEFAULT_PAIR_LIMITS) -> None:
        # Create every attribute here: CPython finds those that appear later, or in the class, more slowly.
        self.buffer = b""
        self._needed = 0
        self.state = _GREETING
        self.offered: tuple[Method, ...] = ()
        self._limits = limits

    def next_message(self) -> Message | None:
        """
        Decode the peer's next message.

        :returns: ``None`` while bytes are missing, while the next message is ours, and when the conversation is over.
        :raises MalformedMessage: the peer violated the protocol; the conversation is closed.
        """
        transition = self._incoming.get(self.state) if self.buffer else None
        if transition is None:
            return None
        try:
            message: Message | None = self.decode(transition.decoder, self._limits)
        except MalformedMessage as violation:
            self._violated(violation)
            self.state = State.CLOSED
            # The decoder's frames hold passwords and names; a traceback must not show them.
            raise violation.with_traceback(None) from None
        if message is not None:
            self.state = transition.next or transition.state_after(message)
            if type(message) is Greeting:
                self.offered = message.methods
        return message

    def send(self, message: Message) -> bytes:
        """
        Return the bytes of our next message.

        :raises OutOfOrder: the conversation's state does not allow this message.
        """
        transition = self._outgoing.get(self.state)
        if transition is None or type(message) is not transition.message:
            raise OutOfOrder(f"{type(message).__name__} cannot be sent in the state {self.state.value!r}")
        self.state = transition.next or transition.state_after(message)
        if type(message) is Greeting:
            self.offered = message.methods
        return message.encode()

    def close(self) -> None:
        """End the conversation: nothing more is sent or decoded."""
        self.state = State.CLOSED

    def _violated(self, violation: MalformedMessage) -> None:
        """Note a violation, while `state` still says in which message it was."""


@lru_cache(maxsize=128)
def _greeting_with(methods: tuple[Method, ...]) -> bytes:
    """Programs offer the same methods each time, so keep the bytes."""
    return Greeting(methods).encode()


class Initiator(Conversation, role=Role.INITIATOR):
    """
    The client's end.

    It sends each message only after the server's answer to the one before: some servers take one read for one
    message, and pairs and credentials must not reach a server that selected another method.

    :param dialect: how to read extended reply codes; ``None`` decides by what the server selects and confirms.
    :param limits: how much the server may send in its answer to pairs.
    :ivar selected: the method that the server selected, or ``None`` before that.
    """

    def __init__(self, dialect: Dialect | None = None, limits: PairLimits = DEFAULT_PAIR_LIMITS) -> None:
        super().__init__(limits)
        self._dialect = dialect
        self._confirmed_tor_errors = False
        self.selected: Method | None = None

    @property
    def dialect(self) -> Dialect:
        """
        The table in which the server's extended codes are to be read.

        Unless it was given, this is proposal 229's if the server selected 0x97
        and did not confirm ``tor.errors`` = ``304``, else Tor's.
        """
        if self._dialect is not None:
            return self._dialect
        is_prop229 = self.selected == Method.EXTENDED and not self._confirmed_tor_errors
        return Dialect.PROP229 if is_prop229 else Dialect.TOR

    def offer(self, methods: tuple[Method, ...]) -> bytes:
        """Return the bytes that begin the conversation: a greeting with `methods`."""
        if self.state is not State.GREETING:
            return self.send(Greeting(methods))
        encoded = _greeting_with(methods)
        self.state, self.offered = State.SELECTION, methods
        return encoded

    def authenticate(self, message: UsernamePassword | ExtendedRequest) -> bytes:
        """
        Return the bytes of the credentials or pairs that the selected method asks for.

        :raises TypeError: the pairs are not `Pairs`.
        """
        # str has an encode() too, whose bytes would announce pairs that never come.
        if isinstance(message, ExtendedRequest) and not isinstance(message.pairs, Pairs):
            raise TypeError(f"the pairs to send must be Pairs, not {type(message.pairs).__name__}")
        return self.send(message)

    def request(self, request: Request) -> bytes:
        """Return the bytes of the request."""
        return self.send(request)

    def overrule(self) -> Reply | None:
        """
        Take a failing reply for a success, because the server kept the connection open.

        :returns: the reply with its bound address; ``None`` if that is not complete.
        :raises MalformedMessage: it is malformed, so that nothing behind it can be trusted.
        """
        bound = self.decode(decoding.rest_of_failed_reply)
        if bound is None:
            return None
        self.state = State.OPEN
        return Reply(0, bound)

    def next_message(self) -> Message | None:
        """
        Decode the server's next message.

        :raises MalformedMessage: also if the server selected a method that was not offered.
        """
        message = super().next_message()
        if isinstance(message, MethodSelection):
            self.selected = message.method
            if message.method not in (*self.offered, Method.NO_ACCEPTABLE):
                self.close()
                raise MalformedMessage(
                    "MethodSelection", Fault.METHOD, f"the method 0x{message.method:02X} was not offered"
                )
        elif isinstance(message, ExtendedResponse) and message.status == Status.SUCCESS:
            self._confirmed_tor_errors = message.pairs.get(TOR_ERRORS) == b"304"
        return message


DEFAULT_PREFERENCE = (Method.EXTENDED, Method.USERNAME_PASSWORD, Method.NO_AUTHENTICATION)
"""The order in which a server selects where credentials matter, whatever the order of the offer."""

LONGEST_REASON = 200
"""The most bytes of an ERROR pair: it names what was wrong, and a key can be long."""

_SUCCESS = Reply(0).encode()[:3]
_SUCCESS_WITHOUT_PAIRS = ExtendedResponse(Status.SUCCESS)
# What most conversations consist of, encoded and with the state that follows.
_SELECTIONS = {
    method: (MethodSelection(method).encode(), TRANSITIONS[State.SELECTION].state_after(MethodSelection(method)))
    for method in DEFAULT_PREFERENCE
}


class Responder(Conversation, role=Role.RESPONDER):
    """
    The server's end.

    :ivar selected: the method that we selected.
    :ivar dialect: the table of extended codes that this client asked for.
    :ivar replied: the reply code that was sent, or ``None`` before that.
    :ivar final_reply: after a violation, the bytes to send before closing.
    """

    final_reply = b""

    def __init__(self, limits: PairLimits = DEFAULT_PAIR_LIMITS) -> None:
        Conversation.__init__(self, limits)
        self.selected = _NO_ACCEPTABLE
        self.dialect = _PROP229
        self.replied: int | None = None

    @property
    def offered_extended(self) -> bool:
        """Whether the client offered method 0x97."""
        return Method.EXTENDED in self.offered

    def preferred_method(self, accepted: Iterable[int] = DEFAULT_PREFERENCE) -> Method:
        """Return the first of `accepted`, members of `Method` or numbers, that was offered, or ``NO_ACCEPTABLE``."""
        offered = self.offered
        for method in accepted:
            if method in offered:
                return method if type(method) is Method else Method(method)
        return Method.NO_ACCEPTABLE

    def select(self, method: Method) -> bytes:
        """Return the bytes that select `method`; ``NO_ACCEPTABLE`` ends the conversation."""
        self.selected = method
        if self.state is _SELECTION and method in _SELECTIONS:
            encoded, self.state = _SELECTIONS[method]
            return encoded
        return Conversation.send(self, MethodSelection(method))

    def answer(self, status: Status, pairs: Pairs = NO_PAIRS) -> bytes:
        """
        Return the bytes that answer credentials or pairs.

        :param pairs: what to answer pairs with; RFC 1929 cannot carry any.
        """
        if self.state is State.CREDENTIALS_ANSWER:
            return Conversation.send(self, UsernamePasswordResponse(status))
        if pairs is NO_PAIRS and status == Status.SUCCESS:
            return Conversation.send(self, _SUCCESS_WITHOUT_PAIRS)
        return Conversation.send(self, ExtendedResponse(status, pairs))

    def reply(self, code: int | ReplyCode, bound: Address = UNSPECIFIED) -> bytes:
        """Return the bytes that answer the request, with a code that this client may get."""
        if code is codes.SUCCEEDED and self.state is _REPLY:
            self.replied, self.state = 0, _OPEN
            return _SUCCESS + bound.encode()
        number = self.permitted_code(code)
        sent = Conversation.send(self, Reply(number, bound))
        self.replied = number
        return sent

    def permitted_code(self, code: int | ReplyCode) -> int:
        """Return the code that may leave to this client instead of `code`. See `codes.permitted_code`."""
        return codes.permitted_code(
            code, offered_extended=self.offered_extended, selected=self.selected, dialect=self.dialect
        )

    def send(self, message: Message) -> bytes:
        """
        Return the bytes of our next message, whatever it is.

        :raises OutOfOrder: the conversation's state does not allow this message.
        :raises ValueError: a reply code that may not be sent to this client.
        """
        if type(message) is Reply and message.code and self.permitted_code(message.code) != message.code:
            raise ValueError(f"the reply code 0x{message.code:02X} may not be sent to this client")
        return Conversation.send(self, message)

    def _violated(self, violation: MalformedMessage) -> None:
        """
        Set `final_reply`, which stays empty if the version was wrong.

        Then the client speaks another protocol, and any answer would be a guess. Only a
        request with a wrong version is answered, as tor answers it.
        """
        if self.state is State.REQUEST:
            is_type = violation.fault is Fault.ADDRESS_TYPE
            self.replied = (codes.ADDRESS_TYPE_NOT_SUPPORTED if is_type else codes.GENERAL_FAILURE).number
            self.final_reply = Reply(self.replied).encode()
        elif violation.fault is not Fault.VERSION and self.state is _GREETING:
            self.final_reply = MethodSelection(_NO_ACCEPTABLE).encode()
        elif violation.fault is not Fault.VERSION:
            pairs = Pairs({ERROR: violation.detail[:LONGEST_REASON]})
            self.final_reply = ExtendedResponse(Status.INVALID_ARGUMENTS, pairs).encode()
