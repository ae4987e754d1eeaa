"""The route through a pluggable transport, with a transport that says and does what the test wants."""

from contextlib import asynccontextmanager

import pytest
import pytest_twisted
from examples.raw_peers import until
from support.fake_transport import BRIDGE, FakeTransport
from support.logs import lines_logged
from support.targets import Target, failure_of
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from txsocksx_ext import Limits, errors, route_from_string
from txsocksx_ext.protocol.codes import Method
from txsocksx_ext.protocol.messages import Address, UsernamePassword
from txsocksx_ext.protocol.socks5 import State
from txsocksx_ext.server.auth import portal_for
from txsocksx_ext.testing import Ending
from txsocksx_ext.transports import managed as child
from txsocksx_ext.transports.managed import ChildState


@pytest.fixture
def transport():
    made = []

    async def start(server=None, **options):
        each = FakeTransport(**options)
        made.append(each)
        await each.start(**(server or {}))
        return each

    yield start
    for each in made:
        pytest_twisted.blockon(Deferred.fromCoroutine(each.stop()))


WAITING = {"stop_at": State.REPLY, "ending": Ending.SILENCE}
"""Options of a transport that does not answer by itself."""


# Streams and arguments.


async def test_a_stream(transport):
    fake = await transport()
    stream = await fake.ask({"pt.cert": "abc", "pt.iat-mode": "0"})
    (conversation,) = fake.conversations
    assert conversation.request.destination == Address.of(BRIDGE, 443)
    assert dict(conversation.pairs) == {"pt.cert": b"abc", "pt.iat-mode": b"0"}
    conversation.tunnel.write(b"hello")
    assert await stream.has_received(5) == b"hello"
    stream.transport.loseConnection()
    await conversation.tunnel.until(lambda it: it.lost)
    await stream.lost


async def close(stream):
    stream.transport.loseConnection()
    await stream.lost


@pytest.mark.parametrize(
    ("pairs", "username", "password"),
    [
        ({"pt.k": "a=b;c\\"}, rb"k=a=b\;c\\", b"\0"),
        ({"pt.a": "1", "pt.b": "2", "tor.errors": "229"}, b"a=1;b=2", b"\0"),
        ({"pt.k": "v" * 253}, b"k=" + b"v" * 253, b"\0"),
        ({"pt.k": "v" * 254}, b"k=" + b"v" * 253, b"v"),
        ({"pt.k": "v" * 508}, b"k=" + b"v" * 253, b"v" * 255),
        ({"pt.k": b"\xff"}, b"k=\xff", b"\0"),
    ],
    ids=["escapes", "two", "255", "256", "510", "any byte"],
)
async def test_arguments_for_a_transport_that_knows_rfc_1929(transport, pairs, username, password):
    fake = await transport(method=Method.USERNAME_PASSWORD)
    await close(await fake.ask(pairs))
    (conversation,) = fake.conversations
    assert conversation.greeting.methods == (Method.EXTENDED, Method.USERNAME_PASSWORD)
    assert conversation.credentials == UsernamePassword(username, password)


async def test_what_it_says_of_its_arguments_is_not_in_the_log(transport, tmp_path):
    go_on = tmp_path / "go-on"
    says = "; ".join(
        (
            f"while [ ! -e {go_on} ]; do sleep 0.02; done",
            "echo 'LOG SEVERITY=warning MESSAGE=\"bad cert=CERTIFICATE-2/x+y=, iat-mode=0\"'",
            "echo STATUS TRANSPORT=test CERT=CERTIFICATE-2/x+y=",
            "echo 'short CERTIFICATE, long CERTIFICATE-2/x+y=' >&2",
            "echo ENV-ERROR CERTIFICATE",
            "exec cat",
        )
    )
    fake = await transport(then=says)
    with lines_logged("txsocksx_ext.pt") as lines:
        await close(await fake.ask({"pt.short": "CERTIFICATE", "pt.cert": "CERTIFICATE-2/x+y=", "pt.iat-mode": "0"}))
        go_on.touch()
        await fake.life.when_ended()
        await until(lambda: any("has ended" in line for line in lines))
    said = "\n".join(lines)
    assert "CERTIFICATE" not in said
    assert "test says: bad cert=[scrubbed], iat-mode=0" in lines
    assert "test says of its status: TRANSPORT=test CERT=[scrubbed]" in lines
    assert "test says on stderr: short [scrubbed], long [scrubbed]" in lines


async def test_without_arguments(transport):
    fake = await transport(method=Method.NO_AUTHENTICATION)
    await close(await fake.ask())
    (conversation,) = fake.conversations
    assert conversation.greeting.methods == (Method.EXTENDED, Method.NO_AUTHENTICATION)
    assert conversation.credentials is None


async def test_arguments_beyond_what_rfc_1929_carries(transport):
    fake = await transport()
    await close(await fake.ask({"pt.k": "v" * 1500}))
    assert fake.conversations[0].pairs["pt.k"] == b"v" * 1500
    fake.method = Method.NO_ACCEPTABLE
    error = await failure_of(fake.ask({"pt.k": "v" * 509}))
    assert isinstance(error, errors.TransportProtocolFailure)
    assert fake.conversations[1].greeting.methods == (Method.EXTENDED,)


@pytest.mark.parametrize(
    ("login", "username"),
    [
        (("k=v", "\0"), b"k=v"),
        (("k=" + "v" * 253, "w"), b"k=" + b"v" * 253),
        (("k=1;k=2", "\0"), b"k=1;k=2"),
    ],
)
async def test_a_plain_client_says_arguments_as_tor_does(transport, login, username):
    fake = await transport(method=Method.USERNAME_PASSWORD)
    await close(await fake.ask(login=login))
    assert fake.conversations[0].credentials == UsernamePassword(username, login[1].encode())


async def test_a_login_is_no_argument(transport):
    fake = await transport(method=Method.NO_AUTHENTICATION)
    await close(await fake.ask(login=("alice", "k=v")))
    await close(await fake.ask({"USERNAME": "k=v", "PASSWD": "word"}))
    assert [conversation.credentials for conversation in fake.conversations] == [None, None]


async def test_a_login_that_is_checked_is_no_argument(transport):
    from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse

    checker = InMemoryUsernamePasswordDatabaseDontUse(**{"k=v": b"word"})
    fake = await transport(server={"portal": portal_for([checker])}, method=Method.NO_AUTHENTICATION)
    await close(await fake.ask(login=("k=v", "word")))
    assert fake.conversations[0].credentials is None


@pytest.mark.parametrize("methods", [{"login": ("k=v;", "\0")}, {"extended": {"pt.": "v"}}], ids=["02", "97"])
async def test_faulty_arguments(transport, methods):
    fake = await transport()
    error = await failure_of(fake.ask(**methods))
    assert error.code == (0xF1 if "extended" in methods else 0x01)
    assert fake.conversations == []


async def test_a_name_is_not_passed_on(transport):
    """Transports would resolve it in the open."""
    fake = await transport()
    error = await failure_of(fake.ask(host="bridge.example"))
    assert isinstance(error, errors.AddressTypeNotSupported)
    assert fake.conversations == []


# What it says.


@pytest.mark.parametrize("code", [0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08])
async def test_codes_of_rfc_1928_are_passed_on(transport, code):
    fake = await transport(code=code)
    plain, extended = await fake.failures()
    assert (plain, extended.code) == (code, code)


@pytest.mark.parametrize("code", [0xF0, 0xF1, 0xF2])
async def test_extended_codes_of_a_transport_that_knows_method_97(transport, code):
    fake = await transport(code=code)
    plain, extended = await fake.failures()
    assert (plain, extended.code) == (0x01, code)
    assert isinstance(extended, errors.TransportError)
    fake.method = Method.NO_AUTHENTICATION
    plain, extended = await fake.failures()
    assert (plain, extended.code) == (0x01, 0x01)


@pytest.mark.parametrize("code", [0x01, 0x09, 0x42, 0xE0, 0xE1, 0xFF])
async def test_codes_that_are_not_a_transports_become_a_general_failure(transport, code):
    fake = await transport(code=code)
    plain, extended = await fake.failures()
    assert (plain, extended.code) == (0x01, 0x01)


@pytest.mark.parametrize("method", [Method.EXTENDED, Method.USERNAME_PASSWORD])
async def test_it_does_not_take_the_arguments(transport, method):
    fake = await transport(method=method, status=1)
    error = await failure_of(fake.ask({"pt.k": "v"}))
    assert isinstance(error, errors.TransportProtocolFailure)
    error = await failure_of(fake.ask(login=("k=v", "\0")))
    assert error.code == 0x01


# What is seen of it.


@asynccontextmanager
async def waiting(fake, **options):
    """Clients of both dialects, which the transport was asked for. Yields what will be their failures."""
    before = len(fake.requests)
    failures = Deferred.fromCoroutine(fake.failures(**options))
    await fake.asked(before + 2)
    yield failures


async def test_the_bridge_was_reached(transport):
    fake = await transport(**WAITING)
    with Target(lambda connection: connection.recv(1)) as bridge:
        async with waiting(fake, host="127.0.0.1", port=bridge.port) as failures:
            for _ in range(2):
                await fake.dial("127.0.0.1", bridge.port)
            fake.answer(0x01)
            plain, extended = await failures
    assert plain == 0x01
    assert isinstance(extended, errors.TransportProtocolFailure)


@pytest.mark.parametrize("code", [0x01, 0x42])
async def test_the_bridge_was_not_reached(transport, code):
    fake = await transport(**WAITING)
    async with waiting(fake, host="127.255.255.255") as failures:
        for _ in range(2):
            await failure_of(fake.dial("127.255.255.255"))
        fake.answer(code)
        plain, extended = await failures
    assert plain == 0x03
    assert isinstance(extended, errors.NetworkUnreachable)


async def test_what_the_transport_says_itself_counts_more(transport):
    fake = await transport(**WAITING)
    async with waiting(fake, host="127.255.255.255") as failures:
        for _ in range(2):
            await failure_of(fake.dial("127.255.255.255"))
        fake.answer(0x05)
        plain, extended = await failures
    assert (plain, extended.code) == (0x05, 0x05)


async def test_nothing_is_claimed_of_what_was_not_seen(transport):
    fake = await transport(**WAITING)
    async with waiting(fake, host="127.255.255.255") as failures:
        # One of the two: nobody knows which.
        await failure_of(fake.dial("127.255.255.255"))
        fake.answer(0x01)
        plain, extended = await failures
    assert (plain, extended.code) == (0x01, 0x01)


async def test_a_transport_that_takes_no_proxy(transport):
    fake = await transport(takes_proxy=False, code=0x01)
    assert fake.life.outbound_proxy is None
    plain, extended = await fake.failures()
    assert (plain, extended.code) == (0x01, 0x01)


@pytest.mark.parametrize("ending", [Ending.CLOSE, Ending.ABORT])
@pytest.mark.parametrize("state", [State.SELECTION, State.REPLY])
async def test_it_closes_without_an_answer(transport, state, ending):
    fake = await transport(stop_at=state, ending=ending)
    fake.life.ends_within = lambda seconds: type(fake.life).ends_within(fake.life, 0.05)
    plain, extended = await fake.failures()
    assert (plain, extended.code) == (0x01, 0x01)


async def test_it_dies_under_an_attempt(transport):
    fake = await transport(**WAITING)
    async with waiting(fake) as failures:
        fake.route.service._process.signal("KILL")
        for conversation in fake.conversations:
            conversation.transport.abortConnection()
        plain, extended = await failures
    assert plain == 0x01
    assert isinstance(extended, errors.TransportInternalError)


async def test_it_is_being_started_again(transport, monkeypatch):
    monkeypatch.setattr(child, "_pause", lambda ends: 60.0)
    fake = await transport()
    service = fake.route.service
    service._process.signal("KILL")
    while service.status is ChildState.READY:
        await deferLater(reactor, 0.005)
    plain, extended = await fake.failures()
    assert plain == 0x01
    assert isinstance(extended, errors.TransportTemporaryFailure)


async def test_it_cannot_be_started(transport):
    fake = await transport()
    await fake.route.service.stopService()
    plain, extended = await fake.failures()
    assert plain == 0x01
    assert isinstance(extended, errors.TransportInternalError)


async def test_a_deadline(transport):
    fake = await transport(server={"limits": Limits(connect_timeout=0.2)}, **WAITING)
    plain, extended = await fake.failures()
    assert (plain, extended.code) == (0x06, 0x06)


async def test_a_deadline_before_it_has_started(transport):
    fake = await transport(server={"limits": Limits(connect_timeout=0.2)})
    fake.route.service.when_ready = Deferred
    plain, extended = await fake.failures()
    assert plain == 0x01
    assert isinstance(extended, errors.TransportTemporaryFailure)


async def test_who_leaves_takes_along_what_was_opened_for_them(transport):
    fake = await transport(**WAITING)
    with Target(lambda connection: connection.recv(1)) as bridge:
        asking = fake.ask(host="127.0.0.1", port=bridge.port)
        asking.addErrback(lambda _: None)
        await fake.asked()
        dial = await fake.dial("127.0.0.1", bridge.port)
        asking.cancel()
        await dial.lost


async def test_neither_bridges_nor_arguments_are_logged(transport, capfd):
    from twisted.logger import globalLogPublisher

    events = []
    globalLogPublisher.addObserver(events.append)
    try:
        fake = await transport(code=0x01)
        await fake.failures()
        await failure_of(fake.ask({"pt.cert": "secret"}))
    finally:
        globalLogPublisher.removeObserver(events.append)
    assert any("failed a client" in event["log_format"] for event in events)
    assert not any(word in repr(event) for event in events for word in (BRIDGE, "secret"))


# Descriptions.


@pytest.mark.parametrize(
    ("description", "problem"),
    [
        ("transport", "needs a name and a program"),
        ("transport:obfs4", "needs a name and a program"),
        ("transport:obfs4:exec=", "needs a name and a program"),
        ("transport:obfs4:other:exec=x", "needs a name and a program"),
        ("transport:obfs-4:exec=x", "the name of a transport"),
        ("transport:obfs4:exec=x:args=y", "does not know args"),
        ("transport:obfs4:exec=x:arg='y", "cannot read arg"),
    ],
)
def test_a_faulty_description(description, problem):
    with pytest.raises(ValueError, match=problem):
        route_from_string(reactor, description)


async def test_a_description(tmp_path):
    told, state = tmp_path / "told", tmp_path / "a state"
    program = tmp_path / "program"
    program.write_text(f'#!/bin/sh\nprintf "%s|" "$@" "$TOR_PT_STATE_LOCATION" >{told}\n')
    program.chmod(0o755)
    route = route_from_string(reactor, f"transport:obfs4:exec={program}:arg=-a 'b c' -d=e\\:f:state={state}")
    assert route.keys == {"pt."}
    route.service.startService()
    with pytest.raises(errors.TransportInternalError):
        await route.service.when_ready()
    await route.service.stopService()
    assert told.read_text() == f"-a|b c|-d=e:f|{state}|"
