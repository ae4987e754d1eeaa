"""
The clients: a process of its own for each measurement.

Run it with the client's name, the ports of the proxy and of an echo, and seconds. Connections 20 at a time, each with
a byte there and back; it writes one line of JSON.
"""

import asyncio
import json
import sys
import time

AT_ONCE = 20
WARM_UP = 0.3
"""Seconds, before anything is counted."""
TOO_MANY = 50
"""Failures after which it is over."""


class Tally:
    """How many connections there were from when on, and what they cost this process."""

    def __init__(self, seconds):
        self._counts_from = time.monotonic() + WARM_UP
        self._ends = self._counts_from + seconds
        self._is_warm = False
        self.done = self.failed = 0
        self.error = None
        self._begin()

    def _begin(self):
        self._began, self._cpu_before = time.monotonic(), time.process_time()
        self.done = 0

    def goes_on(self):
        now = time.monotonic()
        if not self._is_warm and now >= self._counts_from:
            self._is_warm = True
            self._begin()
        # However short the time was, some are counted.
        return (now < self._ends or self.done < AT_ONCE) and self.failed < TOO_MANY

    def fail(self, error):
        self.failed += 1
        self.error = self.error or f"{type(error).__name__}: {error}"

    def report(self):
        took, cpu = time.monotonic() - self._began, time.process_time() - self._cpu_before
        done = self.done
        return {
            "done": done,
            "failed": self.failed,
            "error": self.error,
            "per_second": done / took,
            "cpu_us": cpu / done * 1e6 if done else None,
        }


def with_twisted(endpoint_of, tally):
    """The same application on each endpoint."""
    from twisted.internet import reactor
    from twisted.internet.protocol import Factory, Protocol

    class Application(Protocol):
        def connectionMade(self):
            self.answered = False
            self.transport.write(b"x")

        def dataReceived(self, data):
            self.answered = True
            self.transport.loseConnection()

        def connectionLost(self, reason):
            if self.answered:
                tally.done += 1
            else:
                tally.fail(reason.value)
            begin()

    factory = Factory.forProtocol(Application)
    factory.noisy = False
    open_now = AT_ONCE

    def failed(failure):
        tally.fail(failure.value)
        # Not at once, or a proxy that is gone would keep us in here.
        reactor.callLater(0.01, begin)

    def begin():
        nonlocal open_now
        if tally.goes_on():
            endpoint_of(reactor).connect(factory).addErrback(failed)
        else:
            open_now -= 1
            if not open_now:
                reactor.stop()

    for _ in range(AT_ONCE):
        reactor.callWhenRunning(begin)
    reactor.run()


def socks5ext(proxy_port, target_port, tally):
    from twisted.internet.endpoints import TCP4ClientEndpoint

    from txsocksx_ext import SOCKS5ClientEndpoint

    def endpoint(reactor):
        return SOCKS5ClientEndpoint("127.0.0.1", target_port, TCP4ClientEndpoint(reactor, "127.0.0.1", proxy_port))

    with_twisted(endpoint, tally)


def txtorcon(proxy_port, target_port, tally):
    from twisted.internet.endpoints import TCP4ClientEndpoint
    from txtorcon.socks import TorSocksEndpoint

    def endpoint(reactor):
        return TorSocksEndpoint(TCP4ClientEndpoint(reactor, "127.0.0.1", proxy_port), "127.0.0.1", target_port)

    with_twisted(endpoint, tally)


def python_socks(proxy_port, target_port, tally):
    from python_socks.async_.asyncio import Proxy

    class Application(asyncio.Protocol):
        def __init__(self):
            self.answered = False
            self.lost = asyncio.get_running_loop().create_future()

        def connection_made(self, transport):
            self.transport = transport
            transport.write(b"x")

        def data_received(self, data):
            self.answered = True
            self.transport.close()

        def connection_lost(self, error):
            self.lost.set_result(None)

    async def one_after_another():
        loop = asyncio.get_running_loop()
        while tally.goes_on():
            try:
                sock = await Proxy.from_url(f"socks5://127.0.0.1:{proxy_port}").connect("127.0.0.1", target_port)
                _, application = await loop.create_connection(Application, sock=sock)
                await application.lost
                if not application.answered:
                    raise ConnectionError("closed")
                tally.done += 1
            except Exception as error:  # it has exceptions of its own
                tally.fail(error)

    async def all_at_once():
        await asyncio.gather(*(one_after_another() for _ in range(AT_ONCE)))

    asyncio.run(all_at_once())


CLIENTS = {"socks5ext": socks5ext, "txtorcon": txtorcon, "python-socks": python_socks}


if __name__ == "__main__":
    name, *ports, seconds = sys.argv[1:]
    tally = Tally(float(seconds))
    CLIENTS[name](*map(int, ports), tally)
    print(json.dumps(tally.report()))
