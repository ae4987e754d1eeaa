"""Endpoint strings: ``socks5ext:HOST:PORT`` with every keyword, by Twisted's own `clientFromString`."""

import re

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.endpoints import clientFromString, quoteStringArgument
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from txsocksx_ext.errors import CleartextRefused, HandshakeTimeout, TransportTemporaryFailure, UnknownReply
from txsocksx_ext.protocol.codes import Method
from txsocksx_ext.testing import FakeProxy, Recorder, connect_in_memory

EVERY_BYTE = bytes(range(256))
EXTENDED, LOGIN, ANONYMOUS = Method.EXTENDED, Method.USERNAME_PASSWORD, Method.NO_AUTHENTICATION


class Attempt:
    """What becomes of connecting by a description, through a `FakeProxy` at the address that it names."""

    def __init__(self, description, proxy=None, answers=True):
        self.reactor = MemoryReactorClock()
        self.proxy = FakeProxy() if proxy is None else proxy
        self.outcome = None
        connecting = clientFromString(self.reactor, description).connect(Factory.forProtocol(Recorder))
        connecting.addBoth(self._ended)
        ((self.host, self.port, factory, _, _),) = self.reactor.tcpClients
        if answers:
            address = IPv4Address("TCP", self.host, self.port)
            connect_in_memory(
                factory.buildProtocol(address),
                self.proxy.buildProtocol(None),
                clock=self.reactor,
                server_address=address,
            )
            self.reactor.advance(0)

    def _ended(self, outcome):
        self.outcome = outcome.value if isinstance(outcome, Failure) else outcome

    @property
    def said(self):
        return self.proxy.conversations[0]


def escaped(data):
    """Any bytes, as a value in an endpoint string."""
    return quoteStringArgument(data.decode("utf-8", "surrogateescape"))


def test_host_and_port_are_enough():
    attempt = Attempt("socks5ext:target.example:443")
    assert (attempt.host, attempt.port) == ("127.0.0.1", 1080)
    assert attempt.said.greeting.methods == (EXTENDED, ANONYMOUS)
    assert attempt.said.pairs == {}
    destination = attempt.said.request.destination
    assert (destination.host, destination.port) == ("target.example", 443)
    assert isinstance(attempt.outcome, Recorder)


@pytest.mark.parametrize(
    "description",
    [
        r"socks5ext:2001\:db8\:\:1:443",
        r"socks5ext:[2001\:db8\:\:1]:443",
        r"socks5ext:host=2001\:db8\:\:1:port=443",
        r"socks5ext:port=443:host=2001\:db8\:\:1",
        r"socks5ext:443:host=2001\:db8\:\:1",
    ],
)
def test_the_target_may_be_a_keyword_and_an_ipv6_address(description):
    assert Attempt(description).said.request.encode().hex() == "05010004" + "20010db8000000000000000000000001" + "01bb"


def test_the_proxy_is_where_the_string_says():
    attempt = Attempt(r"socks5ext:target.example:443:proxy=tcp\:127.0.0.2\:9050", answers=False)
    assert (attempt.host, attempt.port) == ("127.0.0.2", 9050)


def test_a_login_is_said_by_method_02():
    attempt = Attempt("socks5ext:target.example:443:username=user:password=word", FakeProxy(method=LOGIN))
    assert attempt.said.greeting.methods == (EXTENDED, LOGIN)
    assert (attempt.said.credentials.username, attempt.said.credentials.password) == (b"user", b"word")


def test_a_login_is_said_by_method_97_too():
    attempt = Attempt("socks5ext:target.example:443:username=user:password=word")
    assert attempt.said.pairs == {"USERNAME": b"user", "PASSWD": b"word"}


def test_keywords_with_a_dot_or_a_question_mark_are_pairs():
    attempt = Attempt("socks5ext:target.example:443:tor.isolation=alice:?x.y=1:?NEW=2")
    assert attempt.said.greeting.methods == (EXTENDED,)
    assert attempt.said.pairs == {"tor.isolation": b"alice", "?x.y": b"1", "?NEW": b"2"}


def test_a_value_of_a_pair_carries_every_byte():
    attempt = Attempt(f"socks5ext:target.example:443:tor.isolation={escaped(EVERY_BYTE)}")
    assert attempt.said.pairs["tor.isolation"] == EVERY_BYTE


def test_a_login_carries_every_byte():
    username, password = EVERY_BYTE[:255], EVERY_BYTE[1:]
    attempt = Attempt(
        f"socks5ext:target.example:443:username={escaped(username)}:password={escaped(password)}",
        FakeProxy(method=LOGIN),
    )
    assert (attempt.said.credentials.username, attempt.said.credentials.password) == (username, password)


def test_an_equals_sign_in_a_value_needs_no_backslash():
    assert Attempt("socks5ext:target.example:443:tor.isolation=a=b=").said.pairs == {"tor.isolation": b"a=b="}


def test_text_beyond_ascii_is_sent_as_utf_8():
    assert Attempt("socks5ext:target.example:443:tor.isolation=ä").said.pairs == {"tor.isolation": "ä".encode()}


@pytest.mark.parametrize("content", [b"w\xffrd", b"w\xffrd\n", b"w\xffrd\r\nanother line\n"])
def test_the_password_is_the_first_line_of_a_file(tmp_path, content):
    path = tmp_path / "the:password"
    path.write_bytes(content)
    quoted = quoteStringArgument(str(path))
    attempt = Attempt(f"socks5ext:target.example:443:username=user:password-file={quoted}", FakeProxy(method=LOGIN))
    assert attempt.said.credentials.password == b"w\xffrd"


@pytest.mark.parametrize(("keyword", "seconds"), [("", 60.0), (":timeout=2.5", 2.5)])
def test_the_deadline(keyword, seconds):
    attempt = Attempt(f"socks5ext:target.example:443{keyword}", answers=False)
    attempt.reactor.advance(seconds - 0.01)
    assert attempt.outcome is None
    attempt.reactor.advance(0.02)
    assert isinstance(attempt.outcome, HandshakeTimeout)


@pytest.mark.parametrize(("keyword", "error"), [("", TransportTemporaryFailure), (":dialect=plain", UnknownReply)])
def test_the_dialect(keyword, error):
    attempt = Attempt(f"socks5ext:target.example:443{keyword}", FakeProxy(code=0xF0))
    assert type(attempt.outcome) is error
    assert attempt.outcome.code == 0xF0


@pytest.mark.parametrize(("keyword", "is_tls"), [("", False), (":tls=no", False), (":tls=yes", True)])
def test_tls_is_spoken_with_the_target(keyword, is_tls):
    attempt = Attempt(f"socks5ext:target.example:443{keyword}")
    received = attempt.said.tunnel.received
    assert (received[:2] == b"\x16\x03") is is_tls
    assert (b"target.example" in received) is is_tls
    attempt.said.tunnel.abort()


@pytest.mark.parametrize("keyword", ["", ":allow-cleartext=no", ":allow-cleartext=yes"])
def test_secrets_go_to_a_proxy_elsewhere_only_where_that_is_allowed(keyword):
    description = rf"socks5ext:target.example:443:proxy=tcp\:192.0.2.1\:1080:tor.isolation=alice{keyword}"
    attempt = Attempt(description)
    if keyword.endswith("yes"):
        assert attempt.said.pairs == {"tor.isolation": b"alice"}
    else:
        assert isinstance(attempt.outcome, CleartextRefused)
        assert attempt.said.greeting is None


def test_a_proxy_behind_a_proxy_behind_a_proxy():
    far = FakeProxy()
    middle = FakeProxy(far)
    near = FakeProxy(middle)
    one = r"tcp:127.0.0.1:9050"
    two = f"socks5ext:two.example:1082:proxy={quoteStringArgument(one)}"
    three = f"socks5ext:three.example:1083:proxy={quoteStringArgument(two)}"
    attempt = Attempt(f"socks5ext:target.example:443:proxy={quoteStringArgument(three)}", near)
    assert (attempt.host, attempt.port) == ("127.0.0.1", 9050)
    asked = [proxy.requests[0].destination.host for proxy in (near, middle, far)]
    assert asked == ["two.example", "three.example", "target.example"]
    attempt.outcome.write(b"through all")
    assert far.conversations[0].tunnel.received == b"through all"


@pytest.mark.parametrize(
    ("description", "told"),
    [
        ("socks5ext", "socks5ext:HOST:PORT"),
        ("socks5ext:target.example", "socks5ext:HOST:PORT"),
        ("socks5ext:port=443", "socks5ext:HOST:PORT"),
        ("socks5ext:target.example:https", "'https'"),
        ("socks5ext:target.example:-1", "'-1'"),
        ("socks5ext:target.example:²", "'²'"),
        ("socks5ext:target.example:65536", "65536"),
        ("socks5ext::443", "is empty"),
        (f"socks5ext:{'a' * 256}:443", "256 bytes"),
        ("socks5ext:2001:db8::1:443", "a colon inside a value"),
        ("socks5ext:target.example:443:isolation=alice", "does not know isolation"),
        ("socks5ext:target.example:443:reactor=x", "does not know reactor"),
        ("socks5ext:target.example:443:self=x", "does not know self"),
        ("socks5ext:target.example:²", "a number, not '²'"),
        (r"socks5ext:[\:\:1:443", "brackets"),
        ("socks5ext:target.example:443:timeout=soon", "'soon'"),
        ("socks5ext:target.example:443:timeout=0", "'0'"),
        ("socks5ext:target.example:443:timeout=-1", "'-1'"),
        ("socks5ext:target.example:443:timeout=inf", "'inf'"),
        ("socks5ext:target.example:443:timeout=nan", "'nan'"),
        ("socks5ext:target.example:443:dialect=klingon", "'klingon'"),
        ("socks5ext:target.example:443:tls=perhaps", "tls is yes or no, not 'perhaps'"),
        ("socks5ext:target.example:443:allow-cleartext=1", "allow-cleartext is yes or no, not '1'"),
        ("socks5ext:target.example:443:proxy=nothing", "nothing"),
        (r"socks5ext:target.example:443:proxy=tcp\:127.0.0.1\:socks", "socks"),
        ("socks5ext:target.example:443:username=user", "password"),
        ("socks5ext:target.example:443:username=user:password=", "password is empty"),
        ("socks5ext:target.example:443:username=:password=word", "user name is empty"),
        ("socks5ext:target.example:443:password=word", "username="),
        ("socks5ext:target.example:443:password-file=/dev/null", "username="),
        ("socks5ext:target.example:443:username=user:password-file=/dev/null", "/dev/null is empty"),
        ("socks5ext:target.example:443:username=user:password-file=/no/such/file", "/no/such/file"),
        ("socks5ext:target.example:443:username=user:password=a:password-file=b", "either password or password-file"),
    ],
)
def test_an_error_names_what_was_wrong(description, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        clientFromString(MemoryReactorClock(), description)


@pytest.mark.parametrize(
    ("rest", "told"),
    [
        ("username=u:password=abc:sekret=x", "does not know the keyword after password=; it knows"),
        ("username=abc:sekret=x:password=p", "does not know the keyword after username=; it knows"),
        ("username=u:password=abc:se.kret=x:sekret=y", "does not know the keyword after a pair; it knows"),
        ("tor.isolation=abc:sekret", "1 arguments after HOST:PORT"),
        ("?x.y=abc:sekret=x", "does not know the keyword after a pair; it knows"),
        ("username=u:pasword=abc:sekret=x", "does not know the keyword after username=; it knows"),
        ("pasword=abc:sekret=x", "does not know pasword; it knows"),
        ("timout=9:username=u:password=abc", "does not know timout; it knows"),
    ],
)
def test_what_may_be_the_rest_of_a_secret_is_not_named(rest, told):
    with pytest.raises(ValueError, match=re.escape(told)) as caught:
        clientFromString(MemoryReactorClock(), f"socks5ext:target.example:443:{rest}")
    assert "kret" not in str(caught.value)


def test_what_stands_in_the_place_of_a_port_may_be_the_rest_of_a_secret():
    with pytest.raises(ValueError, match="the port of the endpoint socks5ext is a number") as caught:
        clientFromString(MemoryReactorClock(), "socks5ext:target.example:username=u:password=abc:sekret")
    assert "sekret" not in str(caught.value)


def test_a_password_that_stands_for_no_bytes_is_named_and_not_shown():
    with pytest.raises(ValueError, match="the password: there is a surrogate") as caught:
        clientFromString(MemoryReactorClock(), "socks5ext:target.example:443:username=u:password=hunter2\ud800")
    assert "hunter2" not in repr(caught.value)


@pytest.mark.parametrize("fault", ["", ":timeout=never", ":tls=maybe", ":unknown=1", ":dialect=none", ":proxy=x"])
def test_no_repr_and_no_error_shows_a_secret(fault):
    description = f"socks5ext:target.example:443:username=someone:password=hunter2:tor.isolation=alice{fault}"
    try:
        shown = repr(clientFromString(MemoryReactorClock(), description))
    except ValueError as error:
        shown = str(error)
    assert not any(secret in shown for secret in ("someone", "hunter2", "alice"))
