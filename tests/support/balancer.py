"""Headers of the PROXY protocol, made here without the package."""

import ipaddress

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
LOCAL, PROXY = 0x20, 0x21
UNSPEC, TCP4, UDP4, TCP6, UNIX, UNIX_DATAGRAMS = 0x00, 0x11, 0x12, 0x21, 0x31, 0x32


def version_2(family, body=b"", command=PROXY):
    """A header of version 2 with anything after its fixed part."""
    return SIGNATURE + bytes((command, family)) + len(body).to_bytes(2, "big") + body


def ends(source, source_port, destination, destination_port):
    """The addresses of a TCP connection, as version 2 writes them."""
    hosts = b"".join(ipaddress.ip_address(host).packed for host in (source, destination))
    return hosts + source_port.to_bytes(2, "big") + destination_port.to_bytes(2, "big")


def paths(source, destination):
    """The addresses of a connection of unix sockets, as version 2 writes them."""
    return source.ljust(108, b"\0") + destination.ljust(108, b"\0")


def tlv(kind, value):
    return bytes((kind,)) + len(value).to_bytes(2, "big") + value
