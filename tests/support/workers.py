"""A server with several workers, seen from outside: its processes, and who serves which connection."""

import contextlib
import os
import re
from pathlib import Path

from examples import raw_peers

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
