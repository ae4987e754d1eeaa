"""
``socks5ext run``: an unmodified Python program whose Twisted connections go through a proxy.

The program's reactor keeps its type, which some programs check: its methods are replaced when it is installed,
whichever it is.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any, NoReturn

from twisted.internet import main
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import TCP6ClientEndpoint

from .client.direct_hosts import DirectHosts
from .client.endpoints import DEFAULT_TIMEOUT, checked_timeout
from .client.methods import fresh_token
from .client.proxied_reactor import proxy_reactor


def add_command(commands: Any) -> None:
    """Add ``run`` to the subcommands of an `argparse.ArgumentParser`."""
    parser = commands.add_parser(
        "run",
        help="run a Python program through a proxy",
        description="Run a Python program. The connections that it makes with Twisted go through a proxy, which also "
        "resolves their names; datagrams are refused. Hosts in the variable NO_PROXY are connected to without it.",
        usage="socks5ext run [OPTION ...] PROGRAM [ARGUMENT ...]",
    )
    parser.add_argument(
        "--proxy",
        help="an endpoint string, or a URL such as socks5://127.0.0.1:1080 (default: the variable ALL_PROXY). "
        "Other users can see command lines: put a password into the variable",
    )
    parser.add_argument("--isolate", action="store_true", help="use Tor circuits that no other program uses")
    parser.add_argument(
        "--timeout",
        type=float,
        default=DEFAULT_TIMEOUT,
        metavar="SECONDS",
        help="until a target is connected; replaces the program's own timeouts (default: %(default)g)",
    )
    parser.add_argument(
        "--allow-cleartext",
        action="store_true",
        help="send a password also to a proxy that is neither on this machine nor behind TLS",
    )
    parser.add_argument("-m", dest="is_module", action="store_true", help="PROGRAM is a module, as in python -m")
    parser.add_argument("program", metavar="PROGRAM", help="a Python file, or a command that is one, such as twistd")
    # Before Python 3.13, argparse would name it among those that are missing.
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGUMENT").required = False
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """
    Run a program in this process.

    :raises SystemExit: the program's own, or with a line that says why it cannot run.
    """
    proxy = options.proxy or _variable("ALL_PROXY")
    if not proxy:
        _fail("no proxy: give --proxy, or set the variable ALL_PROXY")
    direct = [each for each in _variable("NO_PROXY").split(",") if each.strip()]
    try:
        DirectHosts(direct)
        checked_timeout(options.timeout)
    except ValueError as error:
        _fail(f"{error}")
    _proxy_next_reactor(
        proxy,
        timeout=options.timeout,
        isolation=fresh_token() if options.isolate else None,
        direct=direct,
        allow_cleartext=options.allow_cleartext,
    )
    if options.is_module:
        _begin_at("", options)
        if not _is_module(options.program):
            _fail(f"there is no module {options.program!r}")
        runpy.run_module(options.program, run_name="__main__", alter_sys=True)
    else:
        options.program = _file_of(options.program)
        _begin_at(os.path.dirname(options.program), options)
        runpy.run_path(options.program, run_name="__main__")


def _variable(name: str) -> str:
    return os.environ.get(name) or os.environ.get(name.lower(), "")


def _proxy_next_reactor(proxy: str, **options: Any) -> None:
    """Have the reactor that the program installs connect through the proxy."""
    install = main.installReactor

    def install_proxied(reactor: Any) -> None:
        # First: reading an endpoint string loads plugins, and txtorcon's installs a reactor if there is none.
        install(reactor)
        try:
            proxy_reactor(reactor, proxy, **options)
        except (TypeError, ValueError) as error:
            _fail(f"the proxy: {error}")

    # Each reactor's ``install`` looks it up there when it is called.
    main.installReactor = install_proxied
    # This endpoint alone resolves names in a thread instead of asking the reactor.
    resolving: Any = TCP6ClientEndpoint
    resolving._nameResolution = _unresolved


def _unresolved(endpoint: TCP6ClientEndpoint, host: str) -> Deferred[Any]:
    """Return a name as if `getaddrinfo` had found it to be an address."""
    return succeed([(None, None, None, None, (host, 0))])


def _begin_at(folder: str, options: argparse.Namespace) -> None:
    """Set what Python sets before it runs a program."""
    sys.argv = [options.program, *options.arguments]
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = folder


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(f"{error.name}."):
            raise
        return False


def _file_of(program: str) -> str:
    """Return the path of a Python program."""
    # A command of this environment is found before others of that name.
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    found = program if os.path.isfile(program) else shutil.which(program, path=path)
    if found is None:
        _fail(f"there is no program {program!r}")
    if found.endswith((".py", ".pyc")):
        return found
    with open(found, "rb") as script:
        first, second = script.readline(300), script.readline(1000)
    interpreter = re.fullmatch(rb"#!\s*(\S*python[0-9.]*)(\s.*)?\n", first)
    # By env, and by a shell where the path is too long for a first line.
    is_python = interpreter or b"python" in first or (first.startswith(b"#!") and b"python" in second)
    if not is_python:
        _fail(f"{found} is not a Python program: only those can be run")
    if interpreter:
        python = os.fsdecode(interpreter[1])
        if Path(python).parent.resolve() != Path(sys.executable).parent.resolve():
            _fail(f"{found} runs with {python}: install this package there, and run {python} -m txsocksx_ext.cli")
    return found


def _fail(message: str) -> NoReturn:
    raise SystemExit(f"socks5ext run: {message}")
