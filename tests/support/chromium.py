"""Chromium without a window, told what to do by its DevTools protocol over two pipes."""

import contextlib
import json
import os
import subprocess
import sys
import time

from support.programs import need

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)
# Chromium reads commands from descriptor 3, and writes answers to 4, which may be those that were passed.
_WITH_PIPES = (
    sys.executable,
    "-c",
    "import os, sys\n"
    "for source, to in ((int(sys.argv[1]), 100), (int(sys.argv[2]), 101), (100, 3), (101, 4)): os.dup2(source, to)\n"
    "os.execv(sys.argv[3], sys.argv[3:])",
)
PATIENCE = 60.0
"""Seconds: a browser takes long to start, and machines are busy."""


class CommandFailed(Exception):
    """Chromium did not do what it was told."""


class Chromium:
    """A browser with one page. Its profile is in `folder`."""

    def __init__(self, folder):
        program = need("chromium")
        read_commands, self._commands = os.pipe()
        self._answers, write_answers = os.pipe()
        self._process = subprocess.Popen(
            [*_WITH_PIPES, str(read_commands), str(write_answers), program, *FLAGS, f"--user-data-dir={folder}"],
            pass_fds=(read_commands, write_answers),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_commands)
        os.close(write_answers)
        self._number = 0
        self._session = None
        self._unread = b""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def call(self, method, **parameters):
        """Run a command of the DevTools protocol; its result."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while True:
            while b"\0" not in self._unread:
                data = os.read(self._answers, 1 << 16)
                assert data, "Chromium has ended"
                self._unread += data
            message, _, self._unread = self._unread.partition(b"\0")
            answer = json.loads(message)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise CommandFailed(answer)
                return answer["result"]

    def open(self, url):
        """Go to a page."""
        failed = self.call("Page.navigate", url=url).get("errorText")
        assert failed is None, failed

    def evaluate(self, script):
        """The value of an expression in the page; of a promise, what it leads to."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, script):
        """Wait until an expression has a true value; the value."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            # The page may go elsewhere meanwhile.
            with contextlib.suppress(CommandFailed):
                if value := self.evaluate(script):
                    return value
            time.sleep(0.1)
        raise AssertionError((script, self.evaluate("document.body.innerText")))

    def close(self):
        """End the browser."""
        with contextlib.suppress(AssertionError, CommandFailed, OSError):
            self._session = None
            self.call("Browser.close")
        self._process.wait(PATIENCE)
        os.close(self._commands)
        os.close(self._answers)
