"""
Fakes for people who test what they build on this package: a proxy, a way out, a client, without sockets.

Their connections are Twisted's own TCP transports over buffers in memory, so
half-close, abort and producers behave as on the network. What is written
arrives in later turns of the reactor, never inside the call that wrote it: of
the global reactor, or of the `twisted.internet.task.Clock` given as ``clock``.
With a `Clock`, ``clock.advance(0)`` lets all happen that needs no waiting; the
methods of `Recorder` do that by themselves.
"""

from .connections import CLIENT_ADDRESS, SERVER_ADDRESS, MemoryTransport, connect_in_memory
from .endpoints import MemoryEndpoint
from .proxy import Ending, FakeConversation, FakeProxy
from .recorders import HalfCloseRecorder, Recorder, connect_to
from .route import FakeRoute
from .transports import TransportPair, connect_transports

__all__ = [
    "CLIENT_ADDRESS",
    "SERVER_ADDRESS",
    "Ending",
    "FakeConversation",
    "FakeProxy",
    "FakeRoute",
    "HalfCloseRecorder",
    "MemoryEndpoint",
    "MemoryTransport",
    "Recorder",
    "TransportPair",
    "connect_in_memory",
    "connect_to",
    "connect_transports",
]
