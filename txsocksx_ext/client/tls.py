"""
TLS with a target behind a proxy: whose certificate it has to show, and how it goes through the tunnel.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from OpenSSL.crypto import Error
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.error import NoProtocol
from twisted.internet.interfaces import (
    IAddress,
    IOpenSSLClientConnectionCreator,
    IOpenSSLContextFactory,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates
from zope.interface import directlyProvides, implementer, providedBy

from ..checks import kind_of

_ASCII_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


def creator_for_host(host: str, trust_root: Any = None) -> IOpenSSLClientConnectionCreator:
    """
    Make what `optionsForClientTLS` makes for a host.

    Names in ASCII are taken as they are. IDNA 2008, which Twisted holds them against,
    forbids some that exist, such as ``under_score.example`` and ``r3---sn-4g5e.example``.

    :param host: an address literal without brackets, or a name in ASCII. A dot at its
        end is left out: neither certificates nor SNI (RFC 6066, section 3) have it.
    :param trust_root: an `IOpenSSLTrustRoot`; by default the platform's.
    :raises ValueError: no certificate can hold this name.
    """
    name = host.removesuffix(".")
    try:
        return optionsForClientTLS(name, trust_root)
    except UnicodeError as error:  # of the package idna
        if _ASCII_NAME.fullmatch(name) is None:
            raise ValueError(f"a host name that TLS can verify has letters, digits, - and _ alone: {error}") from None
    # Twisted has no public way past IDNA. Should these attributes get other names, no
    # certificate is accepted, since none is issued for a name in .invalid (RFC 6761).
    creator: Any = optionsForClientTLS("host.invalid", trust_root)
    creator._hostnameBytes, creator._hostnameASCII = name.encode("ascii"), name
    return creator  # type: ignore[no-any-return]


def trust_root_of(path: str) -> Any:
    """
    Return what trusts the certificates of a PEM file, or of the files ``*.pem`` in a folder.

    :raises ValueError: there are none, or they cannot be read.
    """
    try:
        files = sorted(Path(path).glob("*.pem")) if Path(path).is_dir() else [Path(path)]
        certificates = [Certificate.loadPEM(each.read_bytes()) for each in files]
    except (OSError, Error) as error:
        why = getattr(error, "strerror", None) or "it is no PEM certificate"
        raise ValueError(f"the certificates to trust cannot be read from {path}: {why}") from None
    if not certificates:
        raise ValueError(f"there is no certificate in {path}: its files have to end in .pem")
    return trustRootFromCertificates(certificates)


def checked_creator(creator: Any) -> IOpenSSLClientConnectionCreator:
    """
    Return what was given to speak TLS with a host.

    :raises TypeError: it is nothing that checks the host's name. Twisted's
        `CertificateOptions` makes connections too, but knows no host.
    """
    if not IOpenSSLClientConnectionCreator.providedBy(creator) or IOpenSSLContextFactory.providedBy(creator):
        raise TypeError(
            f"tls must be True, False or what optionsForClientTLS(host, trustRoot=...) makes, not {kind_of(creator)}:"
            " that would not check the host's name"
        )
    return creator


def creator_of(tls: Any, host: str) -> IOpenSSLClientConnectionCreator | None:
    """
    Return how to speak TLS with a host, from the argument `tls` of a public function; ``None`` if not at all.

    :param tls: a bool, or an `IOpenSSLClientConnectionCreator`.
    :raises TypeError: it is neither.
    :raises ValueError: no certificate can hold the host's name.
    """
    if tls is False:
        return None
    return creator_for_host(host) if tls is True else checked_creator(tls)


def over_tls(
    options: IOpenSSLClientConnectionCreator,
    connect_plainly: Callable[[IProtocolFactory], Deferred[IProtocol]],
    application: IProtocolFactory,
) -> Deferred[IProtocol]:
    """
    Speak TLS through a tunnel, for an application.

    :param connect_plainly: makes the tunnel; not the ``connect`` of an endpoint
        that comes here itself, which a subclass may have overridden.
    """
    building: Any = _Building(application)
    return wrapClientTLS(options, _Tunnel(connect_plainly)).connect(building)


@implementer(IStreamClientEndpoint)
class _Tunnel:
    """What TLS takes for an endpoint."""

    def __init__(self, connect_plainly: Callable[[IProtocolFactory], Deferred[IProtocol]]) -> None:
        self._connect_plainly = connect_plainly

    def connect(self, protocol_factory: IProtocolFactory) -> Deferred[IProtocol]:
        """See `IStreamClientEndpoint`."""
        return self._connect_plainly(protocol_factory)


class _Building:
    """A factory that builds a protocol or says that it does not: Twisted's TLS takes ``None`` for one."""

    def __init__(self, factory: IProtocolFactory) -> None:
        self._factory = factory
        # Twisted asks factories for more, such as what they would speak (ALPN).
        directlyProvides(self, providedBy(factory))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._factory, name)

    def buildProtocol(self, addr: IAddress) -> IProtocol:
        """See `IProtocolFactory`."""
        built = self._factory.buildProtocol(addr)
        if built is None:
            raise NoProtocol()
        return built
