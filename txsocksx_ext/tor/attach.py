"""
A connection to a control port, made by txtorcon.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from zope.interface import implementer


class NotAControlPort(Exception):
    """What answers does not speak tor's control protocol."""


async def attach(reactor: Any, endpoint: IStreamClientEndpoint, password: bytes | None = None) -> Any:
    """
    Attach to a tor with txtorcon. Where that fails, or is cancelled, the connection is closed.

    :param password: for a tor that wants one; else its cookie is read, if it has one.
    :returns: a `txtorcon.Tor`.
    :raises NotAControlPort: something else answers.
    """
    import txtorcon

    kept = _GuardedEndpoint(endpoint)
    factory = txtorcon.TorProtocolFactory(password_function=_no_password if password is None else lambda: password)
    try:
        # Not txtorcon.connect(): it asks for each of tor's 300 options, one after the other.
        protocol: Any = await kept.connect(factory)
        await protocol.post_bootstrap
        return txtorcon.Tor(reactor, protocol)
    except BaseException:
        # Cancelled too. txtorcon leaves open what it could not use.
        kept.abort()
        fault = kept.fault
        if fault is not None:
            raise fault from None
        raise


def _no_password() -> str:
    raise PermissionError("it has no cookie that can be read, and wants a password: give control-password-file=")


class _Guard(ProtocolWrapper):
    """
    Ends a connection whose bytes txtorcon cannot parse.

    txtorcon raises in `dataReceived`, which Twisted logs as a traceback.
    """

    fault: NotAControlPort | None = None
    transport: Any

    def abortConnection(self) -> None:
        """Close the connection at once."""
        self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        """Hand on what came."""
        try:
            super().dataReceived(data)
        except Exception:
            self.fault = NotAControlPort(
                f"what answers does not speak tor's control protocol, but says {data[:20]!r}: check control="
            )
            self.abortConnection()


@implementer(IStreamClientEndpoint)
class _GuardedEndpoint:
    """An endpoint that keeps the connection that it made."""

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint
        self._guard: _Guard | None = None

    @property
    def fault(self) -> NotAControlPort | None:
        """What is wrong with what the other end says, if anything is."""
        return None if self._guard is None else self._guard.fault

    def connect(self, protocol_factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect, and keep the connection."""

        def keep(guard: Any) -> Any:
            self._guard = guard
            return guard.wrappedProtocol

        factory = WrappingFactory(protocol_factory)
        factory.protocol = _Guard
        factory.noisy = False
        return self._endpoint.connect(factory).addCallback(keep)

    def abort(self) -> None:
        """Close the connection, if there is one."""
        if self._guard is not None:
            self._guard.abortConnection()


def disconnected(tor: Any) -> Deferred[None]:
    """Return a Deferred that fires when the control connection is lost, for whatever reason."""
    gone: Deferred[Any] = tor.protocol.when_disconnected()
    return gone.addBoth(lambda _: None)


_ends: WeakKeyDictionary[Any, Deferred[Any]] = WeakKeyDictionary()
"""Of each of txtorcon's control protocols that was asked about: fires at its end. txtorcon keeps each that it makes."""


def is_disconnected(tor: Any) -> bool:
    """
    Return whether a control connection was lost already.

    Of the commands that follow, txtorcon lets the first fail, and the others wait for ever.
    """
    if tor.protocol not in _ends:
        _ends[tor.protocol] = disconnected(tor)
    return _ends[tor.protocol].called
