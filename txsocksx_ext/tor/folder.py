"""
The data folder of a launched tor, locked while a server uses it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path

from ..state_folders import private_folder

PREFIX = "socks5ext-tor-"
"""The prefix of the names of temporary folders."""

_LOCK = "socks5ext.lock"
_LOCK_OF_TOR = "lock"


class FolderInUse(Exception):
    """Another server uses this folder."""


class StateFolder:
    """
    A folder for tor's data, with a lock that the system releases when this process ends.

    :param path: the path; ``None`` for a temporary folder, which `close` removes.
    :raises FolderInUse: another process uses it.
    :raises OSError: it cannot be created or used, or other users can write to it or replace it.
    """

    def __init__(self, path: str | None) -> None:
        self._is_temporary = path is None
        if path is None:
            remove_stale_folders()
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        else:
            self.path = private_folder(Path(path))
        lock = self.path / _LOCK
        # In a temporary folder the lock file gets its name only once it is locked: until then, another server must
        # not take the folder for stale.
        made = self.path / f"{_LOCK}.new" if self._is_temporary else lock
        self._lock = os.open(made, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            self._take(lock)
            made.rename(lock)
        except (OSError, FolderInUse):
            os.close(self._lock)
            raise

    def _take(self, lock: Path) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(self._lock, 20, 0).decode("ascii", "replace").strip()
            raise FolderInUse(
                f"state={self.path} is in use by another server (process {pid or 'unknown'}):"
                " give each server a folder of its own"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, b"%d\n" % os.getpid(), 0)

    def close(self) -> None:
        """Unlock the folder; remove a temporary one."""
        if self._is_temporary:
            shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def remove_stale_folders() -> None:
    """
    Remove the temporary folders of servers that were killed.

    Only folders of this user with our lock file are removed, and only if neither the server nor its tor holds a lock.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            if _is_stale(folder):
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # another user's, or removed by another server
            continue


def _is_stale(folder: Path) -> bool:
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        return False
    return _is_unlocked(folder / _LOCK) and (
        not (folder / _LOCK_OF_TOR).exists() or _is_unlocked(folder / _LOCK_OF_TOR)
    )


def _is_unlocked(file: Path) -> bool:
    """Return whether no process holds a lock on a file."""
    descriptor = os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
