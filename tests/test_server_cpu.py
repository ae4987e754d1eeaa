"""The CPU time that a client without a login can cost."""

import contextlib
import os
import socket
from pathlib import Path

import pytest
from examples.raw_peers import GREET_EXTENDED, pairs
from support.targets import read_to_end

CONNECTIONS = 100
PAIRS = [(b"k%d" % number, b"") for number in range(6500)]


def cpu_seconds(server):
    """What the server's process has used so far."""
    fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cost(server, said):
    """The CPU time of connections that say this in one segment, and are closed by the server."""
    before = cpu_seconds(server)
    for _ in range(CONNECTIONS):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
            client.sendall(said)
            with contextlib.suppress(ConnectionError):
                assert read_to_end(client).startswith(b"\x05\x97")
    return cpu_seconds(server) - before


def announcing_one(brought):
    """A request of method 0x97 that announces one pair, and brings all of these."""
    whole = pairs(*brought)
    return GREET_EXTENDED + whole[:1] + b"\x00\x01" + whole[3:]


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="the CPU time of another process is read from /proc")
def test_pairs_beyond_the_announced_count_are_not_decoded(socks5ext):
    server = socks5ext()
    many = announcing_one(PAIRS)
    # As many bytes, but nothing to decode behind the one pair.
    few = announcing_one(PAIRS[:1])
    few += bytes(len(many) - len(few))
    cost(server, few)
    assert cost(server, many) < 3 * cost(server, few) + 0.1
