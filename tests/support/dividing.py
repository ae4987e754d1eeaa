"""
Which tests run at the same time, where several processes run them: ``make pytest JOBS=2``.

A process runs a file in its order, then the next one. `tests/real` is as one file: those tests share a private Tor
network, and real programs have clocks of their own, for which one such test at a time is enough.
"""

from pathlib import PurePosixPath

from xdist.scheduler import LoadFileScheduling

REAL = PurePosixPath("tests/real")


class Dividing(LoadFileScheduling):
    """What pytest-xdist's ``--dist=loadfile`` is, with real programs together."""

    def _split_scope(self, nodeid):
        file = super()._split_scope(nodeid)
        return str(REAL) if REAL in PurePosixPath(file).parents else file
