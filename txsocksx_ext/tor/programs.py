"""
For programs that have a `txtorcon.Tor`: what it does over SOCKS, done by this package.

The functions have the names and arguments of the methods of `txtorcon.Tor`, and
a few more. Each endpoint, agent and look-up has circuits of its own unless it is
told otherwise.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from typing import Any, Union

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.iweb import IPolicyForHTTPS
from txtorcon import socks as txtorcon_socks
from zope.interface import implementer

from ..addresses import is_protected
from ..client import endpoints, web
from ..client.endpoints import DEFAULT_TIMEOUT, SOCKS5ClientEndpoint, target_address
from ..errors import reply_error
from ..wire.codes import Dialect
from .launch import socks_listener

Isolation = Union[bytes, str, None]
"""A token: streams with the same may share circuits. ``None`` makes one that nobody else has."""

SHARED = "<shared>"
"""The isolation of streams that are content with the circuits of all others without a token."""


def stream_via(
    tor: Any,
    host: str | bytes,
    port: int,
    tls: bool = False,
    socks_endpoint: IStreamClientEndpoint | Deferred[IStreamClientEndpoint] | None = None,
    *,
    isolation: Isolation = None,
    timeout: float | None = DEFAULT_TIMEOUT,
) -> SOCKS5ClientEndpoint:
    """
    An endpoint for a target behind Tor, as ``txtorcon.Tor.stream_via`` makes one.

    :param tor: a `txtorcon.Tor`.
    :param host: a name, which is never resolved here, or a public address.
    :param tls: whether to speak TLS with the target.
    :param socks_endpoint: one of this tor's SOCKS ports, or a Deferred of it; by
        default the first that it listens on.
    :param isolation: the endpoint's token; by default one of its own.
    :param timeout: seconds for the whole handshake; ``None`` for no deadline.
    :raises ValueError: the target is an address that Tor cannot reach, or SOCKS5
        cannot carry it.
    """
    if not target_address(host, port).is_name and is_protected(target_address(host, port).host):
        raise ValueError("this address is private: it is not going to work over Tor")
    return SOCKS5ClientEndpoint(
        host,
        port,
        _socks_port(tor, socks_endpoint),
        _methods(isolation),
        timeout=timeout,
        dialect="tor",
        tls=tls,
    )


def web_agent(
    tor: Any,
    pool: HTTPConnectionPool | None = None,
    socks_endpoint: IStreamClientEndpoint | Deferred[IStreamClientEndpoint] | None = None,
    tls_context_factory: IPolicyForHTTPS | None = None,
    *,
    isolation: Isolation = None,
    timeout: float | None = DEFAULT_TIMEOUT,
) -> Agent:
    """
    An agent whose every request goes through Tor, as ``txtorcon.Tor.web_agent`` makes one.

    :param tor: a `txtorcon.Tor`.
    :param pool: keeps connections; by default none is kept.
    :param socks_endpoint: see `stream_via`.
    :param tls_context_factory: decides how to speak TLS; by default as browsers do.
    :param isolation: the agent's token; by default one of its own.
    :param timeout: seconds for each handshake; ``None`` for no deadline.
    """
    from twisted.internet import reactor

    return web.web_agent(
        reactor,
        _socks_port(tor, socks_endpoint),
        _methods(isolation),
        policy=tls_context_factory,
        pool=pool,
        timeout=timeout,
        dialect="tor",
    )


def resolve(
    tor: Any, hostname: str | bytes, *, isolation: Isolation = None, timeout: float | None = DEFAULT_TIMEOUT
) -> Deferred[str]:
    """
    Have Tor resolve a name, as ``txtorcon.Tor.dns_resolve`` does.

    :returns: fires with an address, or fails with an exception of `txsocksx_ext.errors`.
    """
    return endpoints.resolve(
        hostname,
        _socks_port(tor, None),
        _methods(isolation),
        timeout=timeout,
        dialect="tor",
    )


def resolve_ptr(
    tor: Any, ip: str | bytes, *, isolation: Isolation = None, timeout: float | None = DEFAULT_TIMEOUT
) -> Deferred[str]:
    """
    Have Tor find an address's name, as ``txtorcon.Tor.dns_resolve_ptr`` does.

    :returns: fires with a name, or fails with an exception of `txsocksx_ext.errors`.
    """
    return endpoints.resolve_ptr(ip, _socks_port(tor, None), _methods(isolation), timeout=timeout, dialect="tor")


def teach_txtorcon() -> Callable[[], None]:
    """
    Have txtorcon's own SOCKS client raise the exceptions of this package.

    It changes a private function of txtorcon for the whole process, and only
    because you call this. What else is wrong with that client stays.

    :returns: undoes it.
    """
    original = txtorcon_socks._create_socks_error

    def create_socks_error(code: int) -> Exception:
        return reply_error(code, Dialect.TOR)

    txtorcon_socks._create_socks_error = create_socks_error

    def undo() -> None:
        txtorcon_socks._create_socks_error = original

    return undo


async def add_client_authorization(
    tor: Any, address: str, private_key: bytes | str, *, name: str | None = None, permanent: bool = False
) -> None:
    """
    Give tor the key that an onion service asks for (ONION_CLIENT_AUTH_ADD).

    This is what a program does about `~txsocksx_ext.errors.OnionClientAuthRequired`.

    :param address: the service's, with or without ``.onion``.
    :param private_key: an x25519 private key: 32 bytes, or those in base64 or base32.
    :param name: what tor calls the key.
    :param permanent: whether tor keeps it in its ClientOnionAuthDir.
    :raises ValueError: the key or the address is none.
    :raises TorProtocolError: (txtorcon's) tor does not take it.
    """
    words = [f"ONION_CLIENT_AUTH_ADD {_service_id(address)} x25519:{_key_as_base64(private_key)}"]
    if name is not None:
        if not re.fullmatch(r"[A-Za-z0-9+=/_-]{1,16}", name):
            raise ValueError("the name of a key has 1 to 16 letters, digits, or of +=/_-")
        words.append(f"ClientName={name}")
    if permanent:
        words.append("Flags=Permanent")
    await tor.protocol.queue_command(" ".join(words))


async def remove_client_authorization(tor: Any, address: str) -> None:
    """
    Take the key for an onion service from tor (ONION_CLIENT_AUTH_REMOVE).

    :raises ValueError: `address` is none.
    """
    await tor.protocol.queue_command(f"ONION_CLIENT_AUTH_REMOVE {_service_id(address)}")


def _methods(isolation: Isolation) -> Mapping[str, Any]:
    return {"anonymous": ()} if isolation == SHARED else {"isolated": isolation}


def _socks_port(
    tor: Any, given: IStreamClientEndpoint | Deferred[IStreamClientEndpoint] | None
) -> IStreamClientEndpoint:
    if given is None or isinstance(given, Deferred):
        return _LateEndpoint(tor, given)
    return given


@implementer(IStreamClientEndpoint)
class _LateEndpoint:
    """A SOCKS port that is found out when it is first needed."""

    def __init__(self, tor: Any, found: Deferred[IStreamClientEndpoint] | None) -> None:
        self._tor = tor
        self._found = found
        self._endpoint: IStreamClientEndpoint | None = None

    def connect(self, protocol_factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Find the port, then connect to it."""
        return Deferred.fromCoroutine(self._connect(protocol_factory))

    async def _connect(self, protocol_factory: IProtocolFactory) -> IProtocol:
        if self._endpoint is None:
            if self._found is not None:
                self._endpoint = await _shared(self._found)
            else:
                from twisted.internet import reactor

                self._endpoint = clientFromString(reactor, await socks_listener(self._tor))
        return await self._endpoint.connect(protocol_factory)


def _shared(found: Deferred[IStreamClientEndpoint]) -> Deferred[IStreamClientEndpoint]:
    """A Deferred of one's own for a result that others wait for too."""
    own: Deferred[IStreamClientEndpoint] = Deferred()

    def pass_on(result: Any) -> Any:
        if not own.called:
            own.callback(result)
        return result

    found.addBoth(pass_on)
    return own


def _service_id(address: str) -> str:
    service = address.lower().removesuffix(".onion")
    if not re.fullmatch(r"[a-z2-7]{56}", service):
        raise ValueError("this is not the address of an onion service: 56 letters and digits before .onion")
    return service


def _key_as_base64(key: bytes | str) -> str:
    """The key as tor's control port takes it."""
    raw: bytes | None = key if isinstance(key, bytes) and len(key) == 32 else None
    text = key if isinstance(key, str) else key.decode("ascii", "replace")
    decoders: tuple[Callable[[str], bytes], ...] = (
        lambda text: base64.b64decode(text + "=" * (-len(text) % 4), validate=True),
        lambda text: base64.b32decode(text + "=" * (-len(text) % 8), casefold=True),
    )
    for decode in decoders:
        if raw is None:
            try:
                decoded = decode(text.strip())
            except (binascii.Error, ValueError):
                continue
            raw = decoded if len(decoded) == 32 else None
    if raw is None:
        raise ValueError("the private key is not 32 bytes, nor those in base64 or base32")
    return base64.b64encode(raw).decode("ascii")
