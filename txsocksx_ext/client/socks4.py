"""
The client of SOCKS4a.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IProtocolFactory

from ..errors import ConnectionNotAllowed, GeneralServerFailure
from ..protocol.codes import Byte
from ..protocol.messages import UNSPECIFIED, Request
from ..protocol.pairs import as_bytes
from ..protocol.socks4 import GRANTED, Initiator, SOCKS4Reply, SOCKS4Request
from .endpoints import DEFAULT_TIMEOUT, ProxiedEndpoint
from .methods import ClientMethods
from .proxies import SOCKS4, AnyProxy
from .tunnel import SOCKS5Address, TunnelFactory, TunnelProtocol

_IDENTD = (0x5C, 0x5D)
"""The proxy asked this machine who its user is, and was not content with the answer."""


class SOCKS4ClientProtocol(TunnelProtocol):
    """One conversation with a SOCKS4 proxy: a request, and its reply."""

    factory: SOCKS4ClientFactory

    def __init__(self, factory: SOCKS4ClientFactory) -> None:
        super().__init__(factory, Initiator())

    def _heard(self, message: SOCKS4Reply) -> None:
        destination = self.factory.request.destination
        if message.code == GRANTED:
            bound = message.bound if message.bound.is_well_formed else UNSPECIFIED
            self._succeeded(SOCKS5Address(destination.host, destination.port, bound))
            return
        error = ConnectionNotAllowed() if message.code in _IDENTD else GeneralServerFailure()
        error.status = Byte(message.code)
        self._fail(error)


class SOCKS4ClientFactory(TunnelFactory):
    """
    One request to a SOCKS4 proxy.

    :raises ValueError: SOCKS4 cannot carry it.
    """

    protocol = SOCKS4ClientProtocol
    speaks = SOCKS4

    def __init__(
        self,
        request: Request,
        methods: ClientMethods,
        application: IProtocolFactory | None,
        allow_cleartext: bool,
        reactor: Any,
    ) -> None:
        super().__init__(request, methods, application, allow_cleartext, reactor)
        user_id = methods.isolation or (b"" if methods.login is None else methods.login.username)
        self.encoded = SOCKS4Request(request.command, self.request.destination, user_id).encode()


class SOCKS4ClientEndpoint(ProxiedEndpoint):
    """
    A target behind a proxy that speaks SOCKS4a.

    SOCKS4 says little of failures: all that is not `~txsocksx_ext.errors.ConnectionNotAllowed` is
    `~txsocksx_ext.errors.GeneralServerFailure`. The code is the exception's ``status``.

    :param user_id: keeps streams apart at a proxy that heeds it, such as tor; it proves nothing.

    The other parameters, what ``connect`` does and what is raised are those of `SOCKS5ClientEndpoint`.
    """

    speaks = SOCKS4

    def __init__(
        self,
        host: str | bytes,
        port: int,
        proxy_endpoint: AnyProxy,
        *,
        user_id: bytes | str = b"",
        timeout: float | None = DEFAULT_TIMEOUT,
        tls: bool | IOpenSSLClientConnectionCreator = False,
        allow_cleartext: bool = False,
        reactor: Any = None,
    ) -> None:
        methods = ClientMethods(isolation=as_bytes("the user id", user_id) or None)
        super().__init__(host, port, proxy_endpoint, methods, timeout, tls, allow_cleartext, reactor)
        self._check()

    def _conversation(self, request: Request, application: IProtocolFactory | None, reactor: Any) -> TunnelFactory:
        return SOCKS4ClientFactory(request, self._methods, application, self._allow_cleartext, reactor)
