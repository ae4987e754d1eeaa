"""
Change the file of a `~txsocksx_ext.server.auth.HashedPasswordFile`.

``python -m txsocksx_ext.server.passwords set FILE NAME`` asks twice for a
password, or reads one line of standard input if that is not a terminal, and adds
or replaces the user in FILE. ``remove FILE NAME`` removes the user. ``NAME``
alone prints the line ``NAME:HASH``.
"""

from __future__ import annotations

import getpass
import sys
from pathlib import Path

from .password_file import HASHER, set_user

_USAGE = """\
usage: python -m txsocksx_ext.server.passwords set FILE NAME     add or replace a user
       python -m txsocksx_ext.server.passwords remove FILE NAME  remove a user
       python -m txsocksx_ext.server.passwords NAME              print a user's line"""


def password_line(name: str, password: str) -> str:
    """
    Return one line of a password file.

    :raises ValueError: the name or the password is empty, or the name cannot be
        written in the file.
    """
    if not name or name.startswith("#") or not name.isprintable():
        raise ValueError(f"{name!r} cannot be a user's name: it is empty, begins with #, or is not printable")
    if not password:
        raise ValueError("the password is empty")
    return f"{name}:{HASHER.hash(password)}"


def main(arguments: list[str]) -> int:
    """Run the command. Returns its exit status."""
    try:
        match arguments:
            case ["set", file, name]:
                set_user(Path(file), name, password_line(name, _ask(name)))
            case ["remove", file, name]:
                if not set_user(Path(file), name, None):
                    raise ValueError(f"{file} has no user {name!r}")
            case [name] if not name.startswith("-"):
                print(password_line(name, _ask(name)))
            case _:
                print(_USAGE, file=sys.stderr)
                return 2
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _ask(name: str) -> str:
    """
    Ask for a new password.

    :raises ValueError: no password was given, or the second one differs.
    """
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    try:
        password, again = getpass.getpass(f"Password for {name}: "), getpass.getpass("Again: ")
    except EOFError:
        raise ValueError("no password was given: nothing was changed") from None
    if password != again:
        raise ValueError("the two passwords differ: nothing was changed")
    return password


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
