"""What the processes of a server use: CPU time, and memory."""

import os
import re
import resource
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def members(leader):
    """The ids of the processes in the session that a process leads."""
    found = []
    for each in os.listdir("/proc"):
        if each.isdigit() and _session(each) == leader:
            found.append(int(each))
    return found


def _fields(process):
    """Those of ``/proc/PID/stat`` after the name, which may have any character in it."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def _session(process):
    fields = _fields(process)
    return fields and int(fields[3])


def cpu_seconds(leader):
    """
    What the processes of a session, and their children that have ended, have used until now, user and system.

    The clocks of processes (see clock_getcpuclockid(3)) count nanoseconds, and threads that have ended too;
    ``/proc`` has ticks of 10 ms, which serve for children that have ended.
    """
    total = 0.0
    for process in members(leader):
        fields = _fields(process)
        if fields is not None:
            total += time.clock_gettime((~process << 3) | 2) + (int(fields[13]) + int(fields[14])) / TICKS
    return total


def memory_bytes(leader):
    """What the processes of a session hold, with their share of what they share (PSS)."""
    return sum(_proportional_set_size(process) for process in members(leader))


def _proportional_set_size(process):
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(re.search(r"^Pss:\s+(\d+) kB", text, re.M)[1]) * 1024


def raise_descriptor_limit():
    """Allow as many open files as the system lets us, here and in the children."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most
