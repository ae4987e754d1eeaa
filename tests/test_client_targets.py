"""Endpoints: which targets a client takes, how each is sent, and what is refused before it connects."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.ways import NOWHERE
from twisted.internet import reactor
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from txsocksx_ext import SOCKS5ClientEndpoint, resolve, resolve_ptr, web_agent
from txsocksx_ext.client.endpoints import target_address
from txsocksx_ext.testing import FakeProxy, Recorder


@pytest.mark.parametrize(
    ("host", "encoded"),
    [
        ("192.0.2.1", "01c0000201"),
        (b"192.0.2.1", "01c0000201"),
        ("2001:db8::1", "0420010db8000000000000000000000001"),
        ("[2001:db8::1]", "0420010db8000000000000000000000001"),
        (b"2001:db8::1", "0420010db8000000000000000000000001"),
        ("::ffff:192.0.2.1", "0400000000000000000000ffffc0000201"),
        ("target.example", "030e" + b"target.example".hex()),
        (b"target.example", "030e" + b"target.example".hex()),
        ("TARGET.example.", "030f" + b"TARGET.example.".hex()),
        ("_srv.target.example", "0313" + b"_srv.target.example".hex()),
        ("a" * 255, "03ff" + "61" * 255),
        ("bücher.example", "0315" + b"xn--bcher-kva.example".hex()),
        ("BÜCHER.example", "0315" + b"xn--bcher-kva.example".hex()),
        ("例え。テスト", "0316" + b"xn--r8jz45g.xn--zckzah".hex()),
    ],
)
def test_a_target_is_sent_as_it_is_meant(host, encoded):
    assert target_address(host, 443).encode().hex() == encoded + "01bb"


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("", "empty"),
        ("[]", "empty"),
        ("a" * 256, "256 bytes"),
        ("ü" + "a" * 100 + ".example", "IDNA"),
        ("ü." * 64, "IDNA"),
        ("a\0b", "printable ASCII"),
        ("target.example\0.other.example", "printable ASCII"),
        ("two words", "printable ASCII"),
        ("alice:secret@target.example", "holds no @"),
        ("target.example:443", "no colon"),
        ("http://target.example/", "no slash"),
        ("fe80::1%eth0", "no address with a zone"),
        ("[fe80::1%eth0]", "no address with a zone"),
        ("line\nbreak", "printable ASCII"),
        ("ü\0", "IDNA"),
        (b"\xff", "IDNA"),
        ("\udcff", "IDNA"),
        ("ü..example", "IDNA"),
    ],
)
@pytest.mark.parametrize("ask", [lambda host, way: SOCKS5ClientEndpoint(host, 443, way), resolve])
def test_a_host_that_socks5_cannot_carry_is_refused_and_never_shortened_or_resolved(host, told, ask):
    with pytest.raises(ValueError, match=told):
        ask(host, NOWHERE)


@given(st.text(max_size=40) | st.binary(max_size=300))
def test_any_host_is_encoded_or_refused(host):
    try:
        address = target_address(host, 443)
    except ValueError:
        return
    assert len(address.encode()) <= 1 + 1 + 255 + 2


@pytest.mark.parametrize("port", [-1, 65536, "443", 1.5, None])
def test_a_port_that_is_none_is_refused(port):
    with pytest.raises(ValueError, match="port"):
        SOCKS5ClientEndpoint("target.example", port, NOWHERE)


@pytest.mark.parametrize(("host", "sent"), [("a.onion.", "a.onion"), ("A.Onion..", "A.Onion"), ("a.test.", "a.test.")])
def test_an_onion_services_name_is_sent_without_its_dot_at_the_end(host, sent):
    """With it tor takes it for a name of the DNS, and has exits look it up."""
    clock = Clock()
    proxy = FakeProxy(clock=clock)
    SOCKS5ClientEndpoint(host, 443, proxy.endpoint, reactor=clock).connect(Factory.forProtocol(Recorder))
    resolve(host, proxy.endpoint, reactor=clock)
    clock.advance(0)
    assert [each.destination.host for each in proxy.requests] == [sent, sent]


@pytest.mark.parametrize(
    "options",
    [
        {"dialect": "klingon"},
        {"methods": {}},
        {"methods": {"login": ("", "")}},
        {"methods": {"x": ()}},
        *({"timeout": each} for each in (0, -1, "5", float("inf"), float("nan"))),
    ],
    ids=str,
)
def test_a_faulty_endpoint_is_refused_before_it_connects(options):
    with pytest.raises(ValueError, match=r"dialect|method|user name|timeout"):
        SOCKS5ClientEndpoint("target.example", 443, NOWHERE, **options)


@pytest.mark.parametrize("by_name", [False, True])
def test_calls_are_those_of_txsocksx(by_name):
    clock = Clock()
    proxy = FakeProxy(clock=clock)
    if by_name:
        endpoint = SOCKS5ClientEndpoint(
            "target.example", 443, proxyEndpoint=proxy.endpoint, methods={"login": ("user", "word")}, reactor=clock
        )
    else:
        endpoint = SOCKS5ClientEndpoint(
            "target.example", 443, proxy.endpoint, {"login": ("user", "word")}, reactor=clock
        )
    assert verifyObject(IStreamClientEndpoint, endpoint)
    endpoint.connect(Factory.forProtocol(Recorder))
    clock.advance(0)
    assert proxy.conversations[0].credentials.username == b"user"


def test_without_a_way_to_a_proxy_there_is_no_endpoint():
    with pytest.raises(TypeError, match="proxy_endpoint"):
        SOCKS5ClientEndpoint("target.example", 443)


@pytest.mark.parametrize(
    "ask",
    [
        lambda way: SOCKS5ClientEndpoint("target.example", 443, way),
        lambda way: resolve("target.example", way),
        lambda way: resolve_ptr("192.0.2.7", way),
        lambda way: web_agent(reactor, way),
    ],
)
def test_a_way_to_a_proxy_that_is_no_endpoint_is_told_by_its_type(ask):
    with pytest.raises(TypeError, match=r"a client endpoint, not bytes: clientFromString\(\)") as caught:
        ask(b"socks5ext:far.example:1080:username=someone:password=hunter2")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("host", [None, reactor, 7])
@pytest.mark.parametrize("ask", [lambda host, way: SOCKS5ClientEndpoint(host, 443, way), resolve, resolve_ptr])
def test_a_host_that_is_no_text_is_told_by_its_type(host, ask):
    with pytest.raises(TypeError, match=f"^(host|address) must be str or bytes, not {type(host).__name__}$"):
        ask(host, NOWHERE)


def test_an_endpoint_connects_more_than_once():
    clock = Clock()
    proxy = FakeProxy(clock=clock)
    endpoint = SOCKS5ClientEndpoint("target.example", 443, proxy.endpoint, {"isolated": None}, reactor=clock)
    for _ in range(3):
        endpoint.connect(Factory.forProtocol(Recorder))
    clock.advance(0)
    assert all(each.tunnel for each in proxy.conversations)
    # A token that it made for itself is the endpoint's: its streams belong together.
    assert len({each.credentials.password for each in proxy.conversations}) == 1


def test_no_repr_shows_the_target_or_a_secret():
    endpoint = SOCKS5ClientEndpoint("target.example", 443, NOWHERE, {"login": ("someone", "hunter2")})
    assert not any(text in repr(endpoint) for text in ("target", "someone", "hunter2"))
