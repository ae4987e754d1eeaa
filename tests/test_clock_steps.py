"""The system's clock is set while the server runs: time-outs take as long as they should."""

import socket
import time

import pytest
from examples.raw_peers import GREET_ANONYMOUS, descriptors_at_rest, dial, request, settles
from support.programs import has_written
from support.silence import silent_port
from support.targets import Target, echo, read_exactly

SECONDS = 2
"""A time-out, in the options of the server."""

PATIENCE = 10.0
"""Seconds for it to fire. A time-out that went by the time of day would take an hour."""

HOUR = 3600


class SteppedClock:
    """A clock for a child process that a test can set."""

    def __init__(self, folder):
        self._path = folder / "step"
        # It has to stand before Twisted keeps `time.time`.
        self.before = f"""
import os, time
real_time = time.time

def stepped_time():
    try:
        with open({str(self._path)!r}) as file:
            return real_time() + float(file.read() or 0)
    except OSError:
        return real_time()

time.time = stepped_time
"""

    def step(self, seconds):
        self._path.write_text(str(seconds))


@pytest.fixture
def clock(tmp_path):
    return SteppedClock(tmp_path)


def connect(server):
    return socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)


def wake_if_forward(server, step):
    """Have the server look at its clock now: a reactor that sleeps does so only when its next time-out should come."""
    if step > 0:
        connect(server).close()


def is_closed_in_time(client):
    """Whether the server closes a connection, not before its time-out and not long after it."""
    began = time.monotonic()
    try:
        while client.recv(100):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return time.monotonic() - began > SECONDS / 2


steps = pytest.mark.parametrize("step", [-HOUR, HOUR], ids=["back", "forward"])


@steps
@pytest.mark.parametrize("reactor", ["epoll", "asyncio"])
def test_a_handshake_has_its_time(socks5ext, clock, step, reactor):
    server = socks5ext("--handshake-timeout", str(SECONDS), before=clock.before, reactor=reactor)
    with connect(server) as client:
        client.sendall(GREET_ANONYMOUS)
        assert read_exactly(client, 2) == b"\x05\x00"
        clock.step(step)
        wake_if_forward(server, step)
        assert is_closed_in_time(client)


@steps
def test_a_connection_to_a_target_has_its_time(socks5ext, clock, step):
    server = socks5ext("--connect-timeout", str(SECONDS), before=clock.before)
    at_rest = descriptors_at_rest(server)
    with silent_port() as port, connect(server) as client:
        client.sendall(GREET_ANONYMOUS + request("127.0.0.1", port))
        assert settles(lambda: server.descriptors() == at_rest + 2)
        clock.step(step)
        wake_if_forward(server, step)
        assert is_closed_in_time(client)


def test_an_idle_stream_has_its_time(socks5ext, clock):
    server = socks5ext("--idle-timeout", str(SECONDS), before=clock.before)
    with Target(echo) as far, dial(server.port, "127.0.0.1", far.port, patience=PATIENCE) as client:
        client.sendall(b"question")
        assert read_exactly(client, 8) == b"question"
        clock.step(-HOUR)
        assert is_closed_in_time(client)


@steps
def test_draining_has_its_time(socks5ext, clock, step):
    server = socks5ext("--drain", str(SECONDS), before=clock.before)
    with Target(echo) as far, dial(server.port, "127.0.0.1", far.port, patience=PATIENCE) as client:
        server.process.terminate()
        assert has_written(server, "to end")
        clock.step(step)
        if step > 0:
            client.sendall(b"question")
        assert is_closed_in_time(client)
        assert settles(lambda: server.process.poll() is not None, PATIENCE)
