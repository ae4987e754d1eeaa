"""
What a client offers a proxy, and what it has to say by each method.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..checks import checked_pair, kind_of
from ..protocol.codes import Method
from ..protocol.messages import UsernamePassword
from ..protocol.pairs import NO_PAIRS, PASSWD, TOR_ISOLATION, USERNAME, Pairs, as_bytes


@dataclass(frozen=True, slots=True)
class ClientMethods:
    """
    The methods that a client was given.

    :ivar anonymous: whether it may come without credentials.
    :ivar login: its user name and password, if any.
    :ivar pairs: its pairs, or ``None`` where it was not given method 0x97.
    :ivar isolation: the token that keeps its streams from others' circuits, if any.
    """

    anonymous: bool = False
    login: UsernamePassword | None = None
    pairs: Pairs | None = None
    isolation: bytes | None = field(default=None, repr=False)

    @classmethod
    def of(cls, methods: Mapping[str, Any] | ClientMethods) -> ClientMethods:
        """
        Read a mapping such as ``{"login": (username, password), "extended": {"tor.isolation": "a"}}``.

        :param methods: ``"anonymous": ()``, ``"login": (username, password)``
            (bytes or str), ``"extended": {key: value}`` (keys str, values
            bytes or str) and ``"isolated": token`` (bytes or str, or ``None``
            for a token that nobody else has), in any combination but "login"
            with "isolated".
        :raises ValueError: a method is unknown, or there is none; or a user
            name, password or pair is one that cannot be sent.
        :raises TypeError: this is no mapping of str; or a user name, password,
            token, key or value is of another type.
        """
        if isinstance(methods, ClientMethods):
            return methods
        # Only types are told: whatever stands in the place of a name may be a user name or a password.
        if not isinstance(methods, Mapping):
            raise TypeError(f'methods must be a mapping such as {{"anonymous": ()}}, not {kind_of(methods)}')
        for name in methods:
            if not isinstance(name, str):
                raise TypeError(f"the name of a method must be str, not {type(name).__name__}")
        unknown = sorted(set(methods) - {"anonymous", "login", "extended", "isolated"})
        if unknown:
            raise ValueError(f"there is no method {unknown[0]!r}: there are anonymous, login, extended and isolated")
        if not methods:
            raise ValueError("methods names no method: give it anonymous, login, extended or isolated")
        if methods.get("anonymous", ()) is False:
            raise ValueError('"anonymous": False would still offer it: leave it out')
        if "login" in methods and "isolated" in methods:
            raise ValueError("login and isolated both want the user name and password: give one of them")
        login = _login(methods["login"]) if "login" in methods else None
        pairs = _pairs(methods["extended"]) if "extended" in methods else None
        isolation = None
        if "isolated" in methods:
            isolation = fresh_token() if methods["isolated"] is None else isolation_token(methods["isolated"])
        return cls("anonymous" in methods, login, pairs, isolation)

    @property
    def has_secrets(self) -> bool:
        """Whether there is anything to send that others should not read."""
        return self.login is not None or self.isolation is not None or self._has_pairs

    @property
    def _has_pairs(self) -> bool:
        return self.pairs is not NO_PAIRS and bool(self.pairs)

    def offer(self) -> tuple[Method, ...]:
        """
        Return the methods to offer: 0x97, then 0x02, then 0x00.

        A client that has pairs or a token does not offer 00, where they would be
        lost in silence, and 02 only if it has something to say by it.
        """
        offered = []
        if self.pairs is not None:
            offered.append(Method.EXTENDED)
        if self.login is not None or self.isolation is not None:
            offered.append(Method.USERNAME_PASSWORD)
        if self.anonymous and not self._has_pairs and self.isolation is None:
            offered.append(Method.NO_AUTHENTICATION)
        return tuple(offered)

    def credentials(self) -> UsernamePassword | None:
        """Return what to send by method 0x02: the login, or the token in the format that tor reads (proposal 351)."""
        if self.isolation is None:
            return self.login
        return UsernamePassword(TOR_ISOLATION_USERNAME, self.isolation)

    def pairs_to_send(self) -> Pairs:
        """Return the pairs, with the login and the token as pairs of their own unless they stand there already."""
        if self.pairs is not None and self.login is None and self.isolation is None:
            return self.pairs
        pairs = dict(self.pairs or ())
        if self.login is not None and USERNAME not in pairs and PASSWD not in pairs:
            pairs = {USERNAME: self.login.username, PASSWD: self.login.password, **pairs}
        if self.isolation is not None:
            pairs.setdefault(TOR_ISOLATION, self.isolation)
        return Pairs(pairs)


TOR_ISOLATION_USERNAME = b"<torS0X>0"
"""The user name by which tor knows that the password is an isolation token (its SOCKS extensions)."""


def fresh_token() -> bytes:
    """Return an isolation token that nobody else has."""
    return secrets.token_hex(16).encode("ascii")


def isolation_token(given: Any) -> bytes:
    """Return a token that fits a password and a header; a longer one is hashed, since only equality counts."""
    token = as_bytes("the isolation token", given)
    if not token:
        raise ValueError("the isolation token is empty: give one, or None")
    return token if len(token) <= 255 else hashlib.sha256(token).hexdigest().encode("ascii")


def _pairs(given: Any) -> Pairs:
    if not given and (given is None or isinstance(given, Mapping)):
        return NO_PAIRS
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise TypeError(f'extended must be a mapping such as {{"tor.isolation": "alice"}}, not {kind_of(given)}')
    return Pairs(given if isinstance(given, Mapping) else (checked_pair("extended", pair) for pair in given))


def _login(login: Any) -> UsernamePassword:
    """RFC 1929 wants 1 to 255 bytes of each; some proxies take empty ones, and each means another thing by it."""
    if not isinstance(login, (tuple, list)) or len(login) != 2:
        raise ValueError(f"login must be (username, password), not {kind_of(login)}")
    username, password = as_bytes("the user name", login[0]), as_bytes("the password", login[1])
    for name, part in (("user name", username), ("password", password)):
        if not part:
            raise ValueError(f"the {name} is empty: RFC 1929 wants at least one byte")
    return UsernamePassword(username, password)
