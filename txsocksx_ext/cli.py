"""
The command ``socks5ext``.
"""

from __future__ import annotations

import argparse
from typing import NoReturn

from . import __version__, run


class _Parser(argparse.ArgumentParser):
    """Tells errors in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(arguments: list[str] | None = None) -> None:
    """
    Do what the command line says.

    :param arguments: by default those of the process.
    :raises SystemExit: with the status of the process.
    """
    parser = _Parser(
        prog="socks5ext", description="Run Twisted programs through a proxy; twistd socks5ext is a server."
    )
    parser.add_argument("--version", action="version", version=f"socks5ext {__version__}")
    run.add_command(parser.add_subparsers(required=True, metavar="COMMAND"))
    options = parser.parse_args(arguments)
    options.command(options)


if __name__ == "__main__":
    main()
