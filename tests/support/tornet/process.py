"""One tor process: its torrc, its life, its control connection."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from support.programs import need

from .control import Control, ControlError, Events

COMMON_TORRC = (
    "TestingTorNetwork 1",
    "Address 127.0.0.1",
    "OutboundBindAddress 127.0.0.1",
    "AssumeReachable 1",
    # Else the authority, which is busy first, may get a weight of 1 while all relays have 0. Then it is both ends of
    # every onion circuit, no such circuit can be built, and the network does not come up: every eighth time or so.
    "CountPrivateBandwidth 0",
    "PathsNeededToBuildCircuits 0.67",
    "ShutdownWaitLength 0",
    "SafeLogging 0",
    "Log notice stdout",
)


def wait_until(condition: Callable[[], object], what: str, timeout: float, *, every: float = 0.03) -> None:
    """Ask ``condition`` again and again until it is true."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what}")
        time.sleep(every)


class Tor:
    """
    One tor process with a folder of its own.

    :param folder: for its torrc, data and sockets; short, since unix sockets lie in it.
    :param torrc: its lines, besides those that all have.
    :param cookie: whether the control ports want the cookie.
    :param password: or a password (``torrc`` has its hash).
    """

    def __init__(self, folder: Path, torrc: Sequence[str], *, cookie: bool = True, password: str | None = None) -> None:
        self.name = folder.name
        self.folder = folder
        self.control_socket = folder / "control"
        self.cookie_file = folder / "data" / "control_auth_cookie" if cookie else None
        self.password = password
        self._process: subprocess.Popen[bytes] | None = None
        self._control: Control | None = None
        folder.mkdir(mode=0o700, exist_ok=True)
        lines = [
            *COMMON_TORRC,
            f"DataDirectory {folder / 'data'}",
            f"ControlSocket {self.control_socket}",
            f"CookieAuthentication {int(cookie)}",
            f"__OwningControllerProcess {os.getpid()}",
            f"Nickname {self.name}",
            *torrc,
        ]
        (folder / "torrc").write_text("\n".join(lines) + "\n")

    def __repr__(self) -> str:
        return f"<tor {self.name} {self.pid if self.is_running else 'not running'}>"

    # -- life

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """What tor wrote, over all its lives."""
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / "log").read_text("utf-8", "replace")
        return ""

    def start(self) -> None:
        """Start the process, and do not wait."""
        self._forget_control()
        arguments = [need("tor"), "--defaults-torrc", "/dev/null", "-f", str(self.folder / "torrc")]
        # A socket of an earlier life would look as if tor were there.
        self.control_socket.unlink(missing_ok=True)
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def kill(self) -> None:
        """End the process at once; its folder stays, so that it can be started again."""
        self.end(signal.SIGKILL)

    def stop(self) -> None:
        """End the process as an operator would."""
        self.end(signal.SIGTERM)

    def end(self, number: signal.Signals) -> None:
        """Send it a signal of which it ends, and wait."""
        self._forget_control()
        if self._process is None:
            return
        self.signal(number)
        # One that is paused ends by SIGKILL only.
        self.signal(signal.SIGCONT)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it runs."""
        if self._process is not None:
            self._process.send_signal(number)

    def restart(self, *, kill: bool = False) -> None:
        """Stop or kill it, start it again, and wait until it listens."""
        self.end(signal.SIGKILL if kill else signal.SIGTERM)
        self.start()
        self.wait_until_listening()

    def pause(self) -> None:
        """SIGSTOP: the process lives, and does nothing."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """The end of `pause`."""
        self.signal(signal.SIGCONT)

    def remove(self) -> None:
        """Kill it, and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- control

    def connect_control(self, kind: type[Control] = Control) -> Control:
        """A new control connection."""
        return kind(self.control_socket, cookie=self.cookie_file, password=self.password)

    @property
    def control(self) -> Control:
        """A control connection that all share."""
        if self._control is None:
            self._control = self.connect_control()
        return self._control

    def events(self, *names: str) -> Events:
        """A new control connection that listens to these events; to be closed, or used in a ``with``."""
        events = self.connect_control(Events)
        assert isinstance(events, Events)
        try:
            events.subscribe(*names)
        except BaseException:
            events.close()
            raise
        return events

    def wait_until_listening(self, timeout: float = 20.0) -> None:
        """Wait for the control port, which opens last."""
        wait_until(self._is_listening, f"{self.name} listens", timeout)

    def wait_until_bootstrapped(self, percent: int = 100, timeout: float = 30.0) -> None:
        self.wait_until_listening(timeout)
        wait_until(lambda: self._progress() >= percent, f"{self.name} is at {percent} %", timeout)

    def _is_listening(self) -> bool:
        if not self.is_running:
            raise AssertionError(f"{self.name} ended: {self.log[-2000:]}")
        # While it starts, the socket or the cookie may be missing, or the cookie be that of its last life.
        with contextlib.suppress(OSError, ControlError):
            return bool(self.control)
        return False

    def _progress(self) -> int:
        if not self.is_running:
            raise AssertionError(f"{self.name} ended: {self.log[-2000:]}")
        return self.control.bootstrap()

    def _forget_control(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
