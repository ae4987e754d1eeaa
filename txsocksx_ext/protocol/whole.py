"""
Messages that come alone and all at once, as most do.

These functions return what the decoder of `txsocksx_ext.protocol.reader` would,
without its many steps; or ``None``, so that it says what is missing or wrong.
"""

from __future__ import annotations

import socket
from functools import lru_cache

from .codes import AddressType, Command, Method
from .messages import (
    SOCKS_VERSION,
    SUBNEGOTIATION_VERSION,
    Address,
    ExtendedRequest,
    Greeting,
    Request,
    domain_name_problem,
)
from .pairs import PairLimits, Pairs, check_key


@lru_cache(maxsize=128)
def greeting_with(methods: bytes) -> Greeting:
    """Most clients say one of a few greetings, and all may have the same one."""
    return Greeting(tuple(map(Method, methods)))


def whole_greeting(data: bytes | bytearray, limits: PairLimits) -> Greeting | None:
    """A greeting."""
    length = len(data)
    if length > 2 and data[0] == SOCKS_VERSION and data[1] == length - 2:
        return greeting_with(bytes(data[2:]))
    return None


def whole_request(data: bytes | bytearray, limits: PairLimits) -> Request | None:
    """``CONNECT`` to an IPv4 address or to a name."""
    length, begin = len(data), data[:4]
    if begin == _CONNECT_TO_IPV4 and length == 10:
        return _request_to_ipv4(bytes(data[4:]))
    if begin == _CONNECT_TO_NAME and 7 < length == data[4] + 7:
        name = bytes(data[5:-2])
        if domain_name_problem(name) is None:
            return Request(_CONNECT, Address(_DOMAINNAME, str(name, "ascii"), data[-2] << 8 | data[-1]))
    return None


@lru_cache(maxsize=1024)
def _request_to_ipv4(target: bytes) -> Request:
    """Clients go to the same targets again and again, and a server keeps a request as long as its stream."""
    return Request(_CONNECT, Address(_IPV4, _ipv4_host(target[:4]), target[4] << 8 | target[5]))


_ipv4_host = lru_cache(maxsize=4096)(socket.inet_ntoa)

_CONNECT, _IPV4, _DOMAINNAME = Command.CONNECT, AddressType.IPV4, AddressType.DOMAINNAME
_CONNECT_TO_IPV4 = bytes((SOCKS_VERSION, _CONNECT, 0, _IPV4))
_CONNECT_TO_NAME = bytes((SOCKS_VERSION, _CONNECT, 0, _DOMAINNAME))


def whole_extended_request(data: bytes | bytearray, limits: PairLimits) -> ExtendedRequest | None:
    """Pairs within `limits`, with keys of less than 256 bytes."""
    length = len(data)
    if not 2 < length <= limits.total_bytes or data[0] != SUBNEGOTIATION_VERSION:
        return None
    count = data[1] << 8 | data[2]
    if count > limits.pairs:
        return None
    data = bytes(data)
    values: dict[str, bytes] = {}
    at = 3
    try:
        while at < length:
            if data[at]:
                return None
            begin = at + 2
            end = begin + data[at + 1]
            key, begin = _key_of(data[begin:end]), end + 2
            at = begin + (data[end] << 8 | data[end + 1])
            if key in values:
                return None
            values[key] = data[begin:at]
    except (IndexError, ValueError):
        return None
    if at != length or len(values) != count:
        return None
    if limits.key_bytes < _LONGEST_KEY and max(map(len, values), default=0) > limits.key_bytes:
        return None
    if length > limits.value_bytes and max(map(len, values.values()), default=0) > limits.value_bytes:
        return None
    return ExtendedRequest(Pairs.checked(values))


_LONGEST_KEY = 255
"""Bytes of a key that is read here, so that none is kept that takes much memory."""


@lru_cache(maxsize=1024)
def _key_of(field: bytes) -> str:
    """
    A key, no longer than any may be. Clients have few, and say them again and again.

    :raises ValueError: it is none.
    """
    return check_key(field.decode("latin-1"))
