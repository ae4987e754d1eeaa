"""
Start Python programs from a Python that has loaded Twisted already, which saves most of what a start costs.

A server process imports what the package uses of other people's, and forks for each program. It imports nothing of
the package itself: some of its modules make secrets when they are imported, which two programs must not share.
"""

import atexit
import ctypes
import gc
import importlib
import io
import json
import os
import runpy
import socket
import subprocess
import sys
import threading
import types
from pathlib import Path

_LOADED = (
    *("argon2", "asyncio", "automat", "cryptography.x509", "http.cookiejar", "idna", "service_identity"),
    *("twisted.cred.checkers", "twisted.cred.portal", "twisted.internet.endpoints"),
    *("twisted.internet.epollreactor", "twisted.internet.ssl", "twisted.plugin", "twisted.protocols.haproxy"),
    *("twisted.protocols.policies", "twisted.protocols.tls", "twisted.scripts.twistd", "twisted.web.client"),
)

_PR_SET_CHILD_SUBREAPER = 36
_MOST = 1 << 18
"""Bytes of a request, most of which is the environment."""


# In the process of the tests.


class Popen(subprocess.Popen):
    """
    `subprocess.Popen`, quicker where the command is this Python with ``-c CODE``, ``-m MODULE`` or a script.

    The program is a child of this process as usual, but for what ``/proc/PID/cmdline`` says.
    """

    def _execute_child(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *more):
        command = [os.fspath(each) for each in args]
        is_session = more[14]
        is_python = command[0] == sys.executable and (command[1] in ("-c", "-m") or not command[1].startswith("-"))
        environment = os.environ if env is None else env
        # What is on PYTHONPATH may change how Python starts.
        if not is_python or pass_fds or environment.get("PYTHONPATH") != os.environ.get("PYTHONPATH"):
            super()._execute_child(args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *more)
            return
        pipes = more[3:9]
        given = (pipes[0], pipes[3], pipes[5])
        self.pid = _server().start(
            [own if each == -1 else each for own, each in enumerate(given)],
            command=command[1:],
            environment=dict(environment),
            cwd=os.fspath(cwd or os.getcwd()),
            is_session=bool(is_session),
        )
        self._child_created = True
        self._close_pipe_fds(*pipes)


def run(command, *, input=None, timeout=60, **options):
    """As `subprocess.run` with ``text`` and ``capture_output``."""
    stdin = subprocess.DEVNULL if input is None else subprocess.PIPE
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    with Popen(list(map(str, command)), stdin=stdin, text=True, **options) as process:
        try:
            out, errors = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, errors)


class _Server:
    """The process that forks, seen from the tests; it ends with them."""

    def __init__(self):
        self._lock = threading.Lock()
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(other.fileno())],
            pass_fds=[other.fileno()],
            stdin=subprocess.DEVNULL,
        )
        other.close()
        atexit.register(self._stop)

    def start(self, streams, **request):
        """Start a program with these file descriptors as its standard streams. Return its process id."""
        with self._lock:
            # The program's parent ends, and leaves it to this process.
            _adopt_orphans(True)
            try:
                socket.send_fds(self._socket, [json.dumps(request).encode()], streams)
                return int(self._socket.recv(20))
            finally:
                _adopt_orphans(False)

    def _stop(self):
        self._socket.close()
        self._process.wait()


_servers = []


def _server():
    if not _servers:
        _servers.append(_Server())
    return _servers[0]


def _adopt_orphans(whether):
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(whether), 0, 0, 0)


# In the server process, and in those that it forks.


def _serve(connection):
    """Fork for each request. Return it, in the new process; ``None`` in the server, after the tests have ended."""
    while True:
        message, streams, _, _ = socket.recv_fds(connection, _MOST, 3)
        if not message:
            return None
        reading, writing = os.pipe()
        parent = os.fork()
        if parent == 0:
            program = os.fork()
            if program == 0:
                os.close(reading)
                os.close(writing)
                connection.close()
                program = json.loads(message)
                _take_streams(streams, "PYTHONUNBUFFERED" in program["environment"])
                return program
            os.write(writing, b"%d" % program)
            os._exit(0)
        number = os.read(reading, 20)
        for each in (reading, writing, *streams):
            os.close(each)
        # After this the program is a child of the tests' process.
        os.waitpid(parent, 0)
        connection.send(number)


def _take_streams(streams, is_unbuffered):
    for own, given in enumerate(streams):
        os.dup2(given, own)
    for given in streams:
        os.close(given)
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = _written(1, "strict", is_unbuffered, line_buffering=os.isatty(1))
    sys.stderr = sys.__stderr__ = _written(2, "backslashreplace", is_unbuffered, line_buffering=True)


def _written(number, errors, is_unbuffered, line_buffering):
    binary = open(number, "wb", 0 if is_unbuffered else -1, closefd=False)  # noqa: SIM115
    return io.TextIOWrapper(binary, errors=errors, line_buffering=line_buffering, write_through=is_unbuffered)


def _become(program):
    """Run what a new Python with this command line would run."""
    if program["is_session"]:
        os.setsid()
    os.environ.clear()
    os.environ.update(program["environment"])
    os.chdir(program["cwd"])
    kind, *rest = program["command"]
    if kind == "-c":
        code, *arguments = rest
        sys.argv = ["-c", *arguments]
        sys.path[0] = ""
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(code, "<string>", "exec"), main.__dict__)
    elif kind == "-m":
        module, *arguments = rest
        sys.argv = ["-m", *arguments]
        sys.path[0] = os.getcwd()
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [kind, *rest]
        sys.path[0] = str(Path(kind).resolve().parent)
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    for _name in _LOADED:
        importlib.import_module(_name)
    assert "twisted.internet.reactor" not in sys.modules
    gc.collect()
    gc.freeze()
    _program = _serve(socket.socket(fileno=int(sys.argv[1])))
    if _program is not None:
        _become(_program)
