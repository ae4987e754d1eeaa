"""
What a parent makes of a managed transport's lines (pt-spec, section 3.3). No Twisted, no I/O.
"""

from __future__ import annotations

from .lines import (
    VERSION,
    ClientMethodErrorLine,
    ClientMethodLine,
    ClientMethodsDoneLine,
    EnvErrorLine,
    Line,
    LogLine,
    ProxyDoneLine,
    ProxyErrorLine,
    StatusLine,
    UnknownLine,
    VersionErrorLine,
    VersionLine,
)
from .notation import printable
from .scrubbing import scrub

LONGEST_TEXT = 200
"""Characters of a transport's words that a log gets."""

LONGEST_LOG_TEXT = 4000
"""Characters of what a transport says for a log: a traceback comes as one line, and ends with what matters most."""


class ConversationFault(Exception):
    """The transport broke the conversation, or ended it: its text says why, and is fit for a log."""


class ProxyRefused(ConversationFault):
    """The transport takes no proxy: PROXY-ERROR, or not a word about it."""


def without_addresses(text: str, most: int = LONGEST_TEXT) -> str:
    """
    Return a transport's words as logs get them: one line, short, and with its IP addresses left out.

    :param most: characters of it.
    """
    return printable(scrub(text))[:most]


class ClientConversation:
    """
    The conversation with the client side of a transport.

    As tor does it: a line of the configuration in the wrong state breaks it, and
    CMETHOD-ERROR, unknown lines, LOG and STATUS do not.

    :param has_proxy: whether the transport was given TOR_PT_PROXY.
    :ivar methods: the transports that listen, by their names.
    :ivar refusals: what it said of those that cannot start, by their names.
    :ivar is_done: whether the configuration is over.
    """

    def __init__(self, has_proxy: bool) -> None:
        self._is_proxy_owed = has_proxy
        self._has_version = False
        self.methods: dict[str, ClientMethodLine] = {}
        self.refusals: dict[str, str] = {}
        self.is_done = False

    def hear(self, line: Line) -> None:
        """
        Take the next line.

        :raises ConversationFault: it breaks the conversation.
        """
        if isinstance(line, (LogLine, StatusLine, UnknownLine)):
            return
        if isinstance(line, (VersionErrorLine, EnvErrorLine)):
            raise ConversationFault(f"it says {line.keyword} {without_addresses(line.text)}")
        if self.is_done or self._has_version == isinstance(line, VersionLine):
            raise ConversationFault(f"it says {line.keyword} where that has no place")
        self._hear_configuration(line)

    def _hear_configuration(self, line: Line) -> None:
        if isinstance(line, VersionLine):
            if line.version != VERSION:
                raise ConversationFault("it chose a VERSION that it was not offered")
            self._has_version = True
        elif isinstance(line, ProxyErrorLine):
            # Its text may repeat the login of the outgoing proxy.
            raise ProxyRefused("it takes no proxy")
        elif isinstance(line, ProxyDoneLine) and self._is_proxy_owed:
            self._is_proxy_owed = False
        elif isinstance(line, ClientMethodLine):
            self.methods[line.name] = line
        elif isinstance(line, ClientMethodErrorLine):
            self.refusals[line.name] = line.text
        elif isinstance(line, ClientMethodsDoneLine):
            if self._is_proxy_owed:
                raise ProxyRefused("it says nothing of the proxy")
            self.is_done = True
        else:
            raise ConversationFault(f"it says {line.keyword} where that has no place")
