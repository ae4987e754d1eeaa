"""
Stay connected to a service behind a proxy, with Twisted's ClientService.

python stay_connected.py HOST PORT PROXY
"""

import sys

from twisted.application.internet import ClientService, backoffPolicy
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import clientFromString
from twisted.internet.protocol import Factory
from twisted.internet.task import react
from twisted.protocols.basic import LineOnlyReceiver

from txsocksx_ext import SOCKS5ClientEndpoint
from txsocksx_ext.errors import InvalidArguments, OnionAddressInvalid, TransportProtocolFailure

HOPELESS = (InvalidArguments, OnionAddressInvalid, TransportProtocolFailure)
"""Failures that a retry cannot fix."""


class Listener(LineOnlyReceiver):
    delimiter = b"\n"

    def connectionMade(self):
        self.first_line = Deferred()

    def lineReceived(self, line):
        if not self.first_line.called:
            self.first_line.callback(line)


class ReportingEndpoint(SOCKS5ClientEndpoint):
    """Reports each failure: ClientService retries without looking at the reason."""

    def __init__(self, failed, *arguments):
        super().__init__(*arguments)
        self.failed = failed

    def connect(self, factory):
        return super().connect(factory).addErrback(self.failed)


async def main(reactor, host, port, proxy):
    def failed(failure):
        if failure.check(*HOPELESS):
            print("gave up:", failure.value)
            reactor.callLater(0, service.stopService)
        else:
            print("attempt failed:", failure.value)
        return failure

    methods = {"extended": {}, "anonymous": ()}
    endpoint = ReportingEndpoint(failed, host, int(port), clientFromString(reactor, proxy), methods)
    policy = backoffPolicy(initialDelay=0.1, maxDelay=60)
    service = ClientService(endpoint, Factory.forProtocol(Listener), retryPolicy=policy, clock=reactor)
    service.startService()
    try:
        listener = await service.whenConnected()
    except CancelledError:
        return
    print("first line:", (await listener.first_line).decode())
    await service.stopService()


if __name__ == "__main__":
    react(main, sys.argv[1:])
