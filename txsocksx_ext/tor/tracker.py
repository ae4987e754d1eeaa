"""
Why a stream to an onion service failed, from tor's control events.

Tor's reply says 04 both of a service that does not exist and of one that cannot
be reached. Its events tell them apart: whether the directories had the
descriptor, and how the stream ended.
"""

from __future__ import annotations

import re
from collections import OrderedDict, defaultdict
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred

from ..errors import (
    OnionAddressInvalid,
    OnionClientAuthRequired,
    OnionDescriptorNotFound,
    OnionIntroductionFailed,
    OnionRendezvousFailed,
    OnionServiceNotReachable,
    ReplyError,
)
from ..protocol.codes import Dialect
from .events import DescriptorEvent, StreamEvent

_TCP_SOURCE = re.compile(r"(?:[0-9.]+|\[[^]]+\]):[0-9]+")

REMEMBERED_SERVICES = 1024
"""Of how many onion addresses the last fetch is remembered."""


@dataclass
class Fetch:
    """
    What became of the fetch of one service's descriptor.

    :ivar failures: the reasons of the directories that did not give it.
    :ivar received: whether one gave it.
    :ivar has_connected: whether a stream to the service ever succeeded.
    :ivar streams: the streams that wait for it.
    """

    failures: set[str] = field(default_factory=set)
    received: bool = False
    has_connected: bool = False
    streams: set[str] = field(default_factory=set)

    @property
    def is_not_found(self) -> bool:
        """Whether directories answered, and all of them that there is no such service."""
        return not self.received and self.failures == {"NOT_FOUND"}


@dataclass
class StreamRecord:
    """
    What was seen of one stream of ours.

    :ivar key: how its first event is recognised.
    :ivar stream: its number, once that came.
    :ivar fetch: of its service's descriptor, once its first event came.
    :ivar reason: why it ended, in tor's words.
    :ivar is_remote: whether the service itself ended it.
    :ivar ended: fires when its last event came.
    """

    key: StreamKey = field(repr=False)
    stream: str = ""
    fetch: Fetch | None = None
    reason: str = ""
    is_remote: bool = False
    ended: Deferred[None] = field(default_factory=Deferred)


StreamKey = tuple[str, str, str]
"""A source address, or else a password and the target, by which our streams are known."""


def key_of_source(host: str, port: int) -> StreamKey:
    """The key of a stream over TCP: our own address of the connection to tor."""
    return ("source", f"[{host}]:{port}" if ":" in host else f"{host}:{port}", "")


def key_of_target(token: bytes | None, host: str, port: int) -> StreamKey:
    """
    The key of a stream over a unix socket, whose ends have no names.

    Streams alike in token and target are alike in all that a tracker can tell.
    """
    return ("target", (token or b"").decode("latin-1"), f"{host.lower()}:{port}")


class StreamTracker:
    """Watches the events of one tor."""

    def __init__(self) -> None:
        self.bootstrapped = False
        self._expected: defaultdict[StreamKey, list[StreamRecord]] = defaultdict(list)
        self._streams: dict[str, StreamRecord] = {}
        self._address_of: dict[str, str] = {}
        self._fetches: OrderedDict[str, Fetch] = OrderedDict()

    def expect(self, key: StreamKey) -> StreamRecord:
        """Begin to watch a stream, before tor hears of it."""
        record = StreamRecord(key)
        self._expected[key].append(record)
        return record

    def dismiss(self, record: StreamRecord) -> None:
        """Watch a stream no longer."""
        waiting = self._expected.get(record.key, [])
        if record in waiting:
            waiting.remove(record)
            if not waiting:
                del self._expected[record.key]
        self._streams.pop(record.stream, None)

    def forget(self) -> None:
        """Forget all that was going on: the control connection is lost."""
        self.bootstrapped = False
        self._expected.clear()
        self._streams.clear()
        self._address_of.clear()
        self._fetches.clear()

    def saw_stream(self, event: StreamEvent) -> None:
        """Take a STREAM event."""
        if event.status in ("NEW", "NEWRESOLVE"):
            self._saw_new(event)
        elif event.status == "SUCCEEDED" or _is_false_failure(event):
            fetch = self._fetch_of(event.stream)
            if fetch is not None:
                fetch.has_connected = True
                fetch.streams.discard(event.stream)
        elif event.status in ("FAILED", "CLOSED"):
            self._saw_end(event)

    def saw_descriptor(self, event: DescriptorEvent) -> None:
        """Take an HS_DESC event. It is of a service, and so of every stream that waits for it."""
        fetch = self._fetches.get(event.address)
        if fetch is None:
            return
        if event.action == "RECEIVED":
            fetch.received = True
        elif event.action == "FAILED":
            fetch.failures.add(event.reason)

    def _saw_new(self, event: StreamEvent) -> None:
        address = onion_address(event.host)
        if address is not None:
            fetch = self._fetches.get(address)
            if fetch is None or not fetch.streams:
                # A new fetch, unless the descriptor is still known. The last one stays as it is:
                # a stream that waited for it may have ended, and tor's reply to it not yet be read.
                fetch = self._fetches[address] = Fetch(has_connected=fetch is not None and fetch.has_connected)
            self._fetches.move_to_end(address)
            fetch.streams.add(event.stream)
            self._address_of[event.stream] = address
            self._drop_oldest()
        record = self._claim(event)
        if record is not None:
            record.stream = event.stream
            record.fetch = None if address is None else self._fetches.get(address)
            self._streams[event.stream] = record

    def _claim(self, event: StreamEvent) -> StreamRecord | None:
        """Whose stream a new one is."""
        password = event.keywords.get("SOCKS_PASSWORD", "")
        source = event.keywords.get("SOURCE_ADDR", "")
        # Of a unix socket it is the path, the same for all.
        is_tcp = _TCP_SOURCE.fullmatch(source)
        key = ("source", source, "") if is_tcp else ("target", password, f"{event.host.lower()}:{event.port}")
        waiting = self._expected.get(key)
        if not waiting:
            return None
        record = waiting.pop(0)
        if not waiting:
            del self._expected[key]
        return record

    def _saw_end(self, event: StreamEvent) -> None:
        """
        Take FAILED, which has the reason, or CLOSED, which is the last word.

        Events of the same step can follow FAILED but come before CLOSED.
        """
        record = self._streams.get(event.stream)
        if record is not None:
            reason, remote = event.keywords.get("REASON", ""), event.keywords.get("REMOTE_REASON", "")
            if remote:
                record.is_remote = True
            record.reason = record.reason or remote or reason
        if event.status == "FAILED":
            return
        address = self._address_of.pop(event.stream, None)
        if address is not None and address in self._fetches:
            self._fetches[address].streams.discard(event.stream)
        self._streams.pop(event.stream, None)
        if record is not None and not record.ended.called:
            record.ended.callback(None)

    def _fetch_of(self, stream: str) -> Fetch | None:
        address = self._address_of.get(stream)
        return None if address is None else self._fetches.get(address)

    def _drop_oldest(self) -> None:
        while len(self._fetches) > REMEMBERED_SERVICES:
            _, fetch = self._fetches.popitem(last=False)
            for stream in fetch.streams:
                self._address_of.pop(stream, None)


def _is_false_failure(event: StreamEvent) -> bool:
    """Whether this is how tor reports a stream that connected although a directory did not know the service."""
    return event.status == "FAILED" and event.circuit != "0" and not event.keywords.get("REASON")


def onion_address(host: str) -> str | None:
    """The address of an onion service's name, without sub-domains and ``.onion``; ``None`` for another name."""
    labels = host.lower().rstrip(".").split(".")
    return labels[-2] if len(labels) > 1 and labels[-1] == "onion" else None


def classify_failure(record: StreamRecord, said: ReplyError, is_bootstrapped: bool) -> ReplyError:
    """
    What is to be said of an onion service that was not reached.

    :param said: what tor's reply was read as.
    :param is_bootstrapped: whether this tor has built circuits.
    :returns: `said` where the events say no more. Another keeps the plain code
        that tor gave, for clients that understand no other. That tor has a
        client key for the service, so that it is not missing but wrong, the
        events do not say.
    """
    fetch = record.fetch
    if fetch is None or record.is_remote:
        return said
    error: ReplyError
    if record.reason == "TORPROTOCOL":
        error = OnionAddressInvalid()
    elif record.reason == "RESOLVEFAILED":
        error = _of_unresolved(fetch)
    elif record.reason == "MISC" and fetch.received:
        error = OnionClientAuthRequired()
    elif record.reason in ("TIMEOUT", "CANT_ATTACH"):
        error = of_timeout(fetch, is_bootstrapped) or said
    else:
        return said
    if type(error) is OnionServiceNotReachable and said.row.dialect is Dialect.TOR:
        return said
    return error.with_plain_code(said.row.plain)


def _of_unresolved(fetch: Fetch) -> ReplyError:
    """Of a name that was not resolved: "not found" is claimed only where every directory said so."""
    if fetch.received:
        return OnionIntroductionFailed()
    return OnionDescriptorNotFound() if fetch.is_not_found else OnionServiceNotReachable()


def of_timeout(fetch: Fetch | None, is_bootstrapped: bool) -> ReplyError | None:
    """Of a service that did not answer in time; ``None`` where this tor may be to blame."""
    if fetch is not None and (fetch.received or fetch.has_connected):
        return OnionRendezvousFailed()
    return OnionServiceNotReachable() if is_bootstrapped else None
