"""
Which streams may share tor's circuits.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import TYPE_CHECKING

from ..net.twisted_transports import peer_name
from ..protocol.pairs import TOR_ISOLATION

if TYPE_CHECKING:
    from ..context import Session


class IsolationTokens:
    """
    Makes the tokens by which tor keeps streams apart.

    Streams have the same token if, and only if, their client says the same of
    itself: its user name (with the password where no portal checks them; without
    either, its address) and its ``tor.isolation``. The token gives away none of it, is the same wherever
    `secret` is the same, and another after a restart.

    :param secret: by default a new one.
    :ivar secret: shared by all processes of one server.
    """

    def __init__(self, secret: bytes | None = None) -> None:
        self.secret = secrets.token_bytes(32) if secret is None else secret

    def token_for(self, session: Session) -> bytes | None:
        """
        Return the token of a client's streams.

        :returns: 64 characters, or ``None`` for a client on this machine that
            says nothing of itself: then tor does what it does for streams
            without credentials.
        """
        parts: list[tuple[bytes, bytes]] = []
        credentials = session.credentials
        if credentials is not None:
            parts.append((b"user", credentials.username))
            if session.avatar is None:
                parts.append((b"password", credentials.password))
        elif not session.is_local:
            # Tor itself keeps clients from different addresses apart; behind us they all have ours.
            parts.append((b"peer", peer_name(session.peer).encode("utf-8")))
        isolation = session.pairs.get(TOR_ISOLATION)
        if isolation is not None:
            parts.append((b"isolation", isolation))
        if not parts:
            return None
        text = b"".join(b"%s %d %s" % (name, len(value), value) for name, value in parts)
        return hmac.new(self.secret, text, hashlib.sha256).hexdigest().encode("ascii")


TOKENS = IsolationTokens()
"""Those of this process's server: a user is the same, whichever tor is asked."""
