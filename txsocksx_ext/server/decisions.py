"""
Decisions on a connection: most are made at once, some take their time, and any may fail.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CoroutineType
from typing import Any

from twisted.cred.error import LoginFailed, Unauthorized
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.error import ConnectError, ConnectingCancelledError
from twisted.python.failure import Failure

from ..errors import SOCKS5Error
from ..net.twisted_transports import abort
from .connection import ClientConnection

EXPECTED = (
    SOCKS5Error,
    ConnectError,
    ConnectingCancelledError,
    LoginFailed,
    Unauthorized,
    OSError,
    CancelledError,
)
"""What a decision may fail with without being a fault in a program."""


Question = tuple[
    Callable[[Any, Any], Any],
    Callable[[Any, Any], None],
    Callable[[Any, Failure], None],
]
"""
What to ask about a message, what to do with the answer, and what where there is none.

These are functions of the connection, and of the message, the answer or the
failure: methods that are looked up for each connection take longer.
"""


class DecidingConnection(ClientConnection):
    """
    A connection that asks for one decision at a time, and acts on it.

    Whatever a decision raises is its connection's end alone, as with a Deferred:
    also what is no `Exception`, such as the cancellation of asyncio.
    """

    _decision: Deferred[Any] | None = None
    _lost = False

    def _decide(self, question: Question, message: Any) -> None:
        """
        Ask for a decision on a message, which may take as long as its deadline allows, and act on it.

        Where it is there at once, no Deferred is needed.
        """
        ask, made, failed = question
        try:
            result = ask(self, message)
        except BaseException:
            result = Failure()
        # To ask whether something is a Deferred takes long if it is not.
        if result is not None and isinstance(result, (Deferred, CoroutineType)):
            pending = self._decision = ensureDeferred(result)
            if not pending.called or pending.paused or isinstance(pending.result, Failure):
                pending.addCallbacks(self._decided, self._decided, callbackArgs=(made,), errbackArgs=(failed,))
                return
            # It has fired: then to call back takes longer than to look.
            result = pending.result
            self._decision = None
            if self._lost:
                close_result(result)
                return
        act = failed if isinstance(result, Failure) else made
        try:
            act(self, result)
        except BaseException:
            self._failed_unexpectedly()

    def _decided(self, result: Any, act: Callable[[Any, Any], None]) -> None:
        self._decision = None
        if self._lost or self._closing:
            # The client is gone, or was told that it takes too long: what was opened for it is closed.
            if isinstance(result, Failure):
                self._report_unless_expected(result)
            else:
                close_result(result)
            return
        try:
            act(self, result)
        except BaseException:
            self._failed_unexpectedly()
        self._go_on()

    def _cancel_decision(self) -> None:
        """Give up the decision that is pending, if there is one. Its canceller may be someone else's, and fail."""
        if self._decision is not None:
            try:
                self._decision.cancel()
            except BaseException:
                self.factory.log.unexpected(Failure(), self.session)

    def _failed_unexpectedly(self) -> None:
        self.factory.log.unexpected(Failure(), self.session)
        self.abort("fault")

    def _go_on(self) -> None:
        """Do what had to wait for a decision."""
        raise NotImplementedError

    def _report_unless_expected(self, failure: Failure) -> None:
        if not failure.check(*EXPECTED):
            self.factory.log.unexpected(failure, self.session)


def close_result(result: object) -> None:
    """Close what a route connected, if it did: a transport, or the protocol of one."""
    for transport in (result, getattr(result, "transport", None)):
        if hasattr(transport, "abortConnection") or hasattr(transport, "loseConnection"):
            abort(transport)
            return
