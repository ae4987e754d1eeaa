"""
The sending side of a TLS connection.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from OpenSSL import SSL

RECORD_SIZE = 1 << 14
"""The most bytes of plaintext in one record of TLS."""

MOST_AGGREGATED = 64_000
"""Bytes of small writes that are collected until the reactor's next turn, as in Twisted's TLS."""

_MOST_FLUSHED = 2 * RECORD_SIZE


class TLSOutput:
    """
    Collects small writes, keeps writes until the handshake is complete, and encrypts them.

    :param connection: OpenSSL's connection, over memory.
    :param below: the transport that gets the records. It pauses and resumes the producer.
    :ivar unsent: the number of bytes that were written and are not encrypted yet.
    :ivar producer: the registered producer, or ``None``.
    :ivar is_ending: whether only a producer that is still registered may write.
    :ivar has_ended: whether close_notify was sent.
    """

    __slots__ = (
        "_below",
        "_connection",
        "_is_holding",
        "_is_streaming",
        "_writes",
        "has_ended",
        "is_ending",
        "producer",
        "unsent",
    )

    def __init__(self, connection: Any, below: Any) -> None:
        self.unsent = 0
        self.producer: Any = None
        self.is_ending = self.has_ended = False
        self._connection = connection
        self._below = below
        self._writes: list[bytes] = []
        self._is_streaming = self._is_holding = False

    def add(self, data: bytes) -> bool:
        """Keep a write; return whether there is enough to send at once."""
        self._writes.append(data + b"")
        self.unsent += len(data)
        return self.unsent > MOST_AGGREGATED

    def clear(self) -> None:
        """Discard what is not encrypted yet."""
        self._writes.clear()
        self.unsent = 0

    def close(self) -> None:
        """Release everything."""
        self.clear()
        self.producer = self._connection = None

    def send(self) -> None:
        """
        Encrypt and send all writes.

        Some are kept while the peer renegotiates, because OpenSSL accepts none then.

        :raises SSL.Error: the connection has failed.
        """
        rest = memoryview(b"".join(self._writes))
        self.clear()
        while rest:
            try:
                sent = self._connection.send(rest)
            except SSL.WantReadError:
                self.add(bytes(rest))
                return
            self.flush()
            rest = rest[sent:]

    @property
    def end_is_due(self) -> bool:
        """Whether it is time to send close_notify."""
        return self.is_ending and not self.unsent and self.producer is None and not self.has_ended

    def end(self) -> None:
        """Send close_notify."""
        self.has_ended = True
        with suppress(SSL.Error):
            self._connection.shutdown()
        self.flush()

    def flush(self) -> None:
        """Pass OpenSSL's records to the transport below."""
        with suppress(SSL.WantReadError):
            while True:
                records = self._connection.bio_read(_MOST_FLUSHED)
                self._below.write(records)
                if len(records) < _MOST_FLUSHED:
                    break

    def register(self, producer: Any, streaming: bool) -> None:
        """Register a producer. See `IConsumer`."""
        # Call this first, because it raises if there is another.
        self._below.registerProducer(producer, streaming)
        self.producer, self._is_streaming = producer, streaming

    def unregister(self) -> None:
        """Unregister the producer."""
        if self.producer is not None:
            self.producer = None
            self._below.unregisterProducer()

    def drop_producer(self) -> None:
        """Stop a producer whose bytes cannot be sent; the transport below would wait for it."""
        producer = self.producer
        if producer is not None:
            self.unregister()
            producer.stopProducing()

    def hold_producer(self) -> None:
        """Pause the producer until the handshake is complete."""
        if self._is_streaming and self.producer is not None and not self._is_holding:
            self._is_holding = True
            self.producer.pauseProducing()

    def resume_producer(self) -> None:
        """Resume a held producer. Call this before `send`, in which the transport below may pause it again."""
        if self._is_holding and self.producer is not None:
            self.producer.resumeProducing()
        self._is_holding = False
