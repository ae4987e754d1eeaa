"""
Proxies given as endpoints, endpoint strings or URLs: the endpoint, the protocol and the login of each.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any, Union
from urllib.parse import unquote_to_bytes, urlsplit

from twisted.internet.endpoints import HostnameEndpoint, clientFromString, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint

from ..checks import check_endpoint
from ..descriptions import check_kind, client_endpoint, without_function
from ..net.twisted_transports import endpoint_to
from ..protocol.messages import Address, UsernamePassword
from ..protocol.pairs import as_bytes
from .methods import ClientMethods
from .tls import creator_for_host

SOCKS5, SOCKS4, HTTP = "SOCKS5", "SOCKS4", "HTTP"
"""The protocols of proxies."""

SCHEMES = {
    "socks5": (SOCKS5, 1080),
    "socks5h": (SOCKS5, 1080),
    "socks4a": (SOCKS4, 1080),
    "http": (HTTP, 80),
    "https": (HTTP, 443),
}
"""The schemes of URLs: what the proxy speaks, and its default port."""


@dataclass(frozen=True)
class Proxy:
    """
    A proxy.

    :ivar speaks: `SOCKS5`, `SOCKS4` or `HTTP`.
    :ivar endpoint: how to reach it.
    :ivar login: the user name and password of its URL, if any.
    """

    speaks: str
    endpoint: IStreamClientEndpoint
    login: UsernamePassword | None = field(default=None, repr=False)

    def complete(self, methods: ClientMethods) -> ClientMethods:
        """
        Return methods with the login of the URL.

        :raises ValueError: there is another login, or the proxy's protocol cannot carry this one.
        """
        login = self.login
        if login is None:
            return methods
        if methods.login is not None:
            raise ValueError("one login stands in the proxy's URL, and another beside it: give one of them")
        if self.speaks != HTTP and methods.isolation is not None:
            raise ValueError("a token to isolate streams takes the place of the user name in the proxy's URL: give one")
        if self.speaks == SOCKS5 and not (login.username and login.password):
            raise ValueError("the proxy's URL needs a user name and a password: RFC 1929 wants a byte of each")
        return replace(methods, login=login)


AnyProxy = Union[IStreamClientEndpoint, str, Proxy]
"""An endpoint, an endpoint string, a URL, or what `proxy_of` made of one of these."""


def proxy_of(reactor: Any, given: AnyProxy, speaks: str | None = None) -> Proxy:
    """
    Return the proxy that was given in any form.

    :param reactor: makes the connections of a proxy that is given as text; by default the global one.
    :param given: an endpoint, an endpoint string such as ``tcp:127.0.0.1:1080``, or a URL such as
        ``http://user:password@proxy.example:3128``, whose user name and password are percent-decoded. Names
        go to the proxy with each scheme. With https the proxy's certificate is checked.
    :param speaks: the protocol that the proxy must have; text without a scheme may be HOST:PORT then. By
        default any, and SOCKS5 for endpoints and endpoint strings.
    :raises ValueError: the text is malformed. The message shows no part of it that may be a password.
    :raises TypeError: it is none of these.
    """
    if isinstance(given, Proxy):
        return given
    if not isinstance(given, str):
        check_endpoint("proxy_endpoint", given)
        return Proxy(speaks or SOCKS5, given)
    if reactor is None:
        from twisted.internet import reactor
    if "://" in given:
        return _of_url(reactor, given, speaks)
    if speaks is not None:
        return Proxy(speaks, client_endpoint(reactor, given))
    try:
        check_kind(given)
        return Proxy(SOCKS5, clientFromString(reactor, given))
    except Exception as error:  # of a parser, which may raise anything
        # What stands before an @ may be a password.
        why = "" if "@" in given else f" ({without_function(error)})"
        raise ValueError(
            f"this is not a valid client endpoint string{why}; for HOST:PORT, write a URL such as socks5://HOST:PORT;"
            f" {_KNOWN}"
        ) from None


_KNOWN = f"the schemes are {', '.join(SCHEMES)}"


def _of_url(reactor: Any, url: str, speaks: str | None) -> Proxy:
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme, parts.hostname, parts.port
        if re.search(r"[\0-\x20\x7f]", url):  # which are dropped
            raise ValueError
    except ValueError:  # whose text shows what may be a password
        raise ValueError("the proxy's URL is malformed: it is SCHEME://USER:PASSWORD@HOST:PORT") from None
    if scheme not in SCHEMES:
        raise ValueError(f"unknown scheme {scheme!r} of a proxy's URL; {_KNOWN}")
    spoken, default_port = SCHEMES[scheme]
    if not host or port == 0 or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError("a proxy's URL has a host, a port from 1, and nothing behind that")
    try:
        endpoint = _endpoint(reactor, scheme, host, default_port if port is None else port)
    except ValueError:
        raise ValueError("the host in the proxy's URL is neither a name nor an address") from None
    if speaks not in (None, spoken):
        raise ValueError(f"a proxy that speaks {speaks} is needed here, and the URL's scheme is {scheme}")
    return Proxy(spoken, endpoint, _login(parts.username, parts.password, spoken))


def _endpoint(reactor: Any, scheme: str, host: str, port: int) -> IStreamClientEndpoint:
    address = None if not host.isascii() else Address.of(host, port)
    if address is not None and not address.is_well_formed:
        raise ValueError
    is_name = address is None or address.is_name
    endpoint: Any = HostnameEndpoint(reactor, host, port) if is_name else endpoint_to(reactor, host, port)
    return wrapClientTLS(creator_for_host(host), endpoint) if scheme == "https" else endpoint


def _login(username: str | None, password: str | None, speaks: str) -> UsernamePassword | None:
    if username is None:
        return None
    if password and speaks == SOCKS4:
        raise ValueError("SOCKS4 has no passwords: leave it out of the proxy's URL")
    given = as_bytes("the user name", username), as_bytes("the password", password or "")
    return UsernamePassword(*map(unquote_to_bytes, given))
