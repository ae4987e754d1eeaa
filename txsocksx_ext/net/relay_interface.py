"""
What a relay is.
"""

from __future__ import annotations

from collections.abc import Callable

from zope.interface import Attribute, Interface

RelayEnded = Callable[[str], None]
"""Called with why a stream ended, in a word or two."""


class IRelay(Interface):
    """
    One stream between a client and a target.

    Each end of sending is passed on as such when all bytes before it are
    through, an abort as an abort, and a reader that is too slow stops the other
    side's reading.
    """

    name: str = Attribute("What logs call this kind of relay (str).")
    up: int = Attribute("Bytes that came from the client (int).")
    down: int = Attribute("Bytes that came from the target (int).")
    progress: tuple[int, int] = Attribute(
        "Bytes that came from either side, and those that wait until they are taken, as far as is known here"
        " (two int): while neither changes, nothing moves."
    )

    def start(read_ahead: bytes = b"", client_has_ended: bool = False) -> None:
        """
        Take both transports over, and let bytes flow.

        :param read_ahead: what the client had sent already; it goes first.
        :param client_has_ended: whether the client had closed its sending side.
        """

    def abort(reason: str) -> None:
        """
        Reset both connections.

        :param reason: what `RelayEnded` is told, perhaps before this returns.
        """
