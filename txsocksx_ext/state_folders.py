"""
Folders that keep a program's state, such as keys: nobody else may change what is in them.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path


class UnsafeFolder(PermissionError):
    """Other users can change what a folder holds, or which folder stands at its path."""


def private_folder(path: Path) -> Path:
    """
    Return a folder that only this user can write to; create it if it does not exist.

    :raises UnsafeFolder: it, or a folder above it, is one that other users can write
        to or replace, or it is a symbolic link.
    :raises OSError: it cannot be created, or is a file.
    """
    missing = [each for each in (path, *path.parents) if not os.path.lexists(each)]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        raise UnsafeFolder(f"{path} is a symbolic link: give the folder to which it leads")
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(f"{path} is not a folder")
    if status.st_uid not in (os.geteuid(), 0):
        raise UnsafeFolder(f"{path} belongs to another user: give a folder of your own")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UnsafeFolder(f"{path} can be written to by other users: check what it holds, then chmod go-w {path}")
    for folder in path.resolve().parents:
        if lets_others_replace(folder):
            raise UnsafeFolder(f"{path} can be replaced by other users: chmod o-w {folder}")
    return path


def lets_others_replace(folder: Path) -> bool:
    """
    Return whether every user of this machine can replace what a folder holds.

    In a sticky folder, such as /tmp, users can replace only what they own.
    """
    mode = folder.stat().st_mode
    return bool(mode & stat.S_IWOTH) and not mode & stat.S_ISVTX
