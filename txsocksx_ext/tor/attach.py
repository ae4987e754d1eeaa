"""
A connection to a control port, made by txtorcon.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory


class NotAControlPort(Exception):
    """The peer does not speak tor's control protocol."""


async def attach(reactor: Any, endpoint: IStreamClientEndpoint, password: bytes | None = None) -> Any:
    """
    Attach to a tor with txtorcon. Close the connection if that fails or is cancelled.

    :param password: authenticates if tor asks for a password; by default tor's cookie is read.
    :returns: a `txtorcon.Tor`.
    :raises NotAControlPort: the peer does not speak the control protocol.
    """
    import txtorcon

    factory = WrappingFactory(
        txtorcon.TorProtocolFactory(password_function=_no_password if password is None else lambda: password)
    )
    factory.protocol, factory.noisy = _Guard, False
    # Not txtorcon.connect(): it queries each of tor's 300 options in turn.
    guard: Any = await endpoint.connect(factory)
    try:
        await guard.wrappedProtocol.post_bootstrap
        return txtorcon.Tor(reactor, guard.wrappedProtocol)
    except BaseException:  # of any kind, a cancellation too: txtorcon leaves the connection open
        guard.abortConnection()
        if guard.fault is not None:
            raise guard.fault from None
        raise


def _no_password() -> str:
    raise PermissionError("tor asks for a password, and its cookie cannot be read: give control-password-file=")


class _Guard(ProtocolWrapper):
    """
    Aborts a connection whose bytes txtorcon cannot parse.

    txtorcon raises in `dataReceived`, which Twisted would log as a traceback.
    """

    fault: NotAControlPort | None = None
    transport: Any

    def abortConnection(self) -> None:
        """Abort the connection."""
        self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        """Pass the bytes on."""
        try:
            super().dataReceived(data)
        except Exception:
            self.fault = NotAControlPort(
                f"the peer does not speak tor's control protocol, but sent {data[:20]!r}: check control="
            )
            self.abortConnection()


def disconnected(tor: Any) -> Deferred[None]:
    """Return a Deferred that fires when the control connection is lost, for any reason."""
    lost: Deferred[Any] = tor.protocol.when_disconnected()
    return lost.addBoth(lambda _: None)


_ends: WeakKeyDictionary[Any, Deferred[Any]] = WeakKeyDictionary()
"""For each control protocol of txtorcon's a Deferred that fires at its end: txtorcon keeps every one that it makes."""


def is_disconnected(tor: Any) -> bool:
    """
    Return whether a control connection has been lost.

    Of the commands after that, txtorcon lets the first fail and the others wait for ever.
    """
    if tor.protocol not in _ends:
        _ends[tor.protocol] = disconnected(tor)
    return _ends[tor.protocol].called
