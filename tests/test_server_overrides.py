"""What one override of the server's factory changes, and that a fault in it harms nobody."""

import asyncio
import concurrent.futures
import socket
import subprocess
import sys

import pytest
from examples.raw_peers import (
    CONNECT,
    GREET_ANONYMOUS,
    GREET_EXTENDED,
    GREET_LOGIN,
    RESOLVE,
    login,
    pairs,
    proxy,
    request,
    target,
)
from support.answers import USER, answered_pairs, refusal, talk
from twisted.cred.error import LoginDenied, UnauthorizedLogin
from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock, deferLater
from twisted.logger import formatEvent

from txsocksx_ext import Route, RouteTable, SOCKS5ExtFactory
from txsocksx_ext.errors import AuthenticationFailed, ConnectionNotAllowed, ConnectionRefused, InvalidArguments
from txsocksx_ext.protocol import codes
from txsocksx_ext.protocol.codes import Method
from txsocksx_ext.protocol.messages import Address, UsernamePassword
from txsocksx_ext.protocol.pairs import Pairs
from txsocksx_ext.route.refuse import RefuseRoute
from txsocksx_ext.testing import FakeRoute, connect_to


class Deciding(SOCKS5ExtFactory):
    """A server whose `authenticate` is the test's."""

    def __init__(self, decision, **options):
        super().__init__(reactor, **options)
        self._decision = decision
        self.seen = []

    def authenticate(self, session):
        self.seen.append((session.method, session.credentials, dict(session.pairs)))
        return self._decision(session)


def later(value):
    return deferLater(reactor, 0, lambda: value)


async def in_a_coroutine(value):
    return await later(value)


@pytest.mark.parametrize(
    "decision",
    [
        lambda session: {"my.ticket": b"42"},
        lambda session: Pairs({"my.ticket": "42"}),
        lambda session: [("my.ticket", b"42")],
        lambda session: later({"my.ticket": b"42"}),
        lambda session: in_a_coroutine({"my.ticket": "42"}),
    ],
    ids=["a dict", "Pairs", "a list", "a Deferred", "a coroutine"],
)
async def test_an_authenticate_may_answer_with_pairs(decision):
    async with proxy(Deciding(decision)) as server:
        answer = await talk(server, GREET_EXTENDED + pairs(USER), 2 + 4 + 2 + 9 + 2 + 2)
        assert answered_pairs(answer[2:]) == (0, {b"my.ticket": b"42"})
        # RFC 1929 has no place for them.
        assert await talk(server, GREET_LOGIN + login(b"u", b"p"), 4) == b"\x05\x02\x01\x00"
        assert await talk(server, GREET_ANONYMOUS, 2) == b"\x05\x00"


async def test_an_authenticate_may_confirm_another_choice_of_codes():
    async with proxy(Deciding(lambda session: {"tor.errors": "none"})) as server:
        answer = await talk(server, GREET_EXTENDED + pairs((b"tor.errors", b"304")), 2 + 4 + 2 + 10 + 2 + 4)
        assert answered_pairs(answer[2:]) == (0, {b"tor.errors": b"none"})


async def test_an_authenticate_sees_what_the_client_gave():
    factory = Deciding(lambda session: None)
    async with proxy(factory) as server:
        await talk(server, GREET_ANONYMOUS, 2)
        await talk(server, GREET_LOGIN + login(b"alice", b"secret"), 4)
        await talk(server, GREET_EXTENDED + pairs(USER, (b"?tor.errors", b"229"), (b"?odd", b"")), 4)
    anonymous, by_login, by_pairs = factory.seen
    assert anonymous == (Method.NO_AUTHENTICATION, None, {})
    assert by_login == (Method.USERNAME_PASSWORD, UsernamePassword(b"alice", b"secret"), {})
    assert by_pairs[0] == Method.EXTENDED
    assert (by_pairs[1].username, by_pairs[1].password) == (b"alice", b"")
    assert by_pairs[2] == {"USERNAME": b"alice", "tor.errors": b"229"}


def raising(error):
    def decide(session):
        raise error

    return decide


def failing_later(error):
    def decide(session):
        return later(None).addCallback(lambda _: raising(error)(session))

    return decide


@pytest.mark.parametrize("how", [raising, failing_later])
@pytest.mark.parametrize(
    ("error", "status", "answered"),
    [
        (AuthenticationFailed(), 1, {}),
        (AuthenticationFailed(pairs=Pairs({"my.hint": "ask"})), 1, {b"my.hint": b"ask"}),
        (UnauthorizedLogin(), 1, {}),
        (LoginDenied(), 1, {}),
        (ConnectionNotAllowed(), 1, {}),
        (InvalidArguments("my.key is missing"), 2, {b"ERROR": b"my.key is missing"}),
        (
            InvalidArguments("odd: \xe4", pairs=Pairs({"my.hint": "ask"})),
            2,
            {b"my.hint": b"ask", b"ERROR": b"odd: ?"},
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
async def test_a_refusal_by_authenticate_in_each_method(how, error, status, answered):
    async with proxy(Deciding(how(error))) as server:
        assert await refusal(server) == (status, answered)
        assert await talk(server, GREET_LOGIN + login(b"u", b"p"), None) == b"\x05\x02" + bytes((1, status))
        # Method 00 leaves no other place to say it.
        assert await talk(server, GREET_ANONYMOUS + request("192.0.2.1", 80), None) == b"\x05\xff"


@pytest.mark.logs_errors
@pytest.mark.parametrize("override", ["methods", "authenticate", "route", "reply_for", "closed"])
@pytest.mark.parametrize("log_targets", [False, True])
def test_a_fault_in_an_override_is_logged_with_its_place_and_how_to_see_its_words(override, log_targets, logged_errors):
    words = "about secret.example"

    def broken(self, *arguments):
        raise ZeroDivisionError(words)

    clock = Clock()
    table = RouteTable((), FakeRoute(clock=clock, failure=ConnectionRefused()))
    mine = type("Mine", (SOCKS5ExtFactory,), {override: broken})(clock, policy=table, log_targets=log_targets)
    client = connect_to(mine)
    client.write(b"\5\1\0" + request("192.0.2.1", 80))
    client.close()
    (event,) = logged_errors
    text = formatEvent(event)
    assert "ZeroDivisionError" in text
    assert "in broken" in text
    assert ("log_targets=True" in text) == (not log_targets)
    assert (words in text) == log_targets


@pytest.mark.logs_errors
async def test_a_fault_in_an_authenticate_lets_nobody_in():
    async with proxy(Deciding(raising(ZeroDivisionError()))) as server:
        assert await refusal(server) == (1, {})
        assert await talk(server, GREET_LOGIN + login(b"u", b"p"), None) == b"\x05\x02\x01\x01"
        assert await talk(server, GREET_ANONYMOUS, None) == b"\x05\xff"


@pytest.mark.logs_errors
@pytest.mark.parametrize("answer", [7, False, True, {"k": 7}, {"": b""}, "text", concurrent.futures.Future()])
@pytest.mark.parametrize(
    ("said", "selected"),
    [
        (GREET_EXTENDED + pairs(), b"\x05\x97"),
        (GREET_LOGIN + login(b"u", b"p"), b"\x05\x02"),
        (GREET_ANONYMOUS, b""),
    ],
)
async def test_an_authenticate_that_answers_nonsense_ends_the_connection(answer, said, selected):
    async with proxy(Deciding(lambda session: answer)) as server:
        client = await server.connect()
        client.send(said + request("192.0.2.1", 80))
        assert await client.read_to_end() in (b"", selected)
        await client.lost()


@pytest.mark.parametrize("kind", ["a route", "a Deferred", "a coroutine"])
async def test_a_route_of_ones_own(kind):
    class Mine(SOCKS5ExtFactory):
        def route(self, session):
            route = RefuseRoute() if session.request.destination.port == 25 else super().route(session)
            return {"a route": lambda r: r, "a Deferred": later, "a coroutine": in_a_coroutine}[kind](route)

    async with target() as far, proxy(Mine(reactor)) as server:
        assert await server.code("127.0.0.1", 25) == 2
        assert await server.code("127.0.0.1", far.port) == 0


@pytest.mark.parametrize("how", [raising, failing_later])
async def test_a_route_that_is_refused_by_an_exception(how):
    class Mine(SOCKS5ExtFactory):
        def route(self, session):
            return how(ConnectionNotAllowed())(session)

    async with proxy(Mine(reactor)) as server:
        assert await server.code("127.0.0.1", 80) == 2


@pytest.mark.logs_errors
async def test_a_fault_in_a_route_is_a_general_failure():
    class Mine(SOCKS5ExtFactory):
        def route(self, session):
            return None

    async with proxy(Mine(reactor)) as server:
        assert await server.code("127.0.0.1", 80) == 1


@pytest.mark.logs_errors
@pytest.mark.parametrize("fired", ["None", "text", "an endpoint", "a protocol"])
async def test_a_route_that_fires_with_no_transport_is_a_general_failure(fired):
    async with target() as far:
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", far.port)

        class Mine(Route):
            def connect(self, request, addresses, session):
                if fired == "a protocol":
                    return connectProtocol(endpoint, Protocol())
                return succeed({"None": None, "text": "text", "an endpoint": endpoint}[fired])

        async with proxy(policy=RouteTable((), Mine())) as server:
            assert await server.code("192.0.2.1", 80) == 1
            if fired == "a protocol":
                # It is easily mistaken for its transport, and closed too.
                end = await far.accept()
                await end.lost()


class AsyncRoute:
    """A plain class whose ``connect`` is a coroutine."""

    def __init__(self, error):
        self._error = error

    async def connect(self, request, addresses, session):
        await later(None)
        raise self._error

    async def resolve(self, request, addresses, session):
        return await later(Address.of("192.0.2.7", 0))


@pytest.mark.parametrize("kind", [lambda route: route, later, in_a_coroutine])
async def test_a_route_whose_connect_is_a_coroutine(kind):
    class Mine(SOCKS5ExtFactory):
        def route(self, session):
            return kind(AsyncRoute(ConnectionNotAllowed()))

    async with proxy(Mine(reactor)) as server:
        assert await server.code("192.0.2.1", 80) == 2
        _, code, bound = await server.ask("a.example", 0, RESOLVE)
        assert (code, bound) == (0, ("192.0.2.7", 0))


@pytest.mark.logs_errors
@pytest.mark.parametrize("found", [None, "192.0.2.7", b"192.0.2.7", 7])
async def test_a_route_that_resolves_to_no_address_is_a_general_failure(found):
    class Mine(Route):
        def resolve(self, request, addresses, session):
            return later(found)

    async with proxy(policy=RouteTable((), Mine())) as server:
        assert await server.code("a.example", 0, RESOLVE) == 1


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (codes.TTL_EXPIRED, 6),
        (6, 6),
        (0xE0, 4),
        (codes.ONION_SERVICE_NOT_FOUND, 4),
        (0x55, 1),
    ],
)
async def test_a_reply_of_ones_own_passes_the_gate(said, code):
    class Mine(SOCKS5ExtFactory):
        def reply_for(self, failure, session):
            assert failure.check(ConnectionNotAllowed)
            return said

    async with proxy(Mine(reactor, policy=RouteTable((), RefuseRoute()))) as server:
        assert await server.code("192.0.2.1", 80) == code


@pytest.mark.logs_errors
async def test_a_fault_in_reply_for_is_a_general_failure():
    class Mine(SOCKS5ExtFactory):
        def reply_for(self, failure, session):
            raise ZeroDivisionError

    async with proxy(Mine(reactor, policy=RouteTable((), RefuseRoute()))) as server:
        assert await server.code("192.0.2.1", 80, CONNECT) == 1


@pytest.mark.logs_errors
@pytest.mark.parametrize("said", [0, codes.SUCCEEDED, 0x1FF, None, "04"])
async def test_what_is_no_reply_of_a_failure_is_a_fault_and_a_general_failure(said, logged_errors):
    class Mine(SOCKS5ExtFactory):
        def reply_for(self, failure, session):
            return said

    async with proxy(Mine(reactor, policy=RouteTable((), RefuseRoute()))) as server:
        assert await server.code("192.0.2.1", 80) == 1
    (event,) = logged_errors
    assert "reply_for() must return" in event["traceback"]


async def test_methods_of_ones_own():
    class Mine(SOCKS5ExtFactory):
        def methods(self, session):
            return [Method.NO_AUTHENTICATION] if session.is_local else []

    async with proxy(Mine(reactor)) as server:
        assert await talk(server, b"\x05\x03\x97\x02\x00", 2) == b"\x05\x00"
    async with proxy(Mine(reactor), seen_from="192.0.2.1") as server:
        assert await talk(server, b"\x05\x03\x97\x02\x00", None) == b"\x05\xff"


@pytest.mark.logs_errors
@pytest.mark.parametrize("answer", ["an exception", None, 7, succeed([Method.NO_AUTHENTICATION])])
async def test_a_fault_in_methods_lets_nobody_in(answer):
    class Mine(SOCKS5ExtFactory):
        def methods(self, session):
            if answer == "an exception":
                raise ZeroDivisionError
            return answer

    async with proxy(Mine(reactor)) as server:
        assert await talk(server, GREET_ANONYMOUS, None) == b"\x05\xff"


@pytest.mark.logs_errors
@pytest.mark.parametrize("at", ["methods", "authenticate", "route", "reply_for"])
@pytest.mark.parametrize("error", [asyncio.CancelledError, GeneratorExit])
@pytest.mark.parametrize("is_later", [False, True])
async def test_what_is_no_exception_harms_no_other_connection(at, error, is_later):
    """As where an override asks a future of asyncio that was cancelled."""

    def fail(self, *arguments):
        raise error

    def decide(self, session):
        return later(RefuseRoute()) if is_later else RefuseRoute()

    class Mine(SOCKS5ExtFactory):
        route = decide

    async with proxy(Mine(reactor)) as server:
        before = await server.connect()
        before.send(GREET_ANONYMOUS)
        assert await before.read(2) == b"\x05\x00"
        setattr(Mine, at, fail)
        refused = b"\x05\xff" if at in ("methods", "authenticate") else b"\x05\x00\x05\x01"
        assert (await talk(server, GREET_ANONYMOUS + request("192.0.2.1", 80), None))[:4] == refused
        delattr(Mine, at)
        Mine.route = decide
        before.send(request("192.0.2.1", 80))
        assert (await before.read(2)) == b"\x05\x02"
        assert await server.code("192.0.2.1", 80) == 2


async def test_a_decision_that_never_comes_is_not_needed_to_build_the_next_connection():
    undecided = Deferred()
    async with proxy(Deciding(lambda session: undecided if session.credentials else None)) as server:
        waiting = await server.connect()
        waiting.send(GREET_LOGIN + login(b"u", b"p"))
        assert await waiting.read(2) == b"\x05\x02"
        assert await talk(server, GREET_ANONYMOUS, 2) == b"\x05\x00"
        assert waiting.unread == b""


STOPPING = """
import sys
from twisted.internet import reactor
from txsocksx_ext import SOCKS5ExtFactory
from txsocksx_ext.net.listening import polled

class Mine(SOCKS5ExtFactory):
    def {at}(self, *arguments):
        raise {error}

port = reactor.listenTCP(0, Mine(reactor), interface="127.0.0.1")
port = polled(port) if {is_polled} else port
print(port.getHost().port, flush=True)
reactor.run()
"""


@pytest.mark.parametrize(
    ("at", "error", "is_polled"),
    [
        ("methods", "SystemExit", True),
        ("authenticate", "KeyboardInterrupt", True),
        ("route", "SystemExit", False),
        ("reply_for", "SystemExit", True),
    ],
)
def test_an_override_may_stop_the_process(at, error, is_polled):
    script = STOPPING.format(at=at, error=error, is_polled=is_polled)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            port = int(process.stdout.readline())
            with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
                # Port 0 fails, so that a reply is asked for.
                client.sendall(GREET_ANONYMOUS + request("127.0.0.1", 0))
                if at != "route":
                    assert process.wait(20) is not None
                    return
            with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
                client.sendall(GREET_ANONYMOUS + request("127.0.0.1", 9))
                assert process.wait(20) is not None
        finally:
            process.kill()
