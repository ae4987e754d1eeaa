"""Proxies as URLs, endpoint strings and endpoints, wherever one is given."""

import pytest
from support.attempts import outcome_of
from support.raw_proxies import RawProxy
from twisted.internet.address import IPv4Address
from twisted.internet.endpoints import clientFromString
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock

from txsocksx_ext import (
    HTTPConnectClientEndpoint,
    SOCKS4ClientEndpoint,
    SOCKS5ClientEndpoint,
    resolve,
    resolve_ptr,
    web_agent,
)
from txsocksx_ext.testing import FakeProxy, MemoryEndpoint, Recorder, connect_in_memory

# In Twisted 24.7 its own reactor for tests lacks an interface of name resolution.
pytestmark = pytest.mark.filterwarnings("ignore:Passing HostnameEndpoint a reactor:DeprecationWarning")

OK = b"HTTP/1.1 200 OK\r\n\r\n"
GRANTED = b"\x00\x5a" + bytes(6)
FORMS = {
    "SOCKS5ClientEndpoint": lambda proxy, reactor: SOCKS5ClientEndpoint("target.example", 443, proxy, reactor=reactor),
    "HTTPConnectClientEndpoint": lambda proxy, reactor: HTTPConnectClientEndpoint(
        "target.example", 443, proxy, reactor=reactor
    ),
    "SOCKS4ClientEndpoint": lambda proxy, reactor: SOCKS4ClientEndpoint("target.example", 443, proxy, reactor=reactor),
    "resolve": lambda proxy, reactor: resolve("target.example", proxy, reactor=reactor),
    "resolve_ptr": lambda proxy, reactor: resolve_ptr("192.0.2.7", proxy, reactor=reactor),
    "web_agent": lambda proxy, reactor: web_agent(reactor, proxy),
}


class Asked:
    """What becomes of a way that connects to an IPv4 address, where this proxy answers."""

    def __init__(self, ask, proxy):
        self.reactor = MemoryReactorClock()
        self.outcome = ask(self.reactor)
        ((self.host, self.port, factory, _, _),) = self.reactor.tcpClients
        address = IPv4Address("TCP", self.host, self.port)
        connect_in_memory(
            factory.buildProtocol(address), proxy.buildProtocol(None), clock=self.reactor, server_address=address
        )
        self.reactor.advance(0)


def connecting(endpoint):
    return lambda reactor: endpoint(reactor).connect(Factory.forProtocol(Recorder))


def through_socks5(proxy):
    return connecting(lambda reactor: SOCKS5ClientEndpoint("target.example", 443, proxy, reactor=reactor))


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_a_socks5_url_with_either_scheme_sends_the_name(scheme):
    proxy = FakeProxy()
    asked = Asked(through_socks5(f"{scheme}://127.0.0.2:9050"), proxy)
    assert (asked.host, asked.port) == ("127.0.0.2", 9050)
    assert proxy.requests[0].destination.host == "target.example"
    assert isinstance(outcome_of(asked.outcome), Recorder)


@pytest.mark.parametrize("form", ["tcp:127.0.0.2:9050", "127.0.0.2:9050", r"tcp:host=127.0.0.2:port=9050"])
def test_an_endpoint_string(form):
    asked = Asked(through_socks5(form), FakeProxy())
    assert (asked.host, asked.port) == ("127.0.0.2", 9050)


def test_the_login_of_a_url_is_percent_decoded():
    proxy = FakeProxy()
    Asked(through_socks5("socks5://us%40er:w%3Aor%2Fd%FF@127.0.0.1:1080"), proxy)
    credentials = proxy.conversations[0].credentials
    assert (credentials.username, credentials.password) == (b"us@er", b"w:or/d\xff")


def test_a_byte_in_a_password_need_not_be_utf_8():
    proxy = FakeProxy()
    Asked(through_socks5("socks5://user:p\udcff%FF@127.0.0.1:1080"), proxy)
    assert proxy.conversations[0].credentials.password == b"p\xff\xff"


@pytest.mark.parametrize(
    "form", ["SOCKS5ClientEndpoint", "HTTPConnectClientEndpoint", "SOCKS4ClientEndpoint", "resolve"]
)
def test_what_stands_before_an_at_sign_is_not_shown(form):
    with pytest.raises(ValueError, match="begins with no kind of endpoint") as refused:
        FORMS[form]("hunter2@proxy.example", MemoryReactorClock())
    assert "hunter2" not in str(refused.value)


def test_the_login_of_an_http_url():
    proxy = RawProxy(OK)
    way = connecting(
        lambda reactor: HTTPConnectClientEndpoint(
            "target.example", 443, "http://us%40er:word@127.0.0.1:3128", isolation="tab", reactor=reactor
        )
    )
    Asked(way, proxy)
    assert (
        b"\r\nProxy-Authorization: Basic dXNAZXI6d29yZA==\r\nTor-Stream-Isolation: tab\r\n" in proxy.connection.received
    )


def test_the_user_id_of_a_socks4a_url():
    proxy = RawProxy(GRANTED)
    Asked(
        connecting(lambda r: SOCKS4ClientEndpoint("target.example", 443, "socks4a://bob@127.0.0.1", reactor=r)), proxy
    )
    assert proxy.connection.received == b"\x04\x01\x01\xbb\x00\x00\x00\x01bob\x00target.example\x00"


@pytest.mark.parametrize(
    ("url", "port"),
    [("socks5://127.0.0.1", 1080), ("socks5h://127.0.0.1/", 1080), ("http://127.0.0.1", 80), ("HTTP://127.0.0.1", 80)],
)
def test_the_default_ports(url, port):
    asked = Asked(lambda reactor: web_agent(reactor, url).request(b"GET", b"http://target.example/"), RawProxy(None))
    assert asked.port == port


@pytest.mark.parametrize(
    ("url", "answer", "asked_for"),
    [
        ("http://127.0.0.1:3128", OK, b"CONNECT target.example:80 HTTP/1.1\r\nHost: target.example:80\r\n\r\n"),
        ("socks4a://127.0.0.1:3128", GRANTED, b"\x04\x01\x00\x50\x00\x00\x00\x01\x00target.example\x00"),
    ],
)
def test_an_agent_takes_a_proxy_of_any_protocol(url, answer, asked_for):
    proxy = RawProxy(answer)
    asked = Asked(lambda reactor: web_agent(reactor, url).request(b"GET", b"http://target.example/page"), proxy)
    asked.reactor.advance(0)
    assert (
        proxy.connection.received
        == asked_for + b"GET /page HTTP/1.1\r\nConnection: close\r\nHost: target.example\r\n\r\n"
    )


def test_an_agent_says_its_methods_in_the_words_of_the_protocol():
    def ask(reactor):
        agent = web_agent(reactor, "http://127.0.0.1:3128", {"login": ("user", "word"), "extended": {"a.b": "c"}})
        return agent.request(b"GET", b"http://target.example/")

    proxy = RawProxy(OK)
    Asked(ask, proxy)
    assert b"\r\nProxy-Authorization: Basic dXNlcjp3b3Jk\r\nSocks5Ext-Pair: a.b=c\r\n\r\n" in proxy.connection.received


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("ftp://hunter2:hunter2@proxy.example:21", "unknown scheme 'ftp'.*the schemes are socks5, socks5h, socks4a"),
        ("socks4://hunter2@proxy.example", "unknown scheme 'socks4'"),
        ("socks5://u:hunter2@proxy.example:hunter2", "malformed"),
        ("socks5://u:hunter2@proxy.example:70000", "malformed"),
        ("socks5://u:hunter2@[proxy.example:1080", "malformed"),
        ("http://u:hunter2@/", "has a host"),
        ("http://u:hunter2@proxy.example:0", "a port from 1"),
        ("socks5h://u:p@proxy.example:1080/hunter2", "nothing behind that"),
        ("http://proxy.example/?hunter2", "nothing behind that"),
        ("http://proxy.example#hunter2", "nothing behind that"),
        ("http://u:hunter2@proxy example:80", "malformed"),
        ("http://u:hunter2@" + "a" * 256, "neither a name nor an address"),
        ("http://u:hunter2@proxy.example\r\nX:80", "malformed"),
        ("http://u:hunter2@proxy.example\\:80", "neither a name nor an address"),
        ("http://u:hunter2@proxy.example;x", "neither a name nor an address"),
        ("http://u:hunter2@[fe80::1%25eth0]:80", "neither a name nor an address"),
        ("http://u:hunter2\ud800@proxy.example", "the password: there is a surrogate|is needed here"),
    ],
)
def test_a_faulty_url_is_refused_and_not_shown(form, url, told):
    with pytest.raises(ValueError, match=told) as refused:
        form(url, MemoryReactorClock())
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    "given", ["proxy.example:3128", "//proxy.example:3128", "user:hunter2@proxy.example:3128", "proxy.example", ""]
)
def test_a_url_without_a_scheme_is_refused_where_the_protocol_is_not_known(given):
    with pytest.raises(ValueError, match="write a URL such as socks5://HOST:PORT") as refused:
        web_agent(MemoryReactorClock(), given)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("form", "url", "told"),
    [
        ("SOCKS5ClientEndpoint", "http://proxy.example", "speaks SOCKS5 is needed here, and the URL's scheme is http"),
        ("HTTPConnectClientEndpoint", "socks5://proxy.example", "speaks HTTP is needed"),
        ("SOCKS4ClientEndpoint", "https://proxy.example", "speaks SOCKS4 is needed"),
        ("resolve", "socks4a://proxy.example", "speaks SOCKS5 is needed"),
        ("SOCKS5ClientEndpoint", "socks5://user@127.0.0.1", "a user name and a password"),
        ("SOCKS4ClientEndpoint", "socks4a://user:hunter2@127.0.0.1", "SOCKS4 has no passwords"),
    ],
)
def test_a_url_of_another_protocol_or_with_another_login_is_refused(form, url, told):
    with pytest.raises(ValueError, match=told) as refused:
        FORMS[form](url, MemoryReactorClock())
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("methods", [{"login": ("other", "word")}, {"isolated": "token"}])
def test_two_logins_are_refused(methods):
    with pytest.raises(ValueError, match="URL"):
        SOCKS5ClientEndpoint("target.example", 443, "socks5://user:word@127.0.0.1", methods)


def test_no_repr_and_no_error_shows_the_login():
    reactor = MemoryReactorClock()
    url = "http://hunter2:hunter2@127.0.0.1:3128"
    endpoint = HTTPConnectClientEndpoint("target.example", 443, url, reactor=reactor)
    assert "hunter2" not in repr(endpoint)
    failing = endpoint.connect(Factory.forProtocol(Recorder))
    reactor.advance(61)
    assert "hunter2" not in repr(outcome_of(failing))


# Endpoint strings of the other protocols.


def by_string(text):
    return connecting(lambda reactor: clientFromString(reactor, text))


def test_a_url_as_the_proxy_of_an_endpoint_string():
    proxy = FakeProxy()
    Asked(by_string(r"socks5ext:target.example:443:proxy=socks5\://user\:word@127.0.0.2"), proxy)
    assert proxy.conversations[0].pairs == {"USERNAME": b"user", "PASSWD": b"word"}


HEAD = b"CONNECT target.example:443 HTTP/1.1\r\nHost: target.example:443\r\n"


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("", b""),
        (r":proxy=http\://127.0.0.1\:3128", b""),
        (":username=user:password=", b"Proxy-Authorization: Basic dXNlcjo=\r\n"),
        (
            ":username=user:password=word:pt.cert=A=:allow-cleartext=yes:timeout=5:tls=no:retries=0",
            b"Proxy-Authorization: Basic dXNlcjp3b3Jk\r\nSocks5Ext-Pair: pt.cert=A%3D\r\n",
        ),
    ],
)
def test_httpconnect_strings(rest, said):
    proxy = RawProxy(OK)
    asked = Asked(by_string(f"httpconnect:target.example:443{rest}"), proxy)
    assert proxy.connection.received == HEAD + said + b"\r\n"
    assert isinstance(outcome_of(asked.outcome), Recorder)


def test_socks4a_strings():
    proxy = RawProxy(GRANTED)
    asked = Asked(by_string("socks4a:target.example:443:username=bob"), proxy)
    assert proxy.connection.received == b"\x04\x01\x01\xbb\x00\x00\x00\x01bob\x00target.example\x00"
    assert isinstance(outcome_of(asked.outcome), Recorder)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("httpconnect:target.example:443:dialect=tor", "the endpoint httpconnect does not know dialect"),
        ("socks4a:target.example:443:dialect=tor", "the endpoint socks4a does not know dialect"),
        ("httpconnect:target.example", "is written httpconnect:HOST:PORT"),
        (r"httpconnect:target.example:443:proxy=socks5\://h", "speaks HTTP is needed"),
        ("httpconnect:target.example:443:password=hunter2", "only together with username="),
        ("httpconnect:target.example:443:username=a:password=hunter2\r\nX", "control character"),
        ("socks4a:target.example:443:username=a:password=hunter2", "SOCKS4 has none"),
        ("socks4a:target.example:443:a.b=hunter2", "neither passwords nor pairs"),
    ],
)
def test_faulty_strings_of_the_other_protocols(text, told):
    with pytest.raises(ValueError, match=told) as refused:
        clientFromString(MemoryReactorClock(), text)
    assert "hunter2" not in str(refused.value)


def test_an_endpoint_is_taken_as_it_is():
    for form in ("SOCKS5ClientEndpoint", "HTTPConnectClientEndpoint", "SOCKS4ClientEndpoint"):
        assert repr(FORMS[form](MemoryEndpoint(RawProxy()), MemoryReactorClock())) == f"<{form}>"
