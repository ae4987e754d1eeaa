"""A server with several workers, seen from outside: its processes, and who serves which connection."""

import contextlib
import os
import re
import socket
from pathlib import Path

from examples import raw_peers
from examples.raw_peers import GREET_ANONYMOUS, request

from support.targets import read_exactly

PATIENCE = 60.0
"""Seconds: a worker is a Python that has to start, and machines are busy."""


def settles(condition):
    """Whether something becomes so in time."""
    return raw_peers.settles(condition, PATIENCE)


def workers_of(server):
    """The process ids of a server's workers."""
    pids = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    return [int(pid) for pid in pids if b"workers.process" in _command_line(pid)]


def _command_line(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def is_alive(pid):
    """Whether a process is there, and no zombie."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def sockets_of(pid):
    """The inodes of the sockets that a process has open."""
    found = set()
    with contextlib.suppress(OSError):
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(f"/proc/{pid}/fd/{descriptor}"))
                if match:
                    found.add(int(match[1]))
    return found


def served_by(server, clients):
    """Which of these connected clients each worker serves, by its process id."""
    ends = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        local, remote = (int(address.rpartition(":")[2], 16) for address in fields[1:3])
        ends[local, remote] = int(fields[9])
    wanted = {ends.get((client.getpeername()[1], client.getsockname()[1])): client for client in clients}
    return {pid: [wanted[inode] for inode in sockets_of(pid) & wanted.keys()] for pid in workers_of(server)}


def all_serve(server, count=2):
    """Wait until so many workers have said that they serve; their process ids."""
    assert settles(lambda: server.output.count("serves, as process") >= count), server.output
    return workers_of(server)


SUCCEEDED = b"\x05\x00"


def is_refused(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=20).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # it was closing
        return False
    return False


@contextlib.contextmanager
def opened(port, target_port):
    """A stream, whose socket is closed also where the server does not serve it."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(GREET_ANONYMOUS + request("127.0.0.1", target_port))
        answer = read_exactly(client, 12)
        assert answer[:4] == b"\x05\x00\x05\x00", answer
        yield client


@contextlib.contextmanager
def streams(server, far, count):
    """So many streams to a target, each of which has carried something."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(opened(server.port, far.port)) for _ in range(count)]
        for client in clients:
            client.sendall(b"hello")
        for client in clients:
            assert read_exactly(client, 5) == b"hello"
        yield clients
