"""
The process of a managed transport: its conversation with us, and what of it is logged.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from ..net.child_process import LONGEST_LINE, STDERR, ChildProcess
from ..net.recent import RecentDict
from ..net.timers import clock_of
from ..net.twisted_transports import endpoint_to
from .lines import Keyword, parse_line
from .outbound_proxy import OutboundProxy
from .parent import LONGEST_LOG_TEXT, LONGEST_TEXT, ClientConversation, ConversationFault, without_addresses
from .scrubbing import SCRUBBED

LEAST_HIDDEN = 6
"""Characters of the shortest argument that is removed from logged text: shorter ones are parts of words."""

MOST_HIDDEN = 256
"""How many arguments are removed from logged text: the latest ones."""

_LEVELS = {"error": LogLevel.warn, "warning": LogLevel.warn, "notice": LogLevel.info}

_log = Logger(namespace="txsocksx_ext.pt")


class TransportProcess(ChildProcess):
    """
    One process of a transport, with its outbound proxy.

    :param reactor: provides processes, TCP and time.
    :param name: the transport's.
    :param outbound_proxy: the proxy for its outgoing connections; ``None`` if it uses none.
    :ivar configured: fires when the transport is ready; fails with `ConversationFault`.
    :ivar endpoint: its SOCKS5 port, once `configured` has fired.
    """

    term_after = 2.0
    endpoint: IStreamClientEndpoint

    def __init__(self, reactor: Any, name: str, outbound_proxy: OutboundProxy | None) -> None:
        super().__init__(reactor)
        self.outbound_proxy = outbound_proxy
        self.configured: Deferred[None] = Deferred()
        self._name = name
        self._conversation = ClientConversation(outbound_proxy is not None)
        self._hidden: RecentDict[str, None] = RecentDict(MOST_HIDDEN)

    def line_received(self, descriptor: int, line: bytes) -> None:
        if descriptor == STDERR:
            text = line.decode("utf-8", "backslashreplace").strip()
            if text:
                _log.debug("{name} says on stderr: {text}", name=self._name, text=self._for_the_log(text))
        elif not self.fault:
            try:
                self._hear(line)
            except (ConversationFault, ValueError) as error:
                # As tor does it, a transport that breaks the conversation is ended.
                self.fault = self._for_the_log(str(error))
                if not self.configured.called:
                    is_known = isinstance(error, ConversationFault)
                    self.configured.errback(error if is_known else ConversationFault(self.fault))
                self.stop()

    def _hear(self, data: bytes) -> None:
        if len(data) > LONGEST_LINE:
            raise ConversationFault(f"a line of its output exceeds {LONGEST_LINE} bytes")
        line = parse_line(data)
        if line is not None and line.keyword is Keyword.LOG:
            level = _LEVELS.get(line.severity, LogLevel.debug)
            text = self._for_the_log(line.text, LONGEST_LOG_TEXT)
            _log.emit(level, "{name} says: {text}", name=self._name, text=text)
        elif line is not None and line.keyword is Keyword.STATUS:
            text = self._for_the_log(" ".join(map("=".join, line.fields)))
            _log.debug("{name} says of its status: {text}", name=self._name, text=text)
        self._conversation.hear(line)
        if self._conversation.is_done and not self.configured.called:
            self.endpoint = self._method()
            self.configured.callback(None)

    def _method(self) -> IStreamClientEndpoint:
        method = self._conversation.methods.get(self._name)
        if method is None:
            refusal = self._conversation.refusals.get(self._name)
            said = "" if refusal is None else f", and says: {without_addresses(refusal)}"
            raise ConversationFault(f"the program does not offer it{said}")
        if method.protocol != "socks5":
            raise ConversationFault("it speaks SOCKS4 alone, which carries no arguments")
        return endpoint_to(self._reactor, *method.address)

    def processEnded(self, reason: Failure) -> None:
        super().processEnded(reason)
        if not self.configured.called:
            self.configured.errback(ConversationFault(f"it ended before it was ready: {self.end}"))

    async def ends_within(self, seconds: float) -> bool:
        """Return whether the process has ended, or does so in `seconds`."""
        with suppress(DeferredTimeoutError):
            await self.when_ended().addTimeout(seconds, clock_of(self._reactor))
        return self.end is not None

    async def close(self) -> None:
        """End the process and its outbound proxy."""
        await self.stop()
        if self.outbound_proxy is not None:
            await self.outbound_proxy.close()

    def hide(self, values: Iterable[str]) -> None:
        """Remove arguments of clients from what is logged of the process from now on."""
        for value in values:
            if len(value) >= LEAST_HIDDEN:
                self._hidden[value] = None

    def _for_the_log(self, text: str, most: int = LONGEST_TEXT) -> str:
        # The longest first: one may be a part of another.
        for value in sorted(self._hidden, key=len, reverse=True):
            text = text.replace(value, SCRUBBED)
        return without_addresses(text, most)
