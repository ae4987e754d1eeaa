"""A small blocking client of tor's control port: no reactor, so that fixtures and plain tests can use it."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from types import TracebackType


class ControlError(Exception):
    """Tor refused a command; ``code`` is its number (such as 552)."""

    def __init__(self, line: str) -> None:
        super().__init__(line)
        self.code = int(line[:3]) if line[:3].isdigit() else 0


class Control:
    """
    One connection to a control port, authenticated.

    :param address: the path of a unix socket, or (host, port).
    :param cookie: the cookie file; or
    :param password: the password. With neither, tor must want none.
    """

    def __init__(
        self,
        address: str | Path | tuple[str, int],
        *,
        cookie: Path | None = None,
        password: str | None = None,
        timeout: float = 15.0,
    ) -> None:
        self._timeout = timeout
        self._lock = threading.Lock()
        self._unread = b""
        if isinstance(address, tuple):
            self._socket = socket.create_connection(address, timeout)
        else:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(timeout)
        try:
            if not isinstance(address, tuple):
                self._socket.connect(str(address))
            if cookie is not None:
                self.command(f"AUTHENTICATE {cookie.read_bytes().hex()}")
            else:
                self.command(f'AUTHENTICATE "{password}"' if password is not None else "AUTHENTICATE")
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Control:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def command(self, line: str) -> list[str]:
        """Send a command; the lines of its answer without their numbers. `ControlError` where tor refuses."""
        with self._lock:
            self._socket.sendall(line.encode() + b"\r\n")
            answer: list[str] = []
            deadline = time.monotonic() + self._timeout
            while True:
                received = self._reply_line(deadline)
                if received[0] == "6":
                    continue
                answer.append(received[4:])
                if received[3] == "+":
                    answer += self._data_lines(deadline)
                elif received[3] == " ":
                    if received[0] != "2":
                        raise ControlError(received)
                    return answer

    def info(self, key: str) -> str:
        """The value of ``GETINFO key``; more than one line are joined by newlines."""
        lines = self.command(f"GETINFO {key}")[:-1]
        return "\n".join([lines[0].partition("=")[2], *lines[1:]]).strip("\n")

    def set_conf(self, **options: object) -> None:
        """``SETCONF``: ``set_conf(DisableNetwork=0)``."""
        self.command("SETCONF " + " ".join(f'{name}="{value}"' for name, value in options.items()))

    def bootstrap(self) -> int:
        """How far tor has come, in percent."""
        return int(self.info("status/bootstrap-phase").partition("PROGRESS=")[2].split()[0])

    def _data_lines(self, deadline: float) -> list[str]:
        lines = []
        while (line := self._read_line(deadline)) != ".":
            lines.append(line.removeprefix("."))
        return lines

    def _reply_line(self, deadline: float) -> str:
        line = self._read_line(deadline)
        if len(line) < 4:
            raise ControlError(f"not an answer: {line!r}")
        return line

    def _read_line(self, deadline: float) -> str:
        while b"\r\n" not in self._unread:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            received = self._socket.recv(65536)
            if not received:
                raise ConnectionError("tor closed the control connection")
            self._unread += received
        line, _, self._unread = self._unread.partition(b"\r\n")
        return line.decode("utf-8", "replace")


class Events(Control):
    """
    A control connection of its own that only listens to events. ::

        with network.client.events("STREAM", "HS_DESC") as events:
            ...
            line = events.wait_for("HS_DESC FAILED", "REASON=NOT_FOUND")

    ``seen`` has every event line that was read, without its 650.
    """

    seen: list[str]

    def __enter__(self) -> Events:
        return self

    def subscribe(self, *names: str) -> None:
        self.seen = []
        self.command("SETEVENTS " + " ".join(names))

    def wait_for(self, *parts: str, timeout: float = 15.0) -> str:
        """The first event that holds all of ``parts``, among those seen and those to come."""
        for line in self.seen:
            if all(part in line for part in parts):
                return line
        deadline = time.monotonic() + timeout
        while True:
            line = self.read(deadline, f"an event with {parts}")
            if all(part in line for part in parts):
                return line

    def read(self, deadline: float, what: str = "an event") -> str:
        """The next event."""
        try:
            line = self._read_line(deadline)
        except TimeoutError:
            raise AssertionError(f"{what} did not come, but {self.seen}") from None
        self.seen.append(line[4:])
        if line[3] == "+":
            self.seen += self._data_lines(deadline)
        return line[4:]
