"""How the server and its peers are started: each as it comes, on a free loopback port."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

from support.programs import free_port
from support.targets import dante, microsocks

from bench.dialects import PASSWORD, USER
from bench.target import KINDS
from bench.workers import TESTS

OURS = "socks5ext"
CHECKOUT = "socks5ext of the other checkout"
PLAIN = "plain Twisted"
DIRECT = "no proxy"


@dataclass(frozen=True)
class Server:
    """
    A kind of proxy.

    :ivar start: called with a way to start a program (see `support.targets.programs`), a folder for its files and the
        ports of the targets; returns the ports on which it takes connections to each of them.
    :ivar start_with_login: the same, for one that demands the user name and the password; ``None`` if it is not to.
    :ivar program: the program that has to be here.
    :ivar package: the Python package that has to be here.
    :ivar dialects: those that it speaks, of `bench.dialects.DIALECTS`; none for one without SOCKS.
    :ivar is_python: whether it is a peer in Python.
    :ivar is_proxy: ``False`` where there is none.
    """

    start: Callable
    start_with_login: Callable | None = None
    program: str | None = None
    package: str | None = None
    dialects: tuple[str, ...] = ("none",)
    is_python: bool = False
    is_proxy: bool = True

    def is_here(self):
        return (not self.package or bool(package_version(self.package))) and (
            not self.program or bool(program_named(self.program))
        )

    def start_for(self, dialect):
        return self.start_with_login if dialect == "login" else self.start

    def version(self):
        """Which release is here; ``None`` where that is not known."""
        if self.package:
            return package_version(self.package)
        return debian_version(program_named(self.program)) if self.program else None


def debian_version(path):
    """That of the Debian package that a program is of: not each of them can say its version."""
    dpkg = shutil.which("dpkg-query")
    if not dpkg:
        return None
    owner = subprocess.run([dpkg, "--search", path], capture_output=True, text=True).stdout.partition(":")[0]
    shown = subprocess.run(
        [dpkg, "--show", "--showformat=${source:Upstream-Version}", owner], capture_output=True, text=True
    )
    return shown.stdout or None


def program_named(name):
    # A daemon's program is often outside the PATH of a plain user.
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin")


def package_version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def everywhere(port):
    """A SOCKS proxy takes connections to all targets on one port."""
    return dict.fromkeys(KINDS, port)


def python_server(*arguments, path=None):
    """
    A server that is a Python program.

    :param path: a folder whose packages are preferred, such as another checkout.
    """

    def start(start, folder, targets):
        port = free_port()
        command = [str(each).format(port=port) for each in arguments]
        environment = {"PYTHONPATH": TESTS} if "bench." in command[1] else {"PYTHONPATH": str(path)} if path else {}
        start([sys.executable, *command], port=port, cwd=folder, env=environment)
        return everywhere(port)

    return start


def ours(*options, path=None):
    """``twistd -n socks5ext``, at its defaults but for the port."""
    return python_server(
        *("-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile="),
        *("socks5ext", "--listen=tcp:{port}:interface=127.0.0.1", *options),
        path=path,
    )


def add_checkout(folder):
    """Measure the server of another checkout too, such as that of an older commit."""
    login = f"--auth=memory:{USER}:{PASSWORD}"
    dialects = SERVERS[OURS].dialects
    SERVERS[CHECKOUT] = Server(ours(path=folder), ours(login, path=folder), package="txsocksx-ext", dialects=dialects)


def haproxy(start, folder, targets):
    """TCP mode: no SOCKS, a port for each target."""
    ports = {kind: free_port() for kind in KINDS}
    parts = [
        f"listen {kind}\n    bind 127.0.0.1:{ports[kind]}\n    server {kind} 127.0.0.1:{targets[kind]}\n"
        for kind in KINDS
    ]
    config = folder / "haproxy.cfg"
    times = "    timeout connect 10s\n    timeout client 10m\n    timeout server 10m\n"
    config.write_text(f"defaults\n    mode tcp\n{times}{''.join(parts)}")
    start([program_named("haproxy"), "-db", "-f", config], port=ports["echo"])
    return ports


def direct(start, folder, targets):
    """No proxy at all: what the generator and the target can do."""
    return targets


# uvloop's policy has no loop until one is set, and pproxy, which is older, does not set one.
PPROXY = """
import asyncio, uvloop
uvloop.install()
asyncio.set_event_loop(uvloop.new_event_loop())
uvloop.install = lambda: None
from pproxy.server import main
main()
"""

PLAIN_TWISTED = python_server("-m", "bench.plain_twisted", "{port}")

SERVERS = {
    OURS: Server(
        ours(),
        ours(f"--auth=memory:{USER}:{PASSWORD}"),
        package="txsocksx-ext",
        dialects=("none", "login", "pairs-4", "pairs-20", "socks4", "http"),
    ),
    "microsocks": Server(
        lambda *given: everywhere(microsocks(*given[:2])),
        lambda *given: everywhere(microsocks(*given[:2], options=("-u", USER, "-P", PASSWORD))),
        program="microsocks",
        dialects=("none", "login"),
    ),
    "dante": Server(lambda *given: everywhere(dante(*given[:2])), program="danted"),
    "haproxy": Server(haproxy, program="haproxy", dialects=()),
    PLAIN: Server(PLAIN_TWISTED, PLAIN_TWISTED, package="Twisted", dialects=("none", "login")),
    "pproxy, uvloop": Server(
        python_server("-c", PPROXY, "-l", "socks5://127.0.0.1:{port}"),
        python_server("-c", PPROXY, "-l", f"socks5://127.0.0.1:{{port}}#{USER}:{PASSWORD}"),
        package="pproxy",
        dialects=("none", "login"),
        is_python=True,
    ),
    "asyncio-socks-server": Server(
        python_server("-m", "asyncio_socks_server", "--host=127.0.0.1", "--port={port}"),
        package="asyncio-socks-server",
        is_python=True,
    ),
    DIRECT: Server(direct, dialects=(), is_proxy=False),
}
