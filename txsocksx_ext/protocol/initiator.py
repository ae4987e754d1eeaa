"""
The client's end: what it says and hears.
"""

from __future__ import annotations

from . import reader
from .codes import Dialect, Method, Status
from .conversation import Conversation, Role, State
from .messages import (
    ExtendedRequest,
    ExtendedResponse,
    Greeting,
    Message,
    MethodSelection,
    Reply,
    Request,
    UsernamePassword,
)
from .pairs import DEFAULT_PAIR_LIMITS, TOR_ERRORS, PairLimits, Pairs
from .reader import Fault, MalformedMessage


class Initiator(Conversation):
    """
    The initiator's end of one conversation.

    It never speaks before its turn, so nothing is lost on peers that take one
    read for one message, and no pairs or credentials reach a server that did
    not choose the method for them.

    :param dialect: how to read extended reply codes; ``None`` decides by what
        the server selects and confirms.
    :param limits: how much the server may send in its answer to pairs.
    :ivar selected: the method that the server chose, once it has.
    """

    role = Role.INITIATOR

    def __init__(self, dialect: Dialect | None = None, limits: PairLimits = DEFAULT_PAIR_LIMITS) -> None:
        super().__init__(limits)
        self._dialect = dialect
        self._confirmed_tor_errors = False
        self._is_beyond_trust = False
        self.selected: Method | None = None

    @property
    def dialect(self) -> Dialect:
        """
        The table in which the server's extended codes are to be read.

        Without a choice of our own that is proposal 229's where the server
        selected 97 and did not confirm ``tor.errors`` = ``304``, else Tor's.
        """
        if self._dialect is not None:
            return self._dialect
        is_prop229 = self.selected == Method.EXTENDED and not self._confirmed_tor_errors
        return Dialect.PROP229 if is_prop229 else Dialect.TOR

    def offer(self, methods: tuple[Method, ...]) -> bytes:
        """The bytes that begin the conversation: a greeting with `methods`."""
        return self.send(Greeting(methods))

    def authenticate(self, message: UsernamePassword | ExtendedRequest) -> bytes:
        """
        The bytes of the credentials or pairs that the selected method asks for.

        :raises TypeError: the pairs are no `Pairs`.
        """
        # Text has an encode() too, and the server would wait for what its bytes seem to announce.
        if isinstance(message, ExtendedRequest) and not isinstance(message.pairs, Pairs):
            raise TypeError(f"the pairs to send must be Pairs, not {type(message.pairs).__name__}")
        return self.send(message)

    def request(self, request: Request) -> bytes:
        """The bytes of what we want."""
        return self.send(request)

    def overrule(self) -> Reply | None:
        """
        Take a failing reply for a success: the server kept the connection open.

        :returns: the reply with its bound address, or ``None`` if its bytes are
            not all there, or are none of a reply, so that nothing after it can be trusted.
        """
        if self._is_beyond_trust:
            return None
        try:
            bound = self.decode(reader.rest_of_failed_reply)
        except MalformedMessage:
            self._is_beyond_trust = True
            return None
        if bound is None:
            return None
        self.state = State.OPEN
        return Reply(0, bound)

    def next_message(self) -> Message | None:
        """
        The server's next message.

        :raises MalformedMessage: also where the server selects what was not offered.
        """
        message = super().next_message()
        if isinstance(message, MethodSelection):
            self.selected = message.method
            if message.method not in (*self.offered, Method.NO_ACCEPTABLE):
                self.close()
                raise MalformedMessage(
                    "MethodSelection", Fault.METHOD, f"the method {message.method:02X} was not offered"
                )
        elif isinstance(message, ExtendedResponse) and message.status == Status.SUCCESS:
            self._confirmed_tor_errors = message.pairs.get(TOR_ERRORS) == b"304"
        return message
