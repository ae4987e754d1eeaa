"""
Makes lines for a `~txsocksx_ext.server.auth.HashedPasswordFile`.

``python -m txsocksx_ext.server.passwords NAME`` asks for a password, or reads
one line of standard input where that is no terminal, and prints ``NAME:HASH``.
"""

from __future__ import annotations

import getpass
import sys

from argon2 import PasswordHasher


def password_line(name: str, password: str) -> str:
    """
    One line of a password file.

    :raises ValueError: the name or the password is empty, or the name cannot
        stand in the file.
    """
    if not name or name.startswith("#") or not name.isprintable():
        raise ValueError(f"{name!r} cannot be a user's name: it is empty, begins with #, or is not printable")
    if not password:
        raise ValueError("the password is empty")
    return f"{name}:{PasswordHasher().hash(password)}"


def main(arguments: list[str]) -> int:
    """Run the command. Returns its exit status."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m txsocksx_ext.server.passwords NAME >> FILE", file=sys.stderr)
        return 2
    password = getpass.getpass() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    try:
        print(password_line(arguments[0], password))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
