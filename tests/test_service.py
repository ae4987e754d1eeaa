"""The server as a service: what it listens on, and how it ends."""

import contextlib
import os
import signal
import socket
import time

import pytest
from examples.raw_peers import (
    GREET_ANONYMOUS,
    GREET_EXTENDED,
    GREET_LOGIN,
    HeldRoute,
    Proxy,
    ReactorWith,
    dial,
    login,
    request,
    target,
    turn,
    until,
)
from support.programs import free_port
from support.targets import Target, echo, read_exactly, read_to_end
from support.workers import workers_of
from twisted.application.service import Service
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread

from txsocksx_ext import Limits, RouteTable, SOCKS5ExtFactory
from txsocksx_ext.route.direct import DirectRoute
from txsocksx_ext.server.listeners import ListenerString, set_inherited_options
from txsocksx_ext.server.service import SOCKS5ExtService


class Served:
    """A service that listens, with the clock of the test, and what was logged of its connections."""

    def __init__(self, *, drain=10.0, route=None, limits=None, factory=None):
        self.clock = Clock()
        self.has_stopped = False
        with_clock = ReactorWith(clock=self.clock)
        self.ends = []
        table = RouteTable((), route or DirectRoute(reactor))
        self.factory = (factory or Recording)(with_clock, policy=table, limits=limits)
        self.factory.ends = self.ends
        port = free_port()
        self.service = SOCKS5ExtService(with_clock, self.factory, [f"tcp:{port}:interface=127.0.0.1"], drain)
        self.service.privilegedStartService()
        self.service.startService()
        self.proxy = Proxy(port, self.factory)

    def begin_to_stop(self):
        """Stop the service; `has_stopped` is true when that is done."""
        self._stopping = self.service.stopService()
        self._stopping.addCallback(lambda _: setattr(self, "has_stopped", True))

    async def stopped(self):
        # Twisted's list of Deferreds, which a service returns, cannot be cancelled: a deadline would do nothing.
        await until(lambda: self.has_stopped)

    async def stop(self):
        """End what a test has left."""
        for peer in self.proxy.peers:
            peer.abort()
        if self.service.running:
            self.begin_to_stop()
        await self.stopped()


class Recording(SOCKS5ExtFactory):
    def closed(self, session):
        self.ends.append(session.end)


@contextlib.asynccontextmanager
async def served(**options):
    each = Served(**options)
    try:
        yield each
    finally:
        await each.stop()


async def test_it_listens_and_ends_at_once_when_there_is_nobody():
    async with served() as server, target() as far:
        client, code, _ = await server.proxy.ask("127.0.0.1", far.port)
        assert code == 0
        client.close()
        (await far.accept()).close()
        await until(lambda: not server.factory.connections)
        server.begin_to_stop()
        await server.stopped()
        with pytest.raises(OSError, match="refused"):
            await deferToThread(socket.create_connection, ("127.0.0.1", server.proxy.port), 5)
        assert server.clock.getDelayedCalls() == []


async def test_streams_end_by_themselves():
    async with served(drain=10) as server, target() as far:
        client, _, _ = await server.proxy.ask("127.0.0.1", far.port)
        end = await far.accept()
        server.begin_to_stop()
        await turn(3)
        server.clock.advance(9.9)
        client.send(b"question")
        assert await end.read(8) == b"question"
        end.send(b"the last answer")
        end.close()
        assert await client.read_to_end() == b"the last answer"
        assert not server.has_stopped
        client.close()
        await server.stopped()
        assert server.ends == ["done"]
        assert server.clock.getDelayedCalls() == []


async def test_streams_that_do_not_end_are_cut():
    async with served(drain=10) as server, target() as far:
        client, _, _ = await server.proxy.ask("127.0.0.1", far.port)
        end = await far.accept()
        server.begin_to_stop()
        await turn(3)
        server.clock.advance(9.9)
        await turn(3)
        assert not server.has_stopped
        server.clock.advance(0.2)
        await server.stopped()
        assert isinstance(await client.lost(), ConnectionLost)
        assert isinstance(await end.lost(), ConnectionLost)
        assert server.ends == ["drained"]


async def test_no_time_to_drain_cuts_at_once():
    async with served(drain=0) as server, target() as far:
        client, _, _ = await server.proxy.ask("127.0.0.1", far.port)
        server.begin_to_stop()
        await turn(3)
        server.clock.advance(0)
        await server.stopped()
        assert isinstance(await client.lost(), ConnectionLost)


@pytest.mark.parametrize(
    "said",
    [b"", b"\x05", GREET_LOGIN, GREET_EXTENDED + b"\x01\x00\x01", GREET_ANONYMOUS + b"\x05\x01"],
)
async def test_handshakes_are_ended_at_once(said):
    async with served(drain=1000) as server:
        client = await server.proxy.connect()
        client.send(said)
        await until(lambda: server.factory.connections)
        await client.until(lambda: len(said) < 3 or client.unread)
        server.begin_to_stop()
        await server.stopped()
        await client.lost()
        assert server.ends == ["stopped"]
        assert server.clock.getDelayedCalls() == []


async def test_a_way_to_a_target_is_given_up_and_its_client_told():
    route = HeldRoute()
    async with served(drain=1000, route=route) as server:
        client = await server.proxy.connect()
        client.send(GREET_ANONYMOUS + request("192.0.2.1", 80))
        await route.asked.get()
        server.begin_to_stop()
        answer = await client.read_to_end()
        assert answer[:4] == b"\x05\x00\x05\x01"
        client.close()
        await server.stopped()
        assert route.cancelled == 1


@contextlib.contextmanager
def unanswered_port():
    """A port of this machine where connections hang: its queue is full, and nobody accepts."""
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(8):
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


async def test_a_real_connection_on_its_way_is_given_up_without_an_error_in_the_log():
    with unanswered_port() as port:
        async with served(drain=1000) as server:
            client = await server.proxy.connect()
            client.send(GREET_ANONYMOUS + request("127.0.0.1", port))
            assert await client.read(2) == b"\x05\x00"
            await turn(3)
            server.begin_to_stop()
            assert (await client.read_to_end())[:2] == b"\x05\x01"
            client.close()
            await server.stopped()


async def test_a_real_connection_that_is_never_answered_is_told_so():
    with unanswered_port() as port:
        async with served(limits=Limits(connect_timeout=45)) as server:
            client = await server.proxy.connect()
            client.send(GREET_ANONYMOUS + request("127.0.0.1", port))
            assert await client.read(2) == b"\x05\x00"
            await turn(3)
            assert client.unread == b""
            server.clock.advance(45)
            assert (await client.read_to_end())[:2] == b"\x05\x06"


async def test_a_login_that_is_being_checked_is_told_nothing_of_it():
    class Slow(Recording):
        def authenticate(self, session):
            return HeldRoute().connect(None, None, session)

    async with served(drain=1000, factory=Slow) as server:
        client = await server.proxy.connect()
        client.send(GREET_LOGIN + login(b"u", b"p"))
        assert await client.read(2) == b"\x05\x02"
        await turn(3)
        server.begin_to_stop()
        assert await client.read_to_end() == b""
        client.close()
        await server.stopped()


async def test_two_who_wait_for_the_end_are_both_told():
    async with served() as server, target() as far:
        client, _, _ = await server.proxy.ask("127.0.0.1", far.port)
        told = []
        for number in range(2):
            server.factory.drain(10).addCallback(lambda _, number=number: told.append(number))
        client.abort()
        await until(lambda: told)
        assert told == [0, 1]
        assert server.clock.getDelayedCalls() == []


async def test_a_route_runs_from_before_the_first_connection_to_after_the_last():
    order = []

    class Running(Service):
        def startService(self):
            order.append("route started")
            super().startService()

        def stopService(self):
            order.append("route stopped")
            return super().stopService()

    route = DirectRoute(reactor)
    route.service = Running()
    async with served(drain=10, route=route) as server, target() as far:
        assert order == ["route started"]
        client, _, _ = await server.proxy.ask("127.0.0.1", far.port)
        server.begin_to_stop()
        await turn(3)
        assert order == ["route started"]
        client.abort()
        await server.stopped()
    assert order == ["route started", "route stopped"]


@pytest.mark.parametrize("count", [1, 2], ids=["one factory", "two factories"])
async def test_servers_that_share_a_route_have_it_run_from_the_first_start_to_the_last_stop(count):
    route = DirectRoute(reactor)
    route.service = Service()
    factories = [SOCKS5ExtFactory(reactor, policy=RouteTable((), route)) for _ in range(count)]
    first, second = (SOCKS5ExtService(reactor, factory, []) for factory in (factories[0], factories[-1]))
    for _ in range(2):  # and when they are started anew
        first.startService()
        assert route.service.running
        second.startService()
        await first.stopService()
        # To stop twice is to stop once.
        await first.stopService()
        assert route.service.running
        await second.stopService()
        assert not route.service.running


async def test_a_shared_service_starts_after_a_stop_that_takes_its_time():
    class Slow(Service):
        events = ()

        def startService(self):
            super().startService()
            self.events += ("starts",)

        def stopService(self):
            self.stopped = Deferred()
            self.events += ("stops",)
            return self.stopped.addCallback(lambda _: super(Slow, self).stopService())

    route = DirectRoute(reactor)
    route.service = Slow()
    first, second = (
        SOCKS5ExtService(reactor, SOCKS5ExtFactory(reactor, policy=RouteTable((), route)), []) for _ in range(2)
    )
    first.startService()
    stopping = first.stopService()
    second.startService()
    assert route.service.events == ("starts", "stops")
    route.service.stopped.callback(None)
    await stopping
    assert route.service.events == ("starts", "stops", "starts")


async def test_a_shared_service_that_fails_to_start_is_started_for_the_next():
    class Faulty(Service):
        is_faulty = True

        def startService(self):
            if self.is_faulty:
                raise ZeroDivisionError
            super().startService()

    route = DirectRoute(reactor)
    route.service = Faulty()
    first, second = (
        SOCKS5ExtService(reactor, SOCKS5ExtFactory(reactor, policy=RouteTable((), route)), []) for _ in range(2)
    )
    with pytest.raises(ZeroDivisionError):
        first.startService()
    route.service.is_faulty = False
    second.startService()
    assert route.service.running
    await second.stopService()


@pytest.mark.parametrize(
    "description",
    [
        *("tcp:1080", "tcp:1080:127.0.0.1", "tcp:port=1080:interface=127.0.0.1", "tcp6:1080:interface=\\:\\:1"),
        *("unix:/run/socks", "unix:/run/a\\:b:mode=600", "haproxy:tcp:1080", "haproxy:unix:/run/socks"),
        *("ssl:1080:privateKey=k:certKey=c", "ssl:1080:k:c"),
    ],
)
def test_the_queue_is_long_unless_its_length_is_given(description):
    inner = description.removeprefix("haproxy:")
    assert ListenerString(description).with_backlog == f"{inner}:backlog=1024"
    assert ListenerString(f"{description}:backlog=7").with_backlog == f"{inner}:backlog=7"


@pytest.mark.parametrize(
    "description",
    [
        *("tcp:1080:127.0.0.1:7", "unix:/run/socks:600:7", "ssl:1080:k:c:TLSv1_METHOD:127.0.0.1:7"),
        *("systemd:domain=INET:index=0", "haproxy:systemd:domain=INET:index=0", "onion:80", "haproxy"),
    ],
)
def test_other_listeners_are_as_they_are_described(description):
    assert ListenerString(description).with_backlog == description.removeprefix("haproxy:")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_burst_of_connections_waits_in_the_queue(socks5ext, workers):
    """More than Twisted's own queue holds, while nobody accepts."""
    server = socks5ext("--workers", workers)
    group = [server.pid, *(workers_of(server) if workers != "1" else [])]
    with contextlib.ExitStack() as stack:
        for pid in group:
            os.kill(pid, signal.SIGSTOP)
        try:
            clients = [stack.enter_context(socket.socket()) for _ in range(200)]
            for client in clients:
                client.settimeout(20)
                # Without room in the queue, each waits for a second packet of its own a second later.
                client.connect(("127.0.0.1", server.port))
        finally:
            for pid in group:
                os.kill(pid, signal.SIGCONT)
        for client in clients:
            client.sendall(b"\x05\x01\x00")
        for client in clients:
            assert read_exactly(client, 2) == b"\x05\x00"


def test_connections_inherit_what_their_listener_has():
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        set_inherited_options(listening)
        stack.enter_context(socket.create_connection(listening.getsockname(), timeout=20))
        accepted = stack.enter_context(listening.accept()[0])
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


async def test_a_service_counts_what_it_does():
    async with served() as server, target() as far:
        for _ in range(2):
            client, _, _ = await server.proxy.ask("127.0.0.1", far.port)
            end = await far.accept()
            client.send(b"question")
            assert await end.read(8) == b"question"
            end.send(b"the answer")
            assert await client.read(10) == b"the answer"
            assert server.factory.counters.now == 1
            client.close()
            end.close()
            await until(lambda: not server.factory.connections)
        client, code, _ = await server.proxy.ask("127.0.0.1", free_port())
        assert code == 5
        client.close()
        await until(lambda: not server.factory.connections)
        counted = server.factory.counters
        assert (counted.now, counted.connections, counted.failed, counted.up, counted.down) == (0, 3, 1, 16, 20)


def test_a_description_that_is_none_is_an_error_at_once():
    with pytest.raises(ValueError, match="nothing"):
        SOCKS5ExtService(reactor, SOCKS5ExtFactory(reactor), ["nothing:80"])


def test_one_description_alone_is_no_list_of_them():
    with pytest.raises(TypeError, match="put the one into a list"):
        SOCKS5ExtService(reactor, SOCKS5ExtFactory(reactor), "tcp:0:interface=127.0.0.1")


# The program.


def ends_within(server, seconds):
    with contextlib.suppress(Exception):
        server.process.wait(seconds)
    return server.process.poll() is not None


def test_sigterm_lets_streams_end_and_takes_no_new_ones(socks5ext):
    server = socks5ext("--drain", "60")
    with Target(echo) as far, dial(server.port, "127.0.0.1", far.port) as client:
        half_open = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        os.kill(server.pid, signal.SIGTERM)
        with half_open, contextlib.suppress(ConnectionResetError):
            assert read_to_end(half_open) == b""
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", server.port), timeout=20).close()
            except ConnectionResetError:
                """It was closed while we connected."""
            except ConnectionRefusedError:
                break
            assert time.monotonic() < deadline
        client.sendall(b"question")
        assert read_exactly(client, 8) == b"question"
        assert server.process.poll() is None
        client.shutdown(socket.SHUT_WR)
        assert read_to_end(client) == b""
        assert ends_within(server, 20)
    assert "Traceback" not in server.output


def test_sigterm_cuts_streams_when_the_time_is_over(socks5ext):
    server = socks5ext("--drain", "0.5")
    with Target(echo) as far, dial(server.port, "127.0.0.1", far.port) as client:
        os.kill(server.pid, signal.SIGTERM)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        assert ends_within(server, 20)
    assert "end=drained" in server.output
