"""
What moves the conversation, whichever end looks at it.

Both ends see the same messages in the same order, so there is one table of
states for both; the diagram in the documentation is drawn from it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from . import reader
from .codes import Method
from .messages import (
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
from .pairs import DEFAULT_PAIR_LIMITS, PairLimits


class Role(enum.Enum):
    """The two ends (proposal 229's words)."""

    INITIATOR = "initiator"
    RESPONDER = "responder"

    # There is one of each. Enum's own hash is made in Python, for each look into a table.
    __hash__ = object.__hash__


class State(enum.Enum):
    """Where the conversation stands: which message comes next, or that none does."""

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

    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class Turn:
    """
    Who speaks in a state, what, and where that leads.

    :ivar speaker: whose turn it is.
    :ivar message: the class of the message.
    :ivar decoder: decodes it; one of pairs takes limits.
    :ivar outcomes: the next state by outcome.
    :ivar outcome_of: names the outcome of a message; ``None`` where there is one alone.
    :ivar next: the next state where there is one alone, or ``None``.
    """

    speaker: Role
    message: type
    decoder: Callable[..., reader.Decoder[Any]]
    outcomes: dict[str, State]
    outcome_of: Callable[[Any], str] | None = None
    next: State | None = field(init=False)

    def __post_init__(self) -> None:
        only = None if self.outcome_of else next(iter(self.outcomes.values()))
        object.__setattr__(self, "next", only)

    def state_after(self, message: Any) -> State:
        """The state to which a message leads, where that depends on it."""
        assert self.outcome_of is not None
        return self.outcomes[self.outcome_of(message)]


def _method_outcome(selection: MethodSelection) -> str:
    return _METHOD_OUTCOMES.get(selection.method, "other")


def _status_outcome(response: UsernamePasswordResponse | ExtendedResponse) -> str:
    return "failure" if response.status else "success"


def _reply_outcome(reply: Reply) -> str:
    return "failure" if reply.code else "success"


_METHOD_OUTCOMES = {
    Method.NO_AUTHENTICATION: "00",
    Method.USERNAME_PASSWORD: "02",
    Method.EXTENDED: "97",
}
_REQUEST_OR_END = {"success": State.REQUEST, "failure": State.CLOSED}

TURNS: dict[State, Turn] = {
    State.GREETING: Turn(Role.INITIATOR, Greeting, reader.greeting, {"sent": State.SELECTION}),
    State.SELECTION: Turn(
        Role.RESPONDER,
        MethodSelection,
        reader.method_selection,
        {"00": State.REQUEST, "02": State.CREDENTIALS, "97": State.PAIRS, "other": State.CLOSED},
        _method_outcome,
    ),
    State.CREDENTIALS: Turn(
        Role.INITIATOR, UsernamePassword, reader.username_password, {"sent": State.CREDENTIALS_ANSWER}
    ),
    State.CREDENTIALS_ANSWER: Turn(
        Role.RESPONDER,
        UsernamePasswordResponse,
        reader.username_password_response,
        _REQUEST_OR_END,
        _status_outcome,
    ),
    State.PAIRS: Turn(Role.INITIATOR, ExtendedRequest, reader.extended_request, {"sent": State.PAIRS_ANSWER}),
    State.PAIRS_ANSWER: Turn(
        Role.RESPONDER, ExtendedResponse, reader.extended_response, _REQUEST_OR_END, _status_outcome
    ),
    State.REQUEST: Turn(Role.INITIATOR, Request, reader.request, {"sent": State.REPLY}),
    State.REPLY: Turn(
        Role.RESPONDER,
        Reply,
        reader.reply_or_its_code,
        {"success": State.OPEN, "failure": State.CLOSED},
        _reply_outcome,
    ),
}
"""The whole conversation. In states that are not here, nobody speaks."""


_FIRST_STATE = State.GREETING

_HEARD_BY = {role: {state: turn for state, turn in TURNS.items() if turn.speaker is not role} for role in Role}
_SAID_BY = {role: {state: turn for state, turn in TURNS.items() if turn.speaker is role} for role in Role}
"""The turns of each end: those in which it listens, and those in which it speaks."""


class OutOfTurn(Exception):
    """Our own side wanted to send what the conversation has no place for: a fault in the caller."""


class Conversation(reader.MessageReader):
    """
    One end of one conversation: it reads the peer's messages, each in its turn.

    :cvar role: which end this is.
    :ivar offered: the methods that the initiator offered, in its order.
    :param limits: how much the peer may send in one message of pairs.
    """

    role: Role

    def __init__(self, limits: PairLimits = DEFAULT_PAIR_LIMITS) -> None:
        # Not by `super`, which makes an object each time: every connection of a server has its conversation.
        reader.MessageReader.__init__(self)
        self._heard, self._said = _HEARD_BY[self.role], _SAID_BY[self.role]
        self.state = _FIRST_STATE
        self.offered: tuple[Method, ...] = ()
        self._limits = limits

    @property
    def is_ours_to_speak(self) -> bool:
        """Whether the next message is ours to send."""
        return self.state in self._said

    def next_message(self) -> Message | None:
        """
        The peer's next message.

        ``None`` while bytes are missing, while it is our turn to speak, and
        when the conversation is over.

        :raises MalformedMessage: the peer violated the protocol; the
            conversation is closed.
        """
        turn = self._heard.get(self.state) if self.buffer else None
        if turn is None:
            return None
        try:
            message: Message | None = self.decode(turn.decoder, self._limits)
        except reader.MalformedMessage as violation:
            self._violated(violation)
            self.state = State.CLOSED
            # The decoder's frames hold passwords and names; a traceback must not show them.
            raise violation.with_traceback(None) from None
        if message is not None:
            self._move(turn, message)
        return message

    def send(self, message: Message) -> bytes:
        """
        The bytes of our next message.

        :raises OutOfTurn: this message has no place here.
        """
        turn = self._said.get(self.state)
        if turn is None or type(message) is not turn.message:
            raise OutOfTurn(f"no {type(message).__name__} has a place in the state {self.state.value!r}")
        self._move(turn, message)
        return message.encode()

    def close(self) -> None:
        """End the conversation: nothing more is sent or decoded."""
        self.state = State.CLOSED

    def _violated(self, violation: reader.MalformedMessage) -> None:
        """The peer said what has no meaning in this state."""

    def _move(self, turn: Turn, message: Message) -> None:
        self.state = turn.next or turn.state_after(message)
        if isinstance(message, Greeting):
            self.offered = message.methods
