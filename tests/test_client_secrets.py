"""Where a client sends secrets, and where it does not as others could read them."""

import pytest
from support.attempts import ANONYMOUS, EXTENDED, LOGIN, Application, attempt, choosing
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from txsocksx_ext import SOCKS5ClientEndpoint, errors
from txsocksx_ext.testing import FakeProxy, Recorder
from txsocksx_ext.wire.codes import Method
from txsocksx_ext.wire.messages import UsernamePassword
from txsocksx_ext.wire.pairs import Pairs

ELSEWHERE = IPv4Address("TCP", "192.0.2.1", 1080)


@pytest.mark.parametrize("methods", [LOGIN, EXTENDED, {**ANONYMOUS, **LOGIN}, {"isolated": None}])
def test_no_secret_goes_where_others_can_read_it(methods):
    tried = attempt(FakeProxy(address=ELSEWHERE), methods)
    assert type(tried.outcome) is errors.CleartextRefused
    assert tried.said.greeting is None
    assert tried.has_left_nothing


@pytest.mark.parametrize("methods", [ANONYMOUS, {"extended": {}}])
def test_without_secrets_a_proxy_may_be_anywhere(methods):
    assert isinstance(attempt(FakeProxy(address=ELSEWHERE), methods).outcome, Recorder)


@pytest.mark.parametrize("methods", [LOGIN, EXTENDED])
def test_secrets_go_there_where_that_is_allowed(methods):
    tried = attempt(FakeProxy(address=ELSEWHERE), methods, allow_cleartext=True)
    assert tried.said.credentials or tried.said.pairs


@pytest.mark.parametrize(
    "address",
    [
        IPv4Address("TCP", "127.9.9.9", 1080),
        IPv6Address("TCP", "::1", 1080),
        IPv6Address("TCP", "::ffff:127.0.0.1", 1080),
        UNIXAddress("/run/proxy"),
        UNIXAddress(None),
    ],
    ids=repr,
)
def test_this_machine_is_no_place_where_others_read(address):
    assert attempt(FakeProxy(address=address), EXTENDED).said.pairs == {"tor.isolation": b"alice"}


@pytest.mark.parametrize("methods", [LOGIN, EXTENDED])
def test_a_proxy_behind_a_proxy_is_not_on_this_machine(methods):
    clock = Clock()
    far = FakeProxy(clock=clock)
    near = FakeProxy(far, clock=clock)
    tunnel = SOCKS5ClientEndpoint("far.example", 1080, near.endpoint, reactor=clock)
    far.endpoint = tunnel
    tried = []
    connecting = SOCKS5ClientEndpoint("target.example", 443, tunnel, methods, reactor=clock).connect(Application())
    connecting.addBoth(tried.append)
    clock.advance(0)
    assert isinstance(tried[0], Failure)
    assert tried[0].type is errors.CleartextRefused
    assert far.conversations[0].greeting is None


@pytest.mark.parametrize(
    ("methods", "overrides", "method"),
    [
        ({"extended": {}}, {"pairs": lambda self: Pairs({"tor.isolation": "alice"})}, 0x97),
        (
            ANONYMOUS,
            {
                "offer": lambda self: (Method.USERNAME_PASSWORD,),
                "credentials": lambda self: UsernamePassword(b"user", b"word"),
            },
            0x02,
        ),
    ],
)
def test_secrets_of_ones_own_do_not_go_where_others_can_read_them(methods, overrides, method):
    tried = attempt(FakeProxy(address=ELSEWHERE, method=method), methods, factory=choosing(**overrides))
    assert type(tried.outcome) is errors.CleartextRefused
    assert (tried.said.credentials, tried.said.pairs) == (None, None)
    assert tried.has_left_nothing
