"""The generator and the target, as the bench talks to them."""

import json
import os
import subprocess
import sys
from pathlib import Path

TESTS = str(Path(__file__).parent.parent)


def environment():
    """That of a process which runs a module of the bench."""
    return {**os.environ, "PYTHONPATH": TESTS}


class Worker:
    """A process that takes one command a line. It ends when its standard input does, whatever ends us."""

    def __init__(self, module, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"bench.{module}", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
            # Ctrl-C is for the bench, which then ends this.
            start_new_session=True,
        )

    @property
    def pid(self):
        return self.process.pid

    def begin(self, name, **arguments):
        """Begin a command; `result` has what it comes to."""
        self.process.stdin.write(json.dumps({"do": name, **arguments}) + "\n")
        self.process.stdin.flush()

    def result(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args[2]} has ended")
        return json.loads(line)

    def call(self, name, **arguments):
        self.begin(name, **arguments)
        return self.result()

    def stop(self):
        self.process.kill()
        self.process.communicate()
