"""
The interface of relays.
"""

from __future__ import annotations

from collections.abc import Callable

from zope.interface import Attribute, Interface

RelayEnded = Callable[[str], None]
"""Called with the reason of a stream's end, in a word or two."""


class IRelay(Interface):
    """
    One stream between a client and a target.

    It relays half-closes after all bytes before them, resets as resets, and
    back-pressure: it stops reading from one side while the other does not read.
    """

    name: str = Attribute("What logs call this kind of relay (str).")
    up: int = Attribute("Bytes received from the client (int).")
    down: int = Attribute("Bytes received from the target (int).")
    progress: tuple[int, int] = Attribute(
        "Bytes received from both sides, and bytes not yet acknowledged by either, as far as known (two int)."
        " The stream is idle while neither changes."
    )

    def start(read_ahead: bytes = b"", client_has_ended: bool = False) -> None:
        """
        Take both transports over, and begin the stream.

        :param read_ahead: data that the client has sent already; it is sent first.
        :param client_has_ended: whether the client has closed its sending side already.
        """

    def abort(reason: str) -> None:
        """
        Reset both connections.

        :param reason: passed to `RelayEnded`, perhaps before this returns.
        """
