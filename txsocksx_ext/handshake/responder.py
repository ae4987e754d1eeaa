"""
The server's end: what it hears and says, and which reply codes may leave.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..wire import codes
from ..wire.codes import Dialect, Method, ReplyCode, Status
from ..wire.messages import (
    UNSPECIFIED,
    Address,
    ExtendedResponse,
    Message,
    MethodSelection,
    Reply,
    UsernamePasswordResponse,
)
from ..wire.pairs import ERROR, NO_PAIRS, Pairs
from ..wire.reader import Fault, MalformedMessage
from .conversation import Conversation, Role, State

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


class Responder(Conversation):
    """
    The responder's end of one conversation.

    :ivar selected: the method that we selected.
    :ivar dialect: the table of extended codes that this client asked for.
    :ivar farewell: after a violation, the bytes still to send before closing.
    :ivar farewell_code: the reply code among them, or ``None``.
    """

    role = Role.RESPONDER
    selected = Method.NO_ACCEPTABLE
    dialect = Dialect.PROP229
    farewell = b""
    farewell_code: int | None = None

    @property
    def offered_extended(self) -> bool:
        """Whether the client indicated that it understands method 97."""
        return Method.EXTENDED in self.offered

    def preferred_method(self, accepted: Iterable[Method] = DEFAULT_PREFERENCE) -> Method:
        """The first of `accepted` that was offered, or ``NO_ACCEPTABLE``."""
        for method in accepted:
            if method in self.offered:
                return method
        return Method.NO_ACCEPTABLE

    def select(self, method: Method) -> bytes:
        """The bytes that select `method`; ``NO_ACCEPTABLE`` ends the conversation."""
        self.selected = method
        return super().send(MethodSelection(method))

    def answer(self, status: Status, pairs: Pairs = NO_PAIRS) -> bytes:
        """
        The bytes that answer credentials or pairs.

        :param pairs: what to answer with; RFC 1929 has no place for them.
        """
        if self.state is State.CREDENTIALS_ANSWER:
            return self.send(UsernamePasswordResponse(status))
        return self.send(ExtendedResponse(status, pairs))

    def reply(self, code: int | ReplyCode, bound: Address = UNSPECIFIED) -> bytes:
        """The bytes that answer the request, with a code that this client may get."""
        return super().send(Reply(self.permitted_code(code), bound))

    def permitted_code(self, code: int | ReplyCode) -> int:
        """What may leave to this client instead of `code`: see `permitted_code`."""
        if code is codes.SUCCEEDED:
            return 0
        return permitted_code(
            code, offered_extended=self.offered_extended, selected=self.selected, dialect=self.dialect
        )

    def send(self, message: Message) -> bytes:
        if isinstance(message, Reply) and self.permitted_code(message.code) != message.code:
            raise ValueError(f"the reply code {message.code:02X} may not be sent to this client")
        return super().send(message)

    def _violated(self, violation: MalformedMessage) -> None:
        farewell = _farewell(self.state, violation)
        if farewell is not None:
            self.farewell = farewell.encode()
        if isinstance(farewell, Reply):
            self.farewell_code = farewell.code


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
