"""Servers as they run, and the processes that load them."""

import shutil
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

from support.targets import programs

from bench.dialects import BYTE, script
from bench.processes import cpu_seconds, memory_bytes
from bench.servers import SERVERS
from bench.workers import Worker

SETTLING = 0.05
"""Seconds in which a server cleans up after its last connection."""
PATIENCE = 3.0
WARM_UP = 0.4
"""Seconds of connections that each server has before it is measured."""


class DidNotStart(Exception):
    """A server did not. Its text is what it said."""


class Running:
    """A server that was started."""

    def __init__(self, speaks_socks, ports, pid):
        self.speaks_socks = speaks_socks
        self.ports = ports
        self.pid = pid

    def cpu_seconds(self):
        return cpu_seconds(self.pid) if self.pid else 0.0

    def memory_bytes(self):
        return memory_bytes(self.pid) if self.pid else 0


class Machinery:
    """
    The servers and the workers of one run; a context manager that ends them all.

    :param patience: seconds after the time of a run in which a server has to have answered everything.
    :ivar generator: the `Worker` that loads a server.
    :ivar beside: a second one, for what else there has to be meanwhile.
    """

    def __init__(self, patience=PATIENCE):
        self.patience = patience
        self._stack = ExitStack()
        self._running = {}

    def __enter__(self):
        with self._stack:
            self._folder = Path(tempfile.mkdtemp(prefix="bench-"))
            self._stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
            self._start = self._stack.enter_context(programs())
            self.target = self._worker("target")
            self.generator = self._worker("generator", self.patience)
            self.beside = self._worker("generator", self.patience)
            self.targets = self.target.call("where")
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *exc_info):
        return self._stack.__exit__(*exc_info)

    def _worker(self, module, *arguments):
        worker = Worker(module, *arguments)
        self._stack.callback(worker.stop)
        return worker

    def server(self, name, dialect="none"):
        """
        A server that is started once, and has had connections before it is measured.

        :raises DidNotStart: it did not, now or before.
        """
        start = SERVERS[name].start_for(dialect)
        if start not in self._running:
            self._running[start] = None
            self._running[start] = self._warmed_up(self._begin(name, start, self._start), dialect)
        if self._running[start] is None:
            raise DidNotStart(f"{name} did not start before")
        return self._running[start]

    def _warmed_up(self, running, dialect):
        steps = self.script(running, dialect, "echo")
        self.generator.call("connections", port=running.ports["echo"], script=steps, seconds=WARM_UP, at_once=50)
        return running

    @contextmanager
    def fresh(self, name):
        """A server of its own, that is stopped afterwards."""
        with programs() as start:
            yield self._begin(name, SERVERS[name].start, start)

    def _begin(self, name, start_server, start):
        started = []

        def begin(*args, **kwargs):
            started.append(start(*args, **kwargs))
            return started[-1]

        folder = Path(tempfile.mkdtemp(dir=self._folder))
        try:
            ports = start_server(begin, folder, self.targets)
        except AssertionError as error:  # that is how `support.programs.Program` says it
            raise DidNotStart(str(error)) from error
        return Running(bool(SERVERS[name].dialects), ports, started[0].pid if started else None)

    def script(self, running, dialect, kind, host="127.0.0.1", and_byte=True):
        """What a client says to reach a target of this kind, and perhaps one byte to an echo."""
        steps = script(dialect, host, self.targets[kind]) if running.speaks_socks else []
        return [*steps, BYTE] if and_byte else steps

    @contextmanager
    def loaded(self, command, **arguments):
        """Have the generator do this meanwhile. Yields a dictionary that has, afterwards, what came of it."""
        self.generator.begin(command, **arguments)
        load = {}
        try:
            yield load
        finally:
            load.update(self.generator.result())

    @contextmanager
    def used(self, running):
        """Yields a dictionary that has, afterwards, the CPU seconds of the server and of both workers meanwhile."""
        workers = (self.generator.pid, self.target.pid)
        server_before = running.cpu_seconds()
        workers_before = sum(map(cpu_seconds, workers))
        used = {}
        yield used
        time.sleep(SETTLING)
        used["cpu"] = running.cpu_seconds() - server_before
        used["workers"] = sum(map(cpu_seconds, workers)) - workers_before
