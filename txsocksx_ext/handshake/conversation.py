"""
What moves the conversation, whichever end looks at it.

Both ends see the same messages in the same order, so there is one table of
states for both; the diagram in the documentation is drawn from it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, NamedTuple

from ..wire import reader
from ..wire.codes import Method, Status
from ..wire.messages import (
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
from ..wire.pairs import DEFAULT_PAIR_LIMITS, PairLimits


class Role(enum.Enum):
    """The two ends (proposal 229's words)."""

    INITIATOR = "initiator"
    RESPONDER = "responder"


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

    # There is one of each. Enum's own hash is made in Python, for each look into a table.
    __hash__ = object.__hash__


class Turn(NamedTuple):
    """Who speaks in a state, what, and where each outcome leads."""

    speaker: Role
    message: type
    outcomes: dict[str, State]


def _outcome_of(message: Message) -> str:
    """The outcome that leads on, as `TURNS` names it."""
    if isinstance(message, MethodSelection):
        return _METHOD_OUTCOMES.get(message.method, "other")
    if isinstance(message, (UsernamePasswordResponse, ExtendedResponse)):
        return "success" if message.status == Status.SUCCESS else "failure"
    if isinstance(message, Reply):
        return "failure" if message.code else "success"
    raise TypeError(f"{type(message).__name__} has no outcome but that it was sent")


_METHOD_OUTCOMES = {
    Method.NO_AUTHENTICATION: "00",
    Method.USERNAME_PASSWORD: "02",
    Method.EXTENDED: "97",
}

TURNS: dict[State, Turn] = {
    State.GREETING: Turn(Role.INITIATOR, Greeting, {"sent": State.SELECTION}),
    State.SELECTION: Turn(
        Role.RESPONDER,
        MethodSelection,
        {"00": State.REQUEST, "02": State.CREDENTIALS, "97": State.PAIRS, "other": State.CLOSED},
    ),
    State.CREDENTIALS: Turn(Role.INITIATOR, UsernamePassword, {"sent": State.CREDENTIALS_ANSWER}),
    State.CREDENTIALS_ANSWER: Turn(
        Role.RESPONDER, UsernamePasswordResponse, {"success": State.REQUEST, "failure": State.CLOSED}
    ),
    State.PAIRS: Turn(Role.INITIATOR, ExtendedRequest, {"sent": State.PAIRS_ANSWER}),
    State.PAIRS_ANSWER: Turn(Role.RESPONDER, ExtendedResponse, {"success": State.REQUEST, "failure": State.CLOSED}),
    State.REQUEST: Turn(Role.INITIATOR, Request, {"sent": State.REPLY}),
    State.REPLY: Turn(Role.RESPONDER, Reply, {"success": State.OPEN, "failure": State.CLOSED}),
}
"""The whole conversation. In states that are not here, nobody speaks."""


class OutOfTurn(Exception):
    """Our own side wanted to send what the conversation has no place for: a fault in the caller."""


class Conversation:
    """
    One end of one conversation.

    :cvar role: which end this is.
    :ivar offered: the methods that the initiator offered, in its order.
    :param limits: how much the peer may send in one message of pairs.
    """

    role: Role
    offered: tuple[Method, ...] = ()

    def __init__(self, limits: PairLimits = DEFAULT_PAIR_LIMITS) -> None:
        self.state = State.GREETING
        self._reader = reader.MessageReader()
        self._limits = limits

    @property
    def is_ours_to_speak(self) -> bool:
        """Whether the next message is ours to send."""
        turn = TURNS.get(self.state)
        return turn is not None and turn.speaker is self.role

    @property
    def buffered(self) -> int:
        """How many bytes came from the peer and are not part of a message yet."""
        return len(self._reader)

    def feed(self, data: bytes) -> None:
        """Take bytes from the peer."""
        self._reader.feed(data)

    def next_message(self) -> Message | None:
        """
        The peer's next message.

        ``None`` while bytes are missing, while it is our turn to speak, and
        when the conversation is over.

        :raises MalformedMessage: the peer violated the protocol; the
            conversation is closed.
        """
        turn = TURNS.get(self.state)
        if turn is None or turn.speaker is self.role or not self._reader:
            return None
        try:
            decoder = _DECODERS.get(self.state)
            if decoder is not None:
                message: Message | None = self._reader.decode(decoder)
            else:
                message = self._reader.decode(_DECODERS_OF_PAIRS[self.state], self._limits)
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
        turn = TURNS.get(self.state)
        if turn is None or turn.speaker is not self.role or type(message) is not turn.message:
            raise OutOfTurn(f"no {type(message).__name__} has a place in the state {self.state.value!r}")
        self._move(turn, message)
        return message.encode()

    def close(self) -> None:
        """End the conversation: nothing more is sent or decoded."""
        self.state = State.CLOSED

    def take_read_ahead(self) -> bytes:
        """Remove and return what the peer sent after its last message."""
        return self._reader.take_rest()

    def _violated(self, violation: reader.MalformedMessage) -> None:
        """The peer said what has no meaning in this state."""

    def _move(self, turn: Turn, message: Message) -> None:
        outcomes = turn.outcomes
        self.state = outcomes.get("sent") or outcomes[_outcome_of(message)]
        if isinstance(message, Greeting):
            self.offered = message.methods


_DECODERS: dict[State, Callable[[], reader.Decoder[Any]]] = {
    State.GREETING: reader.greeting,
    State.SELECTION: reader.method_selection,
    State.CREDENTIALS: reader.username_password,
    State.CREDENTIALS_ANSWER: reader.username_password_response,
    State.REQUEST: reader.request,
    State.REPLY: reader.reply_or_its_code,
}

_DECODERS_OF_PAIRS: dict[State, Callable[[PairLimits], reader.Decoder[Any]]] = {
    State.PAIRS: reader.extended_request,
    State.PAIRS_ANSWER: reader.extended_response,
}
