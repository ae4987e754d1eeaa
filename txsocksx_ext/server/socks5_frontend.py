"""
The front end of SOCKS5: greeting, method 0x00, 0x02 or 0x97, request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import AuthenticationFailed, InvalidArguments
from ..protocol import codes
from ..protocol.codes import Dialect, Method, ReplyCode, Status
from ..protocol.messages import Address, ExtendedRequest, Greeting, Request, UsernamePassword
from ..protocol.pairs import ERROR, NO_PAIRS, TOR_ERRORS, Pairs
from ..protocol.socks5 import DEFAULT_PREFERENCE, LONGEST_REASON, Responder, State

if TYPE_CHECKING:
    from .connection import SOCKS5ExtProtocol
    from .limits import Limits

# Members of an enumeration are found quicker by names of a module's own.
_OPEN, _REPLY, _NO_AUTHENTICATION = State.OPEN, State.REPLY, Method.NO_AUTHENTICATION

DIALECT_OF_TOR_ERRORS = {b"229": Dialect.PROP229, b"304": Dialect.TOR, b"none": Dialect.PLAIN}
"""The values of ``tor.errors``."""


def dialect_wanted(pairs: Pairs) -> Dialect:
    """
    Return the table of reply codes that a client asks for by ``tor.errors``.

    :raises InvalidArguments: there is no such table.
    """
    wanted = pairs.get(TOR_ERRORS, b"229")
    if wanted not in DIALECT_OF_TOR_ERRORS:
        raise InvalidArguments(f"the value of {TOR_ERRORS} is 229, 304 or none")
    return DIALECT_OF_TOR_ERRORS[wanted]


class SOCKS5Frontend(Responder):
    """SOCKS5 with the methods 0x00, 0x02 and 0x97."""

    name: ClassVar[str] = "socks5"

    def __init__(self, limits: Limits) -> None:
        Responder.__init__(self, limits.pairs)

    @property
    def has_request(self) -> bool:
        """See `Frontend`."""
        return bool(self.buffer) or self.state is _REPLY

    def success(self, bound: Address) -> bytes:
        """See `Frontend`."""
        if self.state is _OPEN:
            # The second reply of a command such as BIND (RFC 1928, section 6).
            self.state = _REPLY
        return self.reply(codes.SUCCEEDED, bound)

    def failure(self, code: ReplyCode | int, error: BaseException | None) -> bytes:
        """See `Frontend`."""
        return self.reply(code)

    async def receive_request(self, connection: SOCKS5ExtProtocol) -> Request | None:
        """See `Frontend`."""
        greeting: Greeting = await connection.next_message()
        session = connection.session
        session.offered = greeting.methods
        answer: Any = None
        try:
            method = self.preferred_method(connection.accepted_methods())
            if method not in DEFAULT_PREFERENCE:
                raise AuthenticationFailed()
            session.method = method
            if method is _NO_AUTHENTICATION:
                # After the selection no message follows that could refuse the client.
                answer = await connection.authenticate()
        except BaseException as error:
            connection.report(error)
            connection.close_after(self.select(Method.NO_ACCEPTABLE), "no acceptable method")
            return None
        if answer is not None:
            # Fail over anything else than pairs: False means to refuse, and a Future may be about to.
            Pairs(dict(answer))
        connection.send(self.select(method))
        if method is not _NO_AUTHENTICATION and not await self._authenticate(connection):
            return None
        request: Request = await connection.next_message()
        return request

    async def _authenticate(self, connection: SOCKS5ExtProtocol) -> bool:
        """Receive credentials or pairs, and answer them; return whether the client may go on."""
        session = connection.session
        message = await connection.next_message()
        try:
            if isinstance(message, UsernamePassword):
                session.credentials = message
            else:
                assert isinstance(message, ExtendedRequest)
                self._take_pairs(message.pairs, connection)
            answer = await connection.authenticate()
        except BaseException as error:
            connection.report(error)
            self._refuse(error, connection)
            return False
        connection.send(self.answer(Status.SUCCESS, self._pairs_to_answer(answer, session.pairs.get(TOR_ERRORS))))
        return True

    def _take_pairs(self, pairs: Pairs, connection: SOCKS5ExtProtocol) -> None:
        session = connection.session
        session.take_pairs(*connection.factory.filter_pairs(pairs, session))
        self.dialect = dialect_wanted(session.pairs)

    def _pairs_to_answer(self, answer: Any, wanted: bytes | None) -> Pairs:
        if answer is None and wanted is None:
            return NO_PAIRS
        answered = {} if answer is None else dict(answer)
        if wanted is not None:
            answered.setdefault(TOR_ERRORS, wanted)
        return Pairs(answered)

    def _refuse(self, error: BaseException, connection: SOCKS5ExtProtocol) -> None:
        pairs = error.pairs if isinstance(error, AuthenticationFailed) else NO_PAIRS
        if isinstance(error, InvalidArguments):
            text = error.message.encode("ascii", "replace")[:LONGEST_REASON]
            pairs = Pairs({**pairs, ERROR: text})
            connection.close_after(self.answer(Status.INVALID_ARGUMENTS, pairs), "invalid arguments")
        else:
            connection.close_after(self.answer(Status.AUTHENTICATION_FAILED, pairs), "authentication failed")
