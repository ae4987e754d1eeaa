"""
An hour in small: what becomes of a server's memory and descriptors, and of each of very many connections.

A tenth of them abort, close one side, dribble, leave early or are refused: see `bench.visitors`. This is measured when
it is asked for alone, as it takes minutes.
"""

import os
import re
import signal
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

from support.programs import twistd
from support.targets import programs

from bench.dialects import PASSWORD, USER
from bench.processes import members
from bench.visited import REFUSED_ADDRESS, REFUSED_NAME
from bench.workers import Worker

AT_ONCE = 50
CONNECTIONS = 100_000
SECONDS = 0.6
"""What each measurement of the bench takes at its scale of 1, which is this many connections here."""
MARKS = (0.2, 0.6, 1.0)
"""The shares of all connections, after those that warm the server up, at which is looked at what it holds."""

OPTIONS = (
    f"--auth=memory:{USER}:{PASSWORD}",
    "--anonymous",
    f"--route={REFUSED_NAME}=refuse",
    f"--route={REFUSED_ADDRESS}=refuse",
)
"""So that there is somebody to refuse; all else is at its defaults."""

REST_WITHIN = 60.0
"""Seconds in which a server has to be at rest, after the last connection."""

MATTERS_OF_TIME = re.compile(r"- - the client left|(epoll|producers) 00 (done|client aborted|client closed)")
"""What the log may say of those that leave while they are connected to a target."""

_LINE = re.compile(
    r"\S+ \[txsocksx_ext\.server#info\] 127\.0\.0\.1 \S+ protocol=\S+ method=\S+ route=\S+ relay=(\S+) code=(\S+)"
    r" up=(\d+) down=(\d+) seconds=[\d.]+ end=(.+)"
)

# Every Python imports a module of this name as it starts, workers too.
PROBE = """
import gc, os, signal, sys

def tell(*_):
    gc.collect()
    with open(f"{folder}/{os.getpid()}.new", "w") as file:
        file.write(str(sys.getallocatedblocks()))
    os.rename(file.name, f"{folder}/{os.getpid()}")

folder = os.path.dirname(__file__)
signal.signal(signal.SIGUSR2, tell)
"""


class Held(NamedTuple):
    """
    What a process holds at rest.

    :ivar memory: bytes of resident memory: unlike its share (PSS), that does not change with other processes.
    :ivar blocks: blocks of Python's allocator: every small object is one, or a few.
    :ivar descriptors: open ones.
    """

    memory: int
    blocks: int
    descriptors: int


class Soak:
    """
    A server and its visitors; a context manager that ends them.

    :param options: more options of ``twistd socks5ext``.
    :param workers: how many processes serve.
    :param reactor: which one, if not the default.
    :param before: Python code that runs before twistd.
    :ivar done: connections that there were.
    """

    def __init__(self, *options, workers=1, reactor=None, before=""):
        self.done = 0
        self._ends = Counter()
        self._bytes = Counter()
        self._workers = workers
        self._options = [*OPTIONS, f"--workers={workers}", *options]
        self._reactor = reactor
        self._before = before
        self._stack = ExitStack()

    def __enter__(self):
        with self._stack:
            self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
            (self._folder / "sitecustomize.py").write_text(PROBE)
            start = self._stack.enter_context(programs())
            path = os.pathsep.join(filter(None, (str(self._folder), os.environ.get("PYTHONPATH"))))
            # Without one connection more, to see whether it listens.
            self.server = twistd(
                start,
                *self._options,
                listen=["tcp:0:interface=127.0.0.1"],
                reactor=self._reactor,
                env={"PYTHONPATH": path},
                before=self._before,
                wait=REST_WITHIN,
            )
            self._until(lambda: self._workers == 1 or self.server.output.count("serves, as process") == self._workers)
            self._port = int(re.search(r"starting on (?:port )?(\d+)", self.server.output)[1])
            self._log_begins = len(self.server.output)
            self._visitors = Worker("visitors")
            self._stack.callback(self._visitors.stop)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *exc_info):
        return self._stack.__exit__(*exc_info)

    def warm_up(self):
        """Send the first visitors, of every kind, so that what is made once is there; what came of them, as `send`."""
        return self.send(200, every=1), self.send(300)

    def send(self, count, every=10):
        """
        Send so many visitors, and wait until the server is at rest again.

        :param every: in so many there is one in trouble.
        :returns: how many ``failed``, the first ``error``, and the ``seconds`` that it took.
        """
        got = self._visitors.call("send", port=self._port, first=self.done, count=count, at_once=AT_ONCE, every=every)
        self.done += count
        self._ends.update(got["ends"])
        self._bytes.update(up=got["up"], down=got["down"])
        self._until(lambda: self.server.output.count(" end=") >= self.done)
        return got

    def _until(self, condition):
        deadline = time.monotonic() + REST_WITHIN
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"the server is not at rest after {self.done} connections")
            time.sleep(0.05)

    def held(self):
        """The `Held` of each process, by its id."""
        return {process: self._held_by(process) for process in sorted(members(self.server.pid))}

    def _held_by(self, process):
        told = self._folder / str(process)
        told.unlink(missing_ok=True)
        os.kill(process, signal.SIGUSR2)
        self._until(told.exists)
        descriptors = len(os.listdir(f"/proc/{process}/fd"))
        return Held(_resident_bytes(process), int(told.read_text()), descriptors)

    def surprises_in_log(self):
        """What the log says that it should not, or not so often; with how often it does more than it should."""
        written = self.server.output[self._log_begins :].splitlines()
        # A failed login has a line of its own besides that of its connection.
        lines = [line for line in written if "] auth_failed peer=" not in line]
        matches = [_LINE.fullmatch(line) for line in lines]
        surprises = Counter(line for line, match in zip(lines, matches, strict=True) if not match)
        told = Counter(f"{match[1]} {match[2]} {match[5]}" for match in matches if match)
        expected = Counter(self._ends)
        undecided = expected.pop("?", 0)
        told.subtract(expected)
        for end, count in told.items():
            if count > 0 and MATTERS_OF_TIME.fullmatch(end):
                undecided -= count
            elif count:
                surprises[end] = count
        if undecided:
            surprises["those that left while they were connected"] = -undecided
        streams = [match for match in matches if match and (match[1], match[2], match[5]) == ("epoll", "00", "done")]
        for group, way in ((3, "up"), (4, "down")):
            surprises[f"bytes {way}"] = sum(int(match[group]) for match in streams) - self._bytes[way]
        return {what: count for what, count in surprises.items() if count}


def _resident_bytes(process):
    return int(re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())[1]) * 1024


def soak(machinery, seconds, **how):
    """All connections, and what each process holds on the way. Of the `Machinery` nothing is needed."""
    count = round(CONNECTIONS * seconds / SECONDS)
    with Soak(**how) as it:
        got = it.warm_up()
        held = [it.held()]
        warm_up = it.done
        for mark in MARKS:
            got += (it.send(round(count * mark) + warm_up - it.done),)
            held.append(it.held())
        surprises = it.surprises_in_log()
    errors = [each["error"] for each in got if each["failed"]] + [f"{what} in the log" for what in surprises]
    return {
        "connections": it.done,
        "per_second": it.done / sum(each["seconds"] for each in got),
        "processes": [
            [each._asdict() for each in of_one] for of_one in zip(*(each.values() for each in held), strict=True)
        ],
        "failed": sum(each["failed"] for each in got) + len(surprises),
        "error": errors[0] if errors else None,
    }


def rows():
    return {
        "mixed load": {
            "one process": soak,
            "two workers": partial(soak, workers=2),
            "asyncio": partial(soak, reactor="asyncio"),
        }
    }
