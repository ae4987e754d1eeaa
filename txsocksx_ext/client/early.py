"""
Bytes of the target that came together with the proxy's reply.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IProtocol, IReactorTime
from twisted.logger import Logger

from ..net.tls import TLSTransport
from ..net.twisted_transports import abort, is_closing, is_encrypted, place_of_protocol

_log = Logger(namespace="txsocksx_ext.client")


class EarlyBytes:
    """
    Delivers bytes that came already to the transport's protocol of that moment, as if they came now.

    To be made before the transport is handed over: where its protocol stands
    then is where these bytes belong. What is put there since, such as TLS with
    the target, gets them first.

    A protocol that pauses its transport gets none before it resumes: so until
    they are given away, the transport's own methods for that go through here.
    Not so with Twisted's TLS, which gives all that it has decrypted to a protocol
    that pauses: these bytes would come after what followed them.

    :param data: not empty.
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
        """See `IPushProducer`. As with transports of Twisted's, nothing comes before the next turn."""
        self._is_paused = False
        if self._data:
            self._reactor.callLater(0, self._give_late)
        else:
            self._resume()

    def give_to(self, application: IProtocol) -> None:
        """
        Give the bytes away, at once or when the transport is resumed.

        :param application: who gets them where the transport keeps no protocol.
        """
        self._application = application
        self._give_unless_paused()

    def _give_late(self) -> None:
        """What is raised when bytes come ends their connection: that is the transport's way."""
        try:
            self._give_unless_paused()
        except BaseException:
            _log.failure("a protocol failed over what came with the proxy's reply")
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
