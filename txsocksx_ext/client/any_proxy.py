"""
Endpoints behind a proxy of whatever protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .endpoints import ANONYMOUS, ProxiedEndpoint, SOCKS5ClientEndpoint, dialect_named
from .http_connect import HTTPConnectClientEndpoint
from .methods import ClientMethods
from .proxies import HTTP, SOCKS5, Proxy
from .socks4 import SOCKS4ClientEndpoint


def endpoint_through(
    proxy: Proxy,
    host: str | bytes,
    port: int,
    methods: Mapping[str, Any] | ClientMethods = ANONYMOUS,
    *,
    dialect: str = "auto",
    **options: Any,
) -> ProxiedEndpoint:
    """
    Return the endpoint of a target behind a proxy, of the class for the proxy's protocol.

    :param proxy: what `proxies.proxy_of` made of an endpoint, an endpoint string or a URL.
    :param methods: those of `SOCKS5ClientEndpoint`, which become what the protocol has for them: over HTTP the
        login is Basic authentication, and SOCKS4 has a user id alone.
    :param dialect: of a SOCKS5 proxy.
    :param options: ``timeout``, ``tls``, ``allow_cleartext`` and ``reactor``, as the classes take them.
    :raises ValueError: the protocol cannot carry the target or the methods, or an option is faulty.
    :raises TypeError: an argument is of a wrong type.
    """
    given = ClientMethods.of(methods)
    if proxy.speaks == SOCKS5:
        return SOCKS5ClientEndpoint(host, port, proxy, given, dialect=dialect, **options)
    dialect_named(dialect)
    login = None if given.login is None else (given.login.username, given.login.password)
    if proxy.speaks == HTTP:
        return HTTPConnectClientEndpoint(
            host, port, proxy, credentials=login, isolation=given.isolation, pairs=given.pairs, **options
        )
    username, password = login or (b"", b"")
    if password or given.pairs:
        raise ValueError("SOCKS4 has neither passwords nor pairs: it carries a user name alone")
    return SOCKS4ClientEndpoint(host, port, proxy, user_id=given.isolation or username, **options)
