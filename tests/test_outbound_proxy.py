"""The way out of a transport: who may use it, what it notes, and where it leads."""

import pytest
import pytest_twisted
from examples.raw_peers import until
from support.silence import silent_port
from support.targets import Target, echo, failure_of, local, talk_to
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost

from txsocksx_ext import errors
from txsocksx_ext.protocol import codes
from txsocksx_ext.protocol.messages import Address
from txsocksx_ext.transports.outbound_proxy import OutboundConnection, OutboundProxy

BRIDGE = Address.of("192.0.2.1", 443)
UNREACHABLE = "127.255.255.255"
"""The broadcast address of loopback, to which Linux connects nobody: network unreachable."""


@pytest.fixture
def outbound_proxy():
    made = OutboundProxy(reactor)
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))


def dial(outbound_proxy, host, port):
    """Connect to somewhere as the transport does."""
    proxy = outbound_proxy.proxy
    return talk_to(host, port, local(proxy.port), {"login": (proxy.username, proxy.password)})


async def refused_port():
    with Target(echo) as target:
        return target.port


# Who.


async def test_only_the_transport_may_use_it(outbound_proxy):
    proxy, username, password = (
        local(outbound_proxy.proxy.port),
        outbound_proxy.proxy.username,
        outbound_proxy.proxy.password,
    )
    assert isinstance(await failure_of(talk_to("127.0.0.1", 1, proxy, {"anonymous": ()})), errors.NoAcceptableMethod)
    error = await failure_of(talk_to("127.0.0.1", 1, proxy, {"extended": {}}))
    assert isinstance(error, errors.NoAcceptableMethod)
    for methods in ({"login": (username, "guess")}, {"login": ("guess", password)}):
        error = await failure_of(talk_to("127.0.0.1", 1, proxy, methods))
        assert isinstance(error, errors.AuthenticationFailed)


async def test_its_secret_is_its_own(outbound_proxy):
    other = OutboundProxy(reactor)
    assert other.proxy.username != outbound_proxy.proxy.username
    assert other.proxy.password != outbound_proxy.proxy.password
    assert outbound_proxy.proxy.password not in repr([outbound_proxy, outbound_proxy.proxy])
    await other.close()


# What it notes.


async def test_a_bridge_that_was_reached(outbound_proxy):
    with Target(echo) as target:
        attempt = outbound_proxy.expect(Address.of("127.0.0.1", target.port), is_local=True)
        assert attempt.outcome is None
        stream = await dial(outbound_proxy, "127.0.0.1", target.port)
        assert attempt.outcome is codes.SUCCEEDED
        attempt.over(succeeded=True)
        stream.transport.write(b"hello")
        assert await stream.has_received(5) == b"hello"
        stream.transport.loseConnection()
        await stream.lost


async def test_what_is_left_of_a_failed_attempt_is_closed(outbound_proxy):
    with Target(echo) as target:
        bridge = Address.of("127.0.0.1", target.port)
        first, second = (outbound_proxy.expect(bridge, is_local=True) for _ in range(2))
        streams = [await dial(outbound_proxy, "127.0.0.1", target.port) for _ in range(2)]
        first.over(succeeded=False)
        # Which stream was its own is not known, and one is another's.
        streams[0].transport.write(b"hello")
        assert await streams[0].has_received(5) == b"hello"
        second.over(succeeded=False)
        for stream in streams:
            await stream.lost


async def test_what_may_be_anothers_is_not_closed(outbound_proxy):
    with Target(echo) as target:
        bridge = Address.of("127.0.0.1", target.port)
        outbound_proxy.expect(bridge, is_local=True).over(succeeded=False)
        attempts, streams = [], []
        for _ in range(2):
            attempts.append(outbound_proxy.expect(bridge, is_local=True))
            streams.append(await dial(outbound_proxy, "127.0.0.1", target.port))
        # The first of those was for the client that has left, so this one is for the next.
        shared = await dial(outbound_proxy, "127.0.0.1", target.port)
        attempts[1].over(succeeded=False)
        await streams[1].lost
        for stream in (streams[0], shared):
            stream.transport.write(b"hello")
            assert await stream.has_received(5) == b"hello"
        attempts[0].over(succeeded=False)
        for stream in (streams[0], shared):
            await stream.lost


async def test_a_bridge_that_was_not_reached(outbound_proxy):
    for host, port, row in [
        ("127.0.0.1", await refused_port(), codes.CONNECTION_REFUSED),
        (UNREACHABLE, 80, codes.NETWORK_UNREACHABLE),
    ]:
        attempt = outbound_proxy.expect(Address.of(host, port), is_local=True)
        error = await failure_of(dial(outbound_proxy, host, port))
        assert (error.code, attempt.outcome) == (row.number, row)
        attempt.over(succeeded=False)


# Which outcome is whose.


@pytest.fixture
def dialled(outbound_proxy):
    """The transport dials the bridge, and this comes of it."""

    def dialled(outcome, bridge=BRIDGE):
        dial = OutboundConnection(outbound_proxy)
        dial.begin_to(bridge)
        if outcome is not None:
            dial.came_to(outcome)
        return dial

    return dialled


REACHED, REFUSED = codes.SUCCEEDED, codes.CONNECTION_REFUSED


def outcomes(*attempts):
    return [attempt.outcome for attempt in attempts]


def test_attempts_one_after_another_are_told_apart(outbound_proxy, dialled):
    first = outbound_proxy.expect(BRIDGE, is_local=True)
    dialled(REACHED)
    second = outbound_proxy.expect(BRIDGE, is_local=True)
    assert outcomes(first, second) == [REACHED, None]
    dialled(REFUSED)
    assert outcomes(first, second) == [REACHED, REFUSED]


def test_attempts_at_once_share_what_all_of_them_met(outbound_proxy, dialled):
    attempts = [outbound_proxy.expect(BRIDGE, is_local=True) for _ in range(3)]
    dialled(REFUSED)
    dialled(REFUSED)
    # One has not dialled yet, and may meet something else.
    assert outcomes(*attempts) == [None] * 3
    dialled(REFUSED)
    assert outcomes(*attempts) == [REFUSED] * 3


def test_of_attempts_at_once_that_met_different_things_nothing_is_said(outbound_proxy, dialled):
    attempts = [outbound_proxy.expect(BRIDGE, is_local=True) for _ in range(2)]
    dialled(REFUSED)
    dialled(REACHED)
    assert outcomes(*attempts) == [None] * 2


def test_an_attempt_that_failed_without_dialling_confuses_nobody(outbound_proxy, dialled):
    without, with_dial = (outbound_proxy.expect(BRIDGE, is_local=True) for _ in range(2))
    without.over(succeeded=False)
    dialled(REACHED)
    assert with_dial.outcome is REACHED


def test_a_late_attempt_joins_those_whose_dials_are_not_known(outbound_proxy, dialled):
    attempts = [outbound_proxy.expect(BRIDGE, is_local=True) for _ in range(2)]
    dialled(REFUSED)
    attempts.append(outbound_proxy.expect(BRIDGE, is_local=True))
    # The second's, or the third's?
    dialled(REACHED)
    assert outcomes(*attempts) == [None] * 3


def test_a_bridge_that_is_dialled_twice(outbound_proxy, dialled):
    attempt = outbound_proxy.expect(BRIDGE, is_local=True)
    dialled(REFUSED)
    dialled(REFUSED)
    assert attempt.outcome is REFUSED
    dialled(REACHED)
    assert attempt.outcome is None


def test_other_addresses_say_nothing_of_a_bridge(outbound_proxy, dialled):
    attempt = outbound_proxy.expect(BRIDGE, is_local=True)
    dialled(REFUSED, Address.of("192.0.2.1", 80))
    dialled(REFUSED, Address.of("bridge.example", 443))
    assert attempt.outcome is None


def test_a_connection_that_is_under_way_says_nothing(outbound_proxy, dialled):
    attempt = outbound_proxy.expect(BRIDGE, is_local=True)
    dialled(None)
    assert attempt.outcome is None


async def test_what_becomes_clear_soon_is_waited_for(outbound_proxy, dialled):
    """The first of two has failed, and the transport comes to the second."""
    first, _ = (outbound_proxy.expect(BRIDGE, is_local=True) for _ in range(2))
    dialled(REFUSED)
    certain = Deferred.fromCoroutine(first.certain_outcome(reactor, 30))
    assert not certain.called
    late = dialled(None)
    assert not certain.called
    late.came_to(REFUSED)
    assert await certain is REFUSED


async def test_what_does_not_become_clear_is_not_waited_for(outbound_proxy, dialled):
    first, second = (outbound_proxy.expect(BRIDGE, is_local=True) for _ in range(2))
    assert await first.certain_outcome(reactor, 30) is None
    dialled(REFUSED)
    assert await second.certain_outcome(reactor, 0.01) is None
    waiting = Deferred.fromCoroutine(second.certain_outcome(reactor, 30))
    waiting.cancel()
    with pytest.raises(CancelledError):
        await waiting


async def test_a_transport_that_leaves_while_it_is_connected_leaves_no_error(outbound_proxy):
    with silent_port() as port:
        dialling = dial(outbound_proxy, "127.0.0.1", port)
        await until(lambda: any(connection._connecting for connection in outbound_proxy.connections))
        dialling.cancel()
        with pytest.raises(CancelledError):
            await dialling
        await until(lambda: not outbound_proxy.connections)


# Where it leads.


async def test_strangers_do_not_reach_private_addresses_through_it(outbound_proxy):
    """A client may name a target in the arguments of a transport."""
    with Target(echo) as target:
        stranger = outbound_proxy.expect(BRIDGE, is_local=False)
        for host in ("127.0.0.1", "localhost"):
            error = await failure_of(dial(outbound_proxy, host, target.port))
            assert isinstance(error, errors.ConnectionNotAllowed)
        stranger.over(succeeded=False)
        # What it was asked for may still be in its hands.
        assert isinstance(await failure_of(dial(outbound_proxy, "127.0.0.1", target.port)), errors.ConnectionNotAllowed)
        assert target.peers == []


async def test_strangers_reach_the_private_bridges_that_they_were_admitted_to(outbound_proxy):
    with Target(echo) as target:
        attempt = outbound_proxy.expect(Address.of("127.0.0.1", target.port), is_local=False)
        stream = await dial(outbound_proxy, "127.0.0.1", target.port)
        stream.transport.loseConnection()
        await stream.lost
        attempt.over(succeeded=False)
        await target.when_next_result()
        assert len(target.peers) == 1


async def test_a_transport_of_local_clients_reaches_everything(outbound_proxy):
    with Target(echo) as target:
        attempt = outbound_proxy.expect(BRIDGE, is_local=True)
        stream = await dial(outbound_proxy, "localhost", target.port)
        stream.transport.loseConnection()
        await stream.lost
        attempt.over(succeeded=True)
        await target.when_next_result()
        assert len(target.peers) == 1


async def test_closing_ends_what_is_open(outbound_proxy):
    with Target(echo) as target:
        stream = await dial(outbound_proxy, "127.0.0.1", target.port)
        await outbound_proxy.close()
        assert isinstance(await stream.lost, (ConnectionDone, ConnectionLost))
