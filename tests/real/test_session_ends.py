"""The whole: the end of `twistd socks5ext`, and that nothing is left of many transfers."""

import contextlib
import os
import signal
import socket
import time

import pytest
from python_socks.sync import Proxy
from support.programs import has_written
from support.targets import (
    CONTENT,
    Target,
    answer_the_end,
    digest,
    echo,
    echoes,
    end_first,
    local,
    read_exactly,
    reset_after_some,
    talk_to,
    until_it_ends,
)
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ConnectionLost

# The end of the server


def open_stream(server, target):
    """A socket whose bytes go through the server to the target, and an answer to its first ones."""
    stream = Proxy.from_url(f"socks5://127.0.0.1:{server.port}").connect("127.0.0.1", target.port, timeout=20)
    stream.settimeout(20)
    stream.sendall(b"first")
    assert read_exactly(stream, 5) == b"first"
    return stream


def is_refused(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # it was closing
        return False
    return False


def test_sigterm_lets_a_stream_end_by_itself(socks5ext):
    server = socks5ext("--drain=60")
    with (
        Target(echo) as target,
        open_stream(server, target) as stream,
        socket.create_connection(("127.0.0.1", server.port)) as says_nothing,
    ):
        # The server has seen this one when it has answered the next.
        open_stream(server, target).close()
        server.process.send_signal(signal.SIGTERM)
        says_nothing.settimeout(20)
        with contextlib.suppress(ConnectionResetError):
            assert says_nothing.recv(1) == b""
        assert is_refused(server.port)
        stream.sendall(CONTENT[:50_000])
        assert read_exactly(stream, 50_000) == CONTENT[:50_000]
        assert server.process.poll() is None
        stream.close()
        assert server.process.wait(20) == -signal.SIGTERM


def test_sigterm_cuts_a_stream_when_the_time_for_it_is_over(socks5ext):
    server = socks5ext("--drain=0.3")
    with Target(until_it_ends) as target, open_stream(server, target) as stream:
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionResetError):
            stream.recv(1)
        assert target.next_result() == "reset"
        assert server.process.wait(20) == -signal.SIGTERM
    assert "end=drained" in server.output


@pytest.mark.parametrize("options", [(), ("--workers=2",)], ids=["one process", "workers"])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_another_signal_cuts_a_stream_at_once(socks5ext, options, second):
    server = socks5ext("--drain=60", *options)
    with Target(until_it_ends) as target, open_stream(server, target) as stream:
        server.process.send_signal(signal.SIGTERM)
        assert has_written(server, "streams that are left: 1; they have 60 s to end")
        server.process.send_signal(second)
        with pytest.raises(ConnectionResetError):
            stream.recv(1)
        assert target.next_result() == "reset"
        assert server.process.wait(20) == -signal.SIGTERM
    assert "end=drained" in server.output
    assert "Traceback" not in server.output


# Many transfers


def contents(count):
    """As many contents, no two alike."""
    return [CONTENT[1000 * number :] + CONTENT[: 1000 * number] for number in range(count)]


async def send_and_end(server, target, content):
    talker = await talk_to("127.0.0.1", target.port, local(server.port))
    talker.transport.write(content)
    talker.transport.loseWriteConnection()
    await talker.input_ended
    assert bytes(talker.received) == digest(content)
    talker.transport.loseConnection()
    await talker.lost


async def receive_the_end_and_send(server, target, content):
    talker = await talk_to("127.0.0.1", target.port, local(server.port))
    await talker.input_ended
    assert bytes(talker.received) == CONTENT
    talker.transport.write(content)
    talker.transport.loseConnection()
    await talker.lost
    return await target.when_next_result()


async def abort_from_here(server, target):
    talker = await talk_to("127.0.0.1", target.port, local(server.port))
    talker.transport.write(b"first")
    await talker.has_received(5)
    talker.transport.abortConnection()
    await talker.lost
    assert await target.when_next_result() == "reset"


async def abort_from_there(server, target):
    talker = await talk_to("127.0.0.1", target.port, local(server.port))
    talker.transport.write(b"first")
    assert isinstance(await talker.lost, ConnectionLost)


def all_of(coroutines):
    return gatherResults([Deferred.fromCoroutine(each) for each in coroutines], consumeErrors=True)


async def test_no_descriptor_is_left_after_transfers_and_aborts(socks5ext):
    from twisted.internet import reactor

    server = socks5ext()
    assert await echoes(local(server.port))
    assert has_written(server, " CONNECT ")  # the connection of the line above is gone
    before, own_before = server.descriptors(), len(os.listdir("/proc/self/fd"))
    with Target(answer_the_end) as target:
        await all_of(send_and_end(server, target, content) for content in contents(60))
    with Target(end_first) as target:
        received = await all_of(receive_the_end_and_send(server, target, content) for content in contents(60))
        assert sorted(received) == sorted(contents(60))
    with Target(until_it_ends) as target:
        await all_of(abort_from_here(server, target) for _ in range(20))
    with Target(reset_after_some) as target:
        await all_of(abort_from_there(server, target) for _ in range(20))
    deadline = time.monotonic() + 10
    while server.descriptors() > before and time.monotonic() < deadline:
        waited = Deferred()
        reactor.callLater(0.05, waited.callback, None)
        await waited
    assert server.descriptors() == before
    assert "Traceback" not in server.output
    assert len(os.listdir("/proc/self/fd")) == own_before
