"""
Isolation: which streams may share tor's circuits.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from ..context import Session, peer_name
from ..protocol.pairs import TOR_ISOLATION


class IsolationTokens:
    """
    Computes the tokens by which tor isolates streams.

    Streams have the same token if and only if their clients have the same identity:
    the user name (with the password if no portal verifies it), or else the address;
    and the same ``tor.isolation``. A token reveals none of these. It depends on
    `secret`, and so changes at a restart.

    :param secret: by default a new one.
    :ivar secret: shared by all processes of one server.
    """

    def __init__(self, secret: bytes | None = None) -> None:
        self.secret = secrets.token_bytes(32) if secret is None else secret

    def token_for(self, session: Session) -> bytes | None:
        """
        Return the token of a client's streams.

        :returns: 64 characters; ``None`` for an anonymous client on this machine, whose
            streams tor treats like any without credentials.
        """
        parts: list[tuple[bytes, bytes]] = []
        credentials = session.credentials
        if credentials is not None:
            parts.append((b"user", credentials.username))
            if session.avatar is None:
                parts.append((b"password", credentials.password))
        elif not session.is_local:
            # Tor itself isolates clients by address, but all of ours have the address of this server.
            parts.append((b"peer", peer_name(session.peer).encode("utf-8")))
        isolation = session.pairs.get(TOR_ISOLATION)
        if isolation is not None:
            parts.append((b"isolation", isolation))
        if not parts:
            return None
        text = b"".join(b"%s %d %s" % (name, len(value), value) for name, value in parts)
        return hmac.new(self.secret, text, hashlib.sha256).hexdigest().encode("ascii")


TOKENS = IsolationTokens()
"""The tokens of this process's server: a user has the same token at every tor."""
