"""
What tor's control events tell of our streams and of their onion services.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred

from ..addresses import host_and_port
from ..errors import ReplyError
from ..protocol.codes import Dialect
from .events import DescriptorEvent, StreamEvent

_TCP_SOURCE = re.compile(r"(?:[0-9.]+|\[[^]]+\]):[0-9]+")

REMEMBERED_SERVICES = 1024
"""Onion addresses whose last fetch is remembered."""

REMEMBERED_ENDS = 64
"""Ends that are kept of streams with one key. Streams still wait for theirs, and tor closes some unasked."""

DIRECTORY_ASKED_AGAIN_AFTER = 900.0
"""Seconds before tor asks a directory again for the same descriptor (REND_HID_SERV_DIR_REQUERY_PERIOD)."""

NOT_FOUND, UNREADABLE, UNANSWERED = "NOT_FOUND", "BAD_DESC", ""

_PLAIN_CODES = {
    "RESOLVEFAILED": 0x04,
    "NOROUTE": 0x04,
    "EXITPOLICY": 0x02,
    "UNKNOWN_264": 0x02,
    "CONNECTREFUSED": 0x05,
    "CONNRESET": 0x05,
    "DONE": 0x05,
    "TIMEOUT": 0x06,
    "NET_UNREACHABLE": 0x03,
}
"""The reply code that tor derives from a stream's reason (stream_end_reason_to_socks5_response); else 0x01."""


@dataclass(frozen=True, slots=True)
class Answer:
    """
    One directory's answer about a descriptor.

    :ivar reason: the reason of a failure, or `UNANSWERED`.
    :ivar time: the time, in seconds of the tracker's clock.
    """

    reason: str
    time: float


@dataclass
class Fetch:
    """
    The fetch of one service's descriptor.

    :ivar answers: by directory, without directories that have the descriptor.
    :ivar received: whether a directory gave the descriptor.
    :ivar existed: whether the service was found or connected before.
    :ivar streams: the streams that wait for the descriptor.
    """

    answers: dict[str, Answer] = field(default_factory=dict)
    received: bool = False
    existed: bool = False
    streams: set[str] = field(default_factory=set)

    @property
    def is_not_found(self) -> bool:
        """Whether directories were asked and all of them lack the descriptor."""
        reasons = {answer.reason for answer in self.answers.values()}
        return not self.received and reasons == {NOT_FOUND}

    @property
    def is_found(self) -> bool:
        """Whether there is evidence that the service exists."""
        return self.received or self.existed or any(each.reason == UNREADABLE for each in self.answers.values())

    def next(self, now: float) -> Fetch:
        """
        Return the next fetch.

        It keeps the answers of directories that tor will not ask again soon: without
        them, the next answers would not be those of all directories.
        """
        kept = {
            directory: answer
            for directory, answer in self.answers.items()
            if answer.reason != NOT_FOUND and answer.time > now - DIRECTORY_ASKED_AGAIN_AFTER
        }
        return Fetch(kept, existed=self.received or self.existed)


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """
    How a stream ended.

    :ivar reason: tor's word for it.
    :ivar is_remote: whether the service ended the stream.
    :ivar was_connected: whether the stream had been connected, although tor replied 0xF0.
    :ivar fetch: the fetch of the service's descriptor.
    """

    reason: str
    is_remote: bool
    was_connected: bool
    fetch: Fetch

    @property
    def plain_code(self) -> int:
        """The reply code of RFC 1928 that tor derives from the reason."""
        return _PLAIN_CODES.get(self.reason, 0x01)


StreamKey = tuple[str, str, str]
"""What identifies our streams: ``source`` and an address or ``password`` and a token, then the target."""


@dataclass(eq=False)
class StreamRecord:
    """
    What is known of one stream of ours.

    Streams over a unix socket with one key cannot be distinguished, so each of their
    records gets the events of all.

    :ivar key: identifies the stream in its first event.
    :ivar is_seen: whether its first event has arrived.
    :ivar fetch: the fetch of its service's descriptor, from its first event on.
    """

    key: StreamKey = field(repr=False)
    is_seen: bool = False
    fetch: Fetch | None = None
    _ends: list[StreamEnd] = field(default_factory=list, repr=False)
    _waiting: tuple[ReplyError, Deferred[StreamEnd | None]] | None = field(default=None, repr=False)

    def end_for(self, said: ReplyError) -> Deferred[StreamEnd | None]:
        """
        Return a Deferred that fires with the end that explains tor's reply, once tor has closed the stream.

        It fires with ``None`` if the control connection is lost first.
        """
        found: Deferred[StreamEnd | None] = Deferred()
        for end in self._ends:
            if self._explains(end, said):
                found.callback(end)
                return found
        self._waiting = (said, found)
        return found

    def saw_end(self, end: StreamEnd) -> None:
        """Note the end of a stream with this key."""
        if len(self._ends) < REMEMBERED_ENDS:
            self._ends.append(end)
        if self._waiting is not None and self._explains(end, self._waiting[0]):
            self._tell(end)

    def lose(self) -> None:
        """Forget everything, because the control connection is lost."""
        self.fetch = None
        self._ends.clear()
        self._tell(None)

    def _tell(self, end: StreamEnd | None) -> None:
        if self._waiting is not None:
            (_, waiting), self._waiting = self._waiting, None
            if not waiting.called:
                waiting.callback(end)

    def _explains(self, end: StreamEnd, said: ReplyError) -> bool:
        if self.key[0] == "source":
            return True
        # Another stream with this key may have been closed by its client (DONE), or have had another reply.
        if end.reason == "DONE" and not end.is_remote:
            return False
        return said.reply_code.dialect is Dialect.TOR or (
            not end.was_connected and end.plain_code == said.reply_code.number
        )


def key_of_source(source: str, source_port: int, host: str, port: int) -> StreamKey:
    """Return the key of a stream over TCP: our end of the connection to tor, and the target."""
    return ("source", host_and_port(source, source_port), _target(host, port))


def key_of_target(token: bytes | None, host: str, port: int) -> StreamKey:
    """
    Return the key of a stream over a unix socket, whose ends have no addresses.

    Streams with the same token and target cannot be distinguished.
    """
    return ("password", (token or b"").decode("latin-1"), _target(host, port))


def _target(host: str, port: int | str) -> str:
    return f"{host.lower()}:{port}"


@dataclass
class _Stream:
    """An open stream to an onion service, from any client of this tor."""

    key: StreamKey
    fetch: Fetch
    reason: str = ""
    is_remote: bool = False
    has_succeeded: bool = False
    was_connected: bool = False


class StreamTracker:
    """
    Follows the events of one tor.

    :param seconds: the clock.
    :ivar bootstrapped: whether this tor has built circuits.
    :ivar has_recognized: whether this control connection has reported a stream of ours.
    """

    def __init__(self, seconds: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self.bootstrapped = False
        self.has_recognized = False
        self._records: dict[StreamKey, list[StreamRecord]] = {}
        self._streams: dict[str, _Stream] = {}
        self._fetches: OrderedDict[str, Fetch] = OrderedDict()

    def knows(self, address: str) -> bool:
        """
        Return whether there was an event about this onion address's descriptor.

        Another program's stream is no such event: it may have found the descriptor in tor's cache.
        """
        fetch = self._fetches.get(address)
        return fetch is not None and (fetch.is_found or bool(fetch.answers))

    def expect(self, key: StreamKey) -> StreamRecord:
        """Return the record of a new stream. Call this before the request is sent to tor."""
        record = StreamRecord(key)
        self._records.setdefault(key, []).append(record)
        return record

    def dismiss(self, record: StreamRecord) -> None:
        """Drop the record of a stream; no-op if it is unknown."""
        alike = self._records.get(record.key, [])
        if record in alike:
            alike.remove(record)
            if not alike:
                del self._records[record.key]

    def forget(self) -> None:
        """Forget everything, because the control connection is lost."""
        self.bootstrapped = self.has_recognized = False
        records, self._records = self._records, {}
        self._streams.clear()
        self._fetches.clear()
        for alike in records.values():
            for record in alike:
                record.lose()

    def saw_stream(self, event: StreamEvent) -> None:
        """Process a STREAM event."""
        if event.status in ("NEW", "NEWRESOLVE"):
            self._saw_new(event)
            return
        stream = self._streams.get(event.stream)
        if stream is None:
            return
        if event.status == "SUCCEEDED" or _is_false_failure(event):
            stream.has_succeeded = event.status == "SUCCEEDED"
            stream.was_connected = True
            stream.fetch.existed = True
            stream.fetch.streams.discard(event.stream)
        elif event.status in ("FAILED", "CLOSED"):
            self._saw_end(event, stream)

    def saw_descriptor(self, event: DescriptorEvent) -> None:
        """Process an HS_DESC event, which concerns every stream to its service."""
        fetch = self._fetches.get(event.address)
        if fetch is None:
            return
        if event.action == "REQUESTED":
            fetch.answers[event.directory] = Answer(UNANSWERED, self._seconds())
        elif event.action == "RECEIVED":
            fetch.received = True
            fetch.answers.pop(event.directory, None)
        elif event.action == "FAILED":
            fetch.answers[event.directory] = Answer(event.reason, self._seconds())

    def saw_cached_descriptor(self, address: str) -> None:
        """Note that tor has the descriptor of this onion address."""
        fetch = self._fetches.setdefault(address, Fetch())
        fetch.existed = True
        self._drop_oldest()

    def _saw_new(self, event: StreamEvent) -> None:
        address = onion_address(event.host)
        if address is None:
            return
        keywords = event.keywords
        password, source = keywords.get("SOCKS_PASSWORD", ""), keywords.get("SOURCE_ADDR", "")
        target = _target(event.host, event.port)
        # The source of a unix socket is its path, which all its streams share.
        is_tcp = _TCP_SOURCE.fullmatch(source)
        key: StreamKey = ("source", source, target) if is_tcp else ("password", password, target)
        fetch = self._fetch_of(address, event.stream)
        self._streams[event.stream] = _Stream(key, fetch)
        for record in self._records.get(key, ()):
            self.has_recognized = record.is_seen = True
            record.fetch = fetch

    def _fetch_of(self, address: str, stream: str) -> Fetch:
        fetch = self._fetches.get(address)
        if fetch is None:
            fetch = self._fetches[address] = Fetch()
        elif not fetch.streams:
            # Replace the last fetch, do not change it: it belongs to streams that have ended, but whose reply from
            # tor may not be read yet.
            fetch = self._fetches[address] = fetch.next(self._seconds())
        self._fetches.move_to_end(address)
        fetch.streams.add(stream)
        self._drop_oldest()
        return fetch

    def _saw_end(self, event: StreamEvent, stream: _Stream) -> None:
        """
        Process FAILED, which has the reason, or CLOSED, which is final.

        Other events of the same failure may come between the two.
        """
        keywords = event.keywords
        reason, remote = keywords.get("REASON", ""), keywords.get("REMOTE_REASON", "")
        if remote:
            stream.is_remote = True
        stream.reason = stream.reason or remote or reason
        if event.status == "FAILED":
            return
        del self._streams[event.stream]
        stream.fetch.streams.discard(event.stream)
        if stream.has_succeeded:
            return
        end = StreamEnd(stream.reason, stream.is_remote, stream.was_connected, stream.fetch)
        for record in self._records.get(stream.key, ()):
            record.saw_end(end)

    def _drop_oldest(self) -> None:
        while len(self._fetches) > REMEMBERED_SERVICES:
            _, fetch = self._fetches.popitem(last=False)
            # Its further answers will be missed, so those so far must not count as all.
            fetch.answers.clear()


def _is_false_failure(event: StreamEvent) -> bool:
    """Return whether this FAILED is tor's report of a stream that connected after a directory lacked the descriptor."""
    return event.status == "FAILED" and event.circuit != "0" and not event.keywords.get("REASON")


def onion_address(host: str) -> str | None:
    """Return the onion address of a name, without subdomains and ``.onion``; ``None`` for other names."""
    labels = host.lower().rstrip(".").split(".")
    return labels[-2] if len(labels) > 1 and labels[-1] == "onion" else None
