"""The client of SOCKS4a: what it sends, and what it makes of the answers."""

import pytest
from support.raw_proxies import RawAttempt, RawProxy
from twisted.internet.address import IPv4Address

from txsocksx_ext import SOCKS4ClientEndpoint, errors
from txsocksx_ext.testing import MemoryEndpoint, Recorder

GRANTED = b"\x00\x5a" + bytes(6)
NAMED = b"\x04\x01\x01\xbb\x00\x00\x00\x01"
ELSEWHERE = IPv4Address("TCP", "192.0.2.1", 1080)


def attempt(answer=GRANTED, *, proxy=None, **options):
    return RawAttempt(SOCKS4ClientEndpoint, proxy or RawProxy(answer), **options)


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ({}, NAMED + b"\x00target.example\x00"),
        ({"user_id": "bob"}, NAMED + b"bob\x00target.example\x00"),
        ({"host": "192.0.2.7", "port": 80}, b"\x04\x01\x00\x50\xc0\x00\x02\x07\x00"),
        ({"host": "target.onion."}, NAMED + b"\x00target.onion\x00"),
    ],
    ids=str,
)
def test_the_request(options, sent):
    assert attempt(None, **options).sent == sent


@pytest.mark.parametrize("user_id", [b"a\0b", b"a" * 256])
def test_a_user_id_that_cannot_be_sent_is_refused(user_id):
    with pytest.raises(ValueError, match="user id"):
        SOCKS4ClientEndpoint("target.example", 443, MemoryEndpoint(RawProxy()), user_id=user_id)


def test_a_user_id_goes_where_others_can_read_it_if_that_is_allowed():
    tried = attempt(proxy=RawProxy(GRANTED, address=ELSEWHERE), user_id="token")
    assert type(tried.outcome) is errors.CleartextRefused
    assert tried.sent == b""
    allowed = attempt(proxy=RawProxy(GRANTED, address=ELSEWHERE), user_id="token", allow_cleartext=True)
    assert isinstance(allowed.outcome, Recorder)


@pytest.mark.parametrize("most_at_once", [1, 65536])
def test_success_and_what_is_joined_to_it(most_at_once):
    tried = attempt(proxy=RawProxy(b"\x00\x5a\x1f\x90\xc0\x00\x02\x09joined", most_at_once=most_at_once))
    assert tried.outcome.received == b"joined"
    (address,) = tried.application.addresses
    assert (address.host, address.bound.host, address.bound.port) == ("target.example", "192.0.2.9", 8080)
    tried.outcome.write(b"payload")
    tried.run()
    assert tried.sent == NAMED + b"\x00target.example\x00payload"
    tried.outcome.close()


@pytest.mark.parametrize(
    ("answer", "exception"),
    [
        (b"\x00\x5b" + bytes(6), errors.GeneralServerFailure),
        (b"\x00\x5b", errors.GeneralServerFailure),
        (b"\x00\x5c" + bytes(6), errors.ConnectionNotAllowed),
        (b"\x00\x5d" + bytes(6), errors.ConnectionNotAllowed),
        (b"\x00\x7f", errors.GeneralServerFailure),
    ],
)
def test_what_a_failure_means(answer, exception):
    tried = attempt(answer)
    assert type(tried.outcome) is exception
    assert tried.outcome.status == answer[1]
    assert tried.has_left_nothing


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"\x05\xff", "SOCKS4"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "speaks HTTP, not SOCKS4"),
        (b"\x04\x5a" + bytes(6), "SOCKS4"),
    ],
)
def test_an_answer_that_is_none_is_told(answer, told):
    tried = attempt(answer)
    assert type(tried.outcome) is errors.ProtocolViolation
    assert told in str(tried.outcome)


def test_an_echo_is_told():
    assert "sends back what it gets" in str(attempt(proxy=RawProxy(echoes=True)).outcome)


def test_a_proxy_that_closes_without_an_answer():
    tried = attempt(proxy=RawProxy(b"", closes=True))
    assert type(tried.outcome) is errors.ProxyClosed
    assert "is this a SOCKS4 proxy?" in str(tried.outcome)
