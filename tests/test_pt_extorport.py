"""The extended ORPort: its conversation, byte by byte, and what ends it."""

import pytest
from support.vectors import by_id, splits, vectors_of
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock

from txsocksx_ext.net.twisted_transports import hand_over
from txsocksx_ext.pt.extorport import (
    COOKIE_HEADER,
    DENY,
    DONE,
    OKAY,
    TRANSPORT,
    USERADDR,
    ExtendedORPortRefused,
    client_hash,
    connect_introduced,
    frame,
    introduce,
    read_cookie,
    server_hash,
)
from txsocksx_ext.testing import MemoryEndpoint, Recorder

(VECTOR,) = (vector.row for vector in vectors_of("extor_hash"))
COOKIE, NONCE, SERVER_NONCE = (bytes.fromhex(VECTOR[name]) for name in ("cookie", "client_nonce", "server_nonce"))
PROOF = bytes.fromhex(VECTOR["server_hash"]) + SERVER_NONCE

GREETING = b"\x01\x00"
USERADDR_AND_ALL = frame(USERADDR, b"203.0.113.5:4321") + frame(TRANSPORT, b"sealed") + frame(DONE)
"""What is said at last."""


def test_the_hashes():
    assert server_hash(COOKIE, NONCE, SERVER_NONCE).hex() == VECTOR["server_hash"]
    assert client_hash(COOKIE, NONCE, SERVER_NONCE).hex() == VECTOR["client_hash"]


@pytest.mark.parametrize("vector", **by_id(vectors_of("extor")))
def test_the_frames(vector):
    decoded = vector.row["decoded"]
    assert frame(decoded["cmd"], decoded["body"].encode("ascii")) == vector.data


def hold(answers, exchange):
    """Give an exchange what it asks for from `answers`: what it said, and what it left of them."""
    said, needed = next(exchange)
    while True:
        part, answers = answers[:needed], answers[needed:]
        assert len(part) == needed, "it wants more"
        try:
            words, needed = exchange.send(part)
        except StopIteration:
            return said, answers
        said += words


def test_the_whole_conversation():
    answers = GREETING + PROOF + b"\x01" + frame(OKAY) + b"the first payload"
    said, rest = hold(answers, introduce(COOKIE, "sealed", "203.0.113.5:4321", NONCE))
    assert said == b"\x01" + NONCE + bytes.fromhex(VECTOR["client_hash"]) + USERADDR_AND_ALL
    assert rest == b"the first payload"


def test_an_unknown_client_is_not_named():
    said, _ = hold(GREETING + PROOF + b"\x01" + frame(OKAY), introduce(COOKIE, "sealed", None, NONCE))
    assert said.endswith(bytes.fromhex(VECTOR["client_hash"]) + frame(TRANSPORT, b"sealed") + frame(DONE))


def test_unknown_commands_and_types_are_passed_over():
    answers = b"\x07\x01\x00" + PROOF + b"\x01" + frame(0x1002, b"CONTROL") + frame(0x7777) + frame(OKAY, b"body")
    _, rest = hold(answers, introduce(COOKIE, "sealed", None, NONCE))
    assert rest == b""


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (b"\x02\x03\x00", "no authentication by cookie"),
        (b"\x00", "no authentication by cookie"),
        (b"\x02" * 0x100, "no authentication by cookie"),
        (GREETING + bytes(64), "does not know its own cookie"),
        (GREETING + PROOF + b"\x00", "did not accept the cookie"),
        (GREETING + PROOF + b"\x02", "did not accept the cookie"),
        (GREETING + PROOF + b"\x01" + frame(DENY), "denied"),
        (GREETING + PROOF + b"\x01" + frame(0x1002) * 100, "did not take the connection"),
    ],
)
def test_what_ends_it(answers, words):
    with pytest.raises(ExtendedORPortRefused, match=words):
        hold(answers, introduce(COOKIE, "sealed", None, NONCE))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read: No such file"),
        (b"", "is not the cookie"),
        (COOKIE_HEADER + bytes(31), "is not the cookie"),
        (COOKIE_HEADER + bytes(33), "is not the cookie"),
        (b"! Extended ORPort Auth Biscuit !" + bytes(32), "is not the cookie"),
    ],
)
def test_a_file_that_holds_no_cookie(content, words, tmp_path):
    file = tmp_path / "cookie"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        read_cookie(file)
    assert str(tmp_path) not in str(caught.value)


def test_a_cookie(tmp_path):
    (tmp_path / "cookie").write_bytes(COOKIE_HEADER + COOKIE)
    assert read_cookie(tmp_path / "cookie") == COOKIE


class TestCarried:
    """Over a connection, where answers come in pieces."""

    @pytest.fixture
    def clock(self):
        return Clock()

    @pytest.fixture
    def tor(self):
        return Recorder()

    def open(self, clock, tor, **options):
        factory = Factory()
        factory.buildProtocol = lambda address: tor
        endpoint = MemoryEndpoint(factory, clock=clock, **options)
        exchange = introduce(COOKIE, "sealed", "203.0.113.5:4321", NONCE)
        opening = Deferred.fromCoroutine(connect_introduced(endpoint, exchange))
        clock.advance(0)
        return opening

    def test_however_it_comes(self):
        answers = GREETING + PROOF + b"\x01" + frame(OKAY) + b"the first payload"
        for pieces in splits(answers, samples=10):
            clock, tor = Clock(), Recorder()
            opening = self.open(clock, tor)
            for piece in pieces:
                tor.write(piece)
            results = []
            opening.addBoth(results.append)
            (transport,) = results
            application = Recorder()
            hand_over(transport, application)
            transport.resumeProducing()
            clock.advance(0)
            assert application.received == b"the first payload"
            assert tor.received.endswith(USERADDR_AND_ALL)
            tor.write(b", and the next")
            assert application.received == b"the first payload, and the next"

    def test_nothing_follows_done_until_it_is_answered(self, clock, tor):
        opening = self.open(clock, tor)
        tor.write(GREETING + PROOF + b"\x01")
        assert tor.received.endswith(USERADDR_AND_ALL)
        assert not opening.called
        tor.write(frame(OKAY))
        assert opening.called
        assert tor.received.endswith(USERADDR_AND_ALL)

    @pytest.mark.parametrize("end", ["close", "abort"])
    def test_a_tor_that_leaves(self, clock, tor, end):
        opening = self.open(clock, tor)
        tor.write(GREETING)
        getattr(tor, end)()
        error = failure_of(opening)
        assert isinstance(error, ExtendedORPortRefused)
        assert str(error) == "tor's extended ORPort closed the connection"

    def test_a_tor_that_denies_is_left(self, clock, tor):
        opening = self.open(clock, tor)
        tor.write(GREETING + PROOF + b"\x01" + frame(DENY))
        clock.advance(0)
        assert "denied" in str(failure_of(opening))
        assert tor.lost

    def test_giving_up(self, clock, tor):
        opening = self.open(clock, tor)
        tor.write(GREETING)
        opening.addErrback(lambda failure: None)
        opening.cancel()
        clock.advance(0)
        assert tor.lost


def failure_of(deferred: Deferred):
    caught = []
    deferred.addErrback(caught.append)
    (failure,) = caught
    return failure.value
