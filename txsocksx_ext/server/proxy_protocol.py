"""
The PROXY protocol of HAProxy, versions 1 and 2: a balancer tells the client's address.

`parse_header` is the decoder, without I/O. `ProxyProtocolFactory` reads the
header before the connection's own protocol exists. That protocol then gets the
transport itself, whose ``getPeer()`` and ``getHost()`` return the addresses of the
header. No wrapper stays between them, so half-close and the relay between sockets
work as without a balancer. Twisted's wrapper builds the protocol before it knows
the client's address, and trusts every peer.

Specification: https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress, IDelayedCall
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..context import is_local, peer_group, peer_name
from ..net.recent import RecentDict
from ..net.twisted_transports import abort, hand_over, is_closing, unmapped

if TYPE_CHECKING:
    from .factory import SOCKS5ExtFactory

HEADER_TIMEOUT = 5.0
"""Seconds for the whole header. Section 2 asks for at least 3, so that a lost segment can be retransmitted."""

LONGEST_V1 = 107
"""Bytes of a header of version 1 with its CRLF (section 2.1)."""

LONGEST_V2 = 16384
"""
Bytes that may follow the fixed part of a header of version 2.

The format allows 65,535. Addresses take 216 at most, and TLVs, such as a client
certificate, some thousands.
"""

WARNING_PERIOD = 60.0
"""Seconds between two log lines about connections of one peer that is not trusted."""

WARNED_PEERS = 1024
"""Peers that are remembered for that; beyond it the oldest are forgotten."""

_log = Logger(namespace="txsocksx_ext.server")


class InvalidHeader(ValueError):
    """A connection does not begin with a PROXY header. The message quotes none of its bytes."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """
    A PROXY header.

    :ivar source: the client's address; ``None`` if the connection's own addresses
        hold (``UNKNOWN``, ``LOCAL``, and families other than TCP and unix stream
        sockets).
    :ivar destination: the address that the client connected to, or ``None``.
    :ivar tlvs: the TLVs of version 2, each a type and a value.
    """

    source: IAddress | None = None
    destination: IAddress | None = None
    tlvs: tuple[tuple[int, bytes], ...] = ()


_V1_PREFIX = b"PROXY "
_V1_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: [^\r\n]*)?\r\n")
_V1_TCP = re.compile(
    rb"PROXY (TCP4 |TCP6 )([0-9A-Fa-f.:]+) ([0-9A-Fa-f.:]+) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})\r\n"
)
_V2_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_V2_FIXED = len(_V2_SIGNATURE) + 4
_V2_LOCAL, _V2_PROXY = 0x20, 0x21
_V2_UNIX = 0x31
_V2_HOST_BYTES = {0x11: 4, 0x21: 16, _V2_UNIX: 108}
"""The bytes of one host: of TCP over IPv4, TCP over IPv6 and unix stream sockets."""


def parse_header(data: bytes | bytearray) -> tuple[ProxyHeader, int] | None:
    """
    Decode the header at the beginning of `data`.

    :returns: the header and its length in bytes; ``None`` if bytes are missing.
    :raises InvalidHeader: `data` does not begin with a header, whatever follows.
    """
    if _V2_SIGNATURE.startswith(data[: len(_V2_SIGNATURE)]):
        return _parse_v2(data)
    if _V1_PREFIX.startswith(data[: len(_V1_PREFIX)]):
        return _parse_v1(data)
    raise InvalidHeader("no PROXY header")


def _parse_v1(data: bytes | bytearray) -> tuple[ProxyHeader, int] | None:
    """Section 2.1."""
    length = data.find(b"\n", 0, LONGEST_V1) + 1
    if not length:
        if len(data) >= LONGEST_V1:
            raise InvalidHeader(f"a PROXY header of version 1 has at most {LONGEST_V1} bytes")
        return None
    line = bytes(data[:length])
    if _V1_UNKNOWN.fullmatch(line):
        return ProxyHeader(), length
    fields = _V1_TCP.fullmatch(line)
    if fields is None:
        raise InvalidHeader("a malformed PROXY header of version 1")
    name, *hosts, source_port, destination_port = (field.decode("ascii") for field in fields.groups())
    family = socket.AF_INET if name == "TCP4 " else socket.AF_INET6
    ports = int(source_port), int(destination_port)
    try:
        source, destination = (socket.inet_pton(family, host) for host in hosts)
    except OSError:
        raise InvalidHeader("a malformed address in a PROXY header of version 1") from None
    if max(ports) > 0xFFFF:
        raise InvalidHeader("a port above 65535 in a PROXY header of version 1")
    return ProxyHeader(_tcp_address(source, ports[0]), _tcp_address(destination, ports[1])), length


def _parse_v2(data: bytes | bytearray) -> tuple[ProxyHeader, int] | None:
    """Section 2.2."""
    if len(data) < _V2_FIXED:
        return None
    command, family = data[12], data[13]
    length = int.from_bytes(data[14:_V2_FIXED], "big")
    if command not in (_V2_LOCAL, _V2_PROXY):
        raise InvalidHeader(f"the PROXY version and command 0x{command:02X}, which is neither 0x20 nor 0x21")
    if length > LONGEST_V2:
        raise InvalidHeader(f"a PROXY header of version 2 that announces more than {LONGEST_V2} bytes")
    if len(data) < _V2_FIXED + length:
        return None
    if command == _V2_LOCAL:
        return ProxyHeader(), _V2_FIXED + length
    if family >> 4 > 3 or family & 0x0F > 2:
        raise InvalidHeader(f"the PROXY address family 0x{family:02X}, which is unknown")
    return _decode_v2(family, bytes(data[_V2_FIXED : _V2_FIXED + length])), _V2_FIXED + length


def _decode_v2(family: int, body: bytes) -> ProxyHeader:
    size = _V2_HOST_BYTES.get(family)
    if size is None:
        # Section 2.2: a receiver falls back to UNSPEC for combinations that it does not support, such as UDP.
        return ProxyHeader()
    end = 2 * size if family == _V2_UNIX else 2 * size + 4
    if len(body) < end:
        raise InvalidHeader("a PROXY header of version 2 that is shorter than its addresses")
    hosts, tlvs = (body[:size], body[size : 2 * size]), tuple(_decode_tlvs(body[end:]))
    if family == _V2_UNIX:
        return ProxyHeader(_unix_address(hosts[0]), _unix_address(hosts[1]), tlvs)
    ports = int.from_bytes(body[end - 4 : end - 2], "big"), int.from_bytes(body[end - 2 : end], "big")
    return ProxyHeader(_tcp_address(hosts[0], ports[0]), _tcp_address(hosts[1], ports[1]), tlvs)


def _decode_tlvs(data: bytes) -> Iterable[tuple[int, bytes]]:
    """Section 2.2, "Type-Length-Value"."""
    start = 0
    while start < len(data):
        end = start + 3 + int.from_bytes(data[start + 1 : start + 3], "big")
        if start + 3 > len(data) or end > len(data):
            raise InvalidHeader("a PROXY header of version 2 with a TLV that is longer than the header")
        yield data[start], data[start + 3 : end]
        start = end


def _tcp_address(packed: bytes, port: int) -> IPv4Address | IPv6Address:
    if len(packed) == 4:
        return IPv4Address("TCP", socket.inet_ntop(socket.AF_INET, packed), port)
    return IPv6Address("TCP", socket.inet_ntop(socket.AF_INET6, packed), port)


def _unix_address(field: bytes) -> UNIXAddress:
    """Return the address of a unix socket. An abstract one, whose first byte is NUL, has no path."""
    path = field.partition(b"\0")[0]
    if re.search(rb"[\x01-\x1f\x7f]", path):
        raise InvalidHeader("a control byte in the path of a unix socket in a PROXY header")
    return UNIXAddress(path or None)


class ProxyProtocolFactory(Factory):
    """
    Reads the PROXY header of each connection, then hands the connection over to another factory.

    That factory's ``buildProtocol`` gets the address of the header. A connection is
    closed if its header is malformed, or incomplete after `HEADER_TIMEOUT`; the log
    says why. Connections of peers outside the factory's ``trusted_balancers`` are
    closed at once. Peers on unix sockets are always trusted: the mode of the socket's
    file says who can connect.

    :param wrapped: the factory of the server.
    """

    noisy = False

    def __init__(self, wrapped: SOCKS5ExtFactory) -> None:
        self.wrapped = wrapped
        self._warned: RecentDict[str, float] = RecentDict(WARNED_PEERS)
        self._waiting: set[_HeaderProtocol] = set()

    def doStart(self) -> None:
        """Start the wrapped factory too."""
        self.wrapped.doStart()
        super().doStart()

    def doStop(self) -> None:
        """Stop the wrapped factory too."""
        self.wrapped.doStop()
        super().doStop()

    def stopFactory(self) -> None:
        """Close the connections without a complete header, unless the server still listens elsewhere."""
        if not self.wrapped.numPorts:
            for protocol in list(self._waiting):
                protocol.close()

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        """Build the protocol that reads the header; return ``None`` for a peer that is not trusted."""
        if not self._is_trusted(addr):
            self._warn(addr)
            return None
        if len(self._waiting) >= self.wrapped.limits.max_connections:
            self.wrapped.log.refused(addr)
            return None
        return _HeaderProtocol(self.wrapped, self._waiting)

    def _is_trusted(self, peer: IAddress | None) -> bool:
        if isinstance(peer, (IPv4Address, IPv6Address)):
            literal = unmapped(ipaddress.ip_address(peer.host.partition("%")[0]))
            return any(literal in network for network in self.wrapped.trusted_balancers)
        return isinstance(peer, UNIXAddress)

    def _warn(self, peer: IAddress | None) -> None:
        """Log a peer that is not trusted, unless that was done a moment ago."""
        now, group = self.wrapped.clock.seconds(), peer_group(peer)
        if now - self._warned.get(group, float("-inf")) < WARNING_PERIOD:
            return
        self._warned[group] = now
        _log.warn(
            "{peer} closed: it is not a trusted balancer, and this listener takes connections with a PROXY header"
            " only; trusted are {trusted} and unix sockets; --proxy-protocol-from says which",
            peer=peer_name(peer),
            trusted=", ".join(map(str, self.wrapped.trusted_balancers)),
        )


class _HeaderProtocol(Protocol):
    """
    The protocol of a connection until its header is complete.

    :param waiting: the set of such protocols.
    """

    transport: Any

    def __init__(self, wrapped: SOCKS5ExtFactory, waiting: set[_HeaderProtocol]) -> None:
        self._wrapped = wrapped
        self._waiting = waiting
        self._received = bytearray()
        self._timeout: IDelayedCall | None = None

    def connectionMade(self) -> None:
        self._waiting.add(self)
        self._timeout = self._wrapped.clock.callLater(HEADER_TIMEOUT, self._expired)

    def dataReceived(self, data: bytes) -> None:
        self._received += data
        try:
            parsed = parse_header(self._received)
        except InvalidHeader as error:
            self.close(str(error))
            return
        if parsed is not None:
            header, length = parsed
            self._stop_waiting()
            self._hand_over(header, bytes(self._received[length:]))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        # A balancer's health check sends nothing: do not log it.
        if self in self._waiting and self._received:
            self._report("the connection ended inside the PROXY header")
        self._stop_waiting()

    def close(self, reason: str = "") -> None:
        """
        Close the connection at once.

        :param reason: is logged, unless it is empty.
        """
        self._stop_waiting()
        if reason:
            self._report(reason)
        abort(self.transport)

    def _hand_over(self, header: ProxyHeader, data: bytes) -> None:
        """Give the connection to a protocol of the wrapped factory, with the bytes that followed the header."""
        transport = self.transport
        # A local address means this machine, so ignore it from a balancer on another machine.
        if header.source is not None and (is_local(transport.getPeer()) or not is_local(header.source)):
            _set_addresses(transport, header.source, header.destination)
        wrapped = self._wrapped
        # A server that has stopped listening meanwhile accepts no session.
        protocol = wrapped.buildProtocol(transport.getPeer()) if wrapped.numPorts else None
        if protocol is None:
            abort(transport)
            return
        hand_over(transport, protocol)
        if data and not is_closing(transport):
            protocol.dataReceived(data)

    def _expired(self) -> None:
        self.close(f"no complete PROXY header within {HEADER_TIMEOUT:g} seconds")

    def _report(self, reason: str) -> None:
        _log.warn("{peer} closed: {reason}", peer=peer_name(self.transport.getPeer()), reason=reason)

    def _stop_waiting(self) -> None:
        self._waiting.discard(self)
        if self._timeout is not None and self._timeout.active():
            self._timeout.cancel()


def _set_addresses(transport: Any, peer: IAddress | None, host: IAddress | None) -> None:
    """Replace the addresses of a transport of any kind."""
    transport.getPeer = lambda: peer
    transport.getHost = lambda: host
