"""What can be added to the server from outside: a protocol, commands, rules under load, a kind of route."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from examples.raw_peers import GREET_ANONYMOUS, HeldRoute, proxy, request, target, until
from support.answers import reply
from support.targets import Target, echo, read_exactly
from twisted.application.service import Service
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from txsocksx_ext import RouteTable, SOCKS5ExtFactory, route_from_string
from txsocksx_ext.protocol import codes
from txsocksx_ext.protocol.codes import Command
from txsocksx_ext.protocol.messages import SOCKS_VERSION, Address, Request
from txsocksx_ext.route.direct import DirectRoute
from txsocksx_ext.server.commands import COMMANDS
from txsocksx_ext.server.frontends import Frontends
from txsocksx_ext.server.service import SOCKS5ExtService
from txsocksx_ext.server.socks5_frontend import SOCKS5Frontend

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"

# A second protocol, announced by its first byte.


class LineFrontend:
    """``GO host port``, answered with ``OK`` or ``NO code``: a toy."""

    name = "line"
    final_reply = b""

    def __init__(self, limits):
        self.buffer = b""
        self.replied = None
        self._is_request_read = False

    @property
    def buffered(self):
        return len(self.buffer)

    @property
    def has_request(self):
        return self._is_request_read or bool(self.buffer)

    def feed(self, data):
        self.buffer += data

    def next_message(self):
        line, newline, rest = self.buffer.partition(b"\n")
        if not newline:
            return None
        self.buffer = rest
        _, host, port = line.decode().split()
        return Request(Command.CONNECT, Address.of(host, int(port)))

    async def receive_request(self, connection):
        message = await connection.next_message()
        self._is_request_read = True
        return message

    def success(self, bound):
        self.replied = 0
        return b"OK\n"

    def failure(self, code, error):
        self.replied = code.number if hasattr(code, "number") else code
        return b"NO %d\n" % self.replied

    def take_read_ahead(self):
        rest, self.buffer = self.buffer, b""
        return rest

    def close(self):
        pass


class TwoProtocols(SOCKS5ExtFactory):
    frontends = Frontends({SOCKS_VERSION: SOCKS5Frontend, ord("G"): LineFrontend}, SOCKS5Frontend)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.ended = []

    def closed(self, session):
        self.ended.append((session.protocol, session.reply_code))


async def test_a_second_protocol_shares_the_port():
    async with target() as far, proxy(TwoProtocols(reactor)) as server:
        for greeting, answer in (
            (GREET_ANONYMOUS + request("127.0.0.1", far.port), b"\x05\x00\x05\x00"),
            (b"GO 127.0.0.1 %d\nearly" % far.port, b"OK\n"),
        ):
            client = await server.connect()
            client.send(greeting)
            end = await far.accept()
            assert (await client.read(len(answer))) == answer
            if greeting[:1] == b"G":
                assert await end.read(5) == b"early"
            end.send(b"hello")
            await client.until(lambda client=client: client.unread.endswith(b"hello"))
            client.abort()
            await end.lost()
        refused = await server.connect()
        refused.send(b"GO 127.0.0.1 0\n")
        assert await refused.read_to_end() == b"NO 1\n"
        refused.close()
        await until(lambda: len(server.factory.ended) == 3)
        assert server.factory.ended == [("socks5", 0), ("line", 0), ("line", 1)]


# Commands.


async def replies_twice(connection, request):
    """As BIND does: where it listens, and then who came."""
    connection.reply(Address.of("192.0.2.1", 7))
    came = Deferred()
    reactor.callLater(0.05, came.callback, None)
    await came
    connection.reply_and_close(codes.SUCCEEDED, Address.of("192.0.2.2", 8), "bound")


async def holds_the_connection(connection, request):
    """As UDP ASSOCIATE does: the association lives as long as the connection."""
    connection.reply(Address.of("192.0.2.3", 9))
    held = connection.factory.held = Deferred()
    try:
        await held
    finally:
        connection.factory.released = True


class MoreCommands(SOCKS5ExtFactory):
    commands = {**COMMANDS, Command.BIND: replies_twice, Command.UDP_ASSOCIATE: holds_the_connection}
    released = False


async def test_a_command_may_reply_twice():
    async with proxy(MoreCommands(reactor)) as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request("192.0.2.9", 80, Command.BIND))
        assert await client.read(2) == b"\x05\x00"
        assert await client.read_reply() == (0, ("192.0.2.1", 7))
        assert await client.read_reply() == (0, ("192.0.2.2", 8))
        assert await client.read_to_end() == b""


@pytest.mark.parametrize("how", ["close", "abort", "half_close"])
async def test_a_command_may_hold_the_connection_without_a_relay(how):
    async with proxy(MoreCommands(reactor)) as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request("192.0.2.9", 80, Command.UDP_ASSOCIATE))
        assert await client.read(2) == b"\x05\x00"
        assert await client.read_reply() == (0, ("192.0.2.3", 9))
        (connection,) = server.factory.connections
        assert connection.session.relay is None
        getattr(client, how)()
        await until(lambda: server.factory.released)
        await until(lambda: not server.factory.connections)


async def test_a_command_that_nobody_added_is_refused():
    async with proxy() as server:
        for command in (Command.BIND, Command.UDP_ASSOCIATE, 0x7F):
            # Whatever is asked for: also a name that spells no address.
            client = await server.connect()
            client.send(GREET_ANONYMOUS + request("1.2.3.999", 80, command))
            assert await client.read_to_end() == b"\x05\x00" + reply(7)
            client.close()


# Rules that are replaced while the server works.


class Noting(Service):
    def __init__(self):
        self.runs = 0

    def startService(self):
        super().startService()
        self.runs += 1

    def stopService(self):
        self.runs -= 1
        return super().stopService()


class ServedRoute(DirectRoute):
    """Goes direct, and has a service."""

    def __init__(self):
        super().__init__(reactor)
        self.service = Noting()


async def test_streams_go_on_when_the_rules_are_replaced_and_services_follow():
    old, new, held = ServedRoute(), ServedRoute(), HeldRoute()
    factory = SOCKS5ExtFactory(reactor, policy=RouteTable([("*:9", held)], old))
    service = SOCKS5ExtService(reactor, factory, [])
    service.startService()
    try:
        async with target() as far, proxy(factory) as server:
            streams = []
            for _ in range(10):
                client, code, _ = await server.ask("127.0.0.1", far.port)
                assert code == 0
                streams.append((client, await far.accept()))
            waiting = await server.connect()
            waiting.send(GREET_ANONYMOUS + request("192.0.2.1", 9))
            await held.asked.get()
            factory.policy = RouteTable([("127.0.0.2", route_from_string(reactor, "refuse"))], new)
            assert (old.service.runs, new.service.runs) == (1, 1)
            assert await server.code("127.0.0.2", far.port) == 2
            client, code, _ = await server.ask("127.0.0.1", far.port)
            assert code == 0
            await far.accept()
            for number, (each, end) in enumerate(streams):
                each.send(b"%d" % number)
                assert await end.read(1) == b"%d" % number
            waiting.abort()
            await waiting.lost()
            for each, _ in streams[1:]:
                each.abort()
            await until(lambda: len(factory.connections) <= 2)
            assert old.service.runs == 1
            streams[0][0].abort()
            # With the last stream under the old rules, what only they needed stops.
            await until(lambda: old.service.runs == 0)
            assert new.service.runs == 1
            client.abort()
    finally:
        await service.stopService()
    assert (old.service.runs, new.service.runs) == (0, 0)


async def test_rules_may_be_replaced_at_any_moment_under_load():
    tables = [RouteTable((), ServedRoute()) for _ in range(3)]
    factory = SOCKS5ExtFactory(reactor, policy=tables[0])
    service = SOCKS5ExtService(reactor, factory, [])
    service.startService()
    try:
        async with target() as far, proxy(factory) as server:
            for number in range(60):
                client, code, _ = await server.ask("127.0.0.1", far.port)
                factory.policy = tables[number % 3]
                assert code == 0
                end = await far.accept()
                client.send(b"x")
                assert await end.read(1) == b"x"
                if number % 2:
                    client.abort()
            await until(lambda: len(factory.connections) == 30)
            factory.abort_all()
            await until(lambda: not factory.connections)
            assert [table.routes[0].service.runs for table in tables] == [0, 0, 1]
    finally:
        await service.stopService()


# A kind of route from another distribution.


def test_a_route_kind_of_another_distribution_is_known_to_the_command_line(socks5ext, tmp_path):
    plugins = tmp_path / "twisted" / "plugins"
    plugins.mkdir(parents=True)
    (plugins / "my_route_kinds.py").write_text((EXAMPLES / "route_kind_plugin.py").read_text())
    services = tmp_path / "services"
    services.mkdir()
    before = f"import sys; sys.path.insert(0, {str(tmp_path)!r})"
    server = socks5ext("--route", f"*.internal=internal:{services}", before=before)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(services / "shop"))
        listener.listen()
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
            client.sendall(GREET_ANONYMOUS + request("shop.internal", 80))
            assert read_exactly(client, 12)[:4] == b"\x05\x00\x05\x00"
            end, _ = listener.accept()
            with end:
                end.sendall(b"hello")
                assert read_exactly(client, 5) == b"hello"
    with Target(echo) as far, socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(GREET_ANONYMOUS + request("127.0.0.1", far.port))
        assert read_exactly(client, 12)[:4] == b"\x05\x00\x05\x00"


def test_help_shows_the_kinds_of_other_distributions(tmp_path):
    plugins = tmp_path / "twisted" / "plugins"
    plugins.mkdir(parents=True)
    (plugins / "my_route_kinds.py").write_text((EXAMPLES / "route_kind_plugin.py").read_text())
    command = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "socks5ext", "--help"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    finished = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=30)
    assert "internal: reach the unix sockets in a folder by name: internal:FOLDER" in finished.stdout, finished.stderr
