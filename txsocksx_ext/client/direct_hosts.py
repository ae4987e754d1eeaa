"""
Hosts that are connected to without the proxy, as ``NO_PROXY`` lists them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address, ip_network

from ..addresses import IPNetwork
from ..checks import check_type


class DirectHosts:
    """
    A set of hosts and networks.

    :param patterns: each a name, which stands for its subdomains too (``example.com``, ``.example.com`` and
        ``*.example.com`` are the same), an address, a network such as ``10.0.0.0/8``, or ``*`` for every host;
        each but a bare IPv6 address may end in ``:PORT``. No name is resolved: a network holds only targets that
        are given by address.
    :raises ValueError: a pattern is none of these.
    :raises TypeError: `patterns` holds anything but str, or is a str.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        if isinstance(patterns, (str, bytes)):
            raise TypeError('direct must hold patterns, such as ["localhost", "10.0.0.0/8"], not be one')
        self._networks: list[tuple[IPNetwork, int | None]] = []
        self._names: list[tuple[str, int | None]] = []
        for pattern in patterns:
            check_type("a pattern of direct", pattern, str)
            self._add(pattern)

    def _add(self, pattern: str) -> None:
        parts = re.fullmatch(r"(?:\[([^]]+)\]|([^:]+)|(.*:.*:.*))(?::([0-9]{1,5}))?", pattern.strip())
        if parts is None:
            raise ValueError(f"direct: {pattern!r} is neither a name, an address nor a network")
        host, port = parts[1] or parts[2] or parts[3], None if parts[4] is None else int(parts[4])
        try:
            self._networks.append((ip_network(host, strict=False), port))
        except ValueError:
            name = _folded(host.removeprefix("*").removeprefix("."))
            if not re.fullmatch(r"[a-z0-9_.-]*", name) or (not name and host != "*"):
                raise ValueError(f"direct: {pattern!r} is neither a name, an address nor a network") from None
            self._names.append((name, port))

    def has(self, host: str, port: int) -> bool:
        """Return whether a target is one of them."""
        name = f".{_folded(host)}"
        if any(only in (None, port) and (not each or name.endswith(f".{each}")) for each, only in self._names):
            return True
        try:
            address = ip_address(host)
        except ValueError:
            return False
        return any(only in (None, port) and address in network for network, only in self._networks)


def _folded(name: str) -> str:
    return name.lower().rstrip(".")
