import inspect
import traceback

import pytest
import txtorcon.socks
from twisted.internet.error import (
    ConnectError,
    ConnectionRefusedError,
    DNSLookupError,
    NoRouteError,
    TCPTimedOutError,
    TimeoutError,
    UnknownHostError,
    getConnectError,
)

from txsocksx_ext import errors
from txsocksx_ext.errors import Retry
from txsocksx_ext.failures import authentication_error, proxy_unreachable, reply_class, reply_error
from txsocksx_ext.protocol.codes import Dialect, Method
from txsocksx_ext.protocol.pairs import Pairs

PLAIN, PROP229, TOR = Dialect.PLAIN, Dialect.PROP229, Dialect.TOR

EVERY_ERROR = [each for each in vars(errors).values() if inspect.isclass(each) and issubclass(each, errors.SOCKS5Error)]
HEADS = {errors.SOCKS5Error, errors.ReplyError, errors.OnionServiceError, errors.TransportError}
"""What can be caught, and is raised only as one of its subclasses."""

# The class of each code, and its bases that others count on.
RFC_1928 = {
    0x01: (errors.GeneralServerFailure, txtorcon.socks.GeneralServerFailureError),
    0x02: (errors.ConnectionNotAllowed, txtorcon.socks.ConnectionNotAllowedError),
    0x03: (errors.NetworkUnreachable, txtorcon.socks.NetworkUnreachableError),
    0x04: (errors.HostUnreachable, txtorcon.socks.HostUnreachableError),
    0x05: (errors.ConnectionRefused, txtorcon.socks.ConnectionRefusedError),
    0x06: (errors.TTLExpired, txtorcon.socks.TtlExpiredError),
    0x07: (errors.CommandNotSupported, txtorcon.socks.CommandNotSupportedError),
    0x08: (errors.AddressTypeNotSupported, txtorcon.socks.AddressTypeNotSupportedError),
}
ONION = {
    0xE0: (errors.OnionServiceNotFound, errors.OnionServiceError),
    0xE1: (errors.OnionServiceNotReachable, errors.OnionServiceError),
}
TRANSPORT = {
    0xF0: (errors.TransportTemporaryFailure, errors.TransportError),
    0xF1: (errors.TransportProtocolFailure, errors.TransportError),
    0xF2: (errors.TransportInternalError, errors.TransportError),
}
TOR_OWN = {
    0xF0: (errors.OnionDescriptorNotFound, errors.OnionServiceNotFound),
    0xF1: (errors.OnionDescriptorInvalid, errors.OnionServiceNotReachable),
    0xF2: (errors.OnionIntroductionFailed, errors.OnionServiceNotReachable),
    0xF3: (errors.OnionRendezvousFailed, errors.OnionServiceNotReachable),
    0xF4: (errors.OnionClientAuthRequired, errors.OnionServiceError),
    0xF5: (errors.OnionClientAuthWrong, errors.OnionServiceError),
    0xF6: (errors.OnionAddressInvalid, errors.OnionServiceError),
    0xF7: (errors.OnionIntroductionTimedOut, errors.OnionServiceNotReachable),
}
CLASSES = {
    PLAIN: RFC_1928 | ONION,
    PROP229: RFC_1928 | ONION | TRANSPORT,
    TOR: RFC_1928 | ONION | TOR_OWN,
}

# What handlers of direct connections catch, and whether it is worth a retry.
NOW, LATER, NEVER = Retry.NOW, Retry.LATER, Retry.NEVER
TWISTED = {
    errors.GeneralServerFailure: (LATER, {ConnectError}),
    errors.ConnectionNotAllowed: (NEVER, set()),
    errors.NetworkUnreachable: (LATER, {NoRouteError}),
    # The reply means either.
    errors.HostUnreachable: (LATER, {DNSLookupError, NoRouteError}),
    errors.ConnectionRefused: (LATER, {ConnectionRefusedError}),
    errors.TTLExpired: (LATER, {TimeoutError}),
    errors.CommandNotSupported: (NEVER, set()),
    errors.AddressTypeNotSupported: (NEVER, set()),
    errors.UnknownReply: (LATER, {ConnectError}),
    errors.OnionServiceNotFound: (LATER, {DNSLookupError}),
    errors.OnionServiceNotReachable: (LATER, {ConnectError}),
    errors.OnionDescriptorNotFound: (LATER, {DNSLookupError}),
    errors.OnionDescriptorInvalid: (LATER, {ConnectError}),
    errors.OnionIntroductionFailed: (LATER, {ConnectError}),
    errors.OnionRendezvousFailed: (LATER, {ConnectError}),
    errors.OnionClientAuthRequired: (NEVER, set()),
    errors.OnionClientAuthWrong: (NEVER, set()),
    errors.OnionAddressInvalid: (NEVER, set()),
    errors.OnionIntroductionTimedOut: (LATER, {TimeoutError}),
    errors.TransportTemporaryFailure: (NOW, {ConnectError}),
    errors.TransportProtocolFailure: (NEVER, set()),
    errors.MissingArgument: (NEVER, set()),
    errors.TransportInternalError: (LATER, {ConnectError}),
    errors.NoAcceptableMethod: (NEVER, set()),
    errors.AuthenticationFailed: (NEVER, set()),
    errors.InvalidArguments: (NEVER, set()),
    errors.UnknownStatus: (NEVER, set()),
    errors.ProtocolViolation: (NEVER, set()),
    errors.ProxyClosed: (LATER, {ConnectError}),
    errors.ProxyUnreachable: (LATER, {ConnectError}),
    errors.ProxyRefused: (LATER, {ConnectionRefusedError}),
    # One handler of `ProxyUnreachable` has all of its subclasses, which are connection errors as it is.
    errors.ProxyNotFound: (LATER, {ConnectError, DNSLookupError}),
    errors.ProxyNetworkUnreachable: (LATER, {NoRouteError}),
    errors.ProxyTimedOut: (LATER, {TimeoutError, TCPTimedOutError}),
    errors.HandshakeTimeout: (LATER, {TimeoutError}),
    errors.CleartextRefused: (NEVER, set()),
}
OF_CONNECTIONS = [ConnectError, ConnectionRefusedError, DNSLookupError, NoRouteError, TCPTimedOutError, TimeoutError]


def test_every_error_is_txtorcons():
    assert len(EVERY_ERROR) > 25
    for error in EVERY_ERROR:
        assert txtorcon.socks.SocksError in error.__mro__


def test_every_error_that_is_raised_says_whether_to_retry():
    assert set(TWISTED) == set(EVERY_ERROR) - HEADS
    assert {error: error().retry for error in TWISTED} == {error: retry for error, (retry, _) in TWISTED.items()}


@pytest.mark.parametrize("error", TWISTED, ids=lambda error: error.__name__)
def test_handlers_of_twisteds_errors_catch_ours_of_the_same_meaning(error):
    caught_by = {kind for kind in OF_CONNECTIONS if issubclass(error, kind)}
    expected = TWISTED[error][1]
    assert caught_by == expected | ({ConnectError} if expected - {DNSLookupError} else set())
    for kind in caught_by:
        with pytest.raises(kind) as caught:
            raise error("said")
        assert (str(caught.value), caught.value.args, caught.value.osError) == ("said", ("said",), None)
    # `DNSLookupError` is an OSError, which other layers retry or swallow. Nothing else may be one.
    assert issubclass(error, OSError) is (DNSLookupError in expected)


def test_no_handler_of_connection_errors_catches_what_must_not_be_retried():
    for error in EVERY_ERROR:
        if error.retry is NEVER:
            assert not issubclass(error, (OSError, *OF_CONNECTIONS)), error


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (getConnectError((111, "Connection refused")), errors.ProxyRefused),
        (getConnectError((101, "Network is unreachable")), errors.ProxyNetworkUnreachable),
        (getConnectError((110, "Connection timed out")), errors.ProxyTimedOut),
        (TimeoutError(), errors.ProxyTimedOut),
        (DNSLookupError("no results"), errors.ProxyNotFound),
        (getConnectError((113, "No route to host")), errors.ProxyUnreachable),
        (UnknownHostError(), errors.ProxyUnreachable),
    ],
)
def test_a_proxy_that_was_not_reached_is_told_by_the_reason(cause, kind):
    error = proxy_unreachable(cause, "proxy.example:1080")
    assert type(error) is kind
    assert str(error).startswith("the proxy at proxy.example:1080 could not be reached (")
    assert str(cause).rstrip(".") in str(error)
    assert error.__cause__ is cause
    assert error.osError == getattr(cause, "osError", None)


def test_every_error_can_be_made_without_arguments():
    for error in EVERY_ERROR:
        made = error()
        assert made.code is None or isinstance(made.code, int)
        assert made.message
        assert str(made) == made.message


def test_every_error_can_be_made_with_a_message_of_its_own():
    for error in EVERY_ERROR:
        made = error("something else")
        assert (str(made), made.message) == ("something else", "something else")
        assert made.code == error().code


def test_every_message_also_says_what_a_person_can_do():
    silent = [error for error in EVERY_ERROR if error not in HEADS and ": " not in error().message]
    assert silent == []


@pytest.mark.parametrize("dialect", Dialect)
def test_every_reply_code_has_its_class_in_its_dialect(dialect):
    for code in range(1, 256):
        expected, base = CLASSES[dialect].get(code, (errors.UnknownReply, errors.ReplyError))
        error = reply_error(code, dialect)
        assert type(error) is expected
        assert reply_class(code, dialect) is expected
        assert isinstance(error, (errors.ReplyError, txtorcon.socks.SocksError))
        assert isinstance(error, base)
        assert error.code == code
        assert isinstance(error.code, int)


@pytest.mark.parametrize("dialect", Dialect)
def test_onion_services_are_told_apart_in_every_dialect(dialect):
    assert type(reply_error(0xE0, dialect)) is errors.OnionServiceNotFound
    assert type(reply_error(0xE1, dialect)) is errors.OnionServiceNotReachable


@pytest.mark.parametrize("dialect", Dialect)
def test_an_unknown_code_shows_its_number(dialect):
    for code in set(range(1, 256)) - set(CLASSES[dialect]):
        error = reply_error(code, dialect)
        assert error.code == code
        assert f"{code:02X}" in str(error)


def test_a_class_knows_its_code_without_an_instance():
    for table in CLASSES.values():
        for code, (expected, _) in table.items():
            assert expected.code == expected().code == code


def test_onion_failures_are_caught_as_what_tor_says_without_extended_codes():
    onion_errors = [error for error in EVERY_ERROR if issubclass(error, errors.OnionServiceError)]
    assert {error for error, _ in (*ONION.values(), *TOR_OWN.values())} <= set(onion_errors)
    for error in onion_errors:
        assert issubclass(error, txtorcon.socks.HostUnreachableError)
    # What is not about onion services is no failure of them.
    for error in set(EVERY_ERROR) - set(onion_errors) - {errors.HostUnreachable}:
        assert not issubclass(error, txtorcon.socks.HostUnreachableError)
        assert not issubclass(error, errors.OnionServiceError)


def test_no_two_reply_classes_catch_each_other_but_within_a_family():
    for _, (error, _) in RFC_1928.items():
        caught = {other for other in EVERY_ERROR if issubclass(other, error)}
        assert caught == {error}


def test_transport_failures_say_when_to_try_again():
    assert errors.TransportTemporaryFailure().retry == Retry.NOW == "now"
    assert errors.TransportProtocolFailure().retry == Retry.NEVER == "never"
    assert errors.TransportInternalError().retry == Retry.LATER == "later"


def test_an_error_keeps_the_code_that_came():
    error = errors.OnionServiceNotReachable(code=0x06)
    assert error.code == 0x06
    assert errors.OnionServiceNotReachable.code == 0xE1


# Authentication.


def test_every_status_of_97_has_its_class():
    pairs = Pairs({"a": b"b"})
    for status in range(1, 256):
        error = authentication_error(Method.EXTENDED, status, pairs)
        expected = {1: errors.AuthenticationFailed, 2: errors.InvalidArguments}.get(status, errors.UnknownStatus)
        assert type(error) is expected
        assert isinstance(error, errors.AuthenticationFailed)
        assert error.status == status
        assert error.pairs == pairs
        assert error.code is None
        if expected is errors.UnknownStatus:
            assert f"{status:02X}" in str(error)


def test_every_failing_status_of_rfc_1929_is_a_failed_authentication():
    for status in range(1, 256):
        error = authentication_error(Method.USERNAME_PASSWORD, status)
        assert type(error) is errors.AuthenticationFailed
        assert (error.status, error.pairs, error.code) == (status, Pairs(), None)


def test_the_errors_of_authentication_stand_for_their_status():
    assert errors.AuthenticationFailed().status == 1
    assert errors.InvalidArguments().status == 2
    assert errors.AuthenticationFailed(status=None).status is None
    assert errors.InvalidArguments(pairs=Pairs({"ERROR": "why"})).pairs == {"ERROR": b"why"}


def test_the_reason_that_a_proxy_gives_is_shown():
    error = authentication_error(Method.EXTENDED, 2, Pairs({"ERROR": "unknown key: X"}))
    assert "unknown key: X" in str(error)


# What a terminal obeys: C0, DEL and C1 characters, and Unicode's that hide or turn text.
HOSTILE = [
    *(bytes([byte]) for byte in range(256)),
    b"\x1b[2J\x1b]0;title\x07",
    b"line\r\nline",
    *("\x9b31m\u200b\u202e\u2028\ufeff".encode(encoding) for encoding in ("utf-8", "utf-16")),
    b"'\"\\",
    b"x" * 60_000,
]


def assert_safe_to_show(text):
    assert text.isprintable(), ascii(text)
    assert len(text) < 600


def test_nothing_that_a_proxy_sends_is_obeyed_by_a_terminal():
    for said in HOSTILE:
        for status in range(1, 5):
            for pairs in (Pairs({"ERROR": b"it said " + said}), Pairs({"OTHER": said}), Pairs({"ERROR": said})):
                error = authentication_error(Method.EXTENDED, status, pairs)
                assert_safe_to_show(str(error))
                assert_safe_to_show(repr(error))


def test_every_message_is_one_printable_line():
    for error in EVERY_ERROR:
        assert_safe_to_show(str(error()))
    for dialect in Dialect:
        for code in range(1, 256):
            assert_safe_to_show(str(reply_error(code, dialect)))


def test_an_error_does_not_show_the_values_that_it_carries():
    pairs = Pairs({"token": b"secret"})

    def fail(error):
        raise error

    for status in (1, 2, 3):
        with pytest.raises(errors.AuthenticationFailed) as failed:
            fail(authentication_error(Method.EXTENDED, status, pairs))
        trace = traceback.TracebackException(type(failed.value), failed.value, failed.tb.tb_next, capture_locals=True)
        shown = "".join(trace.format())
        assert "error = " in shown
        assert "secret" not in shown + repr(failed.value) + str(failed.value)
