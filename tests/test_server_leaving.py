"""Clients of the server that leave, or stop talking."""

import pytest
from examples.raw_peers import (
    GREET_ANONYMOUS,
    GREET_EXTENDED,
    GREET_LOGIN,
    RESOLVE,
    HeldRoute,
    ReactorWith,
    login,
    pairs,
    proxy,
    request,
    target,
    turn,
    until,
)
from support.answers import reply, table
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from txsocksx_ext import Limits, Route, RouteTable, SOCKS5ExtFactory, open_transport
from txsocksx_ext.route.refuse import RefuseRoute
from txsocksx_ext.server.connection import CANCELLED_WITHIN

# A client that leaves.


class Held(SOCKS5ExtFactory):
    """A server of which one decision is the test's."""

    held = ""

    def _hold(self, name):
        assert name == self.held
        self.cancelled = False
        self.decision = Deferred(lambda _: setattr(self, "cancelled", True))
        return self.decision

    def authenticate(self, session):
        return self._hold("authenticate") if self.held == "authenticate" else None

    def route(self, session):
        return self._hold("route") if self.held == "route" else super().route(session)


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ("authenticate", GREET_ANONYMOUS),
        ("authenticate", GREET_LOGIN + login(b"u", b"p")),
        ("authenticate", GREET_EXTENDED + pairs()),
        ("route", GREET_ANONYMOUS + request("192.0.2.1", 80)),
        ("route", GREET_ANONYMOUS + request("192.0.2.1", 80, RESOLVE)),
    ],
)
async def test_a_decision_is_cancelled_when_its_client_leaves(held, said):
    factory = Held(reactor)
    factory.held = held
    async with proxy(factory) as server:
        client = await server.connect()
        client.send(said)
        await until(lambda: hasattr(factory, "decision"))
        client.abort()
        await until(lambda: not factory.connections)
        assert factory.cancelled


async def test_a_connection_on_its_way_is_given_up_when_its_client_leaves():
    route = HeldRoute()
    async with proxy(policy=table(route)) as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request("192.0.2.1", 80))
        await route.asked.get()
        client.abort()
        await until(lambda: not server.factory.connections)
        assert route.cancelled == 1


@pytest.mark.deadline(10.0)
async def test_a_reset_that_twisted_takes_for_an_end_gives_the_connection_up_too():
    # See the test of the same in test_relay_streams.py.
    route = HeldRoute()
    async with proxy(policy=table(route), limits=Limits(connect_timeout=600)) as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request("192.0.2.1", 80))
        await route.asked.get()
        assert await client.read(2) == b"\x05\x00"
        (session,) = server.factory.connections
        session.transport.stopReading()
        client.abort()
        await client.lost()
        session.transport.readConnectionLost(Failure(ConnectionDone()))
        await until(lambda: not server.factory.connections)
        assert route.cancelled == 1


class Unstoppable(Deferred):
    """Takes no notice of being cancelled."""

    def cancel(self):
        pass


class StubbornRoute:
    """A route that cannot be stopped: it connects although it was cancelled."""

    def __init__(self, port):
        self.port = port
        self.asked = Deferred()
        self.go_on = Unstoppable()

    def connect(self, request, addresses, session):
        return Deferred.fromCoroutine(self._connect())

    async def _connect(self):
        self.asked.callback(None)
        try:
            await Deferred()
        except CancelledError:
            await self.go_on
        return await open_transport(TCP4ClientEndpoint(reactor, "127.0.0.1", self.port))


async def test_a_connection_that_comes_too_late_is_closed():
    async with target() as far:
        route = StubbornRoute(far.port)
        async with proxy(policy=table(route)) as server:
            client = await server.connect()
            client.send(GREET_ANONYMOUS + request("192.0.2.1", 80))
            await route.asked
            client.abort()
            await until(lambda: not server.factory.connections)
            route.go_on.callback(None)
            end = await far.accept()
            assert isinstance(await end.lost(), (ConnectionDone, ConnectionLost))


class FaultyCancelRoute(HeldRoute):
    """A route whose connection fails to be cancelled."""

    def _cancel(self, pending):
        super()._cancel(pending)
        raise ZeroDivisionError


@pytest.mark.logs_errors
async def test_a_connection_that_fails_to_be_cancelled_is_forgotten_all_the_same():
    route = FaultyCancelRoute()
    async with proxy(policy=table(route)) as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request("192.0.2.1", 80))
        await route.asked.get()
        client.abort()
        await until(lambda: not server.factory.connections)
        assert server.factory.counters.now == 0


@pytest.mark.logs_errors
async def test_a_connection_that_fails_to_be_cancelled_does_not_keep_the_others_from_stopping():
    faulty, held = FaultyCancelRoute(), HeldRoute()
    clock = Clock()
    factory = SOCKS5ExtFactory(ReactorWith(clock=clock), policy=RouteTable([("192.0.2.1", faulty)], held))
    async with proxy(factory) as server:
        clients = []
        for host, route in (("192.0.2.1", faulty), ("192.0.2.2", held)):
            client = await server.connect()
            client.send(GREET_ANONYMOUS + request(host, 80))
            await route.asked.get()
            await turn()
            clients.append(client)
        drained = factory.drain(10)
        assert (faulty.cancelled, held.cancelled) == (1, 1)
        for client in reversed(clients):
            assert await client.read_to_end() == b"\x05\x00" + reply(0x01)
            client.close()
            # The one that did not end is waited for a moment longer.
            clock.advance(CANCELLED_WITHIN)
        await drained


@pytest.mark.parametrize("kind", ["one that cannot be stopped", "one that fails to be cancelled"])
@pytest.mark.logs_errors
async def test_a_client_is_answered_in_time_by_whatever_route(kind):
    clock = Clock()
    async with target() as far:
        stubborn = StubbornRoute(far.port)
        route = FaultyCancelRoute() if kind == "one that fails to be cancelled" else stubborn
        limits = Limits(connect_timeout=20, linger=5)
        async with proxy(reactor=ReactorWith(clock=clock), policy=table(route), limits=limits) as server:
            client = await server.connect()
            client.send(GREET_ANONYMOUS + request("192.0.2.1", 80))
            await (route.asked if route is stubborn else route.asked.get())
            await turn()
            clock.advance(20)
            await turn(3)
            # A route that was cancelled has a moment to say why it failed.
            assert client.unread == b"\x05\x00"
            clock.advance(CANCELLED_WITHIN)
            assert await client.read_to_end() == b"\x05\x00" + reply(0x06)
            if route is stubborn:
                # What it connects at last is for nobody.
                stubborn.go_on.callback(None)
                end = await far.accept()
                await end.lost()
            client.half_close()
            await until(lambda: not server.factory.connections)
            assert server.factory.counters.failed == 1


@pytest.mark.deadline(10.0)
@pytest.mark.parametrize("said", [GREET_LOGIN + login(b"u", b"p"), GREET_EXTENDED + pairs()], ids=["a login", "pairs"])
async def test_a_client_that_says_no_more_before_it_is_let_in_gives_up_its_place(said):
    factory = Held(reactor, limits=Limits(handshake_timeout=600))
    factory.held = "authenticate"
    async with proxy(factory) as server:
        client = await server.connect()
        client.send(said)
        client.half_close()
        await until(lambda: hasattr(factory, "decision"))
        await until(lambda: not factory.connections)
        assert factory.cancelled


async def test_a_client_that_has_said_all_before_it_is_let_in_is_served():
    factory = Held(reactor, policy=table(RefuseRoute()))
    factory.held = "authenticate"
    async with proxy(factory) as server:
        client = await server.connect()
        client.send(GREET_LOGIN + login(b"u", b"p") + request("192.0.2.1", 80))
        client.half_close()
        await until(lambda: hasattr(factory, "decision"))
        await turn(3)
        assert not factory.cancelled
        factory.decision.callback(None)
        assert await client.read_to_end() == b"\x05\x02\x01\x00" + reply(0x02)


# Deadlines.


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\x05",
        GREET_ANONYMOUS,
        GREET_LOGIN,
        GREET_LOGIN + b"\x01\x05use",
        GREET_EXTENDED + b"\x01\x00\x02\x00\x08USER",
        GREET_EXTENDED + pairs() + b"\x05\x01\x00\x03\x40",
    ],
)
async def test_a_client_that_stops_talking_is_closed_at_the_deadline_and_not_before(said):
    clock = Clock()
    async with proxy(reactor=ReactorWith(clock=clock), limits=Limits(handshake_timeout=10)) as server:
        client = await server.connect()
        client.send(said)
        await until(lambda: len(server.factory.connections) == 1)
        # Answers show that the server has heard all.
        await client.until(lambda: len(said) < 3 or client.unread)
        clock.advance(9.9)
        await turn(3)
        assert not client.input_ended
        clock.advance(0.2)
        await client.lost()
        await until(lambda: not server.factory.connections)


async def test_no_byte_sets_the_deadline_back():
    clock = Clock()
    async with proxy(reactor=ReactorWith(clock=clock), limits=Limits(handshake_timeout=10)) as server:
        client = await server.connect()
        client.send(GREET_LOGIN)
        assert await client.read(2) == b"\x05\x02"
        for byte in login(b"a very long name", b"")[:10]:
            client.send(bytes((byte,)))
            await turn(3)
            assert client.reason is None
            clock.advance(1)
        await client.lost()


async def test_a_decision_before_the_request_is_within_the_deadline():
    clock = Clock()
    factory = Held(ReactorWith(clock=clock), limits=Limits(handshake_timeout=10))
    factory.held = "authenticate"
    async with proxy(factory) as server:
        client = await server.connect()
        client.send(GREET_LOGIN + login(b"u", b"p"))
        await until(lambda: hasattr(factory, "decision"))
        clock.advance(10)
        await client.lost()
        await until(lambda: not factory.connections)
        assert factory.cancelled


# Overrides and routes that do not follow the rules.


class GoingOn(SOCKS5ExtFactory):
    """An override that turns its cancellation into a decision."""

    def __init__(self, route, **options):
        super().__init__(**options)
        self.chosen = route
        self.deciding = Deferred()

    def route(self, session):
        return self.deciding.addErrback(lambda _: self.chosen)


@pytest.mark.parametrize("how", ["the client leaves", "the time is over"])
async def test_no_route_is_asked_after_its_client_has_left_or_was_answered(how):
    clock, route = Clock(), HeldRoute()
    factory = GoingOn(route, reactor=ReactorWith(clock=clock), limits=Limits(connect_timeout=20, linger=1))
    async with proxy(factory) as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request("192.0.2.1", 80))
        assert await client.read(2) == b"\x05\x00"
        await turn(3)
        if how == "the client leaves":
            client.abort()
        else:
            clock.advance(20)
            assert await client.read_to_end() == reply(0x06)
            client.close()
        await until(lambda: not factory.connections)
        assert not route.asked.pending


@pytest.mark.logs_errors
async def test_a_route_that_fails_long_after_its_answer_keeps_no_connection():
    class Slow(Route):
        def __init__(self):
            self.asked, self.late = Deferred(), Unstoppable()

        async def connect(self, request, addresses, session):
            self.asked.callback(None)
            try:
                await Deferred()
            except CancelledError:
                await self.late

    clock, route = Clock(), Slow()
    limits = Limits(connect_timeout=20, linger=5)
    async with proxy(reactor=ReactorWith(clock=clock), policy=table(route), limits=limits) as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request("192.0.2.1", 80))
        await route.asked
        await turn()
        clock.advance(20)
        clock.advance(CANCELLED_WITHIN)
        assert await client.read_to_end() == b"\x05\x00" + reply(0x06)
        route.late.errback(ZeroDivisionError())
        # The client does not close; the linger time ends its connection all the same.
        clock.advance(5)
        await until(lambda: not server.factory.connections)


@pytest.mark.logs_errors
async def test_what_is_no_deferred_cannot_be_awaited():
    class Bare:
        def __await__(self):
            yield

    class Mine(SOCKS5ExtFactory):
        async def route(self, session):
            await Bare()

    async with proxy(Mine(reactor)) as server:
        assert await server.code("192.0.2.1", 80) == 1
