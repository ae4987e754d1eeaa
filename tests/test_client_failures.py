"""What a proxy may answer instead of success, and which exception each failure becomes."""

import pytest
from support.attempts import ANONYMOUS, EXTENDED, LOGIN, REPLY_LENGTH, Application, attempt, each_message, each_way
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.task import Clock

from txsocksx_ext import SOCKS5ClientEndpoint, errors
from txsocksx_ext.protocol.socks5 import State
from txsocksx_ext.testing import Ending, FakeProxy, Recorder

# Failures of the request.


@pytest.mark.parametrize("ending", [Ending.CLOSE, Ending.SILENCE])
@pytest.mark.parametrize("most_at_once", [1, 65536])
def test_the_code_of_a_short_reply_is_told(ending, most_at_once):
    for code in (0x01, 0x05, 0x5B, 0xE0, 0xFF):
        for length in (2, 3, 4, 9):
            proxy = FakeProxy(
                code=code, stop_at=State.REPLY, stop_after=length, ending=ending, most_at_once=most_at_once
            )
            tried = attempt(proxy)
            assert tried.outcome.code == code, f"{length} bytes"
            assert tried.has_left_nothing


RFC_1928 = {
    0x01: errors.GeneralServerFailure,
    0x02: errors.ConnectionNotAllowed,
    0x03: errors.NetworkUnreachable,
    0x04: errors.HostUnreachable,
    0x05: errors.ConnectionRefused,
    0x06: errors.TTLExpired,
    0x07: errors.CommandNotSupported,
    0x08: errors.AddressTypeNotSupported,
    0xE0: errors.OnionServiceNotFound,
    0xE1: errors.OnionServiceNotReachable,
}
PROP229 = {
    **RFC_1928,
    0xF0: errors.TransportTemporaryFailure,
    0xF1: errors.TransportProtocolFailure,
    0xF2: errors.TransportInternalError,
}
TOR = {
    **RFC_1928,
    0xF0: errors.OnionDescriptorNotFound,
    0xF1: errors.OnionDescriptorInvalid,
    0xF2: errors.OnionIntroductionFailed,
    0xF3: errors.OnionRendezvousFailed,
    0xF4: errors.OnionClientAuthRequired,
    0xF5: errors.OnionClientAuthWrong,
    0xF6: errors.OnionAddressInvalid,
    0xF7: errors.OnionIntroductionTimedOut,
}


@pytest.mark.parametrize(
    ("methods", "dialect", "confirmed", "table"),
    [
        (EXTENDED, "auto", {}, PROP229),
        (EXTENDED, "auto", {"tor.errors": "304"}, TOR),
        (EXTENDED, "auto", {"tor.errors": "229"}, PROP229),
        (EXTENDED, "auto", {"tor.errors": "none"}, PROP229),
        (EXTENDED, "prop229", {"tor.errors": "304"}, PROP229),
        (EXTENDED, "tor", {}, TOR),
        (EXTENDED, "plain", {"tor.errors": "304"}, RFC_1928),
        (LOGIN, "auto", {}, TOR),
        (ANONYMOUS, "auto", {}, TOR),
        (ANONYMOUS, "prop229", {}, PROP229),
        (ANONYMOUS, "tor", {}, TOR),
        (ANONYMOUS, "plain", {}, RFC_1928),
    ],
)
def test_every_code_becomes_what_it_means_in_the_dialect(methods, dialect, confirmed, table):
    for code in range(1, 256):
        error = attempt(FakeProxy(code=code, pairs=confirmed), methods, dialect=dialect).outcome
        assert type(error) is table.get(code, errors.UnknownReply), f"{code:02X}"
        assert error.code == code
        assert error.message


def test_a_server_that_selects_another_method_than_97_speaks_tors_dialect():
    tried = attempt(FakeProxy(code=0xF4, method=0x02), {**LOGIN, **EXTENDED})
    assert type(tried.outcome) is errors.OnionClientAuthRequired


def test_tors_f0_on_a_connection_that_stays_is_a_success():
    tried = attempt(FakeProxy(code=0xF0, stop_at=State.REPLY, stop_after=REPLY_LENGTH, ending=Ending.SILENCE))
    assert tried.outcome is None
    tried.run(1)
    assert isinstance(tried.outcome, Recorder)
    tried.outcome.close()
    assert tried.has_left_nothing


def test_what_came_while_tors_f0_was_in_doubt_is_not_lost():
    proxy = FakeProxy(
        code=0xF0, joined=b"data", stop_at=State.REPLY, stop_after=REPLY_LENGTH + 4, ending=Ending.SILENCE
    )
    tried = attempt(proxy).run(1)
    assert tried.outcome.received == b"data"
    tried.outcome.close()


def test_data_after_tors_f0_ends_the_doubt_even_where_the_far_end_closes_with_it():
    # Nothing follows a failing reply: who sends data has a stream.
    tried = attempt(FakeProxy(code=0xF0, joined=b"a whole answer")).run(1)
    assert isinstance(tried.outcome, Recorder)
    assert tried.outcome.received == b"a whole answer"


def test_a_part_of_tors_f0_on_a_connection_that_stays_is_a_failure():
    tried = attempt(FakeProxy(code=0xF0, stop_at=State.REPLY, stop_after=4, ending=Ending.SILENCE)).run(1)
    assert type(tried.outcome) is errors.OnionDescriptorNotFound
    assert tried.has_left_nothing


def test_what_follows_a_malformed_part_of_tors_f0_is_no_stream():
    tried = attempt(
        FakeProxy(
            instead={State.REPLY: bytes.fromhex("05f00063")}, stop_at=State.REPLY, stop_after=4, ending=Ending.SILENCE
        )
    )
    tried.said.transport.write(bytes.fromhex("0000"))
    tried.run()
    tried.said.transport.write(bytes.fromhex("00017f0000010050") + b"DATA")
    tried.run(1)
    assert type(tried.outcome) is errors.OnionDescriptorNotFound
    assert tried.has_left_nothing


def test_tors_time_out_says_nothing_of_an_onion_service():
    """Tor may not have bootstrapped: then it has asked nobody."""
    clock = Clock()
    proxy = FakeProxy(code=0x06, clock=clock)
    name = "a" * 56 + ".onion"
    failing = SOCKS5ClientEndpoint(name, 80, proxy.endpoint, reactor=clock).connect(Application())
    clock.advance(0)
    caught = []
    failing.addErrback(caught.append)
    assert type(caught[0].value) is errors.TTLExpired


# Failures before the request.


@pytest.mark.parametrize(
    ("methods", "state", "answer"),
    [
        (ANONYMOUS, State.SELECTION, b"\x04\x00"),
        (ANONYMOUS, State.SELECTION, b"\x00\x5b\x00\x00"),
        (ANONYMOUS, State.SELECTION, b"HTTP/1.0 501 Tor is not an HTTP Proxy\r\n"),
        (EXTENDED, State.PAIRS_ANSWER, b"\x05\x00\x00\x00"),
        (EXTENDED, State.PAIRS_ANSWER, b"\x01\x00\x00\x01\x00\x00\x00\x00"),
        (EXTENDED, State.PAIRS_ANSWER, b"\x01\x00\x00\x01\x00\x01\xff\x00\x00"),
        (EXTENDED, State.PAIRS_ANSWER, b"\x01\x00\x00\x02" + b"\x00\x01k\x00\x00" * 2),
        (EXTENDED, State.PAIRS_ANSWER, b"\x01\x00\xff\xff"),
        (EXTENDED, State.PAIRS_ANSWER, b"\x01\x00\x00\x01\x00\x01k\xff\xff"),
        (ANONYMOUS, State.REPLY, b"\x04\x00\x00\x01"),
        (ANONYMOUS, State.REPLY, b"\x05\x00\x00\x05"),
        (ANONYMOUS, State.REPLY, b"\x05\x00\x00\x02" + b"\x00" * 6),
    ],
)
def test_a_violation_is_told_as_one_and_ends_the_connection(methods, state, answer):
    tried = attempt(FakeProxy(instead={state: answer}), methods)
    assert type(tried.outcome) is errors.ProtocolViolation
    assert tried.has_left_nothing
    assert tried.application.addresses == []


@pytest.mark.parametrize(
    ("methods", "method"),
    [(ANONYMOUS, 0x02), (ANONYMOUS, 0x97), (ANONYMOUS, 0x01), (LOGIN, 0x00), (LOGIN, 0x97), (EXTENDED, 0x00)],
)
def test_a_method_that_was_not_offered_gets_nothing(methods, method):
    tried = attempt(FakeProxy(method=method), methods)
    assert type(tried.outcome) is errors.ProtocolViolation
    assert f"{method:02X}" in str(tried.outcome)
    assert (tried.said.credentials, tried.said.pairs, tried.said.request) == (None, None, None)
    assert tried.has_left_nothing


@each_way
@pytest.mark.parametrize("ending", [None, Ending.SILENCE])
def test_no_acceptable_method(methods, ending):
    options = {} if ending is None else {"stop_at": State.SELECTION, "stop_after": 2, "ending": ending}
    tried = attempt(FakeProxy(method=0xFF, **options), methods)
    assert type(tried.outcome) is errors.NoAcceptableMethod
    assert tried.has_left_nothing


@pytest.mark.parametrize("status", [0x01, 0x02, 0xFF])
def test_a_login_that_is_refused(status):
    tried = attempt(FakeProxy(status=status), LOGIN)
    assert type(tried.outcome) is errors.AuthenticationFailed
    assert (tried.outcome.status, tried.outcome.code, tried.outcome.pairs) == (status, None, {})
    assert tried.said.request is None
    assert tried.has_left_nothing


def test_tors_answer_to_a_login_that_it_does_not_take():
    tor = b"\x05\x01\x00\x01\x00\x00\x00\x00\x00\x00"
    tried = attempt(FakeProxy(instead={State.CREDENTIALS_ANSWER: tor}), LOGIN)
    assert type(tried.outcome) is errors.AuthenticationFailed
    assert tried.outcome.status == 1
    assert tried.has_left_nothing


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (0x01, errors.AuthenticationFailed),
        (0x02, errors.InvalidArguments),
        (0x03, errors.UnknownStatus),
        (0xFF, errors.UnknownStatus),
    ],
)
def test_pairs_that_are_refused_and_the_pairs_of_the_answer(status, error):
    tried = attempt(FakeProxy(status=status, pairs={"ERROR": "unknown key: x", "more": b"\xff"}), EXTENDED)
    assert type(tried.outcome) is error
    assert tried.outcome.status == status
    assert tried.outcome.pairs == {"ERROR": b"unknown key: x", "more": b"\xff"}
    assert tried.said.request is None
    assert tried.has_left_nothing


def test_what_a_proxy_says_of_its_refusal_cannot_command_a_terminal():
    tried = attempt(FakeProxy(status=2, pairs={"ERROR": b"key \x1b[2J\r\n\xff" + b"x" * 5000}), EXTENDED)
    text = str(tried.outcome)
    assert "key [2J" in text
    assert text.isprintable()
    assert len(text) < 400


@each_message
@pytest.mark.parametrize(
    ("ending", "cause"), [(Ending.CLOSE, ConnectionDone), (Ending.ABORT, ConnectionLost)], ids=["close", "abort"]
)
def test_a_proxy_that_leaves_in_the_middle(methods, state, length, ending, cause):
    for count in range(length):
        proxy = FakeProxy(pairs={"k": b""}, stop_at=state, stop_after=count, ending=ending)
        tried = attempt(proxy, methods)
        assert type(tried.outcome) is errors.ProxyClosed
        assert type(tried.outcome.__cause__) is cause
        assert tried.has_left_nothing
        assert tried.application.addresses == []


def test_a_proxy_that_is_not_there():
    refused = ConnectionRefusedError()
    tried = attempt(FakeProxy(failure=refused))
    assert type(tried.outcome) is errors.ProxyRefused
    assert tried.outcome.__cause__ is refused
    assert tried.has_left_nothing
