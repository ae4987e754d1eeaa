"""
The parent's view of a managed transport's lines (pt-spec, section 3.3). No Twisted, no I/O.
"""

from __future__ import annotations

from .lines import VERSION, Keyword, Line, Role, Stage
from .notation import printable
from .scrubbing import scrub

LONGEST_TEXT = 200
"""Characters of a transport's text that are logged."""

LONGEST_LOG_TEXT = 4000
"""Characters of a LOG's message that are logged: a traceback comes as one line, and ends with what matters most."""


class ConversationFault(Exception):
    """The transport broke the conversation, or ended it. The text says why, and may be logged."""


class ProxyRefused(ConversationFault):
    """The transport does not use the proxy: it said PROXY-ERROR, or nothing about the proxy."""


def without_addresses(text: str, most: int = LONGEST_TEXT) -> str:
    """
    Return a transport's text as it is logged: one line, cut, and without IP addresses.

    :param most: the most characters.
    """
    return printable(scrub(text))[:most]


class ClientConversation:
    """
    The conversation with the client side of a transport.

    Like tor, it ends at a line of the configuration in the wrong state, but not
    at CMETHOD-ERROR, unknown lines, LOG and STATUS.

    :param has_proxy: whether the transport was given TOR_PT_PROXY.
    :ivar methods: the transports that listen, by name.
    :ivar refusals: the text of each CMETHOD-ERROR, by the transport's name.
    :ivar is_done: whether the configuration is complete.
    """

    def __init__(self, has_proxy: bool) -> None:
        self._is_proxy_pending = has_proxy
        self._stage = Stage.VERSION
        self.methods: dict[str, Line] = {}
        self.refusals: dict[str, str] = {}
        self.is_done = False

    def hear(self, line: Line | None) -> None:
        """
        Take the next line.

        :param line: as `parse_line` returns it.
        :raises ConversationFault: it ends the conversation.
        """
        if line is None:
            return
        keyword = line.keyword
        if keyword.stage is Stage.FATAL:
            raise ConversationFault(f"it says {keyword.word} {without_addresses(line.text)}")
        if keyword.stage is Stage.ANY:
            return
        is_misplaced = self.is_done or keyword.stage is not self._stage or Role.CLIENT not in keyword.role
        if is_misplaced or (keyword is Keyword.PROXY and not self._is_proxy_pending):
            raise ConversationFault(f"it says {keyword.word} out of order")
        if keyword is Keyword.VERSION:
            if line.text != VERSION:
                raise ConversationFault("it chose a VERSION that was not offered")
            self._stage = Stage.CONFIGURATION
        elif keyword is Keyword.PROXY:
            self._is_proxy_pending = False
        elif keyword is Keyword.CMETHOD:
            self.methods[line.name] = line
        elif keyword is Keyword.CMETHOD_ERROR:
            self.refusals[line.name] = line.text
        elif keyword is Keyword.PROXY_ERROR:
            # Its text may repeat the login of the outgoing proxy.
            raise ProxyRefused("it takes no proxy")
        elif self._is_proxy_pending:
            raise ProxyRefused("it does not say PROXY DONE")
        else:
            self.is_done = True
