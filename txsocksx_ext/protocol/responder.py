"""
The server's end: what it hears and says, and which reply codes may leave.
"""

from __future__ import annotations

from collections.abc import Iterable

from . import codes
from .codes import Dialect, Method, ReplyCode, Status
from .conversation import Conversation, Role, State
from .messages import (
    UNSPECIFIED,
    Address,
    ExtendedResponse,
    Message,
    MethodSelection,
    Reply,
    UsernamePasswordResponse,
)
from .pairs import DEFAULT_PAIR_LIMITS, ERROR, NO_PAIRS, PairLimits, Pairs
from .reader import Fault, MalformedMessage

DEFAULT_PREFERENCE = (Method.EXTENDED, Method.USERNAME_PASSWORD, Method.NO_AUTHENTICATION)
"""The order in which a server picks, whatever the order of the offer."""


def permitted_code(code: int | ReplyCode, *, offered_extended: bool, selected: Method, dialect: Dialect) -> int:
    """
    What may leave instead of `code`: the one gate for extended reply codes.

    Proposal 229, section 2.2: no extended code to a client that did not offer
    method 97. E0 and E1 may be sent as soon as it was offered; F0 to F2 only
    where it was selected too, since another client reads them as Tor's; Tor's
    own F0 to F7 only to a client that asked for them.

    :param code: a row, or the number of one: then RFC 1928's, E0, E1, or an
        F-code in the meaning of `dialect`.
    :param offered_extended: whether 97 stood among the methods offered.
    :param selected: the method selected.
    :param dialect: what the client asked for by ``tor.errors``.
    :returns: the number itself, or the nearest that this client understands.
    """
    if isinstance(code, ReplyCode):
        row = code
    else:
        found = codes.reply_row(code, dialect)
        if found is None:
            return codes.GENERAL_FAILURE.number
        row = found
    if row.dialect is Dialect.PLAIN:
        return row.number
    if not offered_extended or dialect is Dialect.PLAIN:
        return row.plain
    if row.number in codes.ONION_NUMBERS or (row.dialect is dialect and selected == Method.EXTENDED):
        return row.number
    return row.plain if row.prop229 is None else row.prop229


LONGEST_REASON = 200
"""Bytes of an ERROR pair: it names what was wrong, and a key can be long."""


_NO_ACCEPTABLE, _PROP229 = Method.NO_ACCEPTABLE, Dialect.PROP229
_CREDENTIALS_ANSWER, _SUCCESS = State.CREDENTIALS_ANSWER, Status.SUCCESS
_SUCCESS_WITHOUT_PAIRS = ExtendedResponse(_SUCCESS)
_SELECTIONS = {method: MethodSelection(method) for method in DEFAULT_PREFERENCE}


class Responder(Conversation):
    """
    The responder's end of one conversation.

    :ivar selected: the method that we selected.
    :ivar dialect: the table of extended codes that this client asked for.
    :ivar replied: the reply code that was sent, or ``None`` before that.
    :ivar farewell: after a violation, the bytes still to send before closing.
    """

    role = Role.RESPONDER
    farewell = b""

    def __init__(self, limits: PairLimits = DEFAULT_PAIR_LIMITS) -> None:
        Conversation.__init__(self, limits)
        self.selected = _NO_ACCEPTABLE
        self.dialect = _PROP229
        self.replied: int | None = None

    @property
    def offered_extended(self) -> bool:
        """Whether the client indicated that it understands method 97."""
        return Method.EXTENDED in self.offered

    def preferred_method(self, accepted: Iterable[int] = DEFAULT_PREFERENCE) -> Method:
        """The first of `accepted`, members of `Method` or their numbers, that was offered, or ``NO_ACCEPTABLE``."""
        offered = self.offered
        for method in accepted:
            if method in offered:
                # To call the enumeration takes longer than all of this.
                return method if type(method) is Method else Method(method)
        return Method.NO_ACCEPTABLE

    def select(self, method: Method) -> bytes:
        """The bytes that select `method`; ``NO_ACCEPTABLE`` ends the conversation."""
        self.selected = method
        return self._send(_SELECTIONS.get(method) or MethodSelection(method))

    def answer(self, status: Status, pairs: Pairs = NO_PAIRS) -> bytes:
        """
        The bytes that answer credentials or pairs.

        :param pairs: what to answer with; RFC 1929 has no place for them.
        """
        if self.state is _CREDENTIALS_ANSWER:
            return self._send(UsernamePasswordResponse(status))
        if pairs is NO_PAIRS and status == _SUCCESS:
            return self._send(_SUCCESS_WITHOUT_PAIRS)
        return self._send(ExtendedResponse(status, pairs))

    def reply(self, code: int | ReplyCode, bound: Address = UNSPECIFIED) -> bytes:
        """The bytes that answer the request, with a code that this client may get."""
        number = 0 if code is codes.SUCCEEDED else self.permitted_code(code)
        sent = self._send(Reply(number, bound))
        self.replied = number
        return sent

    def permitted_code(self, code: int | ReplyCode) -> int:
        """What may leave to this client instead of `code`: see `permitted_code`."""
        return permitted_code(
            code, offered_extended=self.offered_extended, selected=self.selected, dialect=self.dialect
        )

    def send(self, message: Message) -> bytes:
        """
        The bytes of our next message, whatever it is.

        :raises OutOfTurn: this message has no place here.
        :raises ValueError: a reply code that may not be sent to this client.
        """
        if type(message) is Reply and message.code and self.permitted_code(message.code) != message.code:
            raise ValueError(f"the reply code {message.code:02X} may not be sent to this client")
        return super().send(message)

    # Past the gate: what it lets through in any case.
    _send = Conversation.send

    def _violated(self, violation: MalformedMessage) -> None:
        farewell = _farewell(self.state, violation)
        if farewell is not None:
            self.farewell = farewell.encode()
        if isinstance(farewell, Reply):
            self.replied = farewell.code


def _farewell(state: State, violation: MalformedMessage) -> Message | None:
    """
    What is still said to a client that violated the protocol in `state`.

    Nothing where the version was wrong: then the stream is not what we think,
    and any answer would be a guess. Only a request with a wrong version is
    answered, as tor answers it.
    """
    if state is State.REQUEST:
        is_type = violation.fault is Fault.ADDRESS_TYPE
        row = codes.ADDRESS_TYPE_NOT_SUPPORTED if is_type else codes.GENERAL_FAILURE
        return Reply(row.number)
    if violation.fault is Fault.VERSION:
        return None
    if state is State.GREETING:
        return MethodSelection(Method.NO_ACCEPTABLE)
    return ExtendedResponse(Status.INVALID_ARGUMENTS, Pairs({ERROR: violation.detail[:LONGEST_REASON]}))
