"""Two hundred connects of each kind, good and failing, leave nothing behind."""

import gc
import os
import weakref
from itertools import product

import pytest
from examples.raw_peers import proxy, target, until
from support.programs import free_port
from support.ways import listening_on_port
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.internet import reactor
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.protocol import Factory
from twisted.protocols.wire import Echo

from txsocksx_ext import Limits, RouteTable, errors, route_from_string
from txsocksx_ext.client.any_proxy import endpoint_through
from txsocksx_ext.client.proxies import proxy_of
from txsocksx_ext.server.auth import portal_for
from txsocksx_ext.testing import Recorder

TABLE = RouteTable([("192.0.2.1", route_from_string(reactor, "refuse"))], route_from_string(reactor, "direct"))
SCHEMES = ["socks5", "socks4a", "http"]
CASES = {
    "good": None,
    "refused": errors.ConnectionRefused,
    "forbidden": errors.ConnectionNotAllowed,
    "wrong password": errors.AuthenticationFailed,
    "no proxy": errors.SOCKS5Error,
    "proxy down": errors.ProxyRefused,
    "cancelled": (CancelledError, ConnectingCancelledError),
}


@pytest.mark.parametrize(
    ("scheme", "case"),
    # SOCKS4 has no passwords.
    [each for each in product(SCHEMES, CASES) if each != ("socks4a", "wrong password")],
)
async def test_two_hundred_connects_leave_nothing(scheme, case):
    expected = CASES[case]
    if scheme == "socks4a" and case in ("refused", "forbidden"):
        expected = errors.GeneralServerFailure  # it has one code
    is_login = case == "wrong password"
    checker = InMemoryUsernamePasswordDatabaseDontUse(user=b"right")
    portal = portal_for([checker]) if is_login else None
    login = "user:wrong@" if is_login else ""
    async with (
        listening_on_port(Factory.forProtocol(Echo)) as far,
        target() as no_proxy,
        proxy(portal=portal, policy=TABLE, limits=Limits(login_delay=1e-6)) as server,
    ):
        port = {"no proxy": no_proxy.port, "proxy down": free_port()}.get(case, server.port)
        host = "192.0.2.1" if case == "forbidden" else "127.0.0.1"
        target_port = free_port() if case == "refused" else far
        through = proxy_of(reactor, f"{scheme}://{login}127.0.0.1:{port}")

        async def connect():
            factory = Factory.forProtocol(Recorder)
            factory.noisy = False  # Twisted's log keeps its last events
            endpoint = endpoint_through(through, host, target_port, reactor=reactor)
            connecting = endpoint.connect(factory)
            if case == "cancelled":
                reactor.callLater(0, connecting.cancel)
            if case == "no proxy":
                (await no_proxy.accept()).close()
            if expected is None:
                protocol = await connecting
                protocol.close()
                await protocol.until(lambda each: each.lost)
            else:
                with pytest.raises(expected):
                    await connecting
            return [weakref.ref(factory), weakref.ref(endpoint), weakref.ref(connecting)]

        await connect()
        await until(lambda: not server.factory.connections)
        open_before, calls_before = len(os.listdir("/proc/self/fd")), len(reactor.getDelayedCalls())
        left = []
        for _ in range(200):
            left += await connect()
        # Until the end of the last connections has reached their owners.
        await until(lambda: gc.collect() >= 0 and not any(each() for each in left))
        await until(lambda: not server.factory.connections)
        await until(lambda: len(os.listdir("/proc/self/fd")) <= open_before)
        await until(lambda: len(reactor.getDelayedCalls()) <= calls_before)
