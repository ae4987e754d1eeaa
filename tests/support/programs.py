"""Real programs as children of the tests: started on free ports, stopped by process id."""

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from support import warm_python

IN_CI = bool(os.environ.get("CI"))


def need(name, package=None):
    """The path of a real program. In CI a missing one is a failure; elsewhere the test is skipped."""
    # Debian keeps daemons where a plain user's PATH does not look.
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/local/sbin")
    if path is None:
        message = f"{name} is missing: install the Debian package {package or name}"
        if IN_CI:
            pytest.fail(message)
        pytest.skip(message)
    return path


_ports_given = set()

# Several processes may run tests: each gives ports of its own.
_PROCESS = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_PROCESSES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))


def free_port():
    """
    A TCP port on loopback that nothing listens on, and that stays free while its owner is started again.

    The kernel gives ports from 32768 up to those who ask for any: one from below does not get lost to them.
    """
    for _ in range(200):
        port = random.randrange(12000 + _PROCESS, 32000, _PROCESSES)
        if port in _ports_given:
            continue
        _ports_given.add(port)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


def descriptors_of(pid):
    """How many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


class Program:
    """
    One child process.

    :param arguments: the command line.
    :param port: a TCP port on 127.0.0.1, or a callable, that says when it is ready.
    :param stop_signal: how to end it.
    """

    def __init__(self, arguments, *, port=None, ready=None, env=None, cwd=None, stop_signal=signal.SIGTERM, wait=20.0):
        self.arguments = [str(argument) for argument in arguments]
        self.port = port
        self._ready = ready
        self._stop_signal = stop_signal
        self._wait = wait
        self._last_output = ""
        self._output = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = warm_python.Popen(
            self.arguments,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            start_new_session=True,
        )
        self.serving = [self.pid]
        """The process ids of which descriptors and memory are counted: others, where it has workers."""

    @property
    def pid(self):
        return self.process.pid

    @property
    def output(self):
        """All that the program has written so far."""
        if self._output.closed:
            return self._last_output
        # pread leaves alone the offset that the child shares.
        size = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), size, 0).decode("utf-8", "replace")

    def descriptors(self):
        """How many descriptors the processes that serve have open."""
        return sum(map(descriptors_of, self.serving))

    def memory(self):
        """The resident memory of the processes that serve, in bytes."""
        statuses = [Path(f"/proc/{pid}/status").read_text() for pid in self.serving]
        return sum(int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024 for status in statuses)

    def wait_until_ready(self):
        deadline = time.monotonic() + self._wait
        while not self._is_ready():
            if self.process.poll() is not None:
                raise AssertionError(f"{self.arguments[0]} ended with {self.process.returncode}: {self.output}")
            if time.monotonic() > deadline:
                self.stop()
                raise AssertionError(f"{self.arguments[0]} is not ready: {self.output}")
            time.sleep(0.02)

    def _is_ready(self):
        if self._ready is not None:
            return self._ready(self)
        if self.port is None:
            return True
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def stop(self, wait=15.0):
        """End the program and all that it started; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(self._stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(wait)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        status = self.process.wait()
        self._last_output = self.output
        self._output.close()
        return status


def twistd(program, *options, listen=None, command="twistd", env=None, reactor=None, before="", prefix=(), wait=20.0):
    """
    A ``twistd socks5ext`` with these options, on a free port unless told where to listen.

    :param before: Python code that runs before twistd.
    :param prefix: a command that runs the command after it.
    """
    port = free_port() if listen is None else None
    listeners = (
        [f"--listen=tcp:{port}:interface=127.0.0.1"] if listen is None else [f"--listen={each}" for each in listen]
    )
    runner = [sys.executable, "-c", f"{before}\nfrom twisted.scripts.twistd import run; run()", "-n", "--pidfile="]
    if command == "twist":
        runner = [sys.executable, "-m", "twisted"]
    reactor_option = [f"--reactor={reactor}"] if reactor else []
    return program(
        [*prefix, *runner, *reactor_option, "socks5ext", *listeners, *options],
        port=port,
        ready=None
        if listen is None
        else lambda each: "starting on" in each.output or "Starting reactor" in each.output,
        env=env,
        wait=wait,
    )


def has_written(server, text, seconds=10):
    """Whether a program writes something within some seconds."""
    deadline = time.monotonic() + seconds
    while text not in server.output:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
