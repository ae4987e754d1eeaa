"""
Which tests run at the same time, where several processes run them: ``make pytest JOBS=3``.

A process runs a file in its order, then the next one. The files that use the private Tor network are as one file:
the network is started once, and has clocks of its own, for which one such test at a time is enough.
"""

from functools import cache

from xdist.scheduler import LoadFileScheduling


@cache
def uses_tor_network(path):
    """Return whether a test in this file takes the fixture ``tor_network``."""
    return "tor_network" in path.read_text()


class Dividing(LoadFileScheduling):
    """What pytest-xdist's ``--dist=loadfile`` is, with all files that use the Tor network together."""

    def _split_scope(self, nodeid):
        file = super()._split_scope(nodeid)
        return "the Tor network" if uses_tor_network(self.config.rootpath / file) else file
