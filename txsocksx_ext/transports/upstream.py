"""
The proxy for a transport's outgoing connections: ``TOR_PT_PROXY`` (pt-spec, section 3.2.2).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from ..protocol.pairs import as_bytes
from .notation import format_address, parse_address

SCHEMES = ("socks5", "socks4a", "http")


@dataclass(frozen=True, slots=True)
class UpstreamProxy:
    """
    One such proxy. Bytes of its credentials that are not UTF-8 are surrogate escapes.

    :ivar scheme: one of `SCHEMES`.
    :ivar host: an IP address, without brackets.
    :ivar port: 1 to 65535.
    :ivar username: empty for none; SOCKS4a has no password besides.
    :ivar password: empty for none.
    """

    scheme: str
    host: str = field(repr=False)
    port: int
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @classmethod
    def of(cls, url: str) -> UpstreamProxy:
        """
        Read ``scheme://[username[:password]@]ip:port``.

        A ``%`` in the user name or password begins an escape, as in any URL.

        :raises ValueError: the proxy cannot be used; the text continues "TOR_PT_PROXY".
        """
        match = re.fullmatch(r"([A-Za-z0-9+.-]+)://(?:(.*)@)?([^@]*?)/?", url)
        if match is None:
            raise ValueError("is not SCHEME://IP:PORT")
        scheme, login, address = match.groups()
        if scheme not in SCHEMES:
            raise ValueError(f"is a proxy of another kind than {', '.join(SCHEMES)}")
        try:
            host, port = parse_address(address)
        except ValueError:
            raise ValueError("does not say where the proxy is as IP:PORT") from None
        username, _, password = (unquote(part, errors="surrogateescape") for part in (login or "").partition(":"))
        proxy = cls(scheme, host, port, username, password)
        proxy._check_login()
        return proxy

    def url(self) -> str:
        """Return the URL that `of` reads."""
        login = quote(self.username, safe="", errors="surrogateescape")
        if self.password:
            login += ":" + quote(self.password, safe="", errors="surrogateescape")
        return f"{self.scheme}://{login}{'@' * bool(login)}{format_address(self.host, self.port)}"

    def _check_login(self) -> None:
        if self.password and not self.username:
            raise ValueError("has a password without a user name")
        if self.scheme == "socks5" and self.username and not self.password:
            raise ValueError("has a user name without a password, and RFC 1929 wants both")
        if self.scheme == "socks4a" and (self.password or "\0" in self.username):
            raise ValueError("has a password, and socks4a carries none")
        longest = max(len(as_bytes("the login", part)) for part in (self.username, self.password))
        if self.scheme == "socks5" and longest > 255:
            raise ValueError("has a user name or password above 255 bytes")
        if self.scheme == "http" and ":" in self.username:
            raise ValueError("has a user name with a colon, which HTTP cannot carry")
