"""
Delivery of the target's bytes that were read together with the proxy's reply.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IProtocol, IReactorTime
from twisted.logger import Logger

from ..net.tls import TLSTransport
from ..net.twisted_transports import abort, is_closing, is_encrypted, place_of_protocol

_log = Logger(namespace="txsocksx_ext.client")


class ReadAheadDelivery:
    """
    Delivers bytes that were read already to the transport's protocol, as if they were read now.

    Create it before the hand-over: it remembers where the transport keeps its
    protocol. Whatever is stored there at delivery, such as TLS with the target,
    gets the bytes.

    A protocol that pauses its transport gets nothing before it resumes, so until
    the delivery this object replaces the transport's ``pauseProducing`` and
    ``resumeProducing``. It does not with Twisted's TLS, which delivers everything
    that it has decrypted to a paused protocol: these bytes would come after later ones.

    :param data: the bytes, at least one.
    """

    def __init__(self, reactor: IReactorTime, transport: Any, data: bytes) -> None:
        self._reactor = reactor
        self._transport = transport
        self._data = data
        self._application: IProtocol | None = None
        self._place = place_of_protocol(transport)
        self._is_paused = self._was_paused = False
        has_methods = hasattr(transport, "pauseProducing") and hasattr(transport, "resumeProducing")
        obeys_pauses = not is_encrypted(transport) or isinstance(transport, TLSTransport)
        self._can_pause = has_methods and obeys_pauses
        if self._can_pause:
            self._pause, self._resume = transport.pauseProducing, transport.resumeProducing
            transport.pauseProducing, transport.resumeProducing = self.pause, self.resume

    def pause(self) -> None:
        """See `IPushProducer`."""
        self._is_paused = self._was_paused = True
        self._pause()

    def resume(self) -> None:
        """See `IPushProducer`. As with Twisted's transports, nothing is delivered before the reactor's next turn."""
        self._is_paused = False
        if self._data:
            self._reactor.callLater(0, self._give_late)
        else:
            self._resume()

    def give_to(self, application: IProtocol) -> None:
        """
        Deliver the bytes, at once or when the transport is resumed.

        :param application: gets them if the transport does not store its protocol.
        """
        self._application = application
        self._give_unless_paused()

    def _give_late(self) -> None:
        """Deliver the bytes; an exception resets the connection, as with Twisted's transports."""
        try:
            self._give_unless_paused()
        except BaseException:  # also asyncio's CancelledError
            _log.failure("a protocol failed when it got the bytes that came with the proxy's reply")
            abort(self._transport)

    def _give_unless_paused(self) -> None:
        if self._is_paused or not self._data:
            return
        transport, data = self._transport, self._data
        self._data = b""
        if self._can_pause:
            del transport.pauseProducing, transport.resumeProducing
        if self._was_paused:
            self._resume()
        if is_closing(transport) or not getattr(transport, "connected", True):
            return
        receiver: Any = self._application if self._place is None else getattr(*self._place)
        receiver.dataReceived(data)
