"""
Files that hold secrets: how they are read, and who else can read them.
"""

from __future__ import annotations

import codecs
import os
import stat
from functools import lru_cache
from pathlib import Path

from twisted.logger import Logger

from .state_folders import lets_others_replace

_log = Logger()


def read_secret_file(path: Path) -> tuple[bytes, os.stat_result]:
    """
    Read a file of secrets, and warn if users who should not can read or change it.

    :returns: the content without a UTF-8 byte order mark, which some editors
        write, and the status that the file had before it was read.
    :raises OSError: it cannot be read.
    :raises ValueError: it is UTF-16.
    """
    # In this order, so that a change meanwhile shows when the status is looked at again.
    status = path.stat()
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(f"{path} is UTF-16: save it as UTF-8")
    _warn_of_access(path, status)
    return content.removeprefix(codecs.BOM_UTF8), status


def _warn_of_access(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):  # such as a pipe, which has the mode that its maker cannot choose
        return
    if status.st_mode & stat.S_IROTH:
        warn_once(f"{path} can be read by every user of this machine: chmod o-r {path}")
    if status.st_mode & stat.S_IWOTH:
        warn_once(f"{path} can be changed by every user of this machine: chmod o-w {path}")
    folder = path.resolve().parent
    if lets_others_replace(folder):
        warn_once(f"{path} can be replaced by every user of this machine: chmod o-w {folder}")


@lru_cache(maxsize=256)
def warn_once(warning: str) -> None:
    """Log a warning, unless it was logged before: a server reads its files several times while it starts."""
    _log.warn("{warning}", warning=warning)
