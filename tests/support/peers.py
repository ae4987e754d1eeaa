"""
Programs of ``make test-peers`` (browsers, Node, applications), and the table of the versions that were tested.

A module of `tests/peers` names its program: ``pytestmark = peer("tinyproxy", version_from("tinyproxy", "-v"))``.
"""

import datetime
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.programs import need

_HEAD = """\
.. This is written by a test run: make test-peers

Last run on {date}, on {system} with Python {python}, Twisted {twisted}:

.. list-table::
   :header-rows: 1

   * - program
     - version
     - tests
     - result
"""


def peer(name, version):
    """
    Return the mark of tests with this program, which puts it into the table.

    :param name: as the table names it.
    :param version: called without arguments after the tests; returns the version as text.
    """
    return pytest.mark.peer(name, version)


def version_from(program, *arguments):
    """Return a function that finds the version in what `program` prints when started with these arguments."""

    def version():
        printed = subprocess.run([need(program), *arguments], capture_output=True, text=True, timeout=60)
        return re.search(r"\d+(\.\w+)+", printed.stdout + printed.stderr)[0]

    return version


def version_of_package(name):
    """Return a function that returns the version of a Python package."""
    return lambda: importlib.metadata.version(name)


class Results:
    """The outcomes of a run, for each program."""

    def __init__(self):
        self._outcomes = {}

    def add(self, mark, outcome):
        """Count a test (``passed``, ``failed``, ``skipped``) for the program of its mark."""
        name, version = mark.args
        _, outcomes = self._outcomes.setdefault(name, (version, []))
        outcomes.append(outcome)

    def text(self):
        """Return the table as reStructuredText."""
        system = re.search(r'^PRETTY_NAME="?([^"\n]+)', Path("/etc/os-release").read_text(), re.M)[1]
        lines = [
            _HEAD.format(
                date=datetime.date.today(),
                system=system,
                python=".".join(map(str, sys.version_info[:3])),
                twisted=importlib.metadata.version("Twisted"),
            )
        ]
        for name, (version, outcomes) in sorted(self._outcomes.items(), key=lambda item: item[0].lower()):
            ran = [each for each in outcomes if each != "skipped"]
            result = "not installed" if not ran else "failed" if "failed" in ran else "passed"
            for number, cell in enumerate([name, version() if ran else "", str(len(ran)), result]):
                lines.append(f"   {' ' if number else '*'} - {cell}".rstrip() + "\n")
        return "".join(lines)
