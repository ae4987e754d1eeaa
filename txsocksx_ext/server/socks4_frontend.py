"""
The front end of SOCKS4 and 4a: one request, one reply.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ..errors import CommandNotSupported
from ..protocol import codes
from ..protocol.codes import Command, Dialect, Method, ReplyCode
from ..protocol.messages import UNSPECIFIED, Address, Request
from ..protocol.pairs import TOR_ISOLATION, Pairs
from ..protocol.socks4 import Responder

if TYPE_CHECKING:
    from .connection import SOCKS5ExtProtocol
    from .limits import Limits


class SOCKS4Frontend(Responder):
    """
    SOCKS4 with the command CONNECT.

    The user id is a value of ``tor.isolation`` that routes may ignore. It is not a
    credential: programs send the login name in it without being asked.
    """

    name: ClassVar[str] = "socks4"
    _has_message = False

    def __init__(self, limits: Limits) -> None:
        Responder.__init__(self)
        self.replied: int | None = None

    @property
    def has_request(self) -> bool:
        """See `Frontend`."""
        return bool(self.buffer) or self._has_message

    async def receive_request(self, connection: SOCKS5ExtProtocol) -> Request | None:
        """See `Frontend`."""
        request: Request = await connection.next_message()
        self._has_message = True
        if self.user_id:
            connection.session.take_pairs(Pairs.checked({TOR_ISOLATION: self.user_id}))
        try:
            await connection.admit(Method.NO_AUTHENTICATION)
        except BaseException as error:
            connection.report(error)
            connection.close_after(self.rejected(), "authentication failed")
            return None
        if request.command != Command.CONNECT:
            connection.reply_and_close(codes.COMMAND_NOT_SUPPORTED, UNSPECIFIED, CommandNotSupported.__name__)
            return None
        return request

    def success(self, bound: Address) -> bytes:
        """See `Frontend`."""
        self.replied = 0
        return self.granted(bound)

    def failure(self, code: ReplyCode | int, error: BaseException | None) -> bytes:
        """See `Frontend`."""
        self.replied = codes.permitted_code(
            code, offered_extended=False, selected=Method.NO_AUTHENTICATION, dialect=Dialect.PLAIN
        )
        return self.rejected()
