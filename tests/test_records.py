"""What a server writes in its log: one line for a connection, and never what is the client's own business."""

import io
import json
import re

import pytest
from examples.raw_peers import (
    BIND,
    GREET_ANONYMOUS,
    GREET_EXTENDED,
    GREET_LOGIN,
    RESOLVE,
    HeldRoute,
    Names,
    ReactorWith,
    login,
    pairs,
    proxy,
    request,
    target,
    until,
)
from support.programs import free_port
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel, eventAsJSON, eventAsText, globalLogPublisher, textFileLogObserver

from txsocksx_ext import Limits, Route, RouteTable, SOCKS5ExtFactory
from txsocksx_ext.client.methods import ClientMethods
from txsocksx_ext.context import Session
from txsocksx_ext.errors import InvalidArguments
from txsocksx_ext.protocol.codes import Command
from txsocksx_ext.protocol.messages import Address, Request, UsernamePassword
from txsocksx_ext.route.direct import DirectRoute
from txsocksx_ext.route.refuse import RefuseRoute
from txsocksx_ext.route.socks import SOCKSRoute
from txsocksx_ext.server.access_log import AccessLog
from txsocksx_ext.server.auth import portal_for
from txsocksx_ext.server.text_log import TextLog


@pytest.fixture
def events():
    """All that is logged, by whomever."""
    seen = []
    globalLogPublisher.addObserver(seen.append)
    yield seen
    globalLogPublisher.removeObserver(seen.append)


def ends(events):
    """The lines at connections' ends, by the fields they have."""
    return [event for event in events if "seconds" in event]


def text(event):
    """An event as a log file shows it, its time and system cut off."""
    return eventAsText(event, includeTimestamp=False, includeSystem=False)


async def only_end(server, events):
    await until(lambda: not server.factory.connections)
    (event,) = ends(events)
    return event


# One line.


async def test_a_stream_is_one_line_with_all_its_numbers(events):
    async with target() as far, proxy() as server:
        client = await server.connect()
        client.send(GREET_EXTENDED + pairs() + request("127.0.0.1", far.port) + b"question")
        end = await far.accept()
        assert await end.read(8) == b"question"
        end.send(b"the answer")
        end.close()
        await client.read_to_end()
        client.close()
        event = await only_end(server, events)
    expected = {
        "peer": "127.0.0.1",
        "command": "CONNECT",
        "protocol": "socks5",
        "method": "EXTENDED",
        "route": "direct",
        "code": "00",
        "up": 8,
        "down": 10,
        "end": "done",
    }
    assert {name: event[name] for name in expected} == expected
    assert event["relay"] != "-"
    assert 0 <= event["seconds"] < 60
    assert event["log_level"] is LogLevel.info
    assert event["log_namespace"] == "txsocksx_ext.server"
    line = text(event)
    assert "\n" not in line
    for shown in ("127.0.0.1", "CONNECT", "method=EXTENDED", "route=direct", "code=00", "up=8", "down=10", "end=done"):
        assert shown in line


async def test_methods_by_their_numbers_are_named_all_the_same(events):
    class Mine(SOCKS5ExtFactory):
        def methods(self, session):
            return [0x97]

    async with target() as far, proxy(Mine(reactor)) as server:
        client = await server.connect()
        client.send(GREET_EXTENDED + pairs() + request("127.0.0.1", far.port))
        (await far.accept()).close()
        client.close()
        event = await only_end(server, events)
    assert event["method"] == "EXTENDED"


async def test_seconds_are_counted_from_the_first_moment_to_the_last(events):
    clock = Clock()
    async with proxy(reactor=ReactorWith(clock=clock), limits=Limits(handshake_timeout=100)) as server:
        client = await server.connect()
        await until(lambda: server.factory.connections)
        clock.advance(42.5)
        client.abort()
        event = await only_end(server, events)
    assert event["seconds"] == 42.5


@pytest.mark.parametrize(
    ("said", "fields"),
    [
        (b"", {"command": "-", "method": "-", "route": "-", "code": "-", "end": "the client left"}),
        (b"\x05\x01\x80", {"method": "-", "code": "-", "end": "no acceptable method"}),
        (b"\x80", {"protocol": "-", "method": "-", "code": "-", "end": "violation: the version byte is wrong"}),
        (GREET_LOGIN + login(b"u", b"p"), {"method": "USERNAME_PASSWORD", "end": "the client left"}),
        (GREET_EXTENDED + pairs((b"odd", b"")), {"method": "EXTENDED", "end": "invalid arguments"}),
        (GREET_EXTENDED + b"\x01\xff\xff", {"method": "EXTENDED", "end": "violation: a limit is passed"}),
        (GREET_ANONYMOUS + request("127.0.0.1", 80, BIND), {"command": "BIND", "code": "07", "route": "-"}),
        (GREET_ANONYMOUS + request("127.0.0.1", 80, 0x55), {"command": "0x55", "code": "07"}),
        (GREET_ANONYMOUS + request("127.0.0.1", 0), {"command": "CONNECT", "code": "01"}),
        (
            GREET_ANONYMOUS + b"\x05\x01\x00\x05",
            {"command": "-", "code": "08", "end": "violation: the address type is unknown"},
        ),
        (
            GREET_ANONYMOUS + request("nobody.example", 80),
            {"command": "CONNECT", "route": "direct", "code": "04", "end": "HostUnreachable"},
        ),
        (GREET_ANONYMOUS + request("192.0.2.1", 0, RESOLVE), {"command": "RESOLVE", "code": "00", "end": "resolved"}),
    ],
)
async def test_every_end_is_one_line_that_says_why(events, said, fields):
    async with proxy(reactor=ReactorWith(names=Names())) as server:
        client = await server.connect()
        client.send(said)
        client.half_close()
        await client.read_to_end()
        client.close()
        event = await only_end(server, events)
        assert {name: event[name] for name in fields} == fields


async def test_a_key_that_the_way_does_not_honour_is_told_from_a_rule(events):
    isolating = Route()
    isolating.keys = frozenset({"tor.isolation"})
    async with proxy(policy=RouteTable([("*.onion", isolating)], Route())) as server:
        client = await server.connect()
        client.send(GREET_EXTENDED + pairs((b"tor.isolation", b"alice")) + request("elsewhere.example", 80))
        await client.read_to_end()
        client.close()
        event = await only_end(server, events)
    assert (event["code"], event["end"]) == ("02", "KeyNotHonoured")


async def test_a_connection_too_many_is_a_warning(events):
    async with proxy(limits=Limits(max_connections=1)) as server:
        first, second = await server.connect(), await server.connect()
        await second.read_to_end()
        first.close()
        await until(lambda: not server.factory.connections)
    (warning,) = [event for event in events if event["log_level"] is LogLevel.warn]
    assert "max-connections" in text(warning)
    assert warning["peer"] == "127.0.0.1"
    assert len(ends(events)) == 1


async def test_connections_too_many_are_said_once_until_one_has_left(events):
    async with proxy(limits=Limits(max_connections=1)) as server:
        for expected in (1, 2):
            first = await server.connect()
            await until(lambda: server.factory.connections)
            for _ in range(3):
                await (await server.connect()).read_to_end()
            first.abort()
            await until(lambda: not server.factory.connections)
            assert len([event for event in events if event["log_level"] is LogLevel.warn]) == expected


async def test_all_events_can_be_written_as_json(events):
    async with proxy() as server:
        assert await server.code("127.0.0.1", free_port()) == 5
        event = await only_end(server, events)
    own = {name: value for name, value in event.items() if not name.startswith("log_")}
    assert all(isinstance(value, (str, int, float)) for value in own.values())
    written = json.loads(eventAsJSON(event))
    assert {name: written[name] for name in own} == own


# What is nobody's business.

USER, PASSWORD, VALUE = "canary-user", "canary-password", "canary-value"
NAME, ADDRESS, TEXT = "canary-name.example", "127.67.78.89", "canary-text"
CANARIES = (USER, PASSWORD, VALUE, NAME, ADDRESS, TEXT)


def everything(events):
    """All that any observer could make of the events: as text with tracebacks, as JSON, and each value's repr."""
    shown = []
    for event in events:
        shown.append(eventAsText(event))
        shown.append(eventAsJSON({key: value for key, value in event.items() if key != "log_failure"}))
        shown.extend(repr(value) + str(value) for value in event.values())
        if "log_failure" in event:
            shown.append(event["log_failure"].getTraceback(detail="verbose"))
    return "\n".join(shown)


def found(canaries, events):
    shown = everything(events)
    return [canary for canary in canaries if canary in shown]


class Faulty(RuntimeError):
    """An exception whose words hold what it is about, as those of many programs do."""


def fault():
    return Faulty(f"cannot reach {NAME} at {ADDRESS} for {USER} with {PASSWORD}, {VALUE}: {TEXT}")


class FaultyRoute:
    name = "faulty"

    def __init__(self, how):
        self._how = how

    def connect(self, request, addresses, session):
        secret_of_this_frame = fault()
        if self._how == "raises":
            raise secret_of_this_frame
        if self._how == "raises an OSError":
            raise OSError(str(secret_of_this_frame))
        if self._how == "brings no transport":
            return secret_of_this_frame
        failing = Deferred()
        reactor.callLater(0, failing.errback, secret_of_this_frame)
        return failing


class FaultyServer(SOCKS5ExtFactory):
    """Fails in one decision."""

    failing = ""

    def authenticate(self, session):
        if self.failing == "authenticate":
            raise fault()
        if self.failing == "pairs":
            raise InvalidArguments(str(fault()))
        if self.failing == "answer":
            return {"k": fault()}
        return None

    def route(self, session):
        if self.failing == "route":
            raise fault()
        return super().route(session)

    def reply_for(self, failure, session):
        if self.failing == "reply_for":
            raise fault()
        return super().reply_for(failure, session)


def greetings():
    """The ways to come in: with the canaries, where a method has room for them."""
    yield GREET_ANONYMOUS
    yield GREET_LOGIN + login(USER.encode(), PASSWORD.encode())
    yield GREET_EXTENDED + pairs(
        (b"USERNAME", USER.encode()), (b"PASSWD", PASSWORD.encode()), (b"?canary", VALUE.encode())
    )


async def visit(server, said):
    client = await server.connect()
    client.send(said)
    client.half_close()
    await client.read_to_end()
    client.close()
    await client.lost()


async def every_kind_of_failure(log_targets):
    """Have servers fail in every way that there is; how many connections there were."""
    visits = 0

    async def visit_each(server, *requests):
        nonlocal visits
        for greeting in greetings():
            for asked in requests:
                await visit(server, greeting + asked)
                visits += 1
        await until(lambda: not server.factory.connections)

    names = Names(**{NAME.replace(".", "_"): [ADDRESS]})
    with_names = ReactorWith(names=names)
    direct = DirectRoute(with_names)
    common = {"log_targets": log_targets, "reactor": with_names}
    to_name, to_address = request(NAME, free_port()), request(ADDRESS, free_port())
    async with proxy(policy=RouteTable((), direct), **common) as server:
        await visit_each(
            server,
            b"",
            to_name,
            to_address,
            request(NAME, 0),
            request(NAME, 80, BIND),
            request(NAME, 0, RESOLVE),
            request("nobody." + NAME, 80),
            request(NAME + ".onion", 80),
            request(ADDRESS, 0, RESOLVE),
            to_name[:-1],
            to_name.replace(b"canary-name", b"canary name"),
        )
    async with target(ADDRESS) as far, proxy(policy=RouteTable((), direct), **common) as server:
        for greeting in greetings():
            for asked in (request(NAME, far.port), request(ADDRESS, far.port)):
                client = await server.connect()
                client.send(greeting + asked)
                (await far.accept()).close()
                await client.read_to_end()
                client.close()
                visits += 1
        await until(lambda: not server.factory.connections)
    refusing = RouteTable([(ADDRESS, RefuseRoute())], direct)
    async with proxy(policy=refusing, **common) as server:
        await visit_each(server, to_name, to_address)
    async with proxy(policy=RouteTable((), direct), seen_from="198.51.100.1", **common) as server:
        for greeting in greetings():
            client = await server.connect()
            client.send(greeting + to_name)
            await client.read_to_end()
            visits += 1
    portal = portal_for([InMemoryUsernamePasswordDatabaseDontUse(**{USER: "another " + PASSWORD})])
    async with proxy(portal=portal, **common) as server:
        await visit_each(server, to_name)
    async with proxy(limits=Limits(connect_timeout=0.01), policy=RouteTable((), HeldRoute()), **common) as server:
        await visit_each(server, to_name)
    for how in ("raises", "raises an OSError", "fails later", "brings no transport"):
        async with proxy(policy=RouteTable((), FaultyRoute(how)), **common) as server:
            await visit_each(server, to_name)
    for failing in ("authenticate", "pairs", "answer", "route", "reply_for"):
        factory = FaultyServer(with_names, policy=RouteTable((), RefuseRoute()), log_targets=log_targets)
        factory.failing = failing
        async with proxy(factory) as server:
            await visit_each(server, to_name)
    for port in (free_port(), None):
        async with target() as other:
            endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port or other.port)
            methods = ClientMethods.of({"login": (USER, PASSWORD), "extended": {"canary": VALUE}})
            route = SOCKSRoute(reactor, endpoint, methods)
            limits = Limits(connect_timeout=0.05)
            async with proxy(policy=RouteTable((), route), limits=limits, **common) as server:
                await visit_each(server, to_name)
    async with proxy(policy=RouteTable((), HeldRoute()), **common) as server:
        for greeting in greetings():
            client = await server.connect()
            client.send(greeting + to_name)
            await until(lambda: any(each.session.request for each in server.factory.connections))
            client.abort()
            await until(lambda: not server.factory.connections)
            visits += 1
    return visits


@pytest.mark.logs_errors
async def test_nothing_of_the_clients_business_is_logged_whatever_fails(events):
    visits = await every_kind_of_failure(log_targets=False)
    assert len(ends(events)) == visits
    assert found(CANARIES, events) == []
    # Faults in programs did leave their kind and their place, so that they can be mended.
    faults = [event for event in events if event.get("log_level") is LogLevel.error]
    assert {event["error"] for event in faults} >= {"Faulty"}
    assert any("in connect" in event["traceback"] for event in faults)
    assert any("in authenticate" in event["traceback"] for event in faults)


@pytest.mark.logs_errors
async def test_with_log_targets_targets_and_users_are_logged_and_still_no_secret(events):
    # The faults' own words hold everything, and such words are shown then: here nothing but the lines at the end.
    visits = await every_kind_of_failure(log_targets=True)
    lines = ends(events)
    assert len(lines) == visits
    assert found((PASSWORD, VALUE), lines) == []
    shown = [text(event) for event in lines]
    assert any(f"{NAME}:" in line and f"user='{USER}'" in line and "code=04" not in line for line in shown)
    assert any(f"{ADDRESS}:" in line for line in shown)


ARGUMENTS = b"cert=of-the-bridge;iat-mode=0"


@pytest.mark.parametrize(
    ("said", "user"),
    [
        (GREET_LOGIN + login(ARGUMENTS, b"\0"), ""),
        (GREET_LOGIN + login(b"alice", b"secret"), "alice"),
        (GREET_EXTENDED + pairs((b"USERNAME", b"a=b")), "a=b"),
        (GREET_EXTENDED + pairs((b"pt.cert", b"of-the-bridge")), ""),
    ],
    ids=["arguments", "a name", "a name in a pair", "arguments in pairs"],
)
async def test_arguments_of_a_transport_are_no_user_name(events, said, user):
    transport = Route()
    transport.keys = frozenset({"pt."})
    async with proxy(log_targets=True, policy=RouteTable((), transport)) as server:
        client = await server.connect()
        client.send(said)
        client.half_close()
        await client.read_to_end()
        client.close()
        event = await only_end(server, events)
    assert event["user"] == user
    assert ("user=" in text(event)) is bool(user)
    assert "of-the-bridge" not in everything(events)


async def test_a_name_that_a_portal_knows_is_shown_whatever_it_looks_like(events):
    async with proxy(
        log_targets=True, portal=portal_for([InMemoryUsernamePasswordDatabaseDontUse(**{"a=b": "secret"})])
    ) as server:
        client = await server.connect()
        client.send(GREET_LOGIN + login(b"a=b", b"secret"))
        client.half_close()
        await client.read_to_end()
        client.close()
        event = await only_end(server, events)
    assert event["user"] == "a=b"
    assert " user='a=b' protocol=socks5 method=" in text(event)


async def test_with_log_targets_a_line_is_still_one_line(events):
    async with proxy(log_targets=True, reactor=ReactorWith(names=Names())) as server:
        client = await server.connect()
        client.send(GREET_LOGIN + login(b"a\nb\x1b[31m\xff{x}", b"p") + request("{peer}.example", 80))
        client.half_close()
        await client.read_to_end()
        event = await only_end(server, events)
    line = text(event)
    assert "\n" not in line
    assert "\x1b" not in line
    assert "{peer}.example:80" in line
    assert re.search(r"user='a\\+nb", line)


@pytest.mark.parametrize("words", ["as usual", "odd {words}", "odd}", "in two\nlines"])
@pytest.mark.parametrize(
    ("request_", "user"),
    [
        (None, None),
        (Request(Command.CONNECT, Address.of("{peer}.example", 80)), None),
        (Request(Command.RESOLVE, Address.of("2001:db8::1", 0)), b"al'ice\n{up}\xff"),
        (None, b"alice"),
    ],
)
def test_a_line_reads_in_twistds_log_as_in_twisteds(events, words, request_, user):
    session = Session(IPv4Address("TCP", "192.0.2.1", 1), RouteTable((), RefuseRoute()))
    session.end, session.request = words, request_
    session.credentials = user and UsernamePassword(user, b"")
    session.seconds = 0.5
    AccessLog(with_targets=True).ended(session)
    (event,) = ends(events)
    ours, twisteds = io.StringIO(), io.StringIO()
    clock = MemoryReactorClock()
    TextLog(ours, clock)(event)
    clock.advance(0)
    textFileLogObserver(twisteds)(event)
    assert f"end={words.splitlines()[0]}" in ours.getvalue()
    assert (" user=" in ours.getvalue()) is bool(user)
    assert ours.getvalue() == twisteds.getvalue()


@pytest.mark.logs_errors
async def test_a_fault_is_logged_with_its_words_only_with_log_targets(events):
    for log_targets in (False, True):
        events.clear()
        async with proxy(policy=RouteTable((), FaultyRoute("raises")), log_targets=log_targets) as server:
            assert await server.code(NAME, 80) == 1
        (fault_event,) = [event for event in events if event["log_level"] is LogLevel.error]
        assert (TEXT in text(fault_event)) is log_targets
        assert fault_event["peer"] == "127.0.0.1"
        json.loads(eventAsJSON(fault_event))


async def test_a_line_is_written_soon_although_the_time_of_day_was_set_back(events, monkeypatch):
    factory = SOCKS5ExtFactory(reactor)
    factory.log.ended(Session(IPv4Address("TCP", "127.0.0.1", 1), factory.policy))
    now = reactor.seconds
    monkeypatch.setattr(reactor, "seconds", lambda: now() - 3600)
    await until(lambda: ends(events))


@pytest.mark.logs_errors
def test_a_line_that_cannot_be_written_costs_the_others_nothing(events):
    clock = Clock()
    log = AccessLog(with_targets=False, clock=clock)
    for code in (0, "of a program: " + NAME, 5):
        session = Session(IPv4Address("TCP", "127.0.0.1", 1), RouteTable((), RefuseRoute()))
        session.reply_code = code
        log.ended(session)
    clock.advance(1)
    assert [event["code"] for event in ends(events)] == ["00", "05"]
    (fault_event,) = [event for event in events if event["log_level"] is LogLevel.error]
    assert fault_event["error"] == "TypeError"
    assert found([NAME], events) == []
