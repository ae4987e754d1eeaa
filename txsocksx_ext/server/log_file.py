"""
A log file with rotation.

Twisted's own `LogFile` renames devices, cannot open a FIFO, and keeps writing
to a file that another program has moved away.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import threading

from twisted.logger import Logger

ROTATE_AT = 1_000_000
"""Bytes after which a file is rotated, as by Twisted's own."""

_log = Logger(namespace="txsocksx_ext.server")


class LogFile:
    """
    Append to a file, and rotate it: ``NAME`` becomes ``NAME.1``, that ``NAME.2``, and so on.

    Only a regular file is rotated, never a FIFO, a device or a symlink.

    :param path: the path of the file, which is created if it does not exist.
    :param rotate_at: the size in bytes from which the file is rotated.
    :raises OSError: the file cannot be opened.
    """

    def __init__(self, path: str, rotate_at: int = ROTATE_AT) -> None:
        self._path = os.path.abspath(path)
        self._rotate_at = rotate_at
        self._is_rotated_by_others = False
        # Other threads log too.
        self._lock = threading.RLock()
        self._take(_opened(self._path, None))

    def write(self, text: str) -> None:
        """
        Append text in UTF-8. The text is lost if the file is a FIFO without a reader.

        :raises OSError: the text cannot be written.
        :raises UnicodeEncodeError: the text has surrogates.
        """
        data = text.encode("utf-8")
        with self._lock:
            if self._size >= self._rotate_at and self._is_regular and not self._is_rotated_by_others:
                self.reopen_or_rotate()
            with contextlib.suppress(BrokenPipeError):
                while data:
                    written = os.write(self._descriptor, data)
                    self._size += written
                    data = data[written:]

    def flush(self) -> None:
        """Do nothing: no text is buffered."""

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            os.close(self._descriptor)

    def reopen_or_rotate(self) -> None:
        """
        Begin a new file: open the path again if the file was moved away, else rotate it.

        Once another program has moved the file away, it is not rotated by size any
        more: two programs that rotate one file would use each other's numbers. If no
        new file can be opened, the old one is kept.
        """
        with self._lock:
            # If this fails, try again after `rotate_at` more bytes.
            self._size = 0
            try:
                if self._is_moved():
                    self._is_rotated_by_others = True
                elif self._is_regular:
                    _shift(self._path)
                else:
                    return
                mode = stat.S_IMODE(os.fstat(self._descriptor).st_mode)
                opened = _opened(self._path, mode if self._is_regular else None)
            except OSError as error:
                _log.warn("the log {path} cannot be begun anew: {reason}", path=self._path, reason=error.strerror)
                return
            os.close(self._descriptor)
            self._take(opened)

    def _take(self, descriptor: int) -> None:
        """Write to this descriptor from now on."""
        status = os.fstat(descriptor)
        self._descriptor = descriptor
        self._size = status.st_size
        self._is_regular = stat.S_ISREG(status.st_mode) and not os.path.islink(self._path)

    def _is_moved(self) -> bool:
        """Return whether the path no longer leads to the open file."""
        try:
            return not os.path.samestat(os.stat(self._path), os.fstat(self._descriptor))
        except FileNotFoundError:
            return True


def _opened(path: str, mode: int | None) -> int:
    """
    Open a file to append to; return its descriptor.

    :param mode: the permissions of a file that is created; by default the umask decides.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY
    try:
        is_fifo = stat.S_ISFIFO(os.stat(path).st_mode)
    except FileNotFoundError:
        descriptor = os.open(path, flags | os.O_CREAT, 0o666 if mode is None else 0o600)
        if mode is not None:
            os.fchmod(descriptor, mode)
        return descriptor
    if not is_fifo:
        return os.open(path, flags)
    # Without a reader, opening a FIFO would block.
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.open(path, flags)
    finally:
        os.close(reader)


def _shift(path: str) -> None:
    """Rename a file to ``NAME.1``, after renaming the numbered files."""
    folder, name = os.path.split(path)
    numbers = (re.fullmatch(re.escape(name) + r"\.(\d+)", each) for each in os.listdir(folder))
    for number in sorted((int(match[1]) for match in numbers if match), reverse=True):
        os.rename(f"{path}.{number}", f"{path}.{number + 1}")
    os.rename(path, f"{path}.1")
