"""The log says why a target was not reached, and writes addresses in one spelling."""

import errno
import socket

import pytest
from examples.raw_peers import GREET_ANONYMOUS, proxy, proxy_header, request, settles, until
from support.answers import table
from support.logs import lines_logged
from support.silence import silent_port, system_resolver
from support.targets import read_to_end
from twisted.internet.error import getConnectError

from txsocksx_ext import Route

# Errors of the system.


class FailingRoute(Route):
    """A route on which every connection fails."""

    name = "failing"

    def __init__(self, error):
        self._error = error

    async def connect(self, *request_and_session):
        raise self._error


async def line_of(server, host="192.0.2.1", port=80, header=None):
    """The line in the log for one connection."""
    with lines_logged("txsocksx_ext.server") as lines:
        client = await server.connect(header)
        client.send(GREET_ANONYMOUS + request(host, port))
        await client.read_to_end()
        client.close()
        await until(lambda: lines)
    (line,) = lines
    return line


@pytest.mark.parametrize("name", ["EADDRNOTAVAIL", "EINVAL", "EMFILE", "ENOBUFS", "EPERM", "EAFNOSUPPORT"])
@pytest.mark.parametrize("kind", [OSError, getConnectError], ids=["OSError", "of Twisted"])
async def test_an_error_of_the_system_is_named(kind, name):
    number = getattr(errno, name)
    error = OSError(number, "words") if kind is OSError else getConnectError((number, "words"))
    async with proxy(policy=table(FailingRoute(error))) as server:
        line = await line_of(server)
    assert name in line
    assert "words" not in line


async def test_an_error_of_a_real_connection_is_named():
    # A link-local address without its scope.
    async with proxy() as server:
        assert "EINVAL" in await line_of(server, "fe80::1")


# Errors of the resolver.


def end_of(server, host, port=80):
    """How the line in the log ends for a connection that fails."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(GREET_ANONYMOUS + request(host, port))
        read_to_end(client)
    assert settles(lambda: " CONNECT " in server.output), server.output
    (line,) = (line for line in server.output.splitlines() if " CONNECT " in line)
    assert "example" not in line
    return line.partition(" end=")[2]


@pytest.mark.parametrize("error", ["EAI_NONAME", "EAI_AGAIN", "EAI_FAIL"])
def test_an_error_of_the_resolver_is_named(socks5ext, error):
    # getaddrinfo says EAI_NONAME of NXDOMAIN; of SERVFAIL, and where no name server answers, EAI_AGAIN.
    server = socks5ext(before=system_resolver(missing_example=error))
    assert error in end_of(server, "missing.example")


def test_a_resolver_that_does_not_answer_in_time_is_told_from_a_target_that_does_not(socks5ext):
    slow = system_resolver(slow_example=None)
    with silent_port() as port:
        ends = [
            end_of(socks5ext("--connect-timeout", "1", before=slow), host, port)
            for host in ("slow.example", "127.0.0.1")
        ]
    assert ends[0] != ends[1]


# Addresses.


@pytest.mark.parametrize("spelling", [b"2001:DB8::1", b"2001:0db8:0:0:0:0:0:1"])
async def test_an_ipv6_peer_is_written_in_one_spelling(spelling):
    header = proxy_header("2001:db8::1")
    async with proxy(seen_from="2001:db8::1", policy=table(FailingRoute(OSError(errno.EIO, "words")))) as server:
        for each in (header, header.replace(b"2001:db8::1", spelling)):
            assert (await line_of(server, header=each)).startswith("2001:db8::1 ")


async def test_an_ipv6_target_stands_in_brackets():
    async with proxy(log_targets=True, policy=table(FailingRoute(OSError(errno.EIO, "words")))) as server:
        assert " [2001:db8::1]:443 " in await line_of(server, "2001:db8::1", 443)


async def test_other_targets_stand_without_brackets():
    async with proxy(log_targets=True, policy=table(FailingRoute(OSError(errno.EIO, "words")))) as server:
        assert " 192.0.2.1:443 " in await line_of(server, "192.0.2.1", 443)
        assert " www.example:443 " in await line_of(server, "www.example", 443)
