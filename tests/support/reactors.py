"""
The kind of reactor on which tests and their servers run: ``TESTS_REACTOR=asyncio`` or ``uvloop``.

Otherwise it is Twisted's default for the platform.
"""

import os

from twisted.internet.tcp import Connection

from txsocksx_ext.net.poller import poller_of

CHOSEN = os.environ.get("TESTS_REACTOR", "")

BEFORE_TWISTD = {
    "": "",
    "asyncio": "from twisted.internet import asyncioreactor; asyncioreactor.install()",
    "uvloop": "import uvloop; from twisted.internet import asyncioreactor; "
    "asyncioreactor.install(uvloop.new_event_loop())",
}[CHOSEN]
"""What installs the reactor in a server."""


def install(config):
    """Install the reactor in pytest, before its plugin for Twisted does."""
    if CHOSEN:
        config.option.reactor = "asyncio"
        exec(BEFORE_TWISTD)


def connections_read_from():
    """The transports of all TCP connections of this process that are being read from."""
    from twisted.internet import reactor

    polled = (each for each in poller_of(reactor).watchers if getattr(each, "is_reading", False))
    return [each for each in (*reactor.getReaders(), *polled) if isinstance(each, Connection)]
