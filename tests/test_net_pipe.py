"""The pipe between two sockets: what it moves, and what comes back."""

import select
import socket
from contextlib import contextmanager, suppress
from itertools import chain

import pytest
from support.targets import reset

from txsocksx_ext.net.pipe import PIPE_SIZE, Pipe


@contextmanager
def pairs_of_sockets(count):
    """So many pairs, whose sockets do not block."""
    pairs = [socket.socketpair() for _ in range(count)]
    for each in chain.from_iterable(pairs):
        each.setblocking(False)
    try:
        yield pairs
    finally:
        for each in chain.from_iterable(pairs):
            each.close()


@pytest.fixture
def pipe():
    made = Pipe()
    yield made
    made.close()


def test_bytes_are_moved(pipe):
    with pairs_of_sockets(2) as ((sender, source), (drain, receiver)):
        assert pipe.move(source.fileno(), drain.fileno(), PIPE_SIZE) == (0, b"")
        sender.send(b"some bytes")
        assert pipe.move(source.fileno(), drain.fileno(), PIPE_SIZE) == (10, b"")
        assert receiver.recv(100) == b"some bytes"
        sender.shutdown(socket.SHUT_WR)
        assert pipe.move(source.fileno(), drain.fileno(), PIPE_SIZE) == (0, b"")


def test_what_is_not_taken_comes_back_and_never_to_another(pipe):
    with pairs_of_sockets(3) as ((sender, source), (drain, _), (other_drain, other_receiver)):
        with suppress(BlockingIOError):
            while True:
                drain.send(bytes(1000))
        sender.send(b"not taken")
        assert pipe.move(source.fileno(), drain.fileno(), PIPE_SIZE) == (9, b"not taken")
        sender.send(b"of another")
        assert pipe.move(source.fileno(), other_drain.fileno(), PIPE_SIZE) == (10, b"")
        assert other_receiver.recv(100) == b"of another"
        other_receiver.close()
        sender.send(b"late")
        assert pipe.move(source.fileno(), other_drain.fileno(), PIPE_SIZE) == (4, b"late")


def test_a_closed_pipe_moves_nothing(pipe):
    with pairs_of_sockets(2) as ((sender, source), (drain, _)):
        pipe.close()
        sender.send(b"stays")
        assert pipe.move(source.fileno(), drain.fileno(), PIPE_SIZE) == (0, b"")
        assert source.recv(100) == b"stays"


def test_a_reset_of_the_source_is_told(pipe):
    """Once: who reads after that sees an end."""
    with pairs_of_sockets(1) as ((drain, _),), socket.create_server(("127.0.0.1", 0)) as listening:
        dialled = socket.create_connection(listening.getsockname())
        with dialled:
            reset(listening.accept()[0])
            assert select.select([dialled], [], [], 20)[0]
            with pytest.raises(ConnectionResetError):
                pipe.move(dialled.fileno(), drain.fileno(), PIPE_SIZE)
