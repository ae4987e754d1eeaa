"""
The client of HTTP CONNECT (RFC 9110, section 9.3.6), with the headers of Tor (its HTTP CONNECT specification).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote_from_bytes

from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IProtocolFactory

from ..checks import check_type, checked_pair
from ..protocol.http_connect import HTTPResponse, Initiator, basic_credentials, connect_request, pair_header, pairs_of
from ..protocol.messages import Request, UsernamePassword
from ..protocol.pairs import DEFAULT_PAIR_LIMITS, TOR_ISOLATION, Pairs, as_bytes
from .endpoints import DEFAULT_TIMEOUT, ProxiedEndpoint
from .http_answers import error_for_response
from .methods import ClientMethods, isolation_token
from .proxies import HTTP, AnyProxy
from .tunnel import SOCKS5Address, TunnelFactory, TunnelProtocol

Headers = Sequence[tuple[str, str]]

_VISIBLE = "!\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"
"""What stands in a token as it is, beside letters and digits: all but the percent sign."""

_OURS = {
    "host": "the target",
    "proxy-authorization": "credentials",
    "tor-stream-isolation": "isolation",
    "x-tor-stream-isolation": "isolation",
    "socks5ext-pair": "pairs",
    "content-length": None,
    "transfer-encoding": None,
}
"""Headers that a caller may not give, and the parameter instead."""


class HTTPConnectClientProtocol(TunnelProtocol):
    """One conversation with an HTTP proxy: a request, and its response. Nothing else is sent before a 2xx."""

    factory: HTTPConnectClientFactory

    def __init__(self, factory: HTTPConnectClientFactory) -> None:
        super().__init__(factory, Initiator())

    def _heard(self, message: HTTPResponse) -> None:
        destination = self.factory.request.destination
        if 200 <= message.status <= 299:
            answered = pairs_of(message.headers, DEFAULT_PAIR_LIMITS)
            self._succeeded(SOCKS5Address(destination.host, destination.port, pairs=answered))
        else:
            self._fail(error_for_response(message, destination))


class HTTPConnectClientFactory(TunnelFactory):
    """
    One request to an HTTP proxy.

    :raises ValueError: HTTP cannot carry it.
    """

    protocol = HTTPConnectClientProtocol
    speaks = HTTP

    def __init__(
        self,
        request: Request,
        methods: ClientMethods,
        application: IProtocolFactory | None,
        allow_cleartext: bool,
        reactor: Any,
        headers: Headers = (),
    ) -> None:
        super().__init__(request, methods, application, allow_cleartext, reactor)
        said = [*headers]
        if methods.login is not None:
            said.append(("Proxy-Authorization", basic_credentials(methods.login.username, methods.login.password)))
        pairs = dict(methods.pairs or {})
        isolation = pairs.pop(TOR_ISOLATION, methods.isolation)
        if isolation is not None:
            token = quote_from_bytes(isolation, safe=_VISIBLE)
            # Before 0.4.9.4 tor knows the second name alone.
            said += [("Tor-Stream-Isolation", token), ("X-Tor-Stream-Isolation", token)]
        said += [pair_header(key, value) for key, value in pairs.items()]
        self.encoded = connect_request(self.request.destination, said)


class HTTPConnectClientEndpoint(ProxiedEndpoint):
    """
    A target behind an HTTP proxy, by the method CONNECT.

    The exceptions are those of `SOCKS5ClientEndpoint`. ``status`` is the HTTP status, and ``reasons`` holds
    the tokens of ``Tor-Request-Failed``.

    :param proxy_endpoint: how to reach the proxy: an endpoint, an endpoint string or a URL such as
        ``http://user:password@proxy.example:3128`` or, with TLS to the proxy, ``https://proxy.example``.
    :param credentials: the user name and password for Basic authentication (RFC 7617), bytes or str.
    :param isolation: a token (bytes or str): at tor, streams with different ones never share a circuit.
    :param pairs: the pairs of proposal 229, for this package's server. Keys are str, values bytes or str.
    :param headers: further headers of the request, as pairs of name and value. No secrets: they are sent in
        cleartext too.

    The other parameters, what ``connect`` does and what is raised are those of `SOCKS5ClientEndpoint`.
    """

    speaks = HTTP

    def __init__(
        self,
        host: str | bytes,
        port: int,
        proxy_endpoint: AnyProxy,
        *,
        credentials: tuple[bytes | str, bytes | str] | None = None,
        isolation: bytes | str | None = None,
        pairs: Mapping[str, bytes | str] | None = None,
        headers: Headers = (),
        timeout: float | None = DEFAULT_TIMEOUT,
        tls: bool | IOpenSSLClientConnectionCreator = False,
        allow_cleartext: bool = False,
        reactor: Any = None,
    ) -> None:
        login = None
        if credentials is not None:
            username, password = checked_pair("credentials", credentials, "a user name and a password")
            login = UsernamePassword(as_bytes("the user name", username), as_bytes("the password", password))
        given = ClientMethods(
            login=login,
            pairs=None if pairs is None else Pairs(pairs),
            isolation=None if isolation is None else isolation_token(isolation),
        )
        self._headers = _checked_headers(headers)
        super().__init__(host, port, proxy_endpoint, given, timeout, tls, allow_cleartext, reactor)
        self._check()

    def _conversation(self, request: Request, application: IProtocolFactory | None, reactor: Any) -> TunnelFactory:
        return HTTPConnectClientFactory(
            request, self._methods, application, self._allow_cleartext, reactor, self._headers
        )


def _checked_headers(headers: Headers) -> Headers:
    checked = []
    for header in headers:
        name, value = checked_pair("headers", header, "(name, value)")
        check_type("the name of a header", name, str)
        check_type("the value of a header", value, str)
        if name.lower() in _OURS:
            instead = _OURS[name.lower()]
            hint = f": use {instead}" if instead else ""
            raise ValueError(f"the header {name} may not stand in headers{hint}")
        checked.append((name, value))
    return checked
