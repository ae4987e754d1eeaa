"""
Real pluggable transports: servers of ours in front of them, obfs4 bridges behind them, and their clients.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from examples.raw_peers import GREET_ANONYMOUS, GREET_EXTENDED, GREET_LOGIN, login, pairs, settles
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from support.programs import need, twistd
from support.targets import failure_of, local, talk_to
from support.tor_clients import ask
from txsocksx_ext.transports.arguments import encode_arguments, to_credentials
from txsocksx_ext.transports.lines import Keyword, parse_line

CERT_OF_NO_ONE = "A" * 70
"""An obfs4 certificate (52 bytes) that belongs to no bridge."""


class Obfs4Bridge:
    """
    A real obfs4proxy as the server side, with this process as its parent.

    :param or_port: where it passes payload to.
    :ivar port: where clients reach it.
    :ivar arguments: what they need to know: ``cert`` and ``iat-mode``.
    """

    def __init__(self, or_port):
        program = need("obfs4proxy")
        self._folder = tempfile.mkdtemp(prefix="obfs4-bridge-")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TOR_PT_")}
        environment |= {
            "TOR_PT_MANAGED_TRANSPORT_VER": "1",
            "TOR_PT_STATE_LOCATION": self._folder,
            "TOR_PT_EXIT_ON_STDIN_CLOSE": "1",
            "TOR_PT_SERVER_TRANSPORTS": "obfs4",
            "TOR_PT_SERVER_BINDADDR": "obfs4-127.0.0.1:0",
            "TOR_PT_ORPORT": f"127.0.0.1:{or_port}",
            "TOR_PT_EXTENDED_SERVER_PORT": "",
        }
        self._process = subprocess.Popen(
            [program], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        for data in self._process.stdout:
            line = parse_line(data)
            if line is not None and line.keyword is Keyword.SMETHOD:
                (_, self.port), self.arguments = line.address, dict(line.fields)
            if line is not None and line.keyword is Keyword.SMETHODS:
                break

    def stop(self):
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._process.stdout.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def children_of(pid):
    """The process numbers of a process's children, by their programs' names: ``{"obfs4proxy": [123]}``."""
    found = {}
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            name, _, rest = (folder / "stat").read_text().partition("(")[2].rpartition(")")
            state, parent = rest.split()[:2]
            if int(parent) == pid and state != "Z":
                found.setdefault(name, []).append(int(folder.name))
    return found


def is_gone(pid):
    """Whether a process ends in time. One whose parent has died may wait for ever to be collected."""

    def runs():
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
        return False

    return settles(lambda: not runs())


# Servers.


def serve(start, transport, program, *options):
    """A server whose way out is a transport."""
    return twistd(start, f"--route=*=transport:{transport}:exec={program}", "--drain=1", *options)


def is_ready(server, times=1):
    """Whether its transport has become ready so often, in time."""
    return settles(lambda: server.output.count("is ready") >= times, 40)


def child_of(server, name="obfs4proxy"):
    """The process number of a server's transport, when it is there."""
    assert settles(lambda: len(children_of(server.pid).get(name, ())) == 1, 20), server.output
    return children_of(server.pid)[name][0]


# Clients, for `support.tor_clients.ask`: each says the same arguments in its own way.


def with_pairs(arguments):
    """By method 97."""
    return (GREET_EXTENDED, pairs(*((f"pt.{key}".encode(), value.encode()) for key, value in arguments.items())))


def with_login(arguments):
    """By RFC 1929, as tor does."""
    if not arguments:
        return (GREET_ANONYMOUS, b"")
    return (GREET_LOGIN, login(*_credentials(arguments)))


def methods_with_pairs(arguments):
    """The same for the package's own client."""
    return {"extended": {f"pt.{key}": value for key, value in arguments.items()}}


def methods_with_login(arguments):
    """The same for the package's own client."""
    return {"login": _credentials(arguments)} if arguments else {"anonymous": ()}


def _credentials(arguments):
    credentials = to_credentials(encode_arguments(arguments))
    return credentials.username, credentials.password


BOTH = ((with_login, methods_with_login), (with_pairs, methods_with_pairs))
"""Clients that did not offer 97, and clients that did."""


def code(server, client, host, port, patience=100.0):
    """What a client hears."""
    with ask(server.port, client, host, port, patience=patience) as answer:
        return answer.code


def attempts(server, arguments, host, port):
    """
    Ask a transport in vain in every way, as callables that return a Deferred each.

    In turn, by those who did not offer 97 and those who did: the code that a raw client hears, and the exception of
    the package's own.
    """
    for raw, methods in BOTH:
        yield lambda raw=raw: deferToThread(code, server, raw(arguments), host, port)
        yield lambda methods=methods: Deferred.fromCoroutine(
            failure_of(talk_to(host, port, local(server.port), methods(arguments), timeout=100))
        )


async def failures(server, arguments, host, port):
    """What `attempts` hear, one after the other, so that each is alone."""
    return [await attempt() for attempt in attempts(server, arguments, host, port)]
