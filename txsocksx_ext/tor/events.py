"""
The events of tor's control port that explain why a stream failed (control-spec, section 4.1).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_WORD = re.compile(r'(?:[^\s"]|"(?:[^"\\]|\\.)*")+')


@dataclass(frozen=True, slots=True, repr=False)
class StreamEvent:
    """
    A STREAM event.

    :ivar stream: the stream's number, as text.
    :ivar status: NEW, SENTCONNECT, SUCCEEDED, FAILED, CLOSED and so on.
    :ivar circuit: the circuit's number, ``0`` while the stream is not attached.
    :ivar host: the target's name or address.
    :ivar port: the target's port.
    :ivar tail: the unparsed keywords.
    """

    stream: str
    status: str
    circuit: str
    host: str
    port: str
    tail: str

    @property
    def keywords(self) -> dict[str, str]:
        """REASON, REMOTE_REASON, SOURCE_ADDR and so on. Parsed on demand, because most streams' are never used."""
        return _keywords(_WORD.findall(self.tail))


@dataclass(frozen=True, slots=True, repr=False)
class DescriptorEvent:
    """
    An HS_DESC event.

    :ivar action: REQUESTED, RECEIVED, FAILED and so on.
    :ivar address: the onion address without ``.onion``.
    :ivar directory: the fingerprint and nickname of the directory.
    :ivar reason: the reason of a failure, such as NOT_FOUND or BAD_DESC; else empty.
    """

    action: str
    address: str
    directory: str
    reason: str


def parse_stream_event(line: str) -> StreamEvent | None:
    """Parse the line after ``650 STREAM``; return ``None`` if it is malformed."""
    words = line.split(None, 4)
    if len(words) < 4:
        return None
    stream, status, circuit, target, *tail = words
    host, _, port = target.rpartition(":")
    return StreamEvent(stream, status, circuit, host, port, tail[0] if tail else "")


def parse_descriptor_event(line: str) -> DescriptorEvent | None:
    """Parse the line after ``650 HS_DESC``; return ``None`` if it is malformed."""
    words = _WORD.findall(line)
    if len(words) < 4:
        return None
    return DescriptorEvent(words[0], words[1].lower(), words[3], _keywords(words[4:]).get("REASON", ""))


def bootstrap_progress(line: str) -> int | None:
    """Return the percentage in a STATUS_CLIENT BOOTSTRAP event or in ``status/bootstrap-phase``."""
    match = re.search(r"BOOTSTRAP PROGRESS=(\d+)", line)
    return int(match[1]) if match else None


def bootstrap_summary(line: str) -> str:
    """Return the description of the bootstrap step in such an event, and its warning."""
    keywords = _keywords(_WORD.findall(line))
    return ": ".join(keywords[name] for name in ("SUMMARY", "WARNING") if keywords.get(name))


def _keywords(words: list[str]) -> dict[str, str]:
    keywords: dict[str, str] = {}
    name = ""
    for word in words:
        key, equals, value = word.partition("=")
        if equals:
            name = key
            keywords[name] = _unquoted(value)
        elif name and not keywords[name]:
            # Tor writes "REASON= UNKNOWN_264", with a space.
            keywords[name] = word
    return keywords


def _unquoted(value: str) -> str:
    if len(value) < 2 or not value.startswith('"'):
        return value
    return re.sub(r"\\([0-7]{1,3}|.)", _unescaped, value[1:-1])


def _unescaped(match: re.Match[str]) -> str:
    escape = match[1]
    if escape[0] in "01234567":
        return chr(int(escape, 8))
    return {"n": "\n", "r": "\r", "t": "\t"}.get(escape, escape)
