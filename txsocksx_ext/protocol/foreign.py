"""
Other protocols than SOCKS5, by their first bytes: for error messages and logs.

Somebody mistook the port, and the bytes say for what. They are never acted on.
"""

from __future__ import annotations

import re

from .decoding import Fault, MalformedMessage

_FIRST_BYTES = {
    "HTTP/2": rb"PRI \* HTTP/2|HTTP/2|\0..\x04\0\0\0\0\0",
    "HTTP": rb"HTTP/|(?:CONNECT|DELETE|GET|HEAD|OPTIONS|PATCH|POST|PUT|TRACE) |<(?i:!doctype|html)",
    "TLS": rb"[\x14-\x17]\x03[\0-\x04]",
    "SSH": rb"SSH-",
    "SOCKS4": rb"\x04[\x01\x02]|\0[\x5a-\x5d]",
    "the PROXY protocol": rb"PROXY |\r\n\r\n\0\r\nQUIT\n",
    "a protocol with numeric replies, such as SMTP, FTP or that of tor's control port": rb"[1-5][0-9]{2}[ -]",
    "IMAP": rb"\* (?:OK|BYE|PREAUTH)",
    "POP3": rb"\+OK ",
    "Redis": rb"-ERR ",
    "VNC": rb"RFB [0-9]{3}\.",
    "RDP": rb"\x03\0\0",
    "Telnet": rb"\xff[\xfb-\xfe]",
}
_PATTERNS = {name: re.compile(pattern, re.DOTALL) for name, pattern in _FIRST_BYTES.items()}


def protocol_of(data: bytes | bytearray) -> str | None:
    """
    Name the protocol that begins like this.

    :param data: the first bytes that a peer sent; a handful is enough.
    :returns: a name for the middle of a sentence, or ``None`` for none that is known here.
    """
    return next((name for name, pattern in _PATTERNS.items() if pattern.match(data)), None)


def reason_of(violation: MalformedMessage, received: bytes | bytearray) -> str:
    """
    Return what is wrong with a message, and what it looks like, for a log line.

    :param received: the message, from its first byte on.
    """
    name = protocol_of(received) if violation.fault is Fault.VERSION else None
    return violation.fault.value if name is None else f"{violation.fault.value}; it looks like {name}"
