"""
What a client offers a proxy, and what it has to say by each method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..wire.codes import Method
from ..wire.messages import UsernamePassword
from ..wire.pairs import PASSWD, USERNAME, Pairs


@dataclass(frozen=True, slots=True)
class ClientMethods:
    """
    The methods that a client was given.

    :ivar anonymous: whether it may come without credentials.
    :ivar login: its user name and password, if any.
    :ivar pairs: its pairs, or ``None`` where it was not given method 97.
    """

    anonymous: bool = False
    login: UsernamePassword | None = None
    pairs: Pairs | None = None

    @classmethod
    def of(cls, methods: Mapping[str, Any]) -> ClientMethods:
        """
        Read a mapping such as ``{"login": (username, password), "extended": {"tor.isolation": "a"}}``.

        :param methods: ``"anonymous": ()``, ``"login": (username, password)``
            (bytes or str) and ``"extended": {key: value}`` (keys str, values
            bytes or str), in any combination.
        :raises ValueError: a method is unknown, or there is none; or a user
            name, password or pair is one that cannot be sent.
        """
        unknown = sorted(set(methods) - {"anonymous", "login", "extended"})
        if unknown:
            raise ValueError(f"there is no method {unknown[0]!r}: there are anonymous, login and extended")
        if not methods:
            raise ValueError("methods names no method: give it anonymous, login or extended")
        login = _login(methods["login"]) if "login" in methods else None
        pairs = Pairs(methods["extended"] or ()) if "extended" in methods else None
        return cls("anonymous" in methods, login, pairs)

    @property
    def has_secrets(self) -> bool:
        """Whether there is anything to send that others should not read."""
        return self.login is not None or bool(self.pairs)

    def offer(self) -> tuple[Method, ...]:
        """
        What to offer: 97, then 02, then 00.

        A client that has pairs does not offer 00, where they would be lost in
        silence, and 02 only if it has a user name for it.
        """
        offered = []
        if self.pairs is not None:
            offered.append(Method.EXTENDED)
        if self.login is not None:
            offered.append(Method.USERNAME_PASSWORD)
        if self.anonymous and not self.pairs:
            offered.append(Method.NO_AUTHENTICATION)
        return tuple(offered)

    def pairs_to_send(self) -> Pairs:
        """The pairs, and the login as USERNAME and PASSWD unless the pairs have their own."""
        pairs = self.pairs or Pairs()
        if self.login is None or USERNAME in pairs or PASSWD in pairs:
            return pairs
        return Pairs({USERNAME: self.login.username, PASSWD: self.login.password, **pairs})


def _login(login: Any) -> UsernamePassword:
    """RFC 1929 wants 1 to 255 bytes of each; some proxies take empty ones, and each means another thing by it."""
    if not isinstance(login, (tuple, list)) or len(login) != 2:
        raise ValueError("login is a pair: (username, password)")
    username, password = (part.encode("utf-8") if isinstance(part, str) else bytes(part) for part in login)
    for name, part in (("user name", username), ("password", password)):
        if not part:
            raise ValueError(f"the {name} is empty: RFC 1929 wants at least one byte")
    return UsernamePassword(username, password)
