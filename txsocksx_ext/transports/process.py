"""
The process of a managed transport that is our child, and what it says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from ..net.child_process import ChildProcess
from ..net.timers import clock_of
from .lines import ClientMethodLine, LogLine, StatusLine, parse_line
from .parent import LONGEST_LOG_TEXT, LONGEST_TEXT, ClientConversation, ConversationFault, without_addresses
from .scrubbing import SCRUBBED

LONGEST_LINE = 64 * 1024
"""Bytes of one line on its stdout, and of one on its stderr that is logged as one."""

END_OF_STDIN_WITHIN = 2.0
"""Seconds for it to end by itself when its stdin is closed; then it is told by SIGTERM."""

END_WITHIN = 5.0
"""Seconds for it to end at all; then it is killed."""

LEAST_HIDDEN = 6
"""Characters of an argument that is left out of what is logged: shorter ones are no secrets, but parts of words."""

MOST_HIDDEN = 256
"""Arguments that are left out at a time: those that were given last."""

LAST_WORDS_WITHIN = 1.0
"""Seconds for its last words to be read, since what it started may hold its pipes open when it has ended."""

_LEVELS = {"error": LogLevel.warn, "warning": LogLevel.warn, "notice": LogLevel.info}

_log = Logger(namespace="txsocksx_ext.pt")


class TransportProcess(ChildProcess):
    """
    One process.

    :param reactor: provides time.
    :param name: the transport's.
    :param has_proxy: whether it is given TOR_PT_PROXY.
    :ivar conversation: what it said of itself.
    :ivar configured: fires with its methods, or fails with `ConversationFault`.
    :ivar pid: its number; ``None`` where it does not run.
    """

    def __init__(self, reactor: Any, name: str, has_proxy: bool) -> None:
        super().__init__()
        self._reactor = reactor
        self._name = name
        self.conversation = ClientConversation(has_proxy)
        self.configured: Deferred[dict[str, ClientMethodLine]] = Deferred()
        self.pid: int | None = None
        self._fault: ConversationFault | None = None
        self._close_pipes: IDelayedCall | None = None
        self._hidden: dict[str, None] = {}

    def connectionMade(self) -> None:
        self.pid = self.transport.pid

    def outReceived(self, data: bytes) -> None:
        try:
            for line in self.lines_with(1, data):
                self._hear(line)
            if len(self.unended_line(1)) > LONGEST_LINE:
                raise ConversationFault("a line of it has no end")
        except ConversationFault as fault:
            self._break(fault)
        except ValueError as error:
            self._break(ConversationFault(str(error)))

    def _hear(self, data: bytes) -> None:
        if self._fault is not None:
            return
        line = parse_line(data)
        if isinstance(line, LogLine):
            level = _LEVELS.get(line.severity, LogLevel.debug)
            text = self._for_the_log(line.message, LONGEST_LOG_TEXT)
            _log.emit(level, "{name} says: {text}", name=self._name, text=text)
        elif isinstance(line, StatusLine):
            _log.debug("{name} says of its status: {text}", name=self._name, text=self._for_the_log(_fields_of(line)))
        was_done = self.conversation.is_done
        self.conversation.hear(line)
        if self.conversation.is_done and not was_done:
            self._settle(lambda: self.configured.callback(self.conversation.methods))

    def _break(self, fault: ConversationFault) -> None:
        """End it: as tor does, it gets no second chance in this life."""
        self.take_unended_line(1)
        if self._fault is None:
            self._fault = fault
            self._settle(lambda: self.configured.errback(fault))
            self.stop()

    def _settle(self, fire: Callable[[], None]) -> None:
        if not self.configured.called:
            fire()

    def errReceived(self, data: bytes) -> None:
        """Keep its words for those who look for them. By whole lines: half of an address is not known for one."""
        lines = self.lines_with(2, data)
        if len(self.unended_line(2)) > LONGEST_LINE:
            lines.append(self.take_unended_line(2))
        self._log_errors(lines)

    def _log_errors(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            text = line.decode("utf-8", "backslashreplace").strip()
            if text:
                _log.debug("{name} says on stderr: {text}", name=self._name, text=self._for_the_log(text))

    def processExited(self, reason: Failure) -> None:
        self._close_pipes = self._reactor.callLater(LAST_WORDS_WITHIN, self.transport.loseConnection)

    def processEnded(self, reason: Failure) -> None:
        self.pid = None
        self._log_errors([self.take_unended_line(2)])
        if self._close_pipes is not None and self._close_pipes.active():
            self._close_pipes.cancel()
        fault = ConversationFault(f"it ended before it was ready: {_end_in_words(reason.value)}")
        self._settle(lambda: self.configured.errback(fault))
        super().processEnded(reason)

    def words_of(self, reason: Failure) -> str:
        return self._for_the_log(str(self._fault or _end_in_words(reason.value)))

    def hide(self, values: Iterable[str]) -> None:
        """Leave values, which it was given, out of what it says for the log from now on."""
        for value in values:
            if len(value) >= LEAST_HIDDEN:
                self._hidden.pop(value, None)
                self._hidden[value] = None
        for value in list(self._hidden)[:-MOST_HIDDEN]:
            del self._hidden[value]

    def _for_the_log(self, text: str, most: int = LONGEST_TEXT) -> str:
        # The longest first: one may be a part of another.
        for value in sorted(self._hidden, key=len, reverse=True):
            text = text.replace(value, SCRUBBED)
        return without_addresses(text, most)

    def stop(self) -> Deferred[Any]:
        """
        End it, if it runs.

        :returns: fires when it has ended.
        """
        if self.pid is None:
            return succeed(None)
        self.transport.closeStdin()
        return self.end_by(clock_of(self._reactor), ((END_OF_STDIN_WITHIN, "TERM"), (END_WITHIN, "KILL")))


def _end_in_words(end: Any) -> str:
    return f"signal {end.signal}" if end.signal else f"exit status {end.exitCode}"


def _fields_of(line: StatusLine) -> str:
    return " ".join(f"{key}={value}" for key, value in line.fields)
