"""
Stay connected to a service behind a proxy. The log, on standard error, says why an attempt failed.

python stay_connected.py HOST PORT PROXY
"""

import sys

from twisted.application.internet import backoffPolicy
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString
from twisted.internet.protocol import Factory
from twisted.internet.task import react
from twisted.logger import (
    FilteringLogObserver,
    LogLevel,
    LogLevelFilterPredicate,
    globalLogBeginner,
    textFileLogObserver,
)
from twisted.protocols.basic import LineOnlyReceiver

from txsocksx_ext import ReconnectingClientService, SOCKS5ClientEndpoint
from txsocksx_ext.errors import SOCKS5Error


class Listener(LineOnlyReceiver):
    delimiter = b"\n"

    def connectionMade(self):
        self.first_line = Deferred()

    def lineReceived(self, line):
        if not self.first_line.called:
            self.first_line.callback(line)


async def main(reactor, host, port, proxy):
    from_warnings_on = [LogLevelFilterPredicate(LogLevel.warn)]
    observer = FilteringLogObserver(textFileLogObserver(sys.stderr), from_warnings_on)
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
    methods = {"extended": {}, "anonymous": ()}
    endpoint = SOCKS5ClientEndpoint(host, int(port), clientFromString(reactor, proxy), methods)
    policy = backoffPolicy(initialDelay=0.1, maxDelay=60)
    service = ReconnectingClientService(endpoint, Factory.forProtocol(Listener), policy)
    service.startService()
    try:
        listener = await service.whenConnected()
    except SOCKS5Error as error:
        sys.exit(f"gave up: {error}")
    print("first line:", (await listener.first_line).decode())
    await service.stopService()


if __name__ == "__main__":
    react(main, sys.argv[1:])
