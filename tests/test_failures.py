import errno
import os

import pytest
from support.programs import free_port
from twisted.cred.error import UnauthorizedLogin
from twisted.internet import defer, error
from twisted.internet.endpoints import TCP4ClientEndpoint, UNIXClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure

from txsocksx_ext import errors
from txsocksx_ext.failures import most_telling, row_of

# What the system says of a connection, and the reply for it.
ERRNOS = {
    errno.ECONNREFUSED: 0x05,
    errno.ECONNRESET: 0x05,
    errno.ENETUNREACH: 0x03,
    errno.ENETDOWN: 0x03,
    errno.EHOSTUNREACH: 0x04,
    errno.EHOSTDOWN: 0x04,
    errno.ETIMEDOUT: 0x06,
    errno.EACCES: 0x02,
    errno.EPERM: 0x02,
    errno.EAFNOSUPPORT: 0x08,
    errno.EINVAL: 0x01,
    errno.EMFILE: 0x01,
}


def test_what_the_system_says_has_its_code_in_any_wrapping():
    for number, expected in ERRNOS.items():
        text = os.strerror(number)
        assert row_of(OSError(number, text)).number == expected, text
        # Twisted has classes of its own for some, made like this.
        assert row_of(error.getConnectError((number, text))).number == expected, text
        assert row_of(error.getConnectError(OSError(number, text))).number == expected, text


TWISTED = {
    error.ConnectionRefusedError(): 0x05,
    error.ConnectionLost(): 0x05,
    error.NoRouteError(): 0x03,
    error.TimeoutError(): 0x06,
    error.DNSLookupError("no such name"): 0x04,
    error.UnknownHostError(): 0x04,
    error.ConnectError(): 0x01,
    error.UserError(): 0x01,
    error.NoProtocol(): 0x01,
    UnauthorizedLogin(): 0x02,
    ValueError("a fault"): 0x01,
    OSError("without a number"): 0x01,
}


def test_what_twisted_says_has_its_code():
    for failure, code in TWISTED.items():
        assert row_of(failure).number == code, failure
    assert row_of(None).number == 0x01


def test_any_time_out_is_told_as_one():
    # Deferred.addTimeout()'s, a lost connection's, and Python's own: routes of other people fail with them.
    for timeout in (defer.TimeoutError(1, "Deferred"), error.TCPTimedOutError(), TimeoutError("timed out")):
        assert row_of(timeout).number == 0x06, timeout


SOCKS = {
    errors.GeneralServerFailure: 0x01,
    errors.ConnectionNotAllowed: 0x02,
    errors.NetworkUnreachable: 0x03,
    errors.HostUnreachable: 0x04,
    errors.ConnectionRefused: 0x05,
    errors.TTLExpired: 0x06,
    errors.CommandNotSupported: 0x07,
    errors.AddressTypeNotSupported: 0x08,
    errors.UnknownReply: 0x01,
    errors.OnionServiceNotFound: 0xE0,
    errors.OnionServiceNotReachable: 0xE1,
    errors.OnionClientAuthRequired: 0xF4,
    errors.TransportProtocolFailure: 0xF1,
    # What keeps us from another proxy says nothing of the target.
    errors.ProxyUnreachable: 0x01,
    errors.ProxyClosed: 0x01,
    errors.ProtocolViolation: 0x01,
    errors.NoAcceptableMethod: 0x01,
    errors.AuthenticationFailed: 0x01,
    errors.InvalidArguments: 0x01,
    errors.UnknownStatus: 0x01,
    errors.CleartextRefused: 0x01,
    errors.HandshakeTimeout: 0x06,
}


def test_our_own_errors_have_their_codes():
    for kind, code in SOCKS.items():
        assert row_of(kind()).number == code, kind


def test_the_number_that_another_proxy_sent_is_not_taken_for_a_code_of_ours():
    assert row_of(errors.UnknownReply(code=0xF4)).number == 0x01


TELLING = [
    error.ConnectionRefusedError(),
    error.TimeoutError(),
    error.DNSLookupError(),
    error.NoRouteError(),
    OSError(errno.EACCES, "no"),
    OSError(errno.EAFNOSUPPORT, "no"),
    ValueError(),
]
"""Of several failures each tells more than those after it."""


def test_of_several_failures_the_one_that_came_farthest_is_told():
    for number, best in enumerate(TELLING):
        for worse in TELLING[number:]:
            failures = [Failure(best), Failure(worse)]
            assert most_telling(failures).value is best
            assert row_of(most_telling(failures[::-1]).value) is row_of(best)
    assert most_telling([Failure(each) for each in reversed(TELLING)]).value is TELLING[0]


def test_of_equal_failures_the_first_is_told():
    first, second = Failure(error.TimeoutError()), Failure(error.TCPTimedOutError())
    assert most_telling([first, second]) is first


async def test_a_real_refusal_is_05():
    from twisted.internet import reactor

    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", free_port())
    with pytest.raises(error.ConnectError) as refused:
        await endpoint.connect(Factory.forProtocol(Protocol))
    assert row_of(refused.value).number == 0x05


async def test_a_real_unix_socket_that_is_missing_is_01(tmp_path):
    from twisted.internet import reactor

    endpoint = UNIXClientEndpoint(reactor, str(tmp_path / "missing"))
    with pytest.raises(error.ConnectError) as missing:
        await endpoint.connect(Factory.forProtocol(Protocol))
    assert row_of(missing.value).number == 0x01
