"""
A tor that runs as our child process, with txtorcon on its control port.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.internet.endpoints import TCP4ClientEndpoint, clientFromString
from twisted.internet.task import deferLater
from twisted.logger import Logger

from ..net.child_process import STDERR, ChildProcess
from ..net.timers import clock_of
from .attach import attach
from .control import ControlConnection
from .folder import StateFolder
from .instance import TorInstance
from .listeners import socks_listeners

_ATTACH_PERIOD = 0.1
"""Seconds between two attempts to attach to a tor that starts."""

_log = Logger(namespace="txsocksx_ext.tor")


def launched_tor(
    reactor: Any, program: str | None = None, torrc: str | None = None, state: str | None = None
) -> TorInstance:
    """
    Return a tor that runs as our child process while its control connection, a service, runs.

    Tor is restarted, after growing delays, when it exits. It accepts streams as soon
    as it listens, and keeps them waiting until it has bootstrapped.

    :param program: the path of tor; by default the one that txtorcon finds.
    :param torrc: a file of further options; ours override them.
    :param state: a folder that is kept, so that tor bootstraps faster; by default a
        temporary one.
    """
    instance = TorInstance(reactor, None, name="launch")
    own = _OwnTor(reactor, instance, program, torrc, state)
    instance.control = ControlConnection(reactor, own.open, "our own tor", own.close)
    return instance


class _OwnTor:
    """
    Starts and ends the process.

    Not `txtorcon.launch`: that waits for ever if it connects before tor listens, or
    after the last step of the bootstrap; and if it is cancelled, tor keeps running.
    """

    def __init__(
        self, reactor: Any, instance: TorInstance, program: str | None, torrc: str | None, state: str | None
    ) -> None:
        self._reactor = reactor
        self._instance = instance
        self._program = program
        # A daemon changes its working directory before it starts tor.
        self._torrc = None if torrc is None else os.path.abspath(torrc)
        self._state = None if state is None else os.path.abspath(state)
        self._folder: StateFolder | None = None
        self._process: _TorProcess | None = None

    async def open(self) -> Any:
        """Start tor and attach to it; return the `txtorcon.Tor`."""
        await self._end_process()
        if self._state is None:
            self._close_folder()
        # A folder that is kept stays locked while the server runs, also between two runs of tor.
        self._folder = self._folder or StateFolder(self._state)
        folder = self._folder.path
        port_file = folder / "control-port"
        # The file of an earlier run names another port.
        port_file.unlink(missing_ok=True)
        self._process = process = self._start(folder, port_file)
        while True:
            if process.end is not None:
                raise ChildProcessError(f"tor ended: {process.end}")
            try:
                tor = await attach(self._reactor, _control_endpoint(self._reactor, port_file))
            except CancelledError:
                raise
            except Exception:  # tor does not listen yet, or has not written its new cookie
                await deferLater(clock_of(self._reactor), _ATTACH_PERIOD)
            else:
                break
        await tor.protocol.queue_command("TAKEOWNERSHIP")
        self._instance.socks = clientFromString(self._reactor, (await socks_listeners(tor))[0])
        return tor

    async def close(self) -> None:
        """End tor if it runs, and unlock its folder."""
        await self._end_process()
        self._close_folder()

    async def _end_process(self) -> None:
        self._instance.socks = None
        if self._process is not None:
            await self._process.stop()
            self._process = None

    def _close_folder(self) -> None:
        if self._folder is not None:
            self._folder.close()
            self._folder = None

    def _start(self, folder: Path, port_file: Path) -> _TorProcess:
        program = find_tor(self._program)
        options = {
            "DataDirectory": folder,
            "SocksPort": "auto",
            "ControlPort": "auto",
            "ControlPortWriteToFile": port_file,
            "CookieAuthentication": 1,
            "RunAsDaemon": 0,
            "Log": "notice stdout",
            # Tor's warnings go to our log, which must not hold targets whatever the torrc says.
            "SafeLogging": 1,
            # Besides TAKEOWNERSHIP, because this process may be killed before that.
            "__OwningControllerProcess": os.getpid(),
        }
        arguments = ["--defaults-torrc", os.devnull, "-f", self._torrc or os.devnull]
        if self._torrc is None:
            # Tor does not accept a device as its torrc, and would exit.
            arguments.append("--ignore-missing-torrc")
        for name, value in options.items():
            arguments += [name, str(value)]
        process = _TorProcess(self._reactor)
        process.start(program, arguments)
        return process


def find_tor(program: str | None) -> str:
    """
    Return the path of tor.

    :param program: a path, or a name on PATH; by default the tor that txtorcon finds.
    :raises FileNotFoundError: there is no such program.
    """
    import txtorcon

    wanted = program or os.fsdecode(txtorcon.util.find_tor_binary() or "tor")
    path = shutil.which(wanted)
    if path is None:
        raise FileNotFoundError(f"there is no program {wanted}: install tor, or say where it is by exec=")
    return path


def _control_endpoint(reactor: Any, port_file: Path) -> TCP4ClientEndpoint:
    """
    Return the endpoint that tor has written to its ControlPortWriteToFile, as ``PORT=127.0.0.1:9051``.

    :raises OSError: tor has not written the file yet.
    """
    host, _, port = port_file.read_text().strip().removeprefix("PORT=").rpartition(":")
    return TCP4ClientEndpoint(reactor, host, int(port))


class _TorProcess(ChildProcess):
    """The process of tor. Its warnings and errors are logged; with SafeLogging, they hold no targets."""

    def line_received(self, descriptor: int, line: bytes) -> None:
        # On stderr the system says why it cannot run the program.
        if line and (descriptor == STDERR or b"[warn]" in line or b"[err]" in line):
            _log.warn("our own tor: {line}", line=line.decode("utf-8", "backslashreplace"))
