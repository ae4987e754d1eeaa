"""
Moving bytes between sockets without copying them: splice(2).
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from errno import EINVAL, ENOSYS, EPERM

PIPE_SIZE = 1 << 20
"""Bytes that are moved at once: the largest pipe of an unprivileged user."""

_SET_SIZE = getattr(fcntl, "F_SETPIPE_SZ", 1031)
_FLAGS = getattr(os, "SPLICE_F_NONBLOCK", 0) | getattr(os, "SPLICE_F_MOVE", 0)

_CLOSED = -1

_NOT_POSSIBLE = (EINVAL, ENOSYS, EPERM)
"""The errors of splice where it does not work."""


class Pipe:
    """
    A pipe that is empty between calls, so that one serves all sockets.

    It moves nothing if the system has no pipe of `PIPE_SIZE`.
    """

    def __init__(self) -> None:
        self._exit = self._entry = _CLOSED
        with suppress(OSError):
            self._exit, self._entry = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.fcntl(self._entry, _SET_SIZE, PIPE_SIZE)
            except OSError:
                self.close()

    def move(self, source: int, target: int, most: int) -> tuple[int, bytes]:
        """
        Move what is available from one socket's descriptor to another's.

        An error of the target is ignored here; the next write to it reports it.

        :param most: the largest number of bytes.
        :returns: the number of bytes that were read, and those of them that the target
            did not accept.
        :raises OSError: the source's connection is lost. The system reports that only once.
        """
        if self._entry == _CLOSED:
            return 0, b""
        try:
            count = left = os.splice(source, self._entry, most, flags=_FLAGS)
        except BlockingIOError:
            return 0, b""
        except OSError as error:
            if error.errno not in _NOT_POSSIBLE:
                raise
            self.close()
            return 0, b""
        with suppress(OSError):
            while left:
                left -= os.splice(self._exit, target, left, flags=_FLAGS)
        return count, self._take_out(left) if left else b""

    def close(self) -> None:
        """Close the pipe. After this it moves nothing."""
        if self._entry != _CLOSED:
            os.close(self._exit)
            os.close(self._entry)
            self._exit = self._entry = _CLOSED

    def _take_out(self, count: int) -> bytes:
        try:
            return os.read(self._exit, count)
        except BaseException:  # of any kind: bytes of one stream must never reach another
            self.close()
            raise
