"""The way out of a transport: who may use it, what it notes, and where it leads."""

import pytest
import pytest_twisted
from support.targets import Target, echo, failure_of, local, talk_to
from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred

from txsocksx_ext import RouteTable, Session, errors, route_from_string
from txsocksx_ext.protocol import codes
from txsocksx_ext.protocol.messages import Address
from txsocksx_ext.transports.outbound_proxy import WayOut

BRIDGE = Address.of("192.0.2.1", 443)
UNREACHABLE = "127.255.255.255"
"""The broadcast address of loopback, to which Linux connects nobody: network unreachable."""


@pytest.fixture
def way_out():
    made = WayOut(reactor)
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))


def dial(way_out, host, port):
    """Connect to somewhere as the transport does."""
    proxy = way_out.proxy
    return talk_to(host, port, local(proxy.port), {"login": (proxy.username, proxy.password)})


async def refused_port():
    with Target(echo) as target:
        return target.port


# Who.


async def test_only_the_transport_may_use_it(way_out):
    proxy, username, password = local(way_out.proxy.port), way_out.proxy.username, way_out.proxy.password
    assert isinstance(await failure_of(talk_to("127.0.0.1", 1, proxy, {"anonymous": ()})), errors.NoAcceptableMethod)
    for methods in ({"extended": {}}, {"login": (username, "guess")}, {"login": ("guess", password)}):
        error = await failure_of(talk_to("127.0.0.1", 1, proxy, methods))
        assert isinstance(error, errors.AuthenticationFailed)


async def test_its_secret_is_its_own(way_out):
    other = WayOut(reactor)
    assert other.proxy.username != way_out.proxy.username
    assert other.proxy.password != way_out.proxy.password
    assert way_out.proxy.password not in repr([way_out, way_out.proxy])
    await other.close()


# What it notes.


async def test_a_bridge_that_was_reached(way_out):
    with Target(echo) as target:
        attempt = way_out.expect(Address.of("127.0.0.1", target.port), is_local=True)
        assert attempt.outcome is None
        stream = await dial(way_out, "127.0.0.1", target.port)
        assert attempt.outcome is codes.SUCCEEDED
        attempt.over(succeeded=True)
        stream.transport.write(b"hello")
        assert await stream.has_received(5) == b"hello"
        stream.transport.loseConnection()
        await stream.lost


async def test_what_is_left_of_a_failed_attempt_is_closed(way_out):
    with Target(echo) as target:
        bridge = Address.of("127.0.0.1", target.port)
        first, second = (way_out.expect(bridge, is_local=True) for _ in range(2))
        streams = [await dial(way_out, "127.0.0.1", target.port) for _ in range(2)]
        first.over(succeeded=False)
        # Which stream was its own is not known, and one is another's.
        streams[0].transport.write(b"hello")
        assert await streams[0].has_received(5) == b"hello"
        second.over(succeeded=False)
        for stream in streams:
            await stream.lost


async def test_what_may_be_anothers_is_not_closed(way_out):
    with Target(echo) as target:
        bridge = Address.of("127.0.0.1", target.port)
        way_out.expect(bridge, is_local=True).over(succeeded=False)
        attempts, streams = [], []
        for _ in range(2):
            attempts.append(way_out.expect(bridge, is_local=True))
            streams.append(await dial(way_out, "127.0.0.1", target.port))
        # The first of those was for the client that has left, so this one is for the next.
        shared = await dial(way_out, "127.0.0.1", target.port)
        attempts[1].over(succeeded=False)
        await streams[1].lost
        for stream in (streams[0], shared):
            stream.transport.write(b"hello")
            assert await stream.has_received(5) == b"hello"
        attempts[0].over(succeeded=False)
        for stream in (streams[0], shared):
            await stream.lost


async def test_a_bridge_that_was_not_reached(way_out):
    for host, port, row in [
        ("127.0.0.1", await refused_port(), codes.CONNECTION_REFUSED),
        (UNREACHABLE, 80, codes.NETWORK_UNREACHABLE),
    ]:
        attempt = way_out.expect(Address.of(host, port), is_local=True)
        error = await failure_of(dial(way_out, host, port))
        assert (error.code, attempt.outcome) == (row.number, row)
        attempt.over(succeeded=False)


# Which outcome is whose.


@pytest.fixture
def session():
    return Session(IPv4Address("TCP", "127.0.0.1", 1), RouteTable((), route_from_string(reactor, "direct")))


@pytest.fixture
def dialled(way_out, session):
    """The transport dials the bridge, and this comes of it."""

    def dialled(outcome, bridge=BRIDGE):
        dial = way_out.dialled(bridge, session)
        if outcome is not None:
            dial.came_to(outcome)
        return dial

    return dialled


REACHED, REFUSED = codes.SUCCEEDED, codes.CONNECTION_REFUSED


def outcomes(*attempts):
    return [attempt.outcome for attempt in attempts]


def test_attempts_one_after_another_are_told_apart(way_out, dialled):
    first = way_out.expect(BRIDGE, is_local=True)
    dialled(REACHED)
    second = way_out.expect(BRIDGE, is_local=True)
    assert outcomes(first, second) == [REACHED, None]
    dialled(REFUSED)
    assert outcomes(first, second) == [REACHED, REFUSED]


def test_attempts_at_once_share_what_all_of_them_met(way_out, dialled):
    attempts = [way_out.expect(BRIDGE, is_local=True) for _ in range(3)]
    dialled(REFUSED)
    dialled(REFUSED)
    # One has not dialled yet, and may meet something else.
    assert outcomes(*attempts) == [None] * 3
    dialled(REFUSED)
    assert outcomes(*attempts) == [REFUSED] * 3


def test_of_attempts_at_once_that_met_different_things_nothing_is_said(way_out, dialled):
    attempts = [way_out.expect(BRIDGE, is_local=True) for _ in range(2)]
    dialled(REFUSED)
    dialled(REACHED)
    assert outcomes(*attempts) == [None] * 2


def test_an_attempt_that_failed_without_dialling_confuses_nobody(way_out, dialled):
    without, with_dial = (way_out.expect(BRIDGE, is_local=True) for _ in range(2))
    without.over(succeeded=False)
    dialled(REACHED)
    assert with_dial.outcome is REACHED


def test_a_late_attempt_joins_those_whose_dials_are_not_known(way_out, dialled):
    attempts = [way_out.expect(BRIDGE, is_local=True) for _ in range(2)]
    dialled(REFUSED)
    attempts.append(way_out.expect(BRIDGE, is_local=True))
    # The second's, or the third's?
    dialled(REACHED)
    assert outcomes(*attempts) == [None] * 3


def test_a_bridge_that_is_dialled_twice(way_out, dialled):
    attempt = way_out.expect(BRIDGE, is_local=True)
    dialled(REFUSED)
    dialled(REFUSED)
    assert attempt.outcome is REFUSED
    dialled(REACHED)
    assert attempt.outcome is None


def test_other_addresses_say_nothing_of_a_bridge(way_out, dialled):
    attempt = way_out.expect(BRIDGE, is_local=True)
    dialled(REFUSED, Address.of("192.0.2.1", 80))
    dialled(REFUSED, Address.of("bridge.example", 443))
    assert attempt.outcome is None


def test_a_connection_that_is_under_way_says_nothing(way_out, dialled):
    attempt = way_out.expect(BRIDGE, is_local=True)
    dialled(None)
    assert attempt.outcome is None


async def test_what_becomes_clear_soon_is_waited_for(way_out, dialled):
    """The first of two has failed, and the transport comes to the second."""
    first, _ = (way_out.expect(BRIDGE, is_local=True) for _ in range(2))
    dialled(REFUSED)
    certain = first.certain_outcome(reactor, 30)
    assert not certain.called
    late = dialled(None)
    assert not certain.called
    late.came_to(REFUSED)
    assert await certain is REFUSED


async def test_what_does_not_become_clear_is_not_waited_for(way_out, dialled):
    first, second = (way_out.expect(BRIDGE, is_local=True) for _ in range(2))
    assert await first.certain_outcome(reactor, 30) is None
    dialled(REFUSED)
    assert await second.certain_outcome(reactor, 0.01) is None
    waiting = second.certain_outcome(reactor, 30)
    waiting.cancel()
    with pytest.raises(CancelledError):
        await waiting


# Where it leads.


async def test_strangers_do_not_reach_private_addresses_through_it(way_out):
    """A client may name a target in the arguments of a transport."""
    with Target(echo) as target:
        stranger = way_out.expect(BRIDGE, is_local=False)
        for host in ("127.0.0.1", "localhost"):
            error = await failure_of(dial(way_out, host, target.port))
            assert isinstance(error, errors.ConnectionNotAllowed)
        stranger.over(succeeded=False)
        # What it was asked for may still be in its hands.
        assert isinstance(await failure_of(dial(way_out, "127.0.0.1", target.port)), errors.ConnectionNotAllowed)
        assert target.peers == []


async def test_strangers_reach_the_private_bridges_that_they_were_admitted_to(way_out):
    with Target(echo) as target:
        attempt = way_out.expect(Address.of("127.0.0.1", target.port), is_local=False)
        stream = await dial(way_out, "127.0.0.1", target.port)
        stream.transport.loseConnection()
        await stream.lost
        attempt.over(succeeded=False)


async def test_a_transport_of_local_clients_reaches_everything(way_out):
    with Target(echo) as target:
        attempt = way_out.expect(BRIDGE, is_local=True)
        stream = await dial(way_out, "localhost", target.port)
        stream.transport.loseConnection()
        await stream.lost
        attempt.over(succeeded=True)


async def test_closing_ends_what_is_open(way_out):
    with Target(echo) as target:
        stream = await dial(way_out, "127.0.0.1", target.port)
        await way_out.close()
        await stream.lost
