"""The rates of streams and of users, and how many connections a user may have."""

import time

import pytest
from examples.raw_peers import (
    GREET_ANONYMOUS,
    GREET_LOGIN,
    ReactorWith,
    dial,
    login,
    proxy,
    request,
    target,
    through_tls,
    tls_listener,
    turn,
    until,
)
from support.targets import Target
from twisted.internet import reactor
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock

from txsocksx_ext import Limits, SOCKS5ExtFactory
from txsocksx_ext.net.rate_limit import RateLimit

RATE = 100_000
SECONDS = 10
MUCH = bytes(2 * RATE * SECONDS)
MORE_THAN_BUFFERS = bytes(16 << 20)
SUCCEEDED, NOT_ALLOWED = 0, 2

# The token bucket.


class Reader:
    """Reads as much as it may, whenever it may."""

    def __init__(self, limit):
        self.limit = limit
        self.count = 0

    def release(self):
        self.count += self.limit.read_size
        self.limit.take(self.limit.read_size)
        while not self.limit.holds(self):
            self.count += self.limit.read_size
            self.limit.take(self.limit.read_size)


@pytest.mark.parametrize("rate", [1024, 20_000, 1_000_000, 500_000_000])
@pytest.mark.parametrize("readers", [1, 10])
@pytest.mark.parametrize("period", [0.001, 0.08])
def test_readers_share_a_rate(rate, readers, period):
    """Also if the timers are late."""
    clock = Clock()
    limit = RateLimit(clock, rate)
    reading = [Reader(limit) for _ in range(readers)]
    for each in reading:
        each.release()
    while clock.seconds() < SECONDS:
        clock.advance(period)
    total = sum(each.count for each in reading)
    # The last read may have taken one more time than it had.
    assert abs(total - rate * clock.seconds()) <= 0.03 * rate * SECONDS + (readers + 1) * limit.read_size
    assert max(each.count for each in reading) - min(each.count for each in reading) <= 2 * limit.read_size * readers


def test_a_reader_that_has_left_does_not_delay_the_others():
    clock = Clock()
    limit = RateLimit(clock, RATE)
    first, second = Reader(limit), Reader(limit)
    first.release()
    second.release()
    limit.forget(first)
    read = first.count, second.count
    clock.advance(1)
    clock.advance(0)
    assert (first.count, second.count > read[1]) == (read[0], True)
    limit.forget(second)
    assert clock.getDelayedCalls() == []


# Streams.


class Remembering(SOCKS5ExtFactory):
    """A server that keeps what was known of each connection."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.ended = []

    def closed(self, session):
        self.ended.append(session)


async def log_in(server, user, port, endpoint=None):
    """A client with this name that has asked for a target, and the code of the reply."""
    client = await server.connect(endpoint=endpoint)
    client.send(GREET_LOGIN + login(user, b"secret"))
    assert await client.read(4) == b"\x05\x02\x01\x00"
    client.send(request("127.0.0.1", port))
    return client, (await client.read_reply())[0]


async def stream(server, far, user=b"alice", endpoint=None):
    client, code = await log_in(server, user, far.port, endpoint)
    assert code == SUCCEEDED
    return client, await far.accept()


async def pass_time(clock, seconds, period=0.01):
    end = clock.seconds() + seconds
    while clock.seconds() < end:
        clock.advance(period)
        await turn(2)


def limited(clock, **limits):
    return Remembering(ReactorWith(clock=clock), limits=Limits(handshake_timeout=1e6, connect_timeout=1e6, **limits))


@pytest.mark.parametrize("streams", [1, 10])
@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("is_over_tls", [False, True])
async def test_the_streams_of_a_user_share_a_rate(streams, direction, is_over_tls, tmp_path):
    clock = Clock()
    listen = tls_listener(tmp_path) if is_over_tls else "tcp:0:interface=127.0.0.1"
    factory = limited(clock, **{f"user_rate_{direction}": RATE})
    async with target() as far, proxy(factory, listen=listen) as server:
        endpoint = through_tls(server.port) if is_over_tls else None
        ends = [await stream(server, far, endpoint=endpoint) for _ in range(streams)]
        for client, end in ends:
            (client if direction == "up" else end).send(MUCH)
        receivers = [end if direction == "up" else client for client, end in ends]
        before = sum(each.total for each in receivers)
        await pass_time(clock, SECONDS)
        total = sum(each.total for each in receivers) - before
        # A client that has no name is not limited.
        anonymous = await server.connect(endpoint=endpoint)
        assert (await anonymous.ask("127.0.0.1", far.port))[0] == SUCCEEDED
        end = await far.accept()
        sender, receiver = (anonymous, end) if direction == "up" else (end, anonymous)
        sender.send(MUCH)
        assert len(await receiver.read(len(MUCH))) == len(MUCH)
    assert 0.95 * RATE * SECONDS < total < 1.05 * RATE * SECONDS


async def test_each_stream_has_a_rate_of_its_own_besides_that_of_its_user():
    clock = Clock()
    async with target() as far, proxy(limited(clock, connection_rate_up=RATE, user_rate_up=2.5 * RATE)) as server:
        ends = [await stream(server, far) for _ in range(2)]
        for client, _ in ends:
            client.send(MUCH)
        await pass_time(clock, SECONDS)
        for _, end in ends:
            assert 0.95 * RATE * SECONDS < end.total < 1.05 * RATE * SECONDS
        others = [await stream(server, far) for _ in range(2)]
        for client, _ in others:
            client.send(MUCH)
        before = sum(end.total for _, end in ends + others)
        await pass_time(clock, 2)
        assert sum(end.total for _, end in ends + others) - before == pytest.approx(2 * 2.5 * RATE, rel=0.1)


async def test_what_a_user_has_used_is_not_forgotten_when_all_streams_have_ended():
    clock = Clock()
    factory = limited(clock, user_rate_up=RATE)
    async with target() as far, proxy(factory) as server:
        total = 0
        for number in range(1, 21):
            client, end = await stream(server, far)
            client.send(MUCH)
            await pass_time(clock, 0.1)
            client.abort()
            while len(factory.ended) < number:
                await pass_time(clock, 0.01)
            total += end.total
    assert 0.5 * RATE * clock.seconds() < total < 1.1 * RATE * clock.seconds()


async def test_only_streams_with_a_limit_leave_the_fast_relay():
    factory = limited(Clock(), user_rate_up=RATE)
    async with target() as far, proxy(factory) as server:
        for ask in (lambda: stream(server, far), lambda: server.ask("127.0.0.1", far.port)):
            client = (await ask())[0]
            client.abort()
            await client.lost()
        await until(lambda: len(factory.ended) == 2)
    assert sorted(session.relay_name for session in factory.ended) == ["epoll", "producers"]


async def test_all_arrives_before_the_end_of_a_direction():
    clock = Clock()
    async with target() as far, proxy(limited(clock, user_rate_up=RATE, user_rate_down=RATE)) as server:
        client, end = await stream(server, far)
        sent = bytes(range(256)) * 400
        client.send(sent)
        client.half_close()
        await pass_time(clock, 0.3)
        assert not end.input_ended
        await pass_time(clock, 2)
        assert await end.read_to_end() == sent
        end.send(sent)
        end.close()
        await pass_time(clock, 2)
        assert await client.read_to_end() == sent
    assert [session.end for session in server.factory.ended] == ["done"]


@pytest.mark.parametrize("side", ["client", "target"])
async def test_a_reset_is_passed_on_while_a_stream_waits_for_its_rate(side):
    clock = Clock()
    factory = limited(clock, user_rate_up=RATE, user_rate_down=RATE)
    async with target() as far, proxy(factory) as server:
        client, end = await stream(server, far)
        aborting, other = (client, end) if side == "client" else (end, client)
        aborting.send(bytes(RATE))
        await pass_time(clock, 0.2)
        aborting.abort()
        await aborting.lost()
        while other.reason is None:
            await pass_time(clock, 0.1)
        assert isinstance(other.reason, ConnectionLost)
        await until(lambda: factory.ended)
    assert [session.end for session in factory.ended] == [f"{side} aborted"]
    assert clock.getDelayedCalls() == []


async def test_a_slow_reader_stops_a_limited_stream():
    clock = Clock()
    async with target() as far, proxy(limited(clock, connection_rate_up=50_000_000)) as server:
        client, end = await stream(server, far)
        end.transport.pauseProducing()
        client.send(MORE_THAN_BUFFERS)
        await pass_time(clock, 2)
        (connection,) = server.factory.connections
        stopped_at = connection.session.up
        assert stopped_at < len(MORE_THAN_BUFFERS)
        await pass_time(clock, 1)
        assert connection.session.up == stopped_at
        end.transport.resumeProducing()
        while end.total < len(MORE_THAN_BUFFERS):
            await pass_time(clock, 0.1)


async def test_waiting_for_a_rate_is_not_idleness():
    clock = Clock()
    factory = limited(clock, user_rate_up=1024, idle_timeout=4)
    async with target() as far, proxy(factory) as server:
        busy = [await stream(server, far) for _ in range(20)]
        for client, _ in busy:
            client.send(bytes(RATE))
        _, quiet_end = await stream(server, far, b"bob")
        await pass_time(clock, 20, 0.05)
        assert isinstance(await quiet_end.lost(), ConnectionLost)
        assert [(session.user, session.end) for session in factory.ended] == [(b"bob", "idle")]
        # One read each on credit.
        assert 18 * 1024 < sum(end.total for _, end in busy) < 42 * 1024


@pytest.mark.parametrize("workers", [1, 2])
def test_the_options_limit_a_server(socks5ext, workers):
    def send(connection):
        connection.sendall(bytes(600_000))
        connection.close()

    server = socks5ext(f"--workers={workers}", "--connection-rate-down=300000")
    with Target(send) as far:
        client = dial(server.port, "127.0.0.1", far.port)
        began, count = time.monotonic(), 0
        while data := client.recv(65536):
            count += len(data)
        assert count == 600_000
        assert time.monotonic() - began > 1.5
        client.close()
    server.stop()
    assert "Traceback" not in server.output


# Connections.


async def test_a_user_has_no_more_connections_than_the_limit():
    factory = Remembering(reactor, limits=Limits(max_per_user=2))
    async with target() as far, proxy(factory) as server:
        clients = [(await stream(server, far))[0] for _ in range(2)]
        refused, code = await log_in(server, b"alice", far.port)
        assert code == NOT_ALLOWED
        refused.close()
        await until(lambda: factory.ended)
        assert (await log_in(server, b"bob", far.port))[1] == SUCCEEDED
        for _ in range(3):
            anonymous = await server.connect(GREET_ANONYMOUS + request("127.0.0.1", far.port))
            assert await anonymous.read(4) == b"\x05\x00\x05\x00"
        clients[0].abort()
        await until(lambda: len(factory.ended) == 2)
        assert (await log_in(server, b"alice", far.port))[1] == SUCCEEDED
    assert factory.ended[0].end == "TooManyConnectionsOfUser"
