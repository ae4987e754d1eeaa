"""
Functions for programs that have a `txtorcon.Tor`.

They replace the methods of `txtorcon.Tor` that use SOCKS, with the same names and
arguments and a few more. Each endpoint, agent and lookup is isolated by default.
Failures of onion services are explained by tor's events on the program's own
control connection, so any SOCKS port will do.
"""

from __future__ import annotations

import base64
import enum
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Union

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IStreamClientEndpoint
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.iweb import IPolicyForHTTPS

from ..addresses import is_protected
from ..checks import check_endpoint, check_type, kind_of
from ..client import endpoints
from ..client.endpoints import DEFAULT_TIMEOUT, checked_timeout, target_address
from ..client.methods import ClientMethods
from ..client.proxies import AnyProxy, Proxy
from ..client.tls import creator_of
from ..client.web import AgentEndpoints, check_pool, checked_policy
from ..failures import reply_error
from ..protocol.codes import Dialect
from ..protocol.messages import Address
from .attach import is_disconnected
from .streams import StreamEndpoint, StreamsOfTor, socks_port


class _SharedCircuits(enum.Enum):
    """An enumeration, because any text could be a token."""

    SHARED = "shared"


SHARED = _SharedCircuits.SHARED
"""No isolation: the streams may share circuits with all others that have no token."""

SOCKSPort = Union[AnyProxy, Deferred[IStreamClientEndpoint], None]
"""One of a tor's SOCKS ports, or a Deferred of it; ``None`` for the first that can be reached."""

Isolation = Union[bytes, str, None, _SharedCircuits]
"""A token: streams with the same token may share circuits. ``None`` makes a unique one."""


def stream_via(
    tor: Any,
    host: str | bytes,
    port: int,
    tls: bool | IOpenSSLClientConnectionCreator = False,
    socks_endpoint: SOCKSPort = None,
    *,
    isolation: Isolation = None,
    timeout: float | None = DEFAULT_TIMEOUT,
    allow_cleartext: bool = False,
) -> IStreamClientEndpoint:
    """
    Return an endpoint for a target behind Tor, like ``txtorcon.Tor.stream_via``.

    :param tor: a `txtorcon.Tor`.
    :param host: a name, which is never resolved here, or a public address.
    :param tls: whether to speak TLS with the target; or an
        `IOpenSSLClientConnectionCreator` to do it with.
    :param socks_endpoint: one of this tor's SOCKS ports, or a Deferred of it; by
        default the first that it listens on. It can be an endpoint string or a URL; with
        ``http://127.0.0.1:9080`` it is tor's HTTPTunnelPort.
    :param isolation: the endpoint's token; by default one of its own.
    :param timeout: seconds until the target is connected; ``None`` for no deadline.
    :param allow_cleartext: whether the token may go to a SOCKS port that is not
        on this machine or behind TLS, such as that of a tor in another container.
    :returns: an endpoint whose failures are those of `SOCKS5ClientEndpoint`, and
        `~txsocksx_ext.errors.ProxyUnreachable` where no SOCKS port was given and
        `tor` has none, or cannot be asked for it.
    :raises ValueError: the target is an address that Tor cannot reach, or SOCKS5
        cannot carry it; or the isolation or the timeout is faulty.
    :raises TypeError: an argument is of a wrong type.
    """
    target = target_address(host, port)
    if not target.is_name and is_protected(target.host):
        raise ValueError("this address is private: it is not going to work over Tor")
    creator = creator_of(tls, target.host)
    return StreamEndpoint(_streams(tor, socks_endpoint, isolation, timeout, allow_cleartext), target, creator)


def web_agent(
    tor: Any,
    pool: HTTPConnectionPool | None = None,
    socks_endpoint: SOCKSPort = None,
    tls_context_factory: IPolicyForHTTPS | None = None,
    *,
    isolation: Isolation = None,
    timeout: float | None = DEFAULT_TIMEOUT,
    allow_cleartext: bool = False,
) -> Agent:
    """
    Return an agent whose requests go through Tor, like ``txtorcon.Tor.web_agent``.

    :param tor: a `txtorcon.Tor`.
    :param pool: the pool of persistent connections; by default there are none.
    :param socks_endpoint: see `stream_via`.
    :param tls_context_factory: makes the TLS options; by default those of browsers.
    :param isolation: the agent's token; by default one of its own.
    :param timeout: seconds until a target is connected; ``None`` for no deadline.
    :param allow_cleartext: whether the token may go to a SOCKS port that is not
        on this machine or behind TLS, such as that of a tor in another container.
    :raises ValueError: the isolation or the timeout is faulty.
    :raises TypeError: an argument is of a wrong type.
    """
    from twisted.internet import reactor

    check_pool(pool)
    policy = checked_policy("tls_context_factory", tls_context_factory)
    streams = _streams(tor, socks_endpoint, isolation, timeout, allow_cleartext)

    def endpoint(target: Address, tls: IOpenSSLClientConnectionCreator | None) -> IStreamClientEndpoint:
        return StreamEndpoint(streams, target, tls)

    return AgentEndpoints(endpoint, policy, (tor, socks_endpoint, streams.token)).agent(reactor, pool)


def resolve(
    tor: Any,
    hostname: str | bytes,
    *,
    socks_endpoint: SOCKSPort = None,
    isolation: Isolation = None,
    timeout: float | None = DEFAULT_TIMEOUT,
    allow_cleartext: bool = False,
) -> Deferred[str]:
    """
    Resolve a name through Tor, like ``txtorcon.Tor.dns_resolve``.

    :param hostname: a name, which is never resolved here.
    :param socks_endpoint: see `stream_via`.
    :param isolation: the lookup's token; by default one of its own.
    :param timeout: seconds until the answer; ``None`` for no deadline.
    :param allow_cleartext: whether the token may go to a SOCKS port that is not
        on this machine or behind TLS, such as that of a tor in another container.
    :returns: fires with an address, or fails as the endpoints of `stream_via` do.
    :raises ValueError: SOCKS5 cannot carry the name; or the isolation or the timeout is faulty.
    """
    port, methods = _checked_port(tor, socks_endpoint), _methods(isolation)
    return endpoints.resolve(hostname, port, methods, timeout=timeout, dialect="tor", allow_cleartext=allow_cleartext)


def resolve_ptr(
    tor: Any,
    ip: str | bytes,
    *,
    socks_endpoint: SOCKSPort = None,
    isolation: Isolation = None,
    timeout: float | None = DEFAULT_TIMEOUT,
    allow_cleartext: bool = False,
) -> Deferred[str]:
    """
    Find the name of an address through Tor, like ``txtorcon.Tor.dns_resolve_ptr``.

    :param ip: an IPv4 or IPv6 address.

    The other parameters are those of `resolve`.

    :returns: fires with a name, or fails as the endpoints of `stream_via` do.
    :raises ValueError: `ip` is not an address, or the isolation or the timeout is invalid.
    """
    port, methods = _checked_port(tor, socks_endpoint), _methods(isolation)
    return endpoints.resolve_ptr(ip, port, methods, timeout=timeout, dialect="tor", allow_cleartext=allow_cleartext)


def teach_txtorcon() -> Callable[[], None]:
    """
    Have txtorcon's own SOCKS client raise the exceptions of this package.

    This replaces a private function of txtorcon for the whole process. Nothing else
    about that client changes.

    :returns: a function that undoes this call; the last one to be undone restores txtorcon's function.
    """
    from txtorcon import socks  # not above: importing it installs a reactor

    lesson = object()
    if not _lessons:
        _untaught.append(socks._create_socks_error)
        socks._create_socks_error = lambda code: reply_error(code, Dialect.TOR)
    _lessons.add(lesson)

    def undo() -> None:
        if lesson in _lessons:
            _lessons.discard(lesson)
            if not _lessons:
                socks._create_socks_error = _untaught.pop()

    return undo


_lessons: set[object] = set()
_untaught: list[Callable[[int], Exception]] = []
"""What txtorcon had, while there are lessons."""


async def add_client_authorization(
    tor: Any, address: str, private_key: bytes | str, *, name: str | None = None, permanent: bool = False
) -> None:
    """
    Give tor the client authorization key for an onion service (ONION_CLIENT_AUTH_ADD).

    Call this after `~txsocksx_ext.errors.OnionClientAuthRequired`.

    :param address: the service's address, with or without ``.onion``.
    :param private_key: an x25519 private key: 32 bytes, or those in base64 or base32.
    :param name: tor's name for the key.
    :param permanent: whether tor keeps the key in its ClientOnionAuthDir.
    :raises ValueError: the key or the address is malformed.
    :raises TorProtocolError: (txtorcon's) tor rejects the key.
    :raises TorDisconnectError: (txtorcon's) the control connection is lost.
    """
    words = [f"ONION_CLIENT_AUTH_ADD {_service_id(address)} x25519:{_key_as_base64(private_key)}"]
    if name is not None:
        if not re.fullmatch(r"[A-Za-z0-9+=/_-]{1,16}", name):
            raise ValueError("the name of a key has 1 to 16 letters, digits, or of +=/_-")
        words.append(f"ClientName={name}")
    if permanent:
        words.append("Flags=Permanent")
    await _command(tor, " ".join(words))


async def remove_client_authorization(tor: Any, address: str) -> None:
    """
    Remove tor's client authorization key for an onion service (ONION_CLIENT_AUTH_REMOVE).

    :raises ValueError: `address` is not an onion address.
    :raises TorDisconnectError: (txtorcon's) the control connection is lost.
    """
    await _command(tor, f"ONION_CLIENT_AUTH_REMOVE {_service_id(address)}")


async def _command(tor: Any, command: str) -> None:
    if is_disconnected(tor):
        from txtorcon.torcontrolprotocol import TorDisconnectError

        raise TorDisconnectError("the control connection to this tor is lost", None)
    await tor.protocol.queue_command(command)


def _methods(isolation: Isolation) -> Mapping[str, Any]:
    return {"anonymous": ()} if isolation is SHARED else {"isolated": isolation}


def _streams(
    tor: Any,
    socks_endpoint: SOCKSPort,
    isolation: Isolation,
    timeout: float | None,
    allow_cleartext: bool,
) -> StreamsOfTor:
    check_type("allow_cleartext", allow_cleartext, bool)
    # Make the token once, so that an endpoint or agent keeps it.
    token = ClientMethods.of(_methods(isolation)).isolation
    return StreamsOfTor(tor, _checked_port(tor, socks_endpoint), token, checked_timeout(timeout), allow_cleartext)


def _checked_port(tor: Any, socks_endpoint: SOCKSPort) -> IStreamClientEndpoint | Proxy:
    if not hasattr(tor, "protocol"):
        raise TypeError(f"tor must be a txtorcon.Tor, not {kind_of(tor)}")
    if socks_endpoint is not None and not isinstance(socks_endpoint, (Deferred, str)):
        check_endpoint("socks_endpoint", socks_endpoint)
    return socks_port(tor, socks_endpoint)


def _service_id(address: str) -> str:
    service = address.lower().removesuffix(".onion")
    if not re.fullmatch(r"[a-z2-7]{56}", service):
        raise ValueError("this is not the address of an onion service: 56 letters and digits before .onion")
    return service


def _key_as_base64(key: bytes | str) -> str:
    """Return a private key as tor's control port takes it."""
    text = key.strip() if isinstance(key, str) else key.decode("ascii", "replace").strip()
    candidates = [key] if isinstance(key, bytes) else []
    with suppress(ValueError):
        candidates.append(base64.b64decode(text + "=" * (-len(text) % 4), validate=True))
    with suppress(ValueError):
        candidates.append(base64.b32decode(text + "=" * (-len(text) % 8), casefold=True))
    for raw in candidates:
        if len(raw) == 32:
            return base64.b64encode(raw).decode("ascii")
    raise ValueError("the private key is not 32 bytes, nor those in base64 or base32")
